"""Drift inside a `transformers.Trainer`, and so inside of TRL's."""
# ruff: noqa: ARG002 - an event tells more than each needs

import math
import warnings
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from workbench.directions import ReversionDirections
from workbench.errors import ConfigError, RunError
from workbench.integrations.trained_model import TrainedModel, is_sharded, undisturbed
from workbench.integrations.trainer_records import Records
from workbench.integrations.trainer_run import (
    begin,
    default_steps,
    describe,
    proceed,
    read_start,
)
from workbench.interventions import Intervention, check_sources
from workbench.measurement import Measurement
from workbench.models import Chat
from workbench.probes import ProbeSet
from workbench.records import Auxiliary, Drift

PREFIX = "reversion/"
"""Before the name of each scalar; some reporters put `train/` before that."""


class ReversionCallback(TrainerCallback):
    """Measures drift while a Trainer trains; the trained weights are those without it, to the bit.

        callback = wb.ReversionCallback(directions, measure, out="runs/first").attach(trainer)
        trainer.train()
        run = wb.Run("runs/first")

    The run folder is like that of a `FineTuning`, with `StepRecord`s where drift is measured or the
    Trainer logs: the loss is what it logs, the mean since it logged before (with `logging_steps=1`
    that of the step), and unknown elsewhere. Step 0, where drift is zero, has no vectors.
    `train(resume_from_checkpoint=…)` continues the folder: steps after the checkpoint are dropped.

    What is read is the model outside of the Trainer's autocast and compiler, in the precision of
    its weights; under FSDP 2 through its own forward, mixed precision included. Of several
    processes the first measures alone, without a word to the others; where they share the weights
    (FSDP 2) all run the probes, and the first one records.

    Args:
        directions: v_rev; the model that training begins with must be where they start.
        probes: The measure split.
        out: Run folder to create or, by a resumed training, to continue; by default none is kept.
        measure_at: Steps of the optimiser to measure after; by default dense, then ever sparser.
            The last step is always measured.
        every: Measure after every so many steps, too; alone, in place of the default.
        tokenizer: By default the Trainer's `processing_class`.
        chat: How prompts become conversations; as in `HookedModel`.
        per_layer: Log each layer's alignment, too.

    Raises:
        ConfigError: If a setting makes no sense.
        ProbeError: If the directions were fitted on a probe.
    """

    def __init__(
        self,
        directions: ReversionDirections,
        probes: ProbeSet,
        *,
        out: str | Path | None = None,
        measure_at: Sequence[int] | None = None,
        every: int | None = None,
        tokenizer: Any = None,
        chat: Chat | None = None,
        per_layer: bool = False,
    ) -> None:
        if min([*(measure_at or ()), 1 if every is None else every]) < 1:
            raise ConfigError(f"measure_at={measure_at}, every={every}: steps count from 1.")
        directions.check_probes(probes, "measured")
        self.directions, self.probes = directions, probes
        self.out = None if out is None else Path(out)
        self.measure_at, self.every = measure_at, every
        self.tokenizer, self.per_layer = tokenizer, per_layer
        self.chat: Chat | None = chat
        self._trainer: weakref.ref[Trainer] | None = None
        self._end()

    def attach(self, trainer: Trainer) -> "ReversionCallback":
        """Join a Trainer and log by its own way, so that its history and all it reports to have it.

        A callback is not told its Trainer: one that is only in `callbacks=[…]` keeps its run folder
        and the Trainer's `log_history`, and reports nothing.
        """
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)
        self._trainer = weakref.ref(trainer)
        return self

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Read θ_S, or what was stored of it; begin the run folder, or continue it."""
        _refuse(args)
        module, trainer = kwargs["model"], self._trainer and self._trainer()
        self._planned = self._schedule(state.max_steps)
        self._first = args.process_index == 0
        if not (self._first or is_sharded(module)):
            return
        with undisturbed():
            tokenizer = self.tokenizer or kwargs.get("processing_class")
            model = self._model = TrainedModel(module, tokenizer, chat=self.chat)
            done = getattr(trainer, "interventions", ())
            config = describe(
                args, state.max_steps, self._planned, model, self.probes, self.directions, done
            )
            with model.opened():
                if state.global_step:
                    self._resume(config, state.global_step, model)
                else:
                    self._start(config, model, done)
        self._tell_unattached(args)
        if not state.global_step:
            self._log(self._drift(model), state, control)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take note of the rate of this step; the scheduler is next."""
        self._records.rate = float(kwargs["optimizer"].param_groups[0]["lr"])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure if it is time."""
        step = state.global_step
        due = step in self._planned or step >= state.max_steps or control.should_training_stop
        drift = self._measure(state, control) if due else None
        self._records.note(step, drift, *self._told(step))

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take the loss of the newest step from what the Trainer logs."""
        self._records.add_logs(state.global_step, kwargs["logs"])

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the last step of a training that somebody has stopped."""
        if control.should_training_stop:
            self._measure_last(state, control)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the last step unless it was, end the run, and let go of the model."""
        # After load_best_model_at_end the weights are those of another step.
        if not (args.load_best_model_at_end and state.best_model_checkpoint):
            self._measure_last(state, control)
        self._records.finish()
        self._end()

    def _end(self) -> None:
        """Forget the training, its model above all."""
        self._model: TrainedModel | None = None
        self._measurement: Measurement | None = None
        self._records = Records()
        self._planned: list[int] = []
        self._first, self._measured = False, -1

    def _schedule(self, last: int) -> list[int]:
        """The steps that are to be measured, in order, the last one included."""
        steps = {last, *(self.measure_at or ())}
        if self.every is not None:
            steps |= {*range(self.every, last + 1, self.every)}
        elif self.measure_at is None:
            steps |= {*default_steps(last)}
        return sorted(step for step in steps if step <= last)

    def _start(
        self, config: dict[str, Any], model: TrainedModel, done: Sequence[Intervention]
    ) -> None:
        check_sources(model, done, self.probes, self.directions)
        self._measurement = Measurement.at_start(model, self.probes, self.directions)
        if self._first and self.out is not None:
            self._records = Records(begin(self.out, config, model, self._measurement), 0)

    def _resume(self, config: dict[str, Any], step: int, model: TrainedModel) -> None:
        if self.out is None:
            raise RunError(
                f"Training resumes after step {step}, where θ_S is no more; give the callback the "
                "run folder that training began with (out)."
            )
        self._measurement = read_start(self.out, model, self.probes, self.directions)
        if self._first:
            run = proceed(self.out, config, step)
            self._records = Records(run, step)
            self._measured = step if step in run.measured_steps else -1

    def _measure(self, state: TrainerState, control: TrainerControl) -> Drift | None:
        if self._model is None or self._measured == state.global_step:
            return None
        self._measured = state.global_step
        drift = self._drift(self._model)
        self._log(drift, state, control)
        return drift

    def _measure_last(self, state: TrainerState, control: TrainerControl) -> None:
        if state.global_step:
            self._records.note(state.global_step, self._measure(state, control))

    def _drift(self, model: TrainedModel) -> Drift:
        assert self._measurement is not None
        with model.opened():
            return self._measurement.drift(model)

    def _told(self, step: int) -> tuple[float, Mapping[str, Auxiliary]]:
        """What a `ReversionTrainer` tells of the step, which one without interventions does not."""
        told = getattr(self._trainer and self._trainer(), "last_step", None)
        return (told.loss, told.auxiliary) if told and told.step == step else (math.nan, {})

    def _log(self, drift: Drift, state: TrainerState, control: TrainerControl) -> None:
        if not self._first:
            return
        trainer = self._trainer and self._trainer()
        if trainer is None:
            state.log_history.append(self._scalars(drift) | {"step": state.global_step})
            return
        wanted = control.should_log
        # Past overrides: TRL's empties into each log what it has summed up for its own.
        Trainer.log(trainer, self._scalars(drift))
        control.should_log = wanted

    def _scalars(self, drift: Drift) -> dict[str, float]:
        """What is logged; what is undefined is left out, and counted."""
        told = {
            "alignment": drift.mean_alignment,
            "alignment_stacked": drift.stacked_alignment,
            "along": float(np.mean(drift.along)),
            "across": float(np.mean(drift.across)),
            "undefined": drift.undefined,
        }
        if self.per_layer:
            rows = zip(self.directions.layers, drift.alignment.tolist(), strict=True)
            told |= {f"alignment/layer_{layer:02d}": value for layer, value in rows}
        return {PREFIX + name: value for name, value in told.items() if math.isfinite(value)}

    def _tell_unattached(self, args: TrainingArguments) -> None:
        if self._trainer is None and self._first and args.report_to:
            warnings.warn(
                f"Drift is not reported to {', '.join(args.report_to)}: a callback is not told its "
                "Trainer; call callback.attach(trainer).",
                stacklevel=2,
            )


def _refuse(args: TrainingArguments) -> None:
    plugin = getattr(args, "deepspeed_plugin", None)
    if plugin is not None and plugin.zero_stage == 3:
        raise ConfigError(
            "DeepSpeed's stage 3 keeps the weights where they cannot be read; use FSDP 2, or stage "
            "2, where they fit."
        )
