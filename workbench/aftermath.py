"""Aftermath: what one fine-tuning left in the residual stream."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from workbench.artefacts import Artefact
from workbench.directions import ReversionDirections
from workbench.errors import ConfigError, DegenerateDirectionError, LayerError
from workbench.refit import NEGLIGIBLE

SCHEMA = "workbench.aftermath/1"
TENSORS = ("mean", "components", "share")


@dataclass(frozen=True)
class Aftermath:
    """How the fit probes have moved between the aligned model and the end of a fine-tuning.

    Of the fit probes, so that new directions may be made of it and drift still be measured on
    others.
    """

    mean: Float[Tensor, "layer d_model"]
    """Mean displacement, in residual-stream units, in float64."""

    components: Float[Tensor, "layer rank d_model"]
    """Orthonormal directions in which the prompts moved most, the first one most of all.

    Principal components about zero, not about the mean, each oriented to have the mean displacement
    on its positive side. Zeros at a layer where nothing moved.
    """

    share: Float[Tensor, "layer rank"]
    """Share of the squared displacement, summed over prompts, that lies along each component."""

    layers: tuple[int, ...]
    """The layers of the model that the rows belong to."""

    provenance: Mapping[str, Any] = field(default_factory=dict)
    """What was read: run, step, probes (`prompts` are their marks)."""

    @classmethod
    def between(
        cls,
        aligned: Float[Tensor, "layer prompt d_model"],
        current: Float[Tensor, "layer prompt d_model"],
        layers: Sequence[int],
        rank: int = 4,
        *,
        provenance: Mapping[str, Any] | None = None,
    ) -> "Aftermath":
        """Return what fine-tuning left, from readings of the fit probes before and after it.

        Args:
            aligned: Activations of the aligned model.
            current: Those at the end, of the same prompts in the same order.
            layers: The layers that were read.
            rank: How many components to keep.
            provenance: What was read.

        Raises:
            ConfigError: If there cannot be that many components.
        """
        largest = min(aligned.shape[1:])
        if not 1 <= rank <= largest:
            raise ConfigError(
                f"rank is {rank}; {aligned.shape[1]} prompts in {aligned.shape[2]} dimensions have "
                f"1 to {largest} components."
            )
        displacements = current.double() - aligned.double()
        mean = displacements.mean(dim=1)
        _, singular, right = torch.linalg.svd(displacements, full_matrices=False)
        along = einsum(right, mean, "layer rank d_model, layer d_model -> layer rank")
        oriented = torch.where(along < 0, -1.0, 1.0)[..., None] * right
        squared = singular.square()
        total = squared.sum(dim=1, keepdim=True)
        moved = total > 0
        return cls(
            mean=mean,
            components=(moved[..., None] * oriented)[:, :rank],
            share=torch.where(moved, squared / total, 0.0)[:, :rank],
            layers=tuple(layers),
            provenance=provenance or {},
        )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file that carries its provenance."""
        tensors = {name: getattr(self, name) for name in TENSORS}
        Artefact(tensors, self.layers, self.provenance).save(path, SCHEMA)

    @classmethod
    def load(cls, path: str | Path) -> "Aftermath":
        """Read what `save` wrote.

        Raises:
            ProvenanceError: If the file is something else, or damaged.
        """
        stored = Artefact.load(path, SCHEMA, TENSORS, "aftermath")
        return cls(**stored.tensors, layers=stored.layers, provenance=stored.provenance)

    def check_layers(self, directions: ReversionDirections) -> None:
        """Refuse directions of other layers.

        Raises:
            LayerError: If the layers differ.
        """
        if self.layers != directions.layers:
            raise LayerError(
                f"The aftermath has layers {list(self.layers)}, the directions "
                f"{list(directions.layers)}; read and fit at the same layers."
            )

    def direction(
        self, unit: Float[Tensor, "layer d_model"], directions: ReversionDirections, name: str
    ) -> ReversionDirections:
        """Return a direction made of this, called `name`, with the gaps of `directions`.

        It knows the prompts of both, so that none of them is measured on.

        Raises:
            DegenerateDirectionError: If it does not exist at some layer.
        """
        check_exists(unit, self.layers, f"The {name} direction")
        prompts = {*directions.provenance.get("prompts", ()), *self.provenance.get("prompts", ())}
        return directions.with_unit(unit, control=name, prompts=sorted(prompts))


def off_direction(
    aftermath: Aftermath,
    directions: ReversionDirections,
    further: Sequence[ReversionDirections] = (),
) -> ReversionDirections:
    """Return where the fit probes moved off v_rev: the re-fitted direction for a subspace block.

    Args:
        aftermath: Of a fine-tuning, such as a blocked one.
        directions: What to leave out; its gaps are kept.
        further: More directions to leave out, such as those re-fitted before.

    Raises:
        DegenerateDirectionError: If nothing is left at some layer.
        LayerError: If the layers differ.
    """
    for source in (directions, *further):
        aftermath.check_layers(source)
    unit = outside(aftermath.mean, [directions, *further])
    return aftermath.direction(unit, directions, "off-direction")


def outside(
    vectors: Float[Tensor, "layer d_model"], directions: Sequence[ReversionDirections]
) -> Float[Tensor, "layer d_model"]:
    """Return the part of each layer's vector that is orthogonal to all of that layer's directions.

    Where only rounding is left, it is 0.
    """
    basis = torch.stack([source.unit for source in directions], dim=-1)
    # The pseudo-inverse serves directions that are oblique to each other, or the same.
    weights = torch.linalg.pinv(basis) @ vectors.double()[..., None]
    left = vectors.double() - (basis @ weights)[..., 0]
    share = left.norm(dim=-1, keepdim=True) / vectors.double().norm(dim=-1, keepdim=True)
    return torch.where(share > NEGLIGIBLE, left, 0.0)


def check_exists(unit: Float[Tensor, "layer d_model"], layers: Sequence[int], what: str) -> None:
    """Raise `DegenerateDirectionError` naming the layers at which a direction has no length."""
    if missing := [layers[row] for row in (unit.norm(dim=-1) == 0).nonzero().flatten().tolist()]:
        raise DegenerateDirectionError(
            f"{what} does not exist at layers {missing}: nothing is left there; "
            "leave those layers out."
        )
