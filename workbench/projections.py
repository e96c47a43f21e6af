"""Projections: what is taken out of the optimiser's update."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from workbench.activations import read_batch
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


@dataclass(frozen=True)
class ProjectGradient(Intervention):
    """Take out of each update what moves penalty prompts towards the witness.

    With u the optimiser's update θ_after − θ_before (moments, clipping, weight decay and rate
    included) and a = ∇_θ Σ_l mean_x along_l(x) at θ_before, both over all trained parameters as one
    vector: if ⟨u, a⟩ > 0, then u ← u − s·⟨u, a⟩·a/‖a‖². At s = 1 the sum of `along` over the layers
    does not grow in that step, to first order and on that minibatch; what second order adds is not
    taken back later. Of the gradient before AdamW the same rule would guarantee nothing.

    `along` is each prompt's displacement from its own activation in the aligned model, along v_l,
    in phase gaps; that activation is constant, so the gradient is that of the projection itself.

    Source: the rule of SafeGrad (arXiv 2508.07172), on our coordinate and on the update.
    """

    name: ClassVar[str] = "project-gradient"

    directions: ReversionDirections
    strength: float = 1.0
    """s, the share that is taken out, up to 2: beyond 1 the motion is turned round."""

    probes: ProbeSet | None = None
    """The penalty split: prompts that nothing is measured on."""

    layers: tuple[int, ...] | None = None
    """Layers whose `along` is summed; by default all that the directions have."""

    batch_size: int = 32
    """Penalty prompts per step."""

    def __post_init__(self) -> None:
        """Check the settings."""
        check_strength(self, largest=2.0)
        if not self.probes:
            raise ProbeError(f"{self.name} needs penalty probes; give it the penalty split.")
        if self.batch_size < 1:
            raise ConfigError(f"{self.name}: batch_size is {self.batch_size}; it must be positive.")
        chosen_layers(self.name, self.directions, self.layers)

    @property
    def sources(self) -> tuple[ReversionDirections, ...]:
        """The directions in use."""
        return (self.directions,)

    def start(self, start: Start) -> Active:
        """Encode the penalty prompts."""
        return ActiveProjection(self, start)


class ActiveProjection(Active):
    """An edit of the update, along the gradient of the mean motion of penalty prompts."""

    edits_update: ClassVar[bool] = True

    def __init__(self, settings: ProjectGradient, start: Start) -> None:
        super().__init__(settings.name, start.generator)
        assert settings.probes is not None
        self.settings, directions = settings, settings.directions
        self.layers = chosen_layers(settings.name, directions, settings.layers)
        position = directions.provenance.get("position", -1)
        self.reading = Reading.of(start.model, settings.probes, position)
        # Dividing by the gap makes the projection one in phase gaps.
        axes = (directions.unit / directions.gap[:, None])[rows_of(directions, self.layers)]
        self.axes = axes.to(start.model.cfg.device, torch.float32)
        self.gradients: list[Tensor | None] = []

    def before_update(self, model: HookedModel, parameters: Sequence[Tensor]) -> None:
        """Read the gradient of Σ_l mean_x along_l(x) on a fresh minibatch, without dropout."""
        shuffled = torch.randperm(len(self.reading), generator=self.generator)
        indices = shuffled[: self.settings.batch_size].tolist()
        with evaluation_mode(model, gradients=True):
            resid = read_batch(model, self.reading, indices, self.layers)
            along = self._along(resid.float()).mean(dim=-1).sum()
            self.gradients = list(torch.autograd.grad(along, parameters, allow_unused=True))

    def edit_update(self, weights: Sequence[Tensor], before: Sequence[Tensor]) -> None:
        """Take the share of the update that leads along the gradient out of `weights`."""
        moved = [
            (weight, old, gradient)
            for weight, old, gradient in zip(weights, before, self.gradients, strict=True)
            if gradient is not None
        ]
        # Millions of terms of both signs: float32 sums would show in a small inner product.
        product = sum(
            float(((weight.double() - old.double()) * gradient.double()).sum())
            for weight, old, gradient in moved
        )
        if not product > 0:
            return
        squared = sum(float(gradient.double().square().sum()) for _, _, gradient in moved)
        for weight, _, gradient in moved:
            weight.sub_(self.settings.strength * product / squared * gradient.to(weight.dtype))

    def _along(self, resid: Float[Tensor, "layer prompt d_model"]) -> Float[Tensor, "layer prompt"]:
        return einsum(resid, self.axes, "layer prompt d_model, layer d_model -> layer prompt")
