"""transformers and torch alone: the limits, and what a user would write by hand."""

from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from entries import Entry, Prepare
from peer_worlds import Batch, World
from torch import Tensor
from training import Drift, Snapshot, train, trained

N_RESAMPLES = 1_000
AFTER_NORM = "its last layer is after the final norm"


def load(folder: str) -> Any:
    """Return a model in evaluation mode."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


def load_tokenizer(world: World) -> Any:
    """Return the world's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(world.aligned)


@torch.no_grad()
def hidden_states(call: Callable[..., Any], batch: Batch) -> Tensor:
    """Read by `output_hidden_states`: [layer, prompt, d_model]."""
    states = call(**batch.inputs, output_hidden_states=True).hidden_states[1:]
    return torch.stack([state[batch.rows, batch.last] for state in states])


@torch.no_grad()
def torch_hooks(model: Any, batch: Batch) -> Tensor:
    """Read by forward hooks that keep one token per prompt, as a careful user would."""
    found: dict[int, Tensor] = {}

    def keeper(layer: int) -> Callable[..., None]:
        def keep(_module: Any, _inputs: Any, output: Any) -> None:
            resid = output[0] if isinstance(output, tuple) else output
            found[layer] = resid[batch.rows, batch.last]

        return keep

    with ExitStack() as hooks:
        for layer, block in enumerate(model.model.layers):
            hooks.callback(block.register_forward_hook(keeper(layer)).remove)
        model.model(**batch.inputs, use_cache=False)
    return torch.stack([found[layer] for layer in range(len(found))])


def mean_of(read: Callable[[Batch], Tensor], batches: list[Batch], prompts: int) -> np.ndarray:
    """Sum readings in float64 as they come."""
    total: Any = 0
    for batch in batches:
        total = total + read(batch).double().sum(dim=1)
    return (total / prompts).numpy()


def all_of(read: Callable[[Batch], Tensor], world: World) -> Callable[[], Tensor]:
    """Return what reads all prompts, in their order, in batches that are made once."""
    batches = [*zip(world.batches(), world.tensors(), strict=True)]

    def read_all() -> Tensor:
        acts = torch.empty(world.size.layers, len(world.ids), world.size.width)
        for indices, batch in batches:
            acts[:, indices] = read(batch)
        return acts

    return read_all


def means(
    boot: Callable[[World], Any],
    read: Callable[[Any, Batch], Tensor],
    batched: Callable[[World], list[Batch]] = World.tensors,
) -> Callable[[World], Prepare]:
    """Return the job `means` of a tool: how it loads a model, and how it reads a batch with it."""

    def start(world: World) -> Prepare:
        model = boot(world)

        def prepare(world: World) -> Callable[[], np.ndarray]:
            batches = batched(world)
            return lambda: mean_of(lambda batch: read(model, batch), batches, len(world.ids))

        return prepare

    return start


def _boot(world: World) -> Any:
    return load(world.aligned)


@torch.no_grad()
def _bare(model: Any, batch: Batch) -> None:
    model.model(**batch.inputs, use_cache=False)


def _bare_forwards(*models: str) -> Callable[[World], Prepare]:
    def start(world: World) -> Prepare:
        loaded = [load(str(world.folder / name)) for name in models]

        def prepare(world: World) -> Callable[[], None]:
            batches = world.tensors()
            return lambda: [_bare(model, batch) for model in loaded for batch in batches] and None

        return prepare

    return start


def resampled_directions(witness: np.ndarray, aligned: np.ndarray) -> np.ndarray:
    """Difference of means per layer with an interval of its cosine, by the loop one would write."""
    generator = np.random.default_rng(0)
    units = []
    for difference in witness.astype(float) - aligned.astype(float):
        unit = difference.mean(axis=0) / np.linalg.norm(difference.mean(axis=0))
        cosines = []
        for _ in range(N_RESAMPLES):
            again = difference[generator.integers(len(difference), size=len(difference))]
            mean = again.mean(axis=0)
            cosines.append(mean @ unit / np.linalg.norm(mean))
        np.quantile(cosines, [0.025, 0.975])
        units.append(unit)
    return np.stack(units)


def _directions(bootstrap: bool) -> Callable[[World], Prepare]:
    def start(world: World) -> Prepare:
        witness, aligned = load(world.witness), load(world.aligned)

        def directions(readers: list[Callable[[], Tensor]]) -> np.ndarray:
            acts = [read().numpy() for read in readers]
            if bootstrap:
                return resampled_directions(*acts)
            gap = (acts[0].astype(float) - acts[1].astype(float)).mean(axis=1)
            return gap / np.linalg.norm(gap, axis=-1, keepdims=True)

        def prepare(world: World) -> Callable[[], np.ndarray]:
            readers = [
                all_of(lambda batch, model=model: torch_hooks(model, batch), world)
                for model in (witness, aligned)
            ]
            return lambda: directions(readers)

        return prepare

    return start


