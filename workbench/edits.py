"""Edits: what can be done to the residual stream after a layer along a direction."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from workbench.directions import ReversionDirections
from workbench.errors import ConfigError
from workbench.interventions import chosen_layers, rows_of

POSITIONS = ("all", "last")
"""Where a stream is edited: at every token, or at the last real token of each row of what one
forward is given. In generation with a cache that is the prompt's last token, then every new one,
and each stays edited in the cache."""


@dataclass(frozen=True)
class Edit(ABC):
    """One way to change the residual stream; the rows of its tensors belong to `layers`."""

    strength: float
    layers: tuple[int, ...]
    """In ascending order."""

    positions: str
    """One of `POSITIONS`."""

    vector: Float[Tensor, "layer d_model"]
    """What the stream is moved along."""

    @abstractmethod
    def change(
        self,
        row: int,
        resid: Float[Tensor, "batch pos d_model"],
        coordinate: Float[Tensor, "batch pos"] | None,
    ) -> Float[Tensor, "*batch_pos d_model"]:
        """Return what is added to the stream after the layer of this row.

        Args:
            row: Which layer, by its place in `layers`.
            resid: What arrives there, edits of earlier layers included.
            coordinate: The coordinate along the direction where nothing is edited, for edits that
                use it; by default that of `resid`.
        """

    def on(self, device: torch.device, dtype: torch.dtype) -> "Edit":
        """Return the same edit with its tensors on a device, in a precision."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        tensors = {key: value for key, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **{key: value.to(device, dtype) for key, value in tensors.items()})


