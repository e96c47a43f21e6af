"""nnsight 0.8: tracing contexts around the transformers model."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from entries import Entry, Prepare
from peer_worlds import Batch, World
from torch import Tensor
from training import LEARNING_RATE, Drift, Snapshot, next_token_loss, train

from tools.hf import all_of, means


def _load(world: World) -> Any:
    from nnsight import TransformersModel

    return TransformersModel(world.aligned, task="text-generation", dispatch=True)


@torch.no_grad()
def _trace(model: Any, batch: Batch) -> Tensor:
    """Read in a trace that stops after the last block: [layer, prompt, d_model]."""
    import nnsight

    with model.trace(batch.inputs) as tracer:
        found = nnsight.save([])
        for block in model.model.layers:
            found.append(block.output[batch.rows, batch.last])
        tracer.stop()
    return torch.stack(found)


@torch.no_grad()
def _whole_trace(model: Any, batch: Batch) -> Tensor:
    """Read in a trace that saves whole outputs, as the first example has it."""
    import nnsight

    with model.trace(batch.inputs):
        found = nnsight.save([])
        for block in model.model.layers:
            found.append(block.output)
    return torch.stack([resid[batch.rows, batch.last] for resid in found])


def _drift(world: World) -> Prepare:
    model = _load(world)
    plain = model._module
    snapshot = Snapshot(plain.parameters())

    def prepare(world: World) -> Callable[[], np.ndarray]:
        weights, probes = snapshot.restore(), world.probes()
        after = Drift(all_of(lambda batch: _trace(model, batch), probes), world.directions())
        return lambda: train(
            lambda tokens: plain(tokens, use_cache=False).logits,
            weights, world.train_tokens(), world.size.steps, after=after,
        )  # fmt: skip

    return prepare


def _edited_steps(
    model: Any, weights: list[torch.nn.Parameter], edits: Tensor, tokens: Tensor, steps: int
) -> np.ndarray:
    """The steps of `training.train`, with the forward pass in a trace."""
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    losses = []
    for _ in range(steps):
        with model.trace({"input_ids": tokens}):
            for block, edit in zip(model.model.layers, edits, strict=True):
                block.output = block.output + edit
            logits = model.output.logits.save()
        loss = next_token_loss(logits, tokens)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return np.array(losses)


def _hooks(world: World) -> Prepare:
    model, edits = _load(world), world.edits()
    snapshot = Snapshot(model._module.parameters())

    def prepare(world: World) -> Callable[[], np.ndarray]:
        weights = snapshot.restore()
        return lambda: _edited_steps(model, weights, edits, world.train_tokens(), world.size.steps)

    return prepare


ENTRIES = [
    Entry("means", "trace of one token per prompt, stopped", means(_load, _trace)),
    Entry("means", "trace of whole outputs", means(_load, _whole_trace)),
    Entry(
        "drift", "trace of one token per prompt, stopped", _drift,
        note="no interval; trains the transformers model itself",
    ),
    Entry("hooks", "outputs set in a trace", _hooks),
]  # fmt: skip
