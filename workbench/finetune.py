"""The fine-tuning loop: a generator of step records. It yields, the caller stores."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from workbench.adapters import chosen_trainable, described_adapter
from workbench.batches import BatchOrder, Draws
from workbench.config import Recipe
from workbench.directions import ReversionDirections
from workbench.dropout import DropoutStream
from workbench.encoding import Encoded, encode_examples, examples_hash, response_tokens
from workbench.errors import ConfigError, DivergedError
from workbench.interventions import (
    Active,
    Intervention,
    Start,
    as_list,
    check_sources,
    generator_of,
)
from workbench.losses import response_losses
from workbench.measurement import Measurement
from workbench.models import HookedModel
from workbench.probes import ProbeSet
from workbench.records import Auxiliary, StepRecord
from workbench.updates import (
    Schedule,
    Updates,
    UpdateSettings,
    add_gradients,
    gradient_norm,
)


class FineTuning:
    """One fine-tuning of an aligned model, iterated: one `StepRecord` per step.

    At every yield the hooks are off, and mode, gradient mode and random state are the caller's. A
    step takes the model's lock: it may run in a thread while others read, evaluate and answer.

    Args:
        model: The aligned model, a `HookedModel`; its weights are trained in place.
        examples: `{"prompt", "response"}`, `{"messages"}` or `{"text"}`; the loss is on responses.
        steps: Number of updates.
        probes: The measure split; without it no drift is measured.
        directions: v_rev; needed with `probes`.
        learning_rate: Peak rate of AdamW.
        batch_size: Examples per update.
        seed: Of data order, penalty minibatches and dropout, each a stream of its own.
        intervention: One or several; see `interventions`.
        measure_at: Steps to measure drift at; by default `config.MEASURED_STEPS`.
        accumulation: Micro-batches per update; the update is the same but for rounding.
        trainable: Which parameters to train, by name; by default all.
        warmup: Steps of linear warm-up.
        schedule: Learning rate after the warm-up.
        weight_decay: Of AdamW.
        clip: Largest gradient norm, or None.
        lora: Rank of a new low-rank adapter, put on the model, that is trained alone; by default
            what is trainable is trained: all weights, or those of a live adapter.

    Raises:
        ProvenanceError: If the model's weights are not the aligned ones of the directions.
        ProbeError: If examples cannot be encoded, or penalty and measured probes overlap.
        ConfigError: If a setting makes no sense.
    """

    def __init__(
        self,
        model: Any,
        examples: Sequence[Mapping[str, Any]],
        *,
        steps: int = 100,
        probes: ProbeSet | None = None,
        directions: ReversionDirections | None = None,
        learning_rate: float = 3e-5,
        batch_size: int = 16,
        seed: int = 0,
        intervention: Intervention | Sequence[Intervention] | None = None,
        measure_at: Sequence[int] | None = None,
        accumulation: int = 1,
        trainable: Callable[[str], bool] | None = None,
        warmup: int = 3,
        schedule: Schedule = "constant",
        weight_decay: float = 0.0,
        clip: float | None = 1.0,
        lora: int | None = None,
    ) -> None:
        if not isinstance(model, HookedModel):
            raise ConfigError(
                "A TransformerLens model can be read and edited but not trained (it trains copies "
                "of fused weights); load the Hugging Face model instead."
            )
        if min(steps, batch_size, accumulation) < 1 or not examples:
            raise ConfigError("steps, batch_size, accumulation and examples must be at least 1.")
        if accumulation > batch_size:
            raise ConfigError(f"{accumulation} micro-batches for a batch of {batch_size}.")
        self._interventions = interventions = as_list(intervention)
        names = [one.name for one in interventions]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(
                f"Two interventions are called {twice[0]!r}, so their records could not be told "
                "apart; combine them into one."
            )
        check_sources(model, interventions, probes, directions)
        self.model, self.steps, self.step = model, steps, 0
        self.directions, self.accumulation = directions, accumulation
        measured = None if measure_at is None else tuple(measure_at)
        self.recipe = Recipe(
            steps, learning_rate, batch_size, warmup, schedule, weight_decay, clip, accumulation,
            measured, lora,
        )  # fmt: skip
        settings = UpdateSettings(learning_rate, warmup, schedule, weight_decay, clip)
        self._examples = encode_examples(model, examples, "Example")
        self._dropout = DropoutStream(seed + 7_919, model.cfg.device)
        self._measure_at = {*self.recipe.measured_steps}
        self._measurement = None
        with chosen_trainable(model.hf, lora=lora, seed=seed + 104_729):
            self._updates = Updates(model.hf, settings, trainable)
            if probes is not None and directions is not None:
                self._measurement = Measurement.at_start(model, probes, directions)
            self._active = [
                one.start(Start(model, generator_of(seed, position), self._examples))
                for position, one in enumerate(interventions)
            ]
            self._fixed = {
                "recipe": asdict(self.recipe),
                "seed": seed,
                "lineage": directions and directions.provenance.get("lineage"),
                "probes": probes and probes.fingerprint(),
                "directions": directions and directions.identity(),
                "layers": directions and list(directions.layers),
                "trainable": None if trainable is None else self._updates.names,
                "adapter": described_adapter(model.hf),
            }
        order = BatchOrder(len(self._examples), batch_size, seed)
        self._draws = Draws(order, [active.generator for active in self._active])
        self.stopped = self._updating = False
        self._made: StepRecord | None = None  # the step that was made and is not measured yet

    def __iter__(self) -> Iterator[StepRecord]:
        """Train and yield the record of every step that is left, or until `stop`."""
        try:
            while (self.step < self.steps or self._made) and not self.stopped:
                with self.model.lock:
                    record = self._advance()
                yield record
        finally:
            self.stopped = False

    def stop(self) -> None:
        """End the iteration after the current step; safe to call from another thread.

        It ends one iteration: that under way or, if none is, the next before its first step, so
        that none is lost on a thread that just starts. Iterating again continues, to the same bits.
        """
        self.stopped = True

    def config(self) -> dict[str, Any]:
        """Return what it needs to be repeated, as JSON values: weights, data, probes by content.

        Raises:
            ConfigError: If it has begun: the weights that it started from are gone.
        """
        if self.step:
            raise ConfigError(
                f"This fine-tuning has made {self.step} steps; load the model and make it anew."
            )
        done = [one.describe() for one in self._interventions]
        told = {"model": self.model.fingerprint(), "data": examples_hash(self._examples)}
        return self._fixed | told | {"interventions": done}

    def state(self) -> dict[str, Tensor]:
        """Return all that is needed to continue to the same bits, as named tensors."""
        with self.model.lock:
            self._check_whole()
            state = self._updates.state() | self._dropout.state()
            return state | self._draws.state(self.step) | {"step": torch.tensor(self.step)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` returned, in a FineTuning made with the same arguments.

        Raises:
            ConfigError: If the state belongs to other parameters or interventions.
        """
        with self.model.lock:
            self._draws.load_state(state)
            self._updates.load_state(state)
            self.step, self._made, self._updating = int(state["step"]), None, False
            self._dropout.load_state(state)

    def _advance(self) -> StepRecord:
        """Make a step and measure it; if only measuring failed, that is made up for."""
        record = self._made or self._make_step()
        measurement = self._measurement if record.step in self._measure_at else None
        if measurement is not None or record.step == self.steps:
            self._updates.check_finite(record.step)
        if measurement is not None:
            record = replace(record, drift=measurement.drift(self.model))
        self._made = None
        return record

    def _check_whole(self) -> None:
        if self._updating:
            raise ConfigError(
                f"The update of step {self.step + 1} was interrupted half-way, so the weights are "
                "between two steps; load the last training state, or make model and fine-tuning "
                "anew."
            )

    def _make_step(self) -> StepRecord:
        self._check_whole()
        step = self.step + 1
        self._draws.begin(step)
        batch = [self._examples[index] for index in self._draws.order.next()]
        for active in self._active:
            batch = active.mix_batch(batch)
        with self._dropout.training(self.model.hf):
            loss, gradients = self._task_gradients(batch)
            self._check_finite("loss", loss)
            auxiliary = {}
            for active in self._active:
                if (told := self._add_penalty(active, gradients, step)) is not None:
                    auxiliary[active.name] = told
            norm = gradient_norm(gradients)
            self._check_finite("gradient norm", float(norm))
            rate = self._updates.settings.rate(step, self.steps)
            self._update(gradients, norm, rate)
        self._made = StepRecord(step, loss, rate, float(norm), auxiliary)
        self.step, self._updating = step, False
        return self._made

    def _task_gradients(self, batch: list[Encoded]) -> tuple[float, list[Tensor | None]]:
        """Mean loss per response token of the batch, and its gradients, by micro-batches."""
        tokens = sum(map(response_tokens, batch))
        size = math.ceil(len(batch) / self.accumulation)
        loss = 0.0
        gradients: list[Tensor | None] = [None] * len(self._updates.parameters)
        for start in range(0, len(batch), size):
            items = batch[start : start + size]
            for active in self._active:
                active.before_forward(self.model, items)
            with ExitStack() as hooks:
                for active in self._active:
                    hooks.enter_context(self.model.hooks(fwd_hooks=active.forward_hooks()))
                part = response_losses(self.model, items).sum() / tokens
                # Hooks stay on: gradient checkpointing runs the forward again in here.
                found = self._gradients(part)
            loss += part.item()
            add_gradients(gradients, found)
        return loss, gradients

    def _add_penalty(
        self, active: Active, gradients: list[Tensor | None], step: int
    ) -> Auxiliary | None:
        penalty = active.penalty(self.model)
        if penalty is None:
            return None
        extra = self._gradients(penalty)
        norm = float(gradient_norm(extra))
        scale = active.penalty_scale(step, norm)
        add_gradients(gradients, extra, scale)
        return Auxiliary(loss=penalty.item(), gradient_norm=norm, scale=scale)

    def _gradients(self, loss: Tensor) -> list[Tensor | None]:
        """Gradients in float32; the model's own `.grad` fields are left alone."""
        found = torch.autograd.grad(loss, self._updates.parameters, allow_unused=True)
        return [None if gradient is None else gradient.float() for gradient in found]

    def _check_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise DivergedError(
                f"The {what} is {value} at step {self.step + 1}; the weights are those of step "
                f"{self.step}. Try a lower learning rate or a weaker intervention."
            )

    def _update(self, gradients: list[Tensor | None], norm: Tensor, rate: float) -> None:
        editors = [active for active in self._active if active.edits_update]
        before = [master.detach().clone() for master in self._updates.masters] if editors else []
        for active in editors:
            active.before_update(self.model, self._updates.parameters)
        self._updating = True
        self._updates.apply(gradients, norm, rate)
        with torch.no_grad():
            for active in editors:
                active.edit_update(self._updates.masters, before)
        if editors:
            self._updates.publish()
