"""The plane of v_rev and the main direction across it, in which drifts and phases are drawn."""

from collections.abc import Sequence
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
    """Two orthogonal directions through the aligned model, in stacked coordinates."""

    along: Float[np.ndarray, " dim"]
    """v_rev, of length 1."""

    across: Float[np.ndarray, " dim"]
    """First principal component of what drifts across v_rev, of length 1; 0 if nothing does."""

    explained: float
    """Share of the squared across drift of all fitted points that lies on it; NaN if none does."""

    def project(self, points: Float[np.ndarray, "*point dim"]) -> Placed:
        """Return where points lie in the plane, and how much of them does."""
        along, across = points @ self.along, points @ self.across
        squared = (points**2).sum(axis=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(squared > 0, (along**2 + across**2) / squared, np.nan)
        return Placed(*map(np.asarray, (along, across, share, np.sqrt(squared))))


def stacked(
    displacement: Float[np.ndarray, "*point layer d_model"], gap: Float[np.ndarray, " layer"]
) -> Float[np.ndarray, "*point dim"]:
    """Return displacements in phase gaps, the layers put side by side as one long vector.

    Every layer counts alike, whatever its gap: a length is the root mean square over layers, and
    a coordinate along v_rev the mean over layers, so that the witness lies at 1.
    """
    in_gaps = displacement.astype(np.float64) / (gap[:, None] * np.sqrt(len(gap)))
    return in_gaps.reshape(*displacement.shape[:-2], -1)


def fit_plane(
    reversion: Float[np.ndarray, " dim"], drifts: Sequence[Float[np.ndarray, "_ dim"]]
) -> Plane:
    """Fit the plane that holds v_rev and most of what drifts across it.

    The principal component is not centred, as drift starts at 0. Its sign makes the last step of
    the first run positive.

    Args:
        reversion: Displacement of the witness, stacked.
        drifts: Of every run, stacked, its steps in order.
    """
    along = reversion / np.linalg.norm(reversion)
    points = np.concatenate(list(drifts))
    sideways = points - np.outer(points @ along, along)
    # There are far fewer points than dimensions: their inner products suffice.
    values, vectors = np.linalg.eigh(sideways @ sideways.T)
    total = float(values.clip(min=0).sum())
    if total <= ROUNDING * float((points**2).sum()):
        return Plane(along, np.zeros_like(along), float("nan"))
    across = vectors[:, -1] @ sideways
    across /= np.linalg.norm(across)
    if drifts[0][-1] @ across < 0:
        across = -across
    return Plane(along, across, float(values[-1]) / total)
