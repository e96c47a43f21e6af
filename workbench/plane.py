"""The plane of v_rev and the main direction across it, in which drifts and phases are drawn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

ROUNDING = 1e-24
"""Less than this share of the squared drift is not across it: float64 cannot tell it from 0."""


@dataclass(frozen=True)
class Placed:
    """Points in a plane, in phase gaps from the aligned model."""

    along: Float[np.ndarray, "*point"]
    """Towards the witness, which lies at 1."""

    across: Float[np.ndarray, "*point"]
    """Along the main across direction; signed."""

    share: Float[np.ndarray, "*point"]
    """Share of the squared displacement that lies in the plane, 0 to 1; NaN at the origin."""

    distance: Float[np.ndarray, "*point"]
    """From the aligned model, in all dimensions."""


@dataclass(frozen=True)
class Plane:
    """Two orthogonal directions through the aligned model, the layers put side by side.

    Every layer counts alike, whatever its gap: a length is the root mean square over layers, and
    a coordinate along v_rev the mean over layers, so that the witness lies at 1.
    """

    scale: Float[np.ndarray, " layer"]
    """Displacements are divided by it: each layer's gap, times the root of the number of layers."""

    along: Float[np.ndarray, "layer d_model"]
    """v_rev, of length 1 over all layers."""

    across: Float[np.ndarray, "layer d_model"]
    """First principal component of what drifts across v_rev, of length 1 over all layers; 0 if
    nothing does."""

    explained: float
    """Share of the squared across drift of all fitted points that lies on it; NaN if none does."""

    def project(self, displacement: Float[np.ndarray, "*point layer d_model"]) -> Placed:
        """Return where points lie in the plane, and how much of them does.

        Args:
            displacement: From the aligned model, in residual-stream units.
        """
        along, across, squared = (np.zeros(displacement.shape[:-2]) for _ in range(3))
        for layer, in_gaps in enumerate(_by_layer([displacement], self.scale)):
            along += in_gaps @ self.along[layer]
            across += in_gaps @ self.across[layer]
            squared += np.einsum("...d,...d->...", in_gaps, in_gaps)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(squared > 0, (along**2 + across**2) / squared, np.nan)
        return Placed(along, across, np.asarray(share), np.asarray(np.sqrt(squared)))


def fit_plane(
    unit: Float[np.ndarray, "layer d_model"],
    gap: Float[np.ndarray, " layer"],
    drifts: Sequence[Float[np.ndarray, "_ layer d_model"]],
) -> Plane:
    """Fit the plane that holds v_rev and most of what drifts across it.

    The principal component is not centred, as drift starts at 0. Its sign makes the last step of
    the first run positive.

    Args:
        unit: v_rev.
        gap: Of each layer, in residual-stream units.
        drifts: Of every run, its steps in order, in residual-stream units.
    """
    unit = unit.astype(np.float64)
    along, scale = unit / np.linalg.norm(unit), gap * np.sqrt(len(gap))
    n_points = sum(map(len, drifts))
    on_it, squared = np.zeros(n_points), 0.0
    for layer, points in enumerate(_by_layer(drifts, scale)):
        on_it += points @ along[layer]
        squared += float(np.vdot(points, points))
    # There are far fewer points than dimensions: their inner products suffice, and are summed
    # layer by layer, as the points side by side in float64 can fill the memory.
    products = np.zeros((n_points, n_points))
    for layer, points in enumerate(_by_layer(drifts, scale)):
        sideways = points - np.outer(on_it, along[layer])
        products += sideways @ sideways.T
    values, vectors = np.linalg.eigh(products)
    total = float(values.clip(min=0).sum())
    if total <= ROUNDING * squared:
        return Plane(scale, along, np.zeros_like(along), float("nan"))
    # The last point of the first run lies on the positive side.
    weights = vectors[:, -1] * (np.sign(vectors[len(drifts[0]) - 1, -1]) or 1.0)
    across = np.stack(
        [
            weights @ (points - np.outer(on_it, along[layer]))
            for layer, points in enumerate(_by_layer(drifts, scale))
        ]
    )
    return Plane(scale, along, across / np.linalg.norm(across), float(values[-1]) / total)


def _by_layer(
    displacements: Sequence[Float[np.ndarray, "*_ layer d_model"]],
    scale: Float[np.ndarray, " layer"],
) -> Iterator[Float[np.ndarray, "*point d_model"]]:
    """Yield all points of a layer, in phase gaps, layer by layer."""
    for layer, gap in enumerate(scale):
        yield np.concatenate([one[..., layer, :] for one in displacements]).astype(np.float64) / gap
