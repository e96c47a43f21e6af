"""repeng 0.4: its collection of hidden states and its control vectors."""

from collections.abc import Callable
from typing import Any

import numpy as np
from entries import Entry, Prepare
from peer_worlds import World

from tools.hf import load, load_tokenizer

BATCH_SIZE = 32
AFTER_NORM = "its last layer is after the final norm; with the language-model head"


def _hiddens(model: Any, tokenizer: Any, texts: list[str], layers: int) -> np.ndarray:
    """Its readings: [layer, prompt, d_model]."""
    from repeng.extract import batched_get_hiddens

    wanted = list(range(layers))
    found = batched_get_hiddens(model, tokenizer, texts, wanted, BATCH_SIZE)
    return np.stack([found[layer] for layer in wanted])


def _means(in_order: bool) -> Callable[[World], Prepare]:
    def start(world: World) -> Prepare:
        model, tokenizer = load(world.aligned), load_tokenizer(world)

        def prepare(world: World) -> Callable[[], np.ndarray]:
            texts = world.texts if in_order else world.sorted_texts()
            layers = world.size.layers
            return lambda: _hiddens(model, tokenizer, texts, layers).mean(axis=1, dtype=float)

        return prepare

    return start


def _directions(world: World) -> Prepare:
    witness, aligned = load(world.witness), load(world.aligned)
    tokenizer = load_tokenizer(world)

    def prepare(world: World) -> Callable[[], np.ndarray]:
        texts = world.sorted_texts()

        def directions() -> np.ndarray:
            means = [
                _hiddens(model, tokenizer, texts, world.size.layers).mean(axis=1, dtype=float)
                for model in (witness, aligned)
            ]
            gap = means[0] - means[1]
            return gap / np.linalg.norm(gap, axis=-1, keepdims=True)

        return directions

    return prepare


def _trained(world: World) -> Prepare:
    """Its own job: pairs of prompts in one model, as many forward passes as two models take."""
    from repeng import ControlVector, DatasetEntry

    model, tokenizer = load(world.aligned), load_tokenizer(world)

    def prepare(world: World) -> Callable[[], np.ndarray]:
        texts = world.sorted_texts()
        pairs = [DatasetEntry(*pair) for pair in zip(texts, texts[1:] + texts[:1], strict=True)]

        def directions() -> np.ndarray:
            found = ControlVector.train(model, tokenizer, pairs).directions
            return np.stack([found[layer] for layer in sorted(found)])

        return directions

    return prepare


ENTRIES = [
    Entry(
        "means", "batched_get_hiddens", _means(True), "text",
        compared="but last", note=f"batches of {BATCH_SIZE}; {AFTER_NORM}",
    ),
    Entry(
        "means", "batched_get_hiddens, sorted prompts", _means(False), "text",
        compared="but last", note=f"batches of {BATCH_SIZE}; {AFTER_NORM}",
    ),
    Entry(
        "directions", "batched_get_hiddens of both models, sorted prompts", _directions, "text",
        compared="but last", note=f"no interval; batches of {BATCH_SIZE}; {AFTER_NORM}",
    ),
    Entry(
        "directions", "ControlVector.train, sorted prompts", _trained, "text", compared="none",
        note="no interval; principal component of pairs of prompts in one model, with as many "
        "forward passes; all layers but the first",
    ),
]  # fmt: skip
