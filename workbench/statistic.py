"""Statistics over runs: means with sd, n and interval, sign tests, rank correlations."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

N_RESAMPLES = 2000


def statistic(
    values: Sequence[float | None], lineages: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return mean, sample sd, count and interval of the defined values, and all of them per run.

    The 95 % interval is Student's t. Seeds of one lineage are no replication of alignment: with
    several lineages mean and interval are those of the lineages' means, else of the values, and
    `interval_over` says which. The sd is always over the values.

    Args:
        values: One per run; None or NaN where undefined.
        lineages: The lineage of each run.
    """
    defined = [_number(value) for value in values]
    kept = [value for value in defined if value is not None]
    told: dict[str, Any] = {
        "mean": None,
        "sd": float(np.std(kept, ddof=1)) if len(kept) > 1 else None,
        "n": len(kept),
        "per_seed": defined,
    }
    several = lineages is not None and len(set(lineages)) > 1
    units = _means(defined, lineages) if several and lineages is not None else kept
    if units:
        told["mean"] = float(np.mean(units))
    return told | {
        "interval": _t_interval(units),
        "interval_over": "lineages" if several else "seeds",
    }


def sign_test(holds: Sequence[bool], chance: float = 0.5) -> float | None:
    """Return the one-sided p-value that so many of these hold if each did with this chance."""
    if not holds:
        return None
    return float(stats.binomtest(sum(holds), len(holds), chance, alternative="greater").pvalue)


def rank_correlation(x: Float[np.ndarray, "*run"], y: Float[np.ndarray, "*run"]) -> float:
    """Return Spearman's r of the pairs that are defined; NaN if either never varies."""
    defined = np.isfinite(x) & np.isfinite(y)
    if len({*x[defined]}) < 2 or len({*y[defined]}) < 2:
        return math.nan
    # scipy makes the class of the result at run time.
    found = stats.spearmanr(x[defined], y[defined])
    return float(found.statistic)  # type: ignore[reportAttributeAccessIssue]


def resampled_correlation(
    x: Float[np.ndarray, "arm run"], y: Float[np.ndarray, "arm run"], n_groups: int
) -> list[float | None]:
    """Return the 95 % interval of the rank correlation when groups of runs are resampled.

    Args:
        x: Of every arm, its runs, group by group.
        y: The same runs.
        n_groups: Number of groups of equal size (lineages), resampled whole, of all arms together.
    """
    if n_groups < 2:
        return [None, None]
    groups = np.arange(x.shape[1]).reshape(n_groups, -1)
    picks = np.random.default_rng(0).integers(n_groups, size=(N_RESAMPLES, n_groups))
    draws = [
        rank_correlation(x[:, columns], y[:, columns])
        for columns in groups[picks].reshape(N_RESAMPLES, -1)
    ]
    if not np.isfinite(draws).any():
        return [None, None]
    return [_number(value) for value in np.nanquantile(draws, [0.025, 0.975])]


def _number(value: float | None) -> float | None:
    """JSON has no NaN: undefined is null."""
    return None if value is None or not math.isfinite(value) else float(value)


def _means(values: Sequence[float | None], lineages: Sequence[str]) -> list[float]:
    found: dict[str, list[float]] = {}
    for value, lineage in zip(values, lineages, strict=True):
        if value is not None:
            found.setdefault(lineage, []).append(value)
    return [float(np.mean(several)) for several in found.values()]


def _t_interval(values: Sequence[float]) -> list[float | None]:
    if len(values) < 2:
        return [None, None]
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return [float(np.mean(values) - half), float(np.mean(values) + half)]