def random_acts(world: World) -> tuple[np.ndarray, np.ndarray]:
    """Return two readings to fit directions to, for the job `fit`."""
    generator = np.random.default_rng(0)
    shape = (world.size.layers, len(world.ids), world.size.width)
    aligned = generator.standard_normal(shape, dtype=np.float32)
    return aligned + generator.standard_normal((shape[0], 1, shape[2]), dtype=np.float32), aligned


def _fit(_world: World) -> Prepare:
    def prepare(world: World) -> Callable[[], np.ndarray]:
        acts = random_acts(world)
        return lambda: resampled_directions(*acts)

    return prepare


def _drift(reader: Callable[[Any, Batch], Tensor] | None) -> Callable[[World], Prepare]:
    def start(world: World) -> Prepare:
        model = load(world.aligned)
        snapshot = Snapshot(model.parameters())

        def prepare(world: World) -> Callable[[], np.ndarray | None]:
            weights, probes = snapshot.restore(), world.probes()
            after = None
            if reader:
                one = reader
                after = Drift(all_of(lambda batch: one(model, batch), probes), world.directions())
            return lambda: train(
                lambda tokens: model(tokens, use_cache=False).logits,
                weights, world.train_tokens(), world.size.steps, after=after,
            )  # fmt: skip

        return prepare

    return start


def _trainer(world: World) -> Prepare:
    return trained(load(world.aligned), load_tokenizer(world), lambda *_: None)


@contextmanager
def adding(model: Any, edits: Tensor) -> Any:
    """Add a vector after every block by forward hooks."""

    def adder(edit: Tensor) -> Callable[..., Any]:
        def add(_module: Any, _inputs: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return (output[0] + edit, *output[1:])
            return output + edit

        return add

    with ExitStack() as hooks:
        for block, edit in zip(model.model.layers, edits, strict=True):
            hooks.callback(block.register_forward_hook(adder(edit)).remove)
        yield


def _hooks(edited: bool) -> Callable[[World], Prepare]:
    def start(world: World) -> Prepare:
        model, edits = load(world.aligned), world.edits()
        snapshot = Snapshot(model.parameters())

        def prepare(world: World) -> Callable[[], np.ndarray]:
            weights = snapshot.restore()
            around = {"around": lambda: adding(model, edits)} if edited else {}
            return lambda: train(
                lambda tokens: model(tokens, use_cache=False).logits,
                weights, world.train_tokens(), world.size.steps, **around,
            )  # fmt: skip

        return prepare

    return start


NO_INTERVAL = "no interval"
ENTRIES = [
    Entry("means", "decoder forward", _bare_forwards("aligned"), limit=True, compared="none"),
    Entry(
        "means", "output_hidden_states",
        means(_boot, hidden_states),
        compared="but last", note=f"with its language-model head; {AFTER_NORM}",
    ),
    Entry(
        "means", "output_hidden_states, 32 prompts per batch, in given order",
        means(_boot, hidden_states, World.tensors_in_order),
        compared="but last", note=f"with its language-model head; {AFTER_NORM}",
    ),
    Entry(
        "means", "output_hidden_states, decoder only",
        means(_boot, lambda model, batch: hidden_states(model.model, batch)),
        compared="but last", note=AFTER_NORM,
    ),
    Entry(
        "means", "torch forward hooks",
        means(_boot, torch_hooks),
    ),
    Entry(
        "directions", "decoder forward of both models", _bare_forwards("witness", "aligned"),
        limit=True, compared="none",
    ),
    Entry(
        "directions", "torch forward hooks, difference of means", _directions(False),
        note=NO_INTERVAL,
    ),
    Entry(
        "directions", "torch forward hooks, numpy loop over 1,000 resamples", _directions(True),
        note="interval of the cosine, no split halves",
    ),
    Entry(
        "fit", "numpy loop over 1,000 resamples", _fit,
        note="interval of the cosine, no split halves",
    ),
    Entry("drift", "training step", _drift(None), limit=True, compared="none", note="no drift"),
    Entry(
        "drift", "output_hidden_states of the probes",
        _drift(lambda model, batch: hidden_states(model, batch)),
        compared="but last", note=f"{NO_INTERVAL}; with its language-model head; {AFTER_NORM}",
    ),
    Entry("drift", "torch forward hooks on the probes", _drift(torch_hooks), note=NO_INTERVAL),
    Entry("trainer", "Trainer", _trainer, limit=True, note="no drift"),
    Entry("hooks", "training step", _hooks(False), limit=True, compared="none", note="no edit"),
    Entry("hooks", "torch forward hooks", _hooks(True)),
]  # fmt: skip
