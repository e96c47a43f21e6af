"""Interventions that were started on θ_S, as the parts of a Trainer's step call them."""
# ruff: noqa: ARG002 - an event tells more than each needs

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from workbench.anchors import Anchor
from workbench.errors import ConfigError
from workbench.integrations.trained_model import TrainedModel, is_sharded
from workbench.integrations.trainer_batches import (
    ExamplesOfDataset,
    edited_places_of,
    forward_inputs,
)
from workbench.interventions import Intervention, Start, check_sources, generator_of
from workbench.models import Chat
from workbench.records import Auxiliary
from workbench.rehearsal import Rehearse
from workbench.training_edits import ActiveEdit, TrainingEdit
from workbench.updates import gradient_norm


class ActiveInterventions:
    """Interventions that were started on θ_S, and what each part of a Trainer's step does to them.

    Args:
        trainer: Just made, so that its model is θ_S.
        interventions: What to do.
        chat: As in `HookedModel`.
    """

    def __init__(
        self, trainer: Trainer, interventions: Sequence[Intervention], chat: Chat | None
    ) -> None:
        args = trainer.args
        _refuse(trainer, interventions)
        self.model = model = TrainedModel(_model_of(trainer), trainer.processing_class, chat=chat)
        check_sources(model, interventions, None, None)
        with model.opened():
            examples = ExamplesOfDataset(trainer)
            self.active = [
                one.start(Start(model, generator_of(args.seed, position), examples))
                for position, one in enumerate(interventions)
            ]
        self.edits = [one for one in self.active if isinstance(one, ActiveEdit)]
        self.editors = [one for one in self.active if one.edits_update]
        self.before: list[Tensor] = []
        self._loss: Tensor | None = None
        self._sums: dict[str, list[float]] = {}

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""
        return [one for one in self.model.hf.parameters() if one.requires_grad]

    def editing(self, inputs: Mapping[str, Any], autocast: Any) -> ExitStack:
        """Return a context in which the training forward is edited, its first pass without edits.

        Args:
            inputs: The micro-batch that is trained on next.
            autocast: The precision of its forward, as a context.
        """
        stack = ExitStack()
        if not self.edits:
            return stack
        model = self.model
        with ExitStack() as failing:
            model.open()
            failing.callback(model.close)
            for edit in self.edits:
                edit.places = edited_places_of(inputs, edit.positions, model.cfg.device)
                if edit.hooks.readers:
                    hooks = model.hooks(fwd_hooks=edit.forward_hooks())
                    with edit.hooks.reading_unedited(model.hf), hooks, autocast():
                        decoder = model.hf.get_decoder()
                        decoder(**forward_inputs(inputs, model.cfg.device), use_cache=False)
            for edit in self.edits:
                failing.enter_context(model.hooks(fwd_hooks=edit.forward_hooks()))
            stack = failing.pop_all()
        return stack

    def add_loss(self, loss: Tensor) -> None:
        """Take note of the loss of a micro-batch, without waiting for it."""
        self._loss = loss if self._loss is None else self._loss + loss

    def take_loss(self) -> float:
        """Return the loss of the step, and begin the next."""
        loss, self._loss = self._loss, None
        return math.nan if loss is None else loss.item()

    def add_penalties(self, step: int) -> dict[str, Auxiliary]:
        """Add the gradients of the penalties to those of the task; the same in every process."""
        told, parameters = {}, self.parameters
        for active in self.active:
            with self.model.opened():
                penalty = active.penalty(self.model)
                if penalty is None:
                    continue
                found = torch.autograd.grad(penalty, parameters, allow_unused=True)
            gradients = [None if one is None else one.float() for one in found]
            norm = float(gradient_norm(gradients))
            scale = active.penalty_scale(step, norm)
            _add(parameters, gradients, scale)
            told[active.name] = Auxiliary(penalty.item(), norm, scale)
            self._sums.setdefault(active.name, []).append(penalty.item())
        return told

    def take_means(self) -> dict[str, float]:
        """Return the mean of each penalty since this was asked before."""
        sums, self._sums = self._sums, {}
        return {name: sum(values) / len(values) for name, values in sums.items()}

    def before_update(self) -> None:
        """Read what edits of the update need, at the weights before it."""
        if self.editors:
            self.before = [one.detach().clone() for one in self.parameters]
            with self.model.opened():
                for active in self.editors:
                    active.before_update(self.model, self.parameters)

    @torch.no_grad()
    def after_update(self) -> None:
        """Edit the update."""
        for active in self.editors:
            active.edit_update([one.data for one in self.parameters], self.before)
        self.before = []


class InterventionEvents(TrainerCallback, ExportableState):
    """What interventions do between steps, and what a checkpoint keeps of them."""

    def __init__(self, active: ActiveInterventions) -> None:
        self.active = active

    def state(self) -> dict[str, Any]:
        """Return where the randomness of each stands."""
        states = [one.generator.get_state().numpy().tobytes().hex() for one in self.active.active]
        return {"args": {}, "attributes": {"generators": states}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take the randomness up where the checkpoint has it."""
        if not state.global_step:
            return
        told = cast(Any, state.stateful_callbacks or {}).get(type(self).__name__)
        states = told["attributes"]["generators"] if isinstance(told, dict) else []
        if len(states) != len(self.active.active):
            raise ConfigError(
                f"The checkpoint of step {state.global_step} was saved with other interventions; "
                "resume with the same ones."
            )
        for one, stored in zip(self.active.active, states, strict=True):
            one.generator.set_state(
                torch.frombuffer(bytearray.fromhex(stored), dtype=torch.uint8).clone()
            )

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Read before the update."""
        self.active.before_update()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Edit the update."""
        self.active.after_update()


def _model_of(trainer: Trainer) -> nn.Module:
    assert isinstance(trainer.model, nn.Module)
    return trainer.model


def _refuse(trainer: Trainer, interventions: Sequence[Intervention]) -> None:
    args, names = trainer.args, [one.name for one in interventions]
    lines = {
        "two of one name cannot be told apart; combine them": len({*names}) < len(names),
        "rehearse changes the batch; put its examples into train_dataset": any(
            isinstance(one, Rehearse) for one in interventions
        ),
        "FSDP and DeepSpeed share out the gradients; use DDP": bool(args.fsdp)
        or args.deepspeed is not None
        or is_sharded(_model_of(trainer)),
        "model_init makes the model anew; give the model itself": trainer.model_init is not None,
        "several GPUs in one process (DataParallel) copy the model; use DDP": args.n_gpu > 1,
        "float16 scales its gradients; use bf16": args.fp16,
        "edits are not in a compiled forward; use torch_compile=False": args.torch_compile
        and any(isinstance(one, TrainingEdit) for one in interventions),
        "anchor (kl) reads outside of autocast; load the model in bf16 instead": args.bf16
        and any(isinstance(one, Anchor) and one.kind == "kl" for one in interventions),
        "restore_callback_states_from_checkpoint makes callbacks anew; leave it off": bool(
            args.restore_callback_states_from_checkpoint
        ),
    }
    for line, holds in lines.items():
        if holds:
            raise ConfigError(f"Interventions in a Trainer ({', '.join(names)}): {line}.")


def _add(
    parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None], scale: float
) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None or scale == 0:
            continue
        scaled = (gradient if scale == 1 else gradient * scale).to(parameter.dtype)
        if parameter.grad is None:
            parameter.grad = scaled
        else:
            parameter.grad.add_(scaled)
