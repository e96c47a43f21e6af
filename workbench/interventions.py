"""Interventions during fine-tuning: what is added to, or done to, ordinary training.

An `Intervention` says what to do and is immutable; `start` reads what it needs from the aligned
model and returns an `Active` one, which the training loop asks at each step for a hook in the
training forward, an auxiliary loss on probe activations, a change to the optimiser's update, or a
change to the batch. At strength 0 none is started: training is ordinary, bit for bit.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from workbench.activations import Reading, read_activations, read_batch
from workbench.directions import ReversionDirections
from workbench.encoding import Encoded
from workbench.errors import ConfigError, LayerError, ProbeError
from workbench.models import HookedModel, evaluation_mode
from workbench.probes import ProbeSet

Hook = tuple[str, Callable[..., Tensor | None]]


class Active:
    """A started intervention; each method is one way to intervene, and does nothing by default."""

    def __init__(self, name: str, generator: torch.Generator) -> None:
        self.name = name
        self.generator = generator
        """The intervention's own randomness, apart from data order and dropout."""

    def mix_batch(self, batch: list[Encoded]) -> list[Encoded]:
        """Return the training batch to use instead of `batch`."""
        return batch

    def forward_hooks(self) -> list[Hook]:
        """Return hooks for the training forward; they stay on through backward."""
        return []

    def penalty(self, model: HookedModel) -> Float[Tensor, ""] | None:  # noqa: ARG002
        """Return an auxiliary loss to add to the task loss, strength included."""
        return None

    def penalty_scale(self, step: int, gradient_norm: float) -> float:  # noqa: ARG002
        """Return the factor for the auxiliary gradient of this step."""
        return 1.0

    edits_update: ClassVar[bool] = False
    """Whether `edit_update` does anything; if not, the loop keeps no copy of the weights."""

    def edit_update(
        self, model: HookedModel, parameters: list[Tensor], before: list[Tensor]
    ) -> None:
        """Change `parameters` in place, given what they were `before` the optimiser's step."""


class Intervention(ABC):
    """What to do during fine-tuning, and how strongly."""

    name: ClassVar[str]
    strength: float

    @abstractmethod
    def start(self, model: HookedModel, generator: torch.Generator) -> Active:
        """Read what is needed from `model`, still the aligned one, and return the active form."""

    @property
    def needs(self) -> tuple[ReversionDirections | None, ProbeSet | None]:
        """The directions and the probes that this intervention uses, to be checked."""
        return getattr(self, "directions", None), getattr(self, "probes", None)

    def describe(self) -> dict[str, Any]:
        """Return the settings as JSON values; directions and probes by hash."""
        described: dict[str, Any] = {"name": self.name}
        for item in fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            if isinstance(value, ProbeSet):
                value = value.fingerprint()
            elif isinstance(value, ReversionDirections):
                value = dict(value.provenance)
            described[item.name] = list(value) if isinstance(value, tuple) else value
        return described


@dataclass(frozen=True)
class Block(Intervention):
    """Penalise motion towards the witness: λ·Σ_l mean_x relu(along_l(x))².

    `along` is each prompt's displacement from its own activation in the aligned model, along v_l,
    in phase gaps. Against the mean activation instead, the hinge would punish the ordinary spread
    between prompts; like this, penalty and gradient are zero at θ_S.

    Source: reconstruction of the one-sided loss of arXiv 2606.28525.
    """

    name: ClassVar[str] = "block"

    directions: ReversionDirections
    strength: float = 30.0
    """λ, in nats per squared phase gap."""

    probes: ProbeSet | None = None
    """The penalty split: prompts that nothing is measured on."""

    hinge: Literal["prompt", "mean"] = "prompt"
    """Whether each prompt's motion is rectified, or the mean over the minibatch."""

    layers: tuple[int, ...] | None = None
    """Layers to penalise; by default all that the directions have."""

    batch_size: int = 32
    """Penalty prompts per step."""

    trace: tuple[float, ...] | None = None
    """Gradient norms, one per step, to scale the auxiliary gradient to; for matched controls."""

    def __post_init__(self) -> None:
        """Check the settings."""
        _check_penalty(self)

    def start(self, model: HookedModel, generator: torch.Generator) -> Active:
        """Read every penalty prompt's own reference."""
        return ActivePenalty(self, model, generator, _block_loss)