@dataclass(frozen=True)
class Ablation(Edit):
    """Bring the coordinate along a unit vector to m + (1−s)(c−m)."""

    centre: Float[Tensor, " layer"]
    """m, where full ablation puts the coordinate, in residual-stream units."""

    def coordinate(
        self, row: int, resid: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos"]:
        """Return ⟨h, v⟩ at every position."""
        return resid @ self.vector[row]

    def change(
        self,
        row: int,
        resid: Float[Tensor, "batch pos d_model"],
        coordinate: Float[Tensor, "batch pos"] | None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """Return the way from the coordinate that arrives to the one that is asked for."""
        arriving, centre = self.coordinate(row, resid), self.centre[row]
        away = (arriving if coordinate is None else coordinate) - centre
        target = centre + (1 - self.strength) * away
        return (target - arriving)[..., None] * self.vector[row]


@dataclass(frozen=True)
class Steering(Edit):
    """Add a vector, strength included, the same at every position."""

    def change(
        self,
        row: int,
        resid: Float[Tensor, "batch pos d_model"],  # noqa: ARG002
        coordinate: Float[Tensor, "batch pos"] | None,  # noqa: ARG002
    ) -> Float[Tensor, " d_model"]:
        """Return the vector."""
        return self.vector[row]


@dataclass(frozen=True)
class Capping(Edit):
    """Take away what the coordinate along a unit vector has above a ceiling."""

    ceiling: Float[Tensor, " layer"]
    """τ, in residual-stream units."""

    def change(
        self,
        row: int,
        resid: Float[Tensor, "batch pos d_model"],
        coordinate: Float[Tensor, "batch pos"] | None,  # noqa: ARG002
    ) -> Float[Tensor, "batch pos d_model"]:
        """Return −s·relu(⟨h, v⟩ − τ)·v."""
        excess = (resid @ self.vector[row] - self.ceiling[row]).relu()
        return -self.strength * excess[..., None] * self.vector[row]


def ablate(
    directions: ReversionDirections,
    *,
    strength: float = 1.0,
    layers: Sequence[int] | None = None,
    positions: str,
    centre: Float[Tensor, " layer"] | None = None,
) -> Ablation:
    """Return the edit that sets the coordinate along v to m + (1−s)(c−m).

    c is the coordinate ⟨h, v⟩ of the same input. Where several layers are edited it comes from a
    forward without edits, else the edits would compound.

    Args:
        directions: v, per layer.
        strength: s, any finite number: 1 sets the coordinate to m, 2 mirrors it, −1 doubles what
            it has beyond m.
        layers: Layers to edit; by default all that the directions have.
        positions: `"all"` or `"last"`, see `POSITIONS`.
        centre: m, one value per layer of the directions, in residual-stream units. By default the
            coordinate of the aligned model's mean where the directions were fitted.

    Raises:
        LayerError: If a layer has no direction.
        ConfigError: If a setting makes no sense, or the centre is not known.

    Source: concept ablation, arXiv 2507.16795, centred on the aligned model.
    """
    chosen = _chosen("ablate", directions, strength, layers, positions)
    if centre is None:
        directions.check_mean("ablate: without a centre it")
        centre = einsum(directions.mean, directions.unit, "layer d_model, layer d_model -> layer")
    rows = rows_of(directions, chosen)
    centre = _per_layer("ablate: centre", centre, directions)[rows]
    return Ablation(strength, chosen, positions, directions.unit[rows], centre)


def steer(
    directions: ReversionDirections,
    *,
    strength: float,
    layers: Sequence[int] | None = None,
    positions: str,
) -> Steering:
    """Return the edit h ← h + s·(g_l·v_l − g_p·v_p), where p is the edited layer before l.

    What the edits up to layer l have added is then s·g_l·v_l: s phase gaps towards the witness,
    however many layers are edited.

    Args:
        directions: v and g, per layer.
        strength: s, any finite number; negative steers away from the witness.
        layers: Layers to edit; by default all that the directions have.
        positions: `"all"` or `"last"`, see `POSITIONS`.

    Raises:
        LayerError: If a layer has no direction.
        ConfigError: If a setting makes no sense.

    Source: preventative steering, arXiv 2507.21509, in phase gaps.
    """
    chosen = _chosen("steer", directions, strength, layers, positions)
    rows = rows_of(directions, chosen)
    total = strength * directions.gap[rows, None] * directions.unit[rows]
    offset = total.diff(dim=0, prepend=torch.zeros_like(total[:1]))
    return Steering(strength, chosen, positions, offset)


def cap(
    directions: ReversionDirections,
    *,
    strength: float = 1.0,
    layers: Sequence[int] | None = None,
    positions: str,
    ceiling: Float[Tensor, " layer"],
) -> Capping:
    """Return the edit h ← h − s·relu(⟨h, v⟩ − τ)·v; what is below τ is left alone.

    Args:
        directions: v, per layer.
        strength: s, not negative; 1 brings what is above τ down to it.
        layers: Layers to edit; by default all that the directions have.
        positions: `"all"` or `"last"`, see `POSITIONS`.
        ceiling: τ, one value per layer of the directions, in residual-stream units.

    Raises:
        LayerError: If a layer has no direction.
        ConfigError: If a setting makes no sense.
    """
    chosen = _chosen("cap", directions, strength, layers, positions)
    if strength < 0:
        raise ConfigError(f"cap: strength is {strength}; it must not be negative.")
    rows = rows_of(directions, chosen)
    ceiling = _per_layer("cap: ceiling", ceiling, directions)[rows]
    return Capping(strength, chosen, positions, directions.unit[rows], ceiling)


def _chosen(
    name: str,
    directions: ReversionDirections,
    strength: float,
    layers: Sequence[int] | None,
    positions: str,
) -> tuple[int, ...]:
    """Return the layers to edit in ascending order, after a check of all settings."""
    if not math.isfinite(strength):
        raise ConfigError(f"{name}: strength is {strength}; it must be finite.")
    if positions not in POSITIONS:
        raise ConfigError(f"{name}: positions is {positions!r}; it must be 'all' or 'last'.")
    return tuple(chosen_layers(name, directions, layers))


def _per_layer(
    what: str, values: Float[Tensor, " layer"], directions: ReversionDirections
) -> Float[Tensor, " layer"]:
    if len(values) != len(directions.layers) or not values.isfinite().all():
        raise ConfigError(
            f"{what} has {len(values)} values for {len(directions.layers)} layers of the "
            "directions; give one finite value per layer."
        )
    return values
