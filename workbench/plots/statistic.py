"""Statistics as a summary holds them: mean, sd, n and interval, any of which may be missing."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np

from workbench.plots.style import number

Statistic = Mapping[str, Any]
"""`mean`, `sd`, `n`, `per_seed`, and where known `interval` (95 %) and `interval_over`."""


def known(value: float | int | None) -> TypeGuard[float]:
    """Return whether there is a finite number."""
    return value is not None and math.isfinite(value)


def mean_of(statistic: Statistic | None) -> float:
    """Return the mean; NaN where it is undefined."""
    value = (statistic or {}).get("mean")
    return float(value) if known(value) else math.nan


def bounds(statistic: Statistic | None) -> tuple[float, float]:
    """Return the ends of the interval; NaN, both, unless both are defined."""
    low, high = (statistic or {}).get("interval") or (None, None)
    return (float(low), float(high)) if known(low) and known(high) else (math.nan, math.nan)


def say(statistic: Statistic | None, factor: int = 1, digits: int = 3) -> str:
    """Return a statistic as `mean ± sd`; a dash where it is undefined."""
    if statistic is None or not known(statistic.get("mean")):
        return "–"
    mean, sd = number(statistic["mean"] * factor, digits), statistic.get("sd")
    return mean if sd is None or not known(sd) else f"{mean} ± {number(sd * factor, digits)}"


def say_interval(statistic: Statistic | None, factor: int = 1, digits: int = 3) -> str:
    """Return the interval as `[low, high]`; nothing where there is none."""
    low, high = (number(end * factor, digits) for end in bounds(statistic))
    return "" if low == "–" else f"[{low}, {high}]"


def say_whole(statistic: Statistic | None, factor: int = 1, digits: int = 3) -> str:
    """Return mean, sd, interval and n in one line."""
    interval, n = say_interval(statistic, factor, digits), (statistic or {}).get("n")
    parts = [say(statistic, factor, digits), interval and f"95 % {interval}"]
    return ", ".join([*filter(None, parts), *([f"n = {n}"] if n is not None else [])])


def error_bars(
    statistics: Sequence[Statistic | None], factor: int = 1
) -> dict[str, list[float | None]]:
    """Return plotly's `array` and `arrayminus` of the intervals; None where there is none."""
    ends = [(mean_of(one), *bounds(one)) for one in statistics]
    return {
        "array": [_or_none(factor * (high - mean)) for mean, _, high in ends],
        "arrayminus": [_or_none(factor * (mean - low)) for mean, low, _ in ends],
    }


def spread_told(statistics: Iterable[Statistic | None]) -> str:
    """Return what the intervals are over, and n, such as `95 % intervals over lineages, n = 9`."""
    held = [one for one in statistics if one and known(one.get("mean"))]
    over = sorted({str(one["interval_over"]) for one in held if say_interval(one)})
    counts = sorted({int(one["n"]) for one in held if one.get("n") is not None})
    intervals = f"95 % intervals over {' or '.join(over)}" if over else "no intervals: too few runs"
    n = f", n = {' or '.join(str(count) for count in _ends(counts))} runs" if counts else ""
    return intervals + n


def mean_and_sd_over_runs(rows: Sequence[Sequence[float | None]]) -> list[Statistic]:
    """Return mean, sample sd and n over runs for every layer of [run][layer] values."""
    values = np.array(rows, dtype=float)
    statistics: list[Statistic] = []
    for column in values.T if values.ndim == 2 else []:
        defined = column[np.isfinite(column)]
        statistics.append(
            {
                "mean": float(defined.mean()) if len(defined) else None,
                "sd": float(defined.std(ddof=1)) if len(defined) > 1 else None,
                "n": len(defined),
            }
        )
    return statistics


def _ends(counts: Sequence[int]) -> list[int]:
    return list(counts) if len(counts) < 3 else [counts[0], counts[-1]]


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
