"""A re-fit: the way back to the witness after a fine-tuning, beside the way back before it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

NEGLIGIBLE = 1e-8
"""A part below this share of the whole is rounding."""


@dataclass(frozen=True)
class Refit:
    """v_rev fitted anew after a fine-tuning, compared with v_rev before it.

    Before, it is H−S, the phase gap along v_rev; after, it is H−T.
    """

    cosine: Float[np.ndarray, " layer"]
    """Cosine of H−T with v_rev: 1 where the way back has kept its direction; NaN where all came
    back."""

    gap: Float[np.ndarray, " layer"]
    """Length of H−T in phase gaps: 1 where nothing came back, 0 where all did."""

    along: Float[np.ndarray, " layer"]
    """Displacement T−S along v_rev, in phase gaps."""

    off: Float[np.ndarray, " layer"]
    """Length of the displacement T−S off v_rev, in phase gaps."""


def refit(
    unit: Float[Any, "layer d_model"],
    gap: Float[Any, " layer"],
    displacement: Float[Any, "layer d_model"],
) -> Refit:
    """Fit v_rev anew after a fine-tuning, from H−T = (H−S) − (T−S).

    Args:
        unit: v_rev before.
        gap: Its phase gaps, in residual-stream units.
        displacement: Mean of T−S on the prompts that v_rev was fitted on.
    """
    unit, gap, moved = (np.asarray(value, dtype=float) for value in (unit, gap, displacement))
    back = gap[:, None] * unit - moved
    length = np.linalg.norm(back, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = ((back * unit).sum(axis=1) / length).clip(-1, 1)
    return Refit(
        cosine=np.where(length > NEGLIGIBLE * gap, cosine, np.nan),
        gap=length / gap,
        along=(moved * unit).sum(axis=1) / gap,
        off=np.linalg.norm(_off(moved, unit), axis=1) / gap,
    )


def shared(
    blocked: Float[Any, "layer d_model"],
    ordinary: Float[Any, "layer d_model"],
    unit: Float[Any, "layer d_model"],
) -> Float[np.ndarray, " layer"]:
    """Return how much of ordinary fine-tuning's motion off the direction the blocked one has too.

    ⟨B⊥, O⊥⟩ / ‖O⊥‖², a share: 1 where blocking left that motion as it was, more where it grew, 0
    where it is gone; NaN where ordinary fine-tuning moved nowhere but along the direction.

    Args:
        blocked: Mean displacement B of the blocked fine-tuning.
        ordinary: Mean displacement O of the ordinary one.
        unit: The direction.
    """
    kept, there = (
        _off(np.asarray(one, float), np.asarray(unit, float)) for one in (blocked, ordinary)
    )
    length = (there**2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(length > 0, (kept * there).sum(axis=1) / length, np.nan)


def _off(
    vectors: Float[np.ndarray, "layer d_model"], unit: Float[np.ndarray, "layer d_model"]
) -> Float[np.ndarray, "layer d_model"]:
    """The part orthogonal to the direction; 0 where only rounding is left."""
    left = vectors - (vectors * unit).sum(axis=1, keepdims=True) * unit
    whole = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(np.linalg.norm(left, axis=1, keepdims=True) > NEGLIGIBLE * whole, left, 0.0)
