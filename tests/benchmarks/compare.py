"""Paired, interleaved CPU-time ratios with a bootstrap interval."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

N_RESAMPLES = 2000


@dataclass(frozen=True)
class Ratio:
    """CPU time of a job over that of a baseline, median of paired rounds."""

    name: str
    value: float
    low: float
    high: float
    budget: float

    def __str__(self) -> str:
        """One line for the log."""
        within = "within" if self.high <= self.budget else "not shown to be within"
        return (
            f"{self.name}: {self.value:.3f}x [{self.low:.3f}, {self.high:.3f}], "
            f"{within} the budget of {self.budget:.2f}x"
        )


def compare(
    name: str,
    job: Callable[[], object],
    baseline: Callable[[], object],
    *,
    budget: float,
    rounds: int = 40,
    repeats: int = 1,
    added: bool = False,
) -> Ratio:
    """Time both in turn, in changing order, and return the ratio.

    Args:
        name: What is compared with what.
        job: Ours.
        baseline: The limit.
        budget: Largest ratio allowed.
        rounds: Pairs of timings.
        repeats: Calls per timing.
        added: Whether `job` is timed as an addition to `baseline`: the ratio is (b + j) / b.
    """
    for _ in range(2):
        job(), baseline()
    ratios = []
    for round_number in range(rounds):
        first, second = (job, baseline) if round_number % 2 else (baseline, job)
        times = {first: _cpu_seconds(first, repeats), second: _cpu_seconds(second, repeats)}
        ratio = times[job] / times[baseline]
        ratios.append(1 + ratio if added else ratio)
    picks = np.random.default_rng(0).integers(rounds, size=(N_RESAMPLES, rounds))
    low, high = np.quantile(np.median(np.array(ratios)[picks], axis=1), [0.025, 0.975])
    return Ratio(name, float(np.median(ratios)), float(low), float(high), budget)


def _cpu_seconds(job: Callable[[], object], repeats: int) -> float:
    start = time.process_time()
    for _ in range(repeats):
        job()
    return time.process_time() - start