@dataclass(frozen=True)
class Push(Intervention):
    """Reinforce motion towards the witness up to a target: λ·Σ_l mean_x relu(target − along_l(x))².

    The target stabilises what would otherwise grow without bound (later version of
    arXiv 2606.28525). Settings as in `Block`.
    """

    name: ClassVar[str] = "push"

    directions: ReversionDirections
    strength: float = 3.0
    target: float = 0.6
    """Where the push stops, in phase gaps."""

    probes: ProbeSet | None = None
    hinge: Literal["prompt", "mean"] = "prompt"
    layers: tuple[int, ...] | None = None
    batch_size: int = 32
    trace: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        _check_penalty(self)

    def start(self, model: HookedModel, generator: torch.Generator) -> Active:
        """Read every penalty prompt's own reference."""
        return ActivePenalty(self, model, generator, _push_loss)


class ActivePenalty(Active):
    """An auxiliary loss on how far penalty prompts have moved along the directions."""

    def __init__(
        self,
        settings: Block | Push,
        model: HookedModel,
        generator: torch.Generator,
        loss: Callable[[Any, Float[Tensor, "layer prompt"]], Float[Tensor, ""]],
    ) -> None:
        super().__init__(settings.name, generator)
        assert settings.probes is not None
        self.settings, self.loss = settings, loss
        directions = settings.directions
        self.layers = _layers_of(settings)
        rows = [directions.layers.index(layer) for layer in self.layers]
        position = directions.provenance.get("position", -1)
        self.reading = Reading.of(model, settings.probes, position)
        device = model.cfg.device
        # Dividing by the gap here makes every projection below one in phase gaps.
        self.axis = (directions.unit / directions.gap[:, None])[rows].float().to(device)
        acts = read_activations(model, self.reading, layers=self.layers).to(device)
        self.reference = self._along(acts)

    def penalty(self, model: HookedModel) -> Float[Tensor, ""]:
        """Return the loss on a fresh minibatch of penalty prompts, without dropout."""
        shuffled = torch.randperm(len(self.reading), generator=self.generator)
        indices = shuffled[: self.settings.batch_size].tolist()
        with evaluation_mode(model, gradients=True):
            resid = read_batch(model, self.reading, indices, self.layers)
        along = self._along(resid.float()) - self.reference[:, indices]
        if self.settings.hinge == "mean":
            along = along.mean(dim=1, keepdim=True)
        return self.settings.strength * self.loss(self.settings, along)

    def penalty_scale(self, step: int, gradient_norm: float) -> float:
        """Return what scales the gradient to the trace; 0 if there is no gradient to scale."""
        trace = self.settings.trace
        if trace is None:
            return 1.0
        if step > len(trace):
            raise ConfigError(f"The trace ends at step {len(trace)}: step {step} has no norm.")
        return trace[step - 1] / gradient_norm if gradient_norm > 0 else 0.0

    def _along(self, resid: Float[Tensor, "layer prompt d_model"]) -> Float[Tensor, "layer prompt"]:
        return einsum(resid, self.axis, "layer prompt d_model, layer d_model -> layer prompt")


def as_list(intervention: Intervention | Sequence[Intervention] | None) -> list[Intervention]:
    """Return the interventions that do something: a list, without those at strength 0."""
    if intervention is None:
        return []
    several = [intervention] if isinstance(intervention, Intervention) else list(intervention)
    return [one for one in several if one.strength != 0]


def _block_loss(
    settings: Block,  # noqa: ARG001
    along: Float[Tensor, "layer prompt"],
) -> Float[Tensor, ""]:
    return along.relu().square().mean(dim=1).sum()


def _push_loss(settings: Push, along: Float[Tensor, "layer prompt"]) -> Float[Tensor, ""]:
    return (settings.target - along).relu().square().mean(dim=1).sum()


def _layers_of(settings: Block | Push) -> list[int]:
    return list(settings.layers or settings.directions.layers)


def _check_penalty(settings: Block | Push) -> None:
    name, known = settings.name, settings.directions.layers
    if settings.probes is None or len(settings.probes) < 2:
        raise ProbeError(f"{name} needs at least 2 penalty probes; give it the penalty split.")
    if not 0 <= settings.strength < math.inf:
        raise ConfigError(f"{name}: strength is {settings.strength}; it must not be negative.")
    if settings.batch_size < 1:
        raise ConfigError(f"{name}: batch_size is {settings.batch_size}; it must be positive.")
    if unknown := sorted(set(_layers_of(settings)) - set(known)):
        raise LayerError(f"{name}: no directions at layers {unknown}; they have {list(known)}.")
