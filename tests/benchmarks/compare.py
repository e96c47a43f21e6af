"""Paired, interleaved ratios of CPU time, or another clock's, with a bootstrap interval."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

N_RESAMPLES = 2000


@dataclass(frozen=True)
class Ratio:
    """Time of a job over that of a baseline, median of paired rounds."""

    name: str
    value: float
    low: float
    high: float
    budget: float | None
    """None where the ratio depends on how much is asked for."""

    seconds: float
    """What the baseline took, median."""

    def __str__(self) -> str:
        """One line for the log."""
        told = f"{self.name}: {self.value:.3f}x [{self.low:.3f}, {self.high:.3f}]"
        if self.budget is None:
            return told
        within = "within" if self.high <= self.budget else "not shown to be within"
        return f"{told}, {within} the budget of {self.budget:.2f}x"


def compare(
    name: str,
    job: Callable[[], object],
    baseline: Callable[[], object],
    *,
    budget: float | None,
    rounds: int = 40,
    repeats: int = 1,
    added: bool = False,
    clock: Callable[[], float] = time.process_time,
) -> Ratio:
    """Time both in turn, in changing order, and return the ratio.

    Args:
        name: What is compared with what.
        job: Ours.
        baseline: The limit.
        budget: Largest ratio allowed, if any.
        rounds: Pairs of timings.
        repeats: Calls per timing.
        added: Whether `job` is timed as an addition to `baseline`: the ratio is (b + j) / b.
        clock: What tells the time, in seconds.
    """
    for _ in range(2):
        job(), baseline()
    ratios, spent = [], []
    for round_number in range(rounds):
        first, second = (job, baseline) if round_number % 2 else (baseline, job)
        times = {one: _seconds(one, repeats, clock) for one in (first, second)}
        spent.append(times[baseline])
        ratio = times[job] / times[baseline]
        ratios.append(1 + ratio if added else ratio)
    low, high = interval(ratios)
    seconds = float(np.median(spent)) / repeats
    return Ratio(name, float(np.median(ratios)), low, high, budget, seconds)


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the median."""
    picks = np.random.default_rng(0).integers(len(ratios), size=(N_RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(np.array(ratios)[picks], axis=1), [0.025, 0.975])
    return float(low), float(high)


def _seconds(job: Callable[[], object], repeats: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(repeats):
        job()
    return clock() - start


def decoder_runs(decoder, batches):
    """A job that runs the bare decoder on padded batches; no language-model head."""

    @torch.no_grad()
    def run():
        for tokens, mask in batches:
            decoder(input_ids=tokens, attention_mask=mask, use_cache=False)

    return run
