"""Reading: stopping early, how batches are made, and how means are summed."""

import math
from collections.abc import Sequence

import torch

from prototypes.bench import Bench
from prototypes.setting import (
    greatest,
    make_items,
    make_model,
    make_reading,
    mixed_lengths,
    padded,
)
from workbench.activations import read_batch
from workbench.losses import response_losses
from workbench.models import Hook, HookedModel, resid_post
from workbench.modes import evaluation_mode
from workbench.reading import Reading

PROMPTS = {"0.1M": 128, "10M": 32, "100M": 16}


class _Seen(Exception):
    """All that is to be read has been read."""


def read(
    model: HookedModel,
    reading: Reading,
    batches: Sequence[Sequence[int]],
    layers: Sequence[int],
    *,
    stop: bool = False,
) -> torch.Tensor:
    """Last tokens at some layers; with `stop`, no later layer runs."""
    acts = torch.empty(len(layers), len(reading), model.cfg.d_model)
    with evaluation_mode(model):
        for indices in batches:
            tokens, mask = reading.tokens(indices, model.cfg.device)
            places = torch.arange(len(indices)), reading.columns(indices)
            ends = [stop and layer == layers[-1] for layer in layers]
            hooks: list[Hook] = [
                (resid_post(layer), _keeper(acts[row], indices, places, ends[row]))
                for row, layer in enumerate(layers)
            ]
            try:
                with model.hooks(fwd_hooks=hooks):
                    model.run_decoder(tokens, mask)
            except _Seen:
                pass
    return acts


def _keeper(acts, indices, places, last):
    def hook(resid, hook):  # noqa: ARG001
        acts[indices] = resid[places]
        if last:
            raise _Seen

    return hook


def early_stop(bench: Bench) -> None:
    """Idea 1: no layer runs after the last that is read."""
    for size in bench.sizes("0.1M", "10M", "100M"):
        model = make_model(size)
        reading = make_reading(mixed_lengths(PROMPTS[size]))
        batches, last = [*reading.batches()], model.cfg.n_layers - 1
        for name, layers in (("layer 1", [1]), ("all layers", [*range(last + 1)])):

            def run(stop, layers=layers):
                return read(model, reading, batches, layers, stop=stop)  # noqa: B023

            bench.pair(
                f"stop after the last layer read, {name} of {last + 1}, {size}",
                lambda run=run: run(True), lambda run=run: run(False),
                difference=greatest(run(True), run(False)),
            )  # fmt: skip


def fixed(reading: Reading, count: int, *, by_length: bool) -> list[list[int]]:
    """Batches of a fixed number of prompts."""
    order = [*range(len(reading))]
    if by_length:
        order.sort(key=lambda index: len(reading.encoded[index].ids))
    return [order[start : start + count] for start in range(0, len(order), count)]


def filled(reading: Reading, tokens: int) -> list[list[int]]:
    """Batches by length, each of at most so many tokens with its padding."""
    batches: list[list[int]] = [[]]
    for index in sorted(range(len(reading)), key=lambda one: len(reading.encoded[one].ids)):
        if batches[-1] and (len(batches[-1]) + 1) * len(reading.encoded[index].ids) > tokens:
            batches.append([])
        batches[-1].append(index)
    return batches


def padding(reading: Reading, batches: Sequence[Sequence[int]]) -> float:
    """Share of tokens that are padding."""
    lengths = [[len(reading.encoded[index].ids) for index in batch] for batch in batches]
    return 1 - sum(map(sum, lengths)) / sum(len(one) * max(one) for one in lengths)


def buckets(bench: Bench) -> None:
    """Idea 2: batches of similar length, and how many tokens one should hold."""
    for size in bench.sizes("0.1M", "10M", "100M"):
        model = make_model(size)
        count = {"0.1M": 384, "10M": 128, "100M": 32}[size]
        reading = make_reading(mixed_lengths(count))
        layers = [*range(model.cfg.n_layers)]
        ours = [*reading.batches()]
        total = sum(len(item.ids) for item in reading.encoded)
        rivals = {
            "32 in given order": fixed(reading, 32, by_length=False),
            "32 by length": fixed(reading, 32, by_length=True),
            **{f"{n} tokens": filled(reading, n) for n in (1024, 2048, 4096, 8192, 16384)},
        }
        expected = read(model, reading, ours, layers)
        for name, batches in rivals.items():
            bench.pair(
                f"batches of {name} for ours, {total} tokens, {size}",
                lambda batches=batches: read(model, reading, batches, layers),  # noqa: B023
                lambda: read(model, reading, ours, layers),  # noqa: B023
                difference=greatest(read(model, reading, batches, layers), expected),
                told=f"padding {padding(reading, batches):.1%} in {len(batches)} batches, ours "
                f"{padding(reading, ours):.1%} in {len(ours)}",
            )


