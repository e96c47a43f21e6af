"""A bench: times a prototype and what it would replace in turn, by CPU and by wall."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from compare import Ratio, compare
from intervals import median_interval

MOST_ROUNDS = 40


@dataclass(frozen=True)
class Outcome:
    """What one idea gives at one size: time of the new over that of the old."""

    name: str
    wall: Ratio | None = None
    cpu: Ratio | None = None
    """None where the work is done by other processes, which this one's clock does not see."""

    difference: float | None = None
    """Largest difference between what the two compute, looked at before the timing."""

    told: str = ""
    """What else was measured."""

    rounds: int = 0

    def __str__(self) -> str:
        """One line for the log."""
        parts = [
            f"{clock} {ratio.value:.3f}x [{ratio.low:.3f}, {ratio.high:.3f}]"
            for clock, ratio in (("CPU", self.cpu), ("wall", self.wall))
            if ratio is not None
        ]
        if self.wall is not None:
            parts.append(f"old {self.wall.seconds * 1000:.4g} ms")
        if self.difference is not None:
            parts.append(f"max difference {self.difference:.1e}")
        return f"{self.name}: " + ", ".join([*parts, *([self.told] if self.told else [])])


@dataclass
class Bench:
    """Where ideas are tried; every outcome is printed at once and kept."""

    quick: bool = False
    """Whether to take the smallest size only, and few rounds."""

    seconds: float = 12.0
    """Time for one comparison, about."""

    only: tuple[str, ...] | None = None
    """Sizes to try; by default those that an idea names."""

    outcomes: list[Outcome] = field(default_factory=list)

    def sizes(self, *names: str) -> tuple[str, ...]:
        """The sizes to try, of those named: those asked for, else all, or the first."""
        if self.only is not None:
            return tuple(name for name in names if name in self.only)
        return names[:1] if self.quick else names

    def pair(
        self,
        name: str,
        new: Callable[[], object],
        old: Callable[[], object],
        *,
        difference: float | None = None,
        told: str = "",
    ) -> Outcome:
        """Time `new` and `old` in turn, as often as the time allows."""
        new, old = _Walled(new), _Walled(old)
        start = time.perf_counter()
        for one in (new, old):
            one()
        once = time.perf_counter() - start
        fewest = 3 if self.quick or self.seconds < 5 else 6
        rounds = fewest if self.quick else int(self.seconds / max(once, 1e-9))
        rounds = max(fewest, min(rounds, MOST_ROUNDS))
        repeats = max(1, int(0.02 / max(once, 1e-9)))
        cpu = compare(name, new, old, budget=None, rounds=rounds, repeats=repeats)
        ours, theirs = (_rounds(one.times, rounds, repeats) for one in (new, old))
        ratios = ours / theirs
        wall = Ratio(
            name, *median_interval(ratios), None,
            float(np.median(theirs)) / repeats,
        )  # fmt: skip
        return self.keep(Outcome(name, wall, cpu, difference, told, rounds))

    def note(self, name: str, told: str, difference: float | None = None) -> Outcome:
        """Keep what is no pair of times."""
        return self.keep(Outcome(name, difference=difference, told=told))

    def keep(self, outcome: Outcome) -> Outcome:
        """Print an outcome and keep it."""
        print(outcome, flush=True)
        self.outcomes.append(outcome)
        return outcome


class _Walled:
    """A job that notes how long each call took by the clock on the wall."""

    def __init__(self, job: Callable[[], object]) -> None:
        self.job, self.times = job, []

    def __call__(self) -> None:
        start = time.perf_counter()
        self.job()
        self.times.append(time.perf_counter() - start)


def _rounds(times: list[float], rounds: int, repeats: int) -> np.ndarray:
    """Time per round; the calls before the first, which warm up, are left out."""
    return np.array(times[-rounds * repeats :]).reshape(rounds, repeats).sum(axis=1)
