"""The numbers of a measured line, made again from its drift file."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from workbench.records import FLOOR_FACTOR, Drift

TOLERANCE = 1e-5
"""Relative to a drift's norm: files keep float32, and lines were made from float64."""


def drift_again(
    kept: Mapping[str, np.ndarray],
    unit: Float[np.ndarray, "layer d_model"],
    gap: Float[np.ndarray, " layer"],
) -> Drift:
    """Return the drift of a file, along and across v_rev; its interval is unknown (NaN)."""
    vector, projections = (kept[name].astype(np.float64) for name in ("vector", "projections"))
    floor = kept.get("floor", np.zeros(len(gap))).astype(np.float64)
    norm = np.linalg.norm(vector, axis=-1)
    along = np.einsum("ld,ld->l", vector, unit)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = np.clip(along / norm, -1.0, 1.0)
    return Drift(
        vector=vector,
        alignment=np.where(norm > FLOOR_FACTOR * floor, cosine, np.nan),
        along=along / gap,
        across=np.linalg.norm(vector - along[:, None] * unit, axis=-1) / gap,
        norm=norm,
        interval=np.full((len(gap), 2), np.nan),
        projections=projections,
        floor=floor,
    )


def differences(
    told: Mapping[str, Any], again: Drift, gap: Float[np.ndarray, " layer"]
) -> Iterator[str]:
    """Yield the numbers of a line that are not those of its file, each with both values.

    Args:
        told: What the line says of the drift.
        again: What its file says.
        gap: Phase gaps.
    """
    scale = again.norm / gap
    allowed = {
        "alignment": np.full(len(gap), TOLERANCE),
        "along": TOLERANCE * scale,
        "across": TOLERANCE * scale,
        "norm": TOLERANCE * again.norm,
    }
    for name, margin in allowed.items():
        stored, made = np.array(told[name], dtype=float), getattr(again, name)
        if name == "alignment":
            margin = margin + _near_floor(again)
        unequal = ~(np.abs(stored - made) <= margin) & ~(np.isnan(stored) & np.isnan(made))
        for row in np.flatnonzero(unequal & (margin < 1)):
            yield f"{name} of row {row} is {stored[row]:.6g}, its file gives {made[row]:.6g}"
    yield from _aggregates(told, again)
    spread = np.abs(again.projections).max(axis=1, initial=0) + scale
    if (np.abs(again.projections.mean(axis=1) - again.along) > TOLERANCE * spread).any():
        yield "the mean of the prompts' projections is not the drift along the direction"


def _near_floor(again: Drift) -> Float[np.ndarray, " layer"]:
    """Infinite where rounding decides whether an alignment is defined."""
    bound = FLOOR_FACTOR * again.floor
    return np.where(np.abs(again.norm - bound) <= TOLERANCE * bound, np.inf, 0.0)


def _aggregates(told: Mapping[str, Any], again: Drift) -> Iterator[str]:
    """Yield what of a line does not follow from its own layers."""
    layers = {name: np.array(told[name], dtype=float) for name in ("alignment", "along", "across")}
    line = Drift(
        **{name: getattr(again, name) for name in ("vector", "norm", "projections", "floor")},
        interval=np.array([told["low"], told["high"]], dtype=float).T,
        **layers,
    )
    for name in ("mean_alignment", "stacked_alignment"):
        stored, made = np.array([told[name], getattr(line, name)], dtype=float)
        if not (abs(stored - made) <= TOLERANCE or (np.isnan(stored) and np.isnan(made))):
            yield f"{name} is {stored:.6g}, its layers give {made:.6g}"
    if told["undefined"] != line.undefined:
        yield f"undefined is {told['undefined']}, its layers give {line.undefined}"
    low, high = line.interval.T
    if (low > high).any() or (np.abs(line.interval) > 1 + TOLERANCE).any():
        yield "an interval does not ascend, or leaves −1 to 1"
