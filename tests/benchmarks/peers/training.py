"""The same training step for every tool that leaves the loop to its user."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from entries import Prepare
from torch import Tensor

LEARNING_RATE = 1e-4
TRAINER_STEPS = 4
"""Times as many steps under a Trainer, whose beginning is part of what is timed."""


class Snapshot:
    """Weights as they were, to begin every round with."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self._kept = [weight.detach().clone() for weight in self.parameters]

    @torch.no_grad()
    def restore(self) -> list[torch.nn.Parameter]:
        """Put the weights back, without gradients, and return them."""
        for weight, kept in zip(self.parameters, self._kept, strict=True):
            weight.copy_(kept)
            weight.grad = None
        return self.parameters


def next_token_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the mean cross-entropy of every token after the first."""
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def train(
    forward: Callable[[Tensor], Tensor],
    parameters: list[torch.nn.Parameter],
    tokens: Tensor,
    steps: int,
    *,
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
    after: Callable[[], Tensor] | None = None,
) -> np.ndarray:
    """Train and return the loss of every step, or what `after` returns after it.

    Args:
        forward: From tokens to logits.
        parameters: What is trained.
        tokens: The batch of every step.
        steps: Updates.
        around: Entered for forward and backward pass.
        after: Called after every update.
    """
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    told = []
    for _ in range(steps):
        with around():
            loss = next_token_loss(forward(tokens), tokens)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        told.append(after().numpy() if after else loss.item())
    return np.array(told)


class Drift:
    """Drift as a user of arrays would write it: no interval, no single prompts.

    Args:
        read: Returns the residual stream, [layer, prompt, d_model].
        directions: Unit vectors to split it along, [layer, d_model].
    """

    def __init__(self, read: Callable[[], Tensor], directions: Tensor) -> None:
        self._read, self._directions = read, directions.double()
        self._start = read().double()
        self.rows: list[dict[str, Tensor]] = []

    def __call__(self) -> Tensor:
        """Measure, keep cosine and parts per layer, return the vectors, [layer, d_model]."""
        vector = (self._read().double() - self._start).mean(dim=1)
        along = (vector * self._directions).sum(dim=-1)
        across = (vector - along[:, None] * self._directions).norm(dim=-1)
        self.rows.append({"cosine": along / vector.norm(dim=-1), "along": along, "across": across})
        return vector


def hooks(
    boot: Callable[[Any], Any], names: Callable[[Any], list[str]]
) -> Callable[[Any], Prepare]:
    """Return the job `hooks` of a tool with TransformerLens's `model.hooks`.

    Args:
        boot: Loads the model that is trained.
        names: The hook points after every block.
    """

    def adder(edit: Tensor) -> Callable[..., Tensor]:
        return lambda resid, hook: resid + edit  # noqa: ARG005 - TransformerLens names it

    def start(world: Any) -> Prepare:
        model = boot(world)
        snapshot = Snapshot(model.parameters())
        pairs = list(zip(names(model), map(adder, world.edits()), strict=True))

        def prepare(world: Any) -> Callable[[], np.ndarray]:
            weights = snapshot.restore()
            return lambda: train(
                model, weights, world.train_tokens(), world.size.steps,
                around=lambda: model.hooks(fwd_hooks=pairs),
            )  # fmt: skip

        return prepare

    return start


def trained(model: Any, tokenizer: Any, attach: Callable[[Any, Any, str], None]) -> Prepare:
    """Return the job `trainer`: training from the same weights, which is what it gives back.

    Args:
        model: A model of transformers.
        tokenizer: Its tokenizer.
        attach: Puts what measures on a Trainer, in a world, with a folder for its files.
    """
    folder, snapshot = mkdtemp(), Snapshot(model.parameters())

    def prepare(world: Any) -> Callable[[], np.ndarray]:
        snapshot.restore()
        steps = TRAINER_STEPS * world.size.steps
        trainer = trainer_of(model, world.train_tokens(), steps, folder, tokenizer)
        attach(trainer, world, folder)
        return lambda: (trainer.train(), weights_of(model))[1]

    return prepare


def weights_of(model: torch.nn.Module) -> np.ndarray:
    """Return the sum of every weight matrix: what a training that nobody disturbed ends in."""
    return np.array([float(weight.detach().double().sum()) for weight in model.parameters()])


def trainer_of(model: Any, tokens: Tensor, steps: int, folder: str, tokenizer: Any) -> Any:
    """Return a transformers Trainer that makes the same steps as `train`."""
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        folder,
        max_steps=steps,
        per_device_train_batch_size=len(tokens),
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
    )
    rows = [{"input_ids": row, "labels": row} for row in tokens]
    return Trainer(model, arguments, train_dataset=rows, processing_class=tokenizer)
