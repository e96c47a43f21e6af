"""Significance: the alignments of one run under each null, corrected for their number.

Needs no torch: a stored run is tested again from its arrays.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from workbench.errors import ConfigError
from workbench.nulls import Null, PValues, draws_needed, isotropic_null, matched_null, sign_flip

TOO_LOW = "too low"


@dataclass(frozen=True)
class BareDirections:
    """What the nulls read of v_rev."""

    unit: Float[Any, "layer d_model"]


def holm(p: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Return Holm's adjusted p-values over all entries; rejecting those ≤ α keeps the family at α.

    NaN stays NaN and is not counted (Holm 1979).
    """
    order = np.argsort(p, axis=None)[: int((~np.isnan(p)).sum())]
    ordered = p.ravel()[order]
    adjusted = np.full(p.size, np.nan)
    remaining = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(remaining * ordered), 1.0)
    return adjusted.reshape(p.shape)


def significance(
    alignment: Float[np.ndarray, "step layer"],
    drift: Float[np.ndarray, "step layer d_model"],
    unit: Float[Any, "layer d_model"],
    gap: Float[Any, " layer"],
    *,
    differences: Float[Any, "layer fitted d_model"],
    acts: Float[Any, "layer measured d_model"] | None = None,
    matched: Null | None = None,
    measured_clusters: Sequence[Hashable] | None = None,
    fitted_clusters: Sequence[Hashable] | None = None,
    alpha: float = 0.01,
    draws: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Test one run under every null, Holm over its layers × measured steps.

    Args:
        alignment: Cosines of drift and v_rev; NaN where undefined: not tested and not counted.
        drift: Drift vectors.
        unit: v_rev.
        gap: Phase gaps.
        differences: Witness less aligned model on the prompts of the fit, which are others.
        acts: Aligned model on the prompts that drift is measured on.
        matched: The matched null, drawn from such readings before, in place of `acts`.
        measured_clusters: Near-duplicate cluster of each measured prompt.
        fitted_clusters: The same of each fitted prompt.
        alpha: Level of the family.
        draws: Of the simulated nulls; by default as many as Holm needs.
        seed: Of the draws.

    Returns:
        JSON values; undefined is None. A null that cannot resolve so many tests at that level has
        "too low" for its resolution and claims no number of rejections.
    """
    tests = int((~np.isnan(alignment)).sum())
    draws = draws or max(draws_needed(tests, alpha), 1)
    directions = BareDirections(unit)
    if matched is None:
        if acts is None:
            raise ConfigError("The matched null needs acts, or matched.")
        matched = matched_null(directions, acts, clusters=measured_clusters, draws=draws, seed=seed)
    defined = np.where(np.isnan(alignment)[..., None], np.nan, drift)
    flipped = sign_flip(differences, defined, gap, clusters=fitted_clusters, draws=draws, seed=seed)
    nulls = [isotropic_null(directions).p_values(alignment), matched.p_values(alignment), flipped]
    told = {null.name: _tested(null, tests, alpha) for null in nulls}
    too_low = any(null["resolution"] == TOO_LOW for null in told.values())
    return {
        "alpha": alpha,
        "family": f"{len(gap)} layers × {len(alignment)} measured steps of one run",
        "tests": tests,
        "draws": draws,
        "resolution": TOO_LOW if too_low else "ok",
        "nulls": told,
    }


def _tested(null: PValues, tests: int, alpha: float) -> dict[str, Any]:
    adjusted = holm(null.p)
    resolved = null.resolves(tests, alpha)
    return {
        "h0": null.h0,
        "p": _plain(null.p),
        "holm": _plain(adjusted),
        "p_aggregate": _plain(null.aggregate),
        "holm_aggregate": _plain(holm(null.aggregate)),
        "resolution": "ok" if resolved else TOO_LOW,
        "rejected": int((adjusted <= alpha).sum()) if resolved else None,
        "of": tests,
    }


def _plain(values: Float[np.ndarray, "*shape"]) -> list[Any]:
    """Return nested lists in which undefined is None, as JSON has no NaN."""
    if values.ndim > 1:
        return [_plain(row) for row in values]
    return [None if math.isnan(value) else value for value in values.tolist()]
