"""nnterp 1.3 on nnsight 0.7: the collection of activations that it brings."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from entries import Entry, Prepare
from peer_worlds import World
from torch import Tensor

BATCH_SIZE = 32


def _load(world: World) -> Any:
    from nnterp import StandardizedTransformer

    return StandardizedTransformer(world.aligned, device_map="cpu")


def _in_our_batches(model: Any, world: World) -> Callable[[], Tensor]:
    from nnterp.nnsight_utils import get_token_activations

    batches = world.text_batches()
    return lambda: torch.cat([get_token_activations(model, batch) for batch in batches], dim=1)


def _in_its_own(model: Any, world: World) -> Callable[[], Tensor]:
    from nnterp.nnsight_utils import collect_token_activations_batched

    return lambda: collect_token_activations_batched(model, world.texts, BATCH_SIZE)


def _means(collect: Callable[[Any, World], Callable[[], Tensor]]) -> Callable[[World], Prepare]:
    def start(world: World) -> Prepare:
        model = _load(world)

        def prepare(world: World) -> Callable[[], np.ndarray]:
            collected = collect(model, world)
            return lambda: collected().double().mean(dim=1).numpy()

        return prepare

    return start


ENTRIES = [
    Entry(
        "means", f"collect_token_activations_batched, {BATCH_SIZE} prompts per batch",
        _means(_in_its_own), "text", note="pads on the left; its own batches",
    ),
    Entry(
        "means", "get_token_activations, our batches", _means(_in_our_batches), "text",
        note="pads on the left",
    ),
]  # fmt: skip
