"""The optimiser's updates: AdamW on float32 master copies, warm-up, clipping."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from workbench.errors import ConfigError, DivergedError

Schedule = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True)
class UpdateSettings:
    """How gradients become updates."""

    learning_rate: float = 3e-5
    """Peak learning rate."""

    warmup: int = 3
    """Steps of linear warm-up; step 1 already has a rate above zero."""

    schedule: Schedule = "constant"
    """What follows the warm-up: the peak, or a decay that reaches zero after the last step."""

    weight_decay: float = 0.0
    clip: float | None = 1.0
    """Largest gradient norm; None for no clipping."""

    def __post_init__(self) -> None:
        """Check the settings."""
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning_rate is {self.learning_rate}; it must be positive.")
        if self.warmup < 0:
            raise ConfigError(f"warmup is {self.warmup}; it must not be negative.")
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"weight_decay is {self.weight_decay}; it must not be negative.")
        if self.clip is not None and not self.clip > 0:
            raise ConfigError(f"clip is {self.clip}; it must be positive, or None.")

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of `step` (from 1) of `steps`; never zero."""
        if step <= self.warmup:
            return self.learning_rate * step / self.warmup
        left = (steps + 1 - step) / (steps + 1 - self.warmup)
        shape = {
            "constant": 1.0,
            "linear": left,
            "cosine": 0.5 * (1 - math.cos(math.pi * left)),
        }
        return self.learning_rate * shape[self.schedule]


def gradient_norm(gradients: list[Tensor | None]) -> Tensor:
    """Return the norm of all gradients together."""
    return torch.nn.utils.get_total_norm([g for g in gradients if g is not None])


def add_gradients(
    total: list[Tensor | None], extra: Sequence[Tensor | None], scale: float = 1.0
) -> None:
    """Add scaled gradients to `total` in place."""
    for index, gradient in enumerate(extra):
        if gradient is None or scale == 0:
            continue
        scaled = gradient if scale == 1 else gradient * scale
        so_far = total[index]
        total[index] = scaled if so_far is None else so_far + scaled


class Updates:
    """AdamW on a model's parameters, or on float32 copies of those that are not float32.

    In bf16 an update at rate 1e-5 is mostly rounded away; the masters keep it.
    """

    def __init__(
        self, model: nn.Module, settings: UpdateSettings, trainable: Callable[[str], bool] | None
    ) -> None:
        named = [
            (name, parameter)
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and (trainable is None or trainable(name))
        ]
        if not named:
            raise ConfigError("No parameter is trainable: check `trainable` and requires_grad.")
        if any(parameter.dtype == torch.float16 for _, parameter in named):
            raise ConfigError(
                "float16 gradients underflow without loss scaling: load the model as float32 or "
                "bfloat16 (dtype)."
            )
        self.settings = settings
        self.names = [name for name, _ in named]
        self.parameters = [parameter for _, parameter in named]
        self.masters = [
            parameter
            if parameter.dtype == torch.float32
            else nn.Parameter(parameter.detach().float())
            for parameter in self.parameters
        ]
        self.optimiser = torch.optim.AdamW(
            self.masters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )

    def apply(self, gradients: list[Tensor | None], norm: Tensor, rate: float) -> None:
        """Update the weights in place, given gradients and their norm before clipping."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        # A float32 weight is its own master, and its `.grad` the caller's.
        kept = [master.grad for master in self.masters]
        try:
            for master, gradient in zip(self.masters, gradients, strict=True):
                master.grad = None if gradient is None else gradient.to(master.dtype)
            if self.settings.clip is not None:
                torch.nn.utils.clip_grads_with_norm_(self.masters, self.settings.clip, norm)
            self.optimiser.step()
        finally:
            for master, gradient in zip(self.masters, kept, strict=True):
                master.grad = gradient
        self.publish()

    def check_finite(self, step: int) -> None:
        """Raise `DivergedError` if a weight is no longer finite."""
        # Masters that are not finite have published parameters that are not.
        named = zip(self.names, self.parameters, strict=True)
        check_state({f"weight/{name}": parameter.detach() for name, parameter in named}, step)

    @torch.no_grad()
    def publish(self) -> None:
        """Copy the masters into the model's parameters."""
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            if parameter is not master:
                parameter.copy_(master)

    def state(self) -> dict[str, Tensor]:
        """Return copies of weights and optimiser moments by name."""
        tensors = {}
        for name, master in zip(self.names, self.masters, strict=True):
            tensors[f"weight/{name}"] = master.detach().clone()
            for key, value in self.optimiser.state.get(master, {}).items():
                tensors[f"{key}/{name}"] = value.detach().clone()
        return tensors

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state` returned.

        Raises:
            ConfigError: If it belongs to other parameters.
        """
        wanted = {f"weight/{name}" for name in self.names}
        if wanted != {key for key in tensors if key.startswith("weight/")}:
            raise ConfigError("This training state belongs to other trainable parameters.")
        self.optimiser.state.clear()
        for name, master in zip(self.names, self.masters, strict=True):
            master.copy_(tensors[f"weight/{name}"])
            moments = {
                key: tensors[f"{key}/{name}"].clone()
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{key}/{name}" in tensors
            }
            if moments:
                # A fused AdamW keeps its step count beside the weights, too.
                self.optimiser.state[master] = {
                    key: value.to(master.device) for key, value in moments.items()
                }
        self.publish()


def check_state(state: dict[str, Tensor], step: int) -> None:
    """Raise `DivergedError` if weights or optimiser moments after a step are not finite."""
    for key, tensor in state.items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        # Least and greatest show NaN and infinity, in a fraction of the time of looking at each.
        if not torch.isfinite(torch.stack(torch.aminmax(tensor))).all():
            kind, _, name = key.partition("/")
            what = {"weight": "Weights", "exp_avg": "Mean gradients"}.get(kind, "Squared gradients")
            raise DivergedError(
                f"{what} of {name} are not finite after step {step}. Try a lower learning rate or "
                "a weaker intervention."
            )


def state_to_bytes(state: dict[str, Tensor]) -> bytes:
    """Return a training state as safetensors bytes."""
    return save_tensors({name: tensor.cpu().contiguous() for name, tensor in state.items()})


def state_from_bytes(blob: bytes) -> dict[str, Tensor]:
    """Rebuild the training state that `state_to_bytes` wrote."""
    return load_tensors(blob)
