"""Penalties: auxiliary losses on how far penalty prompts have moved along directions."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from workbench.activations import read_activations, read_batch
from workbench.directions import ReversionDirections
from workbench.errors import ConfigError, ProbeError
from workbench.interventions import (
    Active,
    Intervention,
    Start,
    check_strength,
    chosen_layers,
    rows_of,
)
from workbench.models import HookedModel
from workbench.modes import evaluation_mode
from workbench.probes import ProbeSet
from workbench.reading import Reading

Hinge = Literal["prompt", "mean", "none"]
"""What is rectified: each prompt's motion, the mean over the minibatch, or nothing (two-sided)."""


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

    hinge: Hinge = "prompt"
    layers: tuple[int, ...] | None = None
    """Layers to penalise; by default all that the directions have."""

    batch_size: int = 32
    """Penalty prompts per step."""

    trace: tuple[float, ...] | None = None
    """Gradient norms, one per step, to scale the auxiliary gradient to; for matched controls."""

    further: tuple[ReversionDirections, ...] = ()
    """More directions per layer, such as re-fitted ones, penalised alike: a subspace."""

    rank: int | None = None
    """How many directions to use, `directions` first; by default all."""

    def __post_init__(self) -> None:
        """Check the settings."""
        _check_penalty(self)
        if self.rank is not None and not 1 <= self.rank <= 1 + len(self.further):
            raise ConfigError(
                f"block: rank is {self.rank}; with {len(self.further)} further directions it may "
                f"be 1 to {1 + len(self.further)}."
            )

    @property
    def sources(self) -> tuple[ReversionDirections, ...]:
        """The directions in use, as many as the rank says."""
        return (self.directions, *self.further)[: self.rank]

    def start(self, start: Start) -> Active:
        """Read every penalty prompt's own reference."""
        return ActivePenalty(self, start, _block_loss)


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
    hinge: Hinge = "prompt"
    layers: tuple[int, ...] | None = None
    batch_size: int = 32
    trace: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        _check_penalty(self)

    @property
    def sources(self) -> tuple[ReversionDirections, ...]:
        """The directions in use."""
        return (self.directions,)

    def start(self, start: Start) -> Active:
        """Read every penalty prompt's own reference."""
        return ActivePenalty(self, start, _push_loss)


class ActivePenalty(Active):
    """An auxiliary loss on how far penalty prompts have moved along the directions."""

    def __init__(
        self,
        settings: Block | Push,
        start: Start,
        loss: Callable[[Any, Float[Tensor, "rank layer prompt"]], Float[Tensor, ""]],
    ) -> None:
        super().__init__(settings.name, start.generator)
        assert settings.probes is not None
        self.settings, self.loss, model = settings, loss, start.model
        self.layers = chosen_layers(settings.name, settings.directions, settings.layers)
        position = settings.directions.provenance.get("position", -1)
        self.reading = Reading.of(model, settings.probes, position)
        device = model.cfg.device
        # Dividing by the gap here makes every projection below one in phase gaps.
        self.axes = torch.stack(
            [
                (source.unit / source.gap[:, None])[rows_of(source, self.layers)]
                for source in settings.sources
            ]
        ).to(device, torch.float32)
        acts = read_activations(model, self.reading, layers=self.layers).to(device)
        self.reference = self._along(acts)

    def penalty(self, model: HookedModel) -> Float[Tensor, ""]:
        """Return the loss on a fresh minibatch of penalty prompts, without dropout."""
        shuffled = torch.randperm(len(self.reading), generator=self.generator)
        indices = shuffled[: self.settings.batch_size].tolist()
        with evaluation_mode(model, gradients=True):
            resid = read_batch(model, self.reading, indices, self.layers)
        along = self._along(resid.float()) - self.reference[..., indices]
        if self.settings.hinge == "mean":
            along = along.mean(dim=-1, keepdim=True)
        return self.settings.strength * self.loss(self.settings, along)

    def penalty_scale(self, step: int, gradient_norm: float) -> float:
        """Return what scales the gradient to the trace; 0 if there is no gradient to scale."""
        trace = self.settings.trace
        if trace is None:
            return 1.0
        if step > len(trace):
            raise ConfigError(f"The trace ends at step {len(trace)}: step {step} has no norm.")
        return trace[step - 1] / gradient_norm if gradient_norm > 0 else 0.0

    def _along(
        self, resid: Float[Tensor, "layer prompt d_model"]
    ) -> Float[Tensor, "rank layer prompt"]:
        return einsum(
            resid, self.axes, "layer prompt d_model, rank layer d_model -> rank layer prompt"
        )


def _block_loss(settings: Block, along: Float[Tensor, "rank layer prompt"]) -> Float[Tensor, ""]:
    return _rectified(settings, along).square().mean(dim=-1).sum()


def _push_loss(settings: Push, along: Float[Tensor, "rank layer prompt"]) -> Float[Tensor, ""]:
    return _rectified(settings, settings.target - along).square().mean(dim=-1).sum()


def _rectified(settings: Block | Push, motion: Tensor) -> Tensor:
    return motion if settings.hinge == "none" else motion.relu()


def _check_penalty(settings: Block | Push) -> None:
    name = settings.name
    if settings.probes is None or len(settings.probes) < 2:
        raise ProbeError(f"{name} needs at least 2 penalty probes; give it the penalty split.")
    check_strength(settings)
    if settings.batch_size < 1:
        raise ConfigError(f"{name}: batch_size is {settings.batch_size}; it must be positive.")
    if settings.hinge not in get_args(Hinge):
        raise ConfigError(f"{name}: hinge is {settings.hinge!r}; it may be prompt, mean or none.")
    for source in settings.sources:
        chosen_layers(name, source, settings.layers)
    if isinstance(settings, Push) and not math.isfinite(settings.target):
        raise ConfigError(f"push: target is {settings.target}; it must be finite.")