class Stepping:
    """A training step's gradients, and probes read beside it or in the same forward."""

    def __init__(self, size: str, n_probes: int = 64) -> None:
        self.model = make_model(size)
        self.examples = make_items(mixed_lengths(16), answered=True)
        self.reading = make_reading(mixed_lengths(n_probes, seed=1, median=20, most=60))
        self.parameters = [*self.model.hf.parameters()]
        self.layers = [*range(self.model.cfg.n_layers)]

    def apart(self):
        """Gradients of the loss, then a reading."""
        loss = response_losses(self.model, self.examples).mean()
        gradients = torch.autograd.grad(loss, self.parameters)
        batches = [*self.reading.batches()]
        return gradients, read(self.model, self.reading, batches, self.layers)

    def together(self):
        """Gradients of the loss with a reading taken in its forward."""
        items, count = [*self.examples, *self.reading.encoded], len(self.examples)
        tokens, mask = padded(items)
        ends = torch.tensor([len(item.ids) - 1 for item in items[count:]])
        rows = torch.arange(count, len(items))
        kept: dict[int, torch.Tensor] = {}

        def keep(layer):
            def hook(resid, hook):  # noqa: ARG001
                kept[layer] = resid.detach()[rows, ends]

            return hook

        with self.model.hooks(fwd_hooks=[(resid_post(n), keep(n)) for n in self.layers]):
            inputs = self.model._inputs(tokens, mask)
            stream = self.model.hf.get_decoder()(**inputs).last_hidden_state
        losses = [self._loss(stream[row], item) for row, item in enumerate(self.examples)]
        loss = torch.stack(losses).mean()
        gradients = torch.autograd.grad(loss, self.parameters)
        return gradients, torch.stack([kept[layer] for layer in self.layers])

    def _loss(self, stream, item):
        logits = self.model.hf.lm_head(stream[item.prompt_length - 1 : len(item.ids) - 1])
        targets = torch.tensor(item.ids[item.prompt_length :])
        return torch.nn.functional.cross_entropy(logits, targets, reduction="sum")


def probes_in_training_forward(bench: Bench) -> None:
    """Idea 3: probes as further rows of the training batch."""
    for size in bench.sizes("0.1M", "10M", "100M"):
        step = Stepping(size, n_probes=16 if size == "100M" else 64)
        (grads, acts), (expected, expected_acts) = step.together(), step.apart()
        bench.pair(
            f"{len(step.reading)} probes in the training forward, {size}",
            step.together, step.apart,
            difference=max(greatest(acts, expected_acts), greatest(grads, expected)),
        )  # fmt: skip


def exact(acts: torch.Tensor) -> torch.Tensor:
    """Sum over prompts without rounding but the last, in float64."""
    columns = acts.permute(0, 2, 1).flatten(0, 1).tolist()
    total = torch.tensor([math.fsum(column) for column in columns], dtype=torch.float64)
    return total.view(acts.shape[0], acts.shape[2])


def float64(acts):
    """As the package sums."""
    return acts.double().sum(dim=1)


def pairwise(acts):
    """In float32, as torch sums: in a cascade."""
    return acts.sum(dim=1)


def matmul(acts):
    """Ones times the readings, in float32."""
    return torch.ones(acts.shape[1]) @ acts


def kahan(acts):
    """Compensated, in float32."""
    total, lost = torch.zeros_like(acts[:, 0]), torch.zeros_like(acts[:, 0])
    for row in acts.unbind(1):
        more = row - lost
        now = total + more
        lost = (now - total) - more
        total = now
    return total


def sums(bench: Bench) -> None:
    """Idea 4: how a mean over prompts is summed; a large common part as real streams have it."""
    for size in bench.sizes("0.1M", "10M", "100M"):
        model = make_model(size)
        shape = model.cfg.n_layers, 1024, model.cfg.d_model
        acts = torch.randn(shape) + 30 * torch.randn(shape[0], 1, shape[2])
        truth = exact(acts)
        whole = make_reading(mixed_lengths(64))
        batch = [*range(64)]

        def forward(model=model, whole=whole, batch=batch):
            with evaluation_mode(model):
                read_batch(model, whole, batch, [*range(model.cfg.n_layers)])

        share = bench.pair(
            f"float64 sum of 1024 readings, over a forward of 64, {size}",
            lambda acts=acts: float64(acts), forward,
            told=f"error {greatest(float64(acts), truth):.1e}",
        )  # fmt: skip
        assert share.wall is not None
        for way in (pairwise, matmul, kahan):
            bench.pair(
                f"{way.__name__} float32 sum for float64, {size}",
                lambda way=way, acts=acts: way(acts), lambda acts=acts: float64(acts),
                difference=greatest(way(acts), truth),
                told=f"of sums of {float(truth.abs().mean()):.0f}",
            )  # fmt: skip
