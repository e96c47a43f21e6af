"""steering-vectors 0.12: its recording of activations and its vectors of pairs of prompts."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from entries import Entry, Prepare
from peer_worlds import Batch, World
from torch import Tensor

from tools.hf import load, load_tokenizer, mean_of

BATCH_SIZE = 32


@torch.no_grad()
def _recorded(model: Any, batch: Batch) -> Tensor:
    """Read within `record_activations`: [layer, prompt, d_model]."""
    from steering_vectors import record_activations

    with record_activations(model) as record:
        model(**batch.inputs)
    return torch.stack([record[layer][-1][batch.rows, batch.last] for layer in sorted(record)])


def _means(world: World) -> Prepare:
    model = load(world.aligned)

    def prepare(world: World) -> Callable[[], np.ndarray]:
        batches = world.tensors()
        return lambda: mean_of(lambda batch: _recorded(model, batch), batches, len(world.ids))

    return prepare


def _directions(world: World) -> Prepare:
    """Its mean aggregator over readings of both models."""
    from steering_vectors import mean_aggregator

    witness, aligned = load(world.witness), load(world.aligned)

    def prepare(world: World) -> Callable[[], np.ndarray]:
        batches, aggregate = world.tensors(), mean_aggregator()

        def directions() -> np.ndarray:
            acts = [
                torch.cat([_recorded(model, batch) for batch in batches], dim=1)
                for model in (witness, aligned)
            ]
            vectors = torch.stack([aggregate(*pair) for pair in zip(*acts, strict=True)])
            return (vectors / vectors.norm(dim=-1, keepdim=True)).numpy()

        return directions

    return prepare


def _trained(batched: bool) -> Callable[[World], Prepare]:
    """Its own job: pairs of prompts in one model, as many forward passes as two models take."""

    def start(world: World) -> Prepare:
        from steering_vectors import train_steering_vector

        model, tokenizer = load(world.aligned), load_tokenizer(world)

        def prepare(world: World) -> Callable[[], np.ndarray]:
            texts = world.sorted_texts() if batched else world.texts
            pairs = list(zip(texts, texts[1:] + texts[:1], strict=True))
            size = {"batch_size": BATCH_SIZE} if batched else {}

            def directions() -> np.ndarray:
                vector = train_steering_vector(model, tokenizer, pairs, **size)
                found = vector.layer_activations
                return torch.stack([found[layer] for layer in sorted(found)]).numpy()

            return directions

        return prepare

    return start


PAIRS = "no interval; contrasts prompts in one model, with as many forward passes"
ENTRIES = [
    Entry("means", "record_activations", _means, note="with the language-model head"),
    Entry(
        "directions", "record_activations of both models, mean_aggregator", _directions,
        note="no interval; with the language-model head",
    ),
    Entry(
        "directions", "train_steering_vector, its own batch size of 1", _trained(False), "text",
        compared="none", note=PAIRS,
    ),
    Entry(
        "directions", f"train_steering_vector, {BATCH_SIZE} sorted prompts per batch",
        _trained(True), "text", compared="none", note=PAIRS,
    ),
]  # fmt: skip
