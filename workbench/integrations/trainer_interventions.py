"""Interventions inside a `transformers.Trainer`, and so inside of TRL's."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import Trainer

from workbench.integrations.active_interventions import ActiveInterventions, InterventionEvents
from workbench.integrations.trainer import PREFIX, ReversionCallback
from workbench.interventions import Intervention, as_list
from workbench.models import Chat
from workbench.records import Auxiliary


@dataclass(frozen=True)
class StepTold:
    """What a step of the optimiser has to tell when it is done."""

    step: int
    loss: float
    """Of the task, as the Trainer takes it; NaN where other processes have parts of it."""

    auxiliary: Mapping[str, Auxiliary]


class ReversionTrainer(Trainer):
    """A Trainer with interventions; for TRL `class Mine(wb.ReversionTrainer, SFTTrainer)`.

    They are those of `FineTuning` and do the same: where data, optimiser and rates are the same,
    so are the weights, but for rounding. At strength 0, or without any, training is the Trainer's
    own to the bit. Responses are the tokens with a label. The gradient of a penalty (`Block`,
    `Push`, `Anchor`) is added once per step of the optimiser; the loss that is logged is the
    task's, and `reversion/block` stands beside it. Evaluation sees no edits. A resumed training
    draws the penalty prompts that it would have drawn. A `ReversionCallback` is attached by itself
    and then records every step.

    The Trainer is given θ_S, also to resume: the checkpoint is loaded into it later. Refused are
    `Rehearse`, FSDP, DeepSpeed, `DataParallel`, float16, and edits (`Ablate`, `Steer`, `Cap`) in a
    compiled forward.

    Args:
        *args: As for the Trainer.
        intervention: One or several; see `interventions`.
        chat: How prompts become conversations; as in `HookedModel`.
        **kwargs: As for the Trainer.

    Raises:
        ConfigError: If an intervention cannot be done in this training.
        ProvenanceError: If the model is not the aligned one of the directions.
    """

    def __init__(
        self,
        *args: Any,
        intervention: Intervention | Sequence[Intervention] | None = None,
        chat: Chat | None = None,
        **kwargs: Any,
    ) -> None:
        self.interventions: list[Intervention] = []
        self.last_step: StepTold | None = None
        self._active: ActiveInterventions | None = None
        super().__init__(*args, **kwargs)
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, ReversionCallback):
                callback.attach(self)
        self.interventions = as_list(intervention)
        if self.interventions:
            self._active = ActiveInterventions(self, self.interventions, chat)
            self.add_callback(InterventionEvents(self._active))

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Do the Trainer's step with edits in its forward, and penalties after the last one."""
        active = self._active
        if active is None:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        # Through backward: activation checkpointing runs the forward again there.
        with active.editing(inputs, self.accelerator.autocast):
            loss = super().training_step(model, inputs, num_items_in_batch)
        active.add_loss(loss)
        if self.accelerator.sync_gradients:
            step = self.state.global_step + 1
            auxiliary = active.add_penalties(step)
            alone = self.args.world_size == 1
            self.last_step = StepTold(step, active.take_loss() if alone else math.nan, auxiliary)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the mean of each penalty beside the loss of the task."""
        if self._active is not None and "loss" in logs:
            logs |= {PREFIX + name: value for name, value in self._active.take_means().items()}
        super().log(logs, start_time)
