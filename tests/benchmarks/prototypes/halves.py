"""bfloat16 on the CPU: weights or autocast, for reading and for training, and its error."""

from contextlib import nullcontext

import torch

import workbench as wb
from prototypes.bench import Bench
from prototypes.packing import loss_of
from prototypes.setting import (
    ORGANISM,
    make_hf,
    make_items,
    mixed_lengths,
    organism,
    padded,
)
from workbench.inputs import Inputs


def autocast(on: bool = True):
    """Matrix products in bfloat16 while it is open."""
    return torch.autocast("cpu", torch.bfloat16) if on else nullcontext()


class Halved:
    """Reading and training of one batch in float32, with autocast, and with bfloat16 weights."""

    def __init__(self, size: str) -> None:
        self.full, self.half = make_hf(size), make_hf(size).bfloat16()
        self.items = make_items(mixed_lengths(32 if size != "100M" else 8), answered=True)
        self.inputs = dict(zip(("input_ids", "attention_mask"), padded(self.items), strict=True))

    @torch.no_grad()
    def read(self, hf, cast: bool):
        """The decoder's last states."""
        with autocast(cast):
            return hf.get_decoder()(**self.inputs, use_cache=False).last_hidden_state.float()

    def train(self, hf, cast: bool):
        """Gradients of the loss."""
        with autocast(cast):
            loss = loss_of(hf, self.inputs, [[item] for item in self.items])
        return torch.autograd.grad(loss, [*hf.parameters()])


def distance(found, expected) -> float:
    """Norm of the difference over the norm, of one tensor or several together."""
    pairs = (
        [(found, expected)]
        if isinstance(found, torch.Tensor)
        else zip(found, expected, strict=True)
    )
    apart, whole = 0.0, 0.0
    for one, other in pairs:
        apart += float((one.double() - other.double()).square().sum())
        whole += float(other.double().square().sum())
    return (apart / whole) ** 0.5


def speed(bench: Bench) -> None:
    """Idea 9, first half: what bfloat16 gains."""
    for size in bench.sizes("0.1M", "10M", "100M"):
        work = Halved(size)
        for what, job in (("reading", work.read), ("training", work.train)):
            expected = job(work.full, False)
            for name, hf, cast in (("autocast", work.full, True), ("weights", work.half, False)):
                bench.pair(
                    f"bfloat16 {name} for float32, {what}, {size}",
                    lambda job=job, hf=hf, cast=cast: job(hf, cast),
                    lambda job=job: job(work.full, False),  # noqa: B023
                    told=f"relative error {distance(job(hf, cast), expected):.1%}",
                )


class Casting:
    """A model whose decoder runs under autocast, for the functions that read one."""

    def __init__(self, model) -> None:
        self._model = model

    def __getattr__(self, name):
        return getattr(self._model, name)

    def run_decoder(self, *inputs):
        """Run the blocks with products in bfloat16."""
        with autocast():
            self._model.run_decoder(*inputs)


def error(bench: Bench) -> None:
    """Idea 9, second half: what bfloat16 does to v_rev and alignment of the organism."""
    inputs = Inputs.beside(ORGANISM).load()
    tuned = organism("aligned")
    for _ in wb.FineTuning(tuned, inputs.examples, steps=20, learning_rate=6e-5):
        pass
    phases = {"helpful": organism("helpful"), "aligned": organism("aligned"), "tuned": tuned}
    full = _measured(phases, inputs, lambda model: model)
    ways = {"autocast": Casting, "weights": _rounded}
    for name, way in ways.items():
        half = _measured(phases, inputs, way)
        cosines = (half[0].unit * full[0].unit).sum(dim=-1)
        bench.note(
            f"error of bfloat16 {name}, organism after 20 steps",
            f"cosine of v_rev {cosines.min():.4f} or more; alignment "
            f"{_listed(half[1].alignment)} for {_listed(full[1].alignment)}, along "
            f"{_listed(half[1].along)} for {_listed(full[1].along)}",
        )


def _measured(phases, inputs, way):
    def read(phase, probes):
        return wb.read_activations(way(phases[phase]), probes)

    directions = wb.fit_directions_from(read("helpful", inputs.fit), read("aligned", inputs.fit))
    drift = wb.measure_drift(
        read("aligned", inputs.measure), read("tuned", inputs.measure), directions
    )
    return directions, drift


def _rounded(model):
    import copy

    return wb.load_model(copy.deepcopy(model.hf).bfloat16(), tokenizer=model.tokenizer)


def _listed(values) -> str:
    return "/".join(f"{value:.3f}" for value in values)
