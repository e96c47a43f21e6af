"""Medians over rounds, with an interval."""

from collections.abc import Sequence

import numpy as np

N_RESAMPLES = 2000


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return a median and its 95 % bootstrap interval, from resampled rounds."""
    known = np.asarray(values, dtype=float)
    picks = np.random.default_rng(0).integers(len(known), size=(N_RESAMPLES, len(known)))
    low, high = np.quantile(np.median(known[picks], axis=1), [0.025, 0.975])
    return float(np.median(known)), float(low), float(high)
