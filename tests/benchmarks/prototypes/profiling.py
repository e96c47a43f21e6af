"""Where the time of the demo's trials goes, by looking at the stack now and then.

A tracing profiler makes Python calls dear and torch's cheap: encoding looked five times as long.
A thread that looks would see most what lets go of the interpreter; so a timer's signal is used.
"""

import signal
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType

from prototypes.bench import Bench

PACKAGE = "/workbench/"
EVERY = 0.002
"""Seconds between two looks."""


class Sampler:
    """Counts what the main thread is in, while it runs something."""

    def __init__(self) -> None:
        self.within: dict[str, float] = defaultdict(float)
        self.leaves: dict[str, float] = defaultdict(float)
        self.seconds, self._last = 0.0, 0.0

    def run(self, job: Callable[[], object]) -> None:
        """Run a job and look."""
        before = signal.signal(signal.SIGALRM, self._look)
        start = self._last = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, EVERY, EVERY)
        try:
            job()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            self.seconds += time.perf_counter() - start

    def _look(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        # A look waits until a call into C is over: what passed since the last belongs to it.
        now = time.perf_counter()
        passed, self._last = now - self._last, now
        self.leaves[_name(frame)] += passed
        for name in {_name(one) for one in _stack(frame) if _ours(one)}:
            self.within[name] += passed

    def top(self, spent: dict[str, float], count: int) -> list[tuple[str, float]]:
        """Where most was spent, with shares of all."""
        largest = sorted(spent.items(), key=lambda one: -one[1])[:count]
        return [(name, seconds / self.seconds) for name, seconds in largest]


def _stack(frame: FrameType | None):
    while frame is not None:
        yield frame
        frame = frame.f_back


def _ours(frame: FrameType) -> bool:
    return PACKAGE in frame.f_code.co_filename


def _name(frame: FrameType | None) -> str:
    if frame is None:
        return "?"
    module = frame.f_code.co_filename.rpartition("/")[2].removesuffix(".py")
    return f"{module}.{frame.f_code.co_qualname}"


def demo(steps: int, arms: str) -> None:
    """An experiment on the organism as the demo's, with one seed, in this process."""
    from workbench.arms import choose_arms, standard_arms
    from workbench.experiment import run_experiment
    from workbench.inputs import Inputs
    from workbench.organism.recipe import DEMO, DEMO_STRENGTHS, MAX_NEW_TOKENS

    with tempfile.TemporaryDirectory() as folder:
        run_experiment(
            Inputs.organism(),
            arms=choose_arms(arms, standard_arms(DEMO_STRENGTHS)),
            seeds=[0],
            recipe=replace(DEMO, steps=steps),
            out=Path(folder) / "out",
            max_new_tokens=MAX_NEW_TOKENS,
            device="cpu",
        )


def profile(bench: Bench) -> None:
    """Idea 13: the trials of the demo."""
    steps = 5 if bench.quick else 100
    demo(1, "ordinary")  # imports
    for arms in ("ordinary", "ordinary,block"):
        sampler = Sampler()
        sampler.run(lambda arms=arms: demo(steps, arms))
        name = f"profile of {arms}, {steps} steps"
        bench.note(name, f"{sampler.seconds:.1f} s")
        for kind, counts, count in (
            ("within", sampler.within, 45), ("own time of", sampler.leaves, 20),
        ):  # fmt: skip
            for function, share in sampler.top(counts, count):
                bench.note(name, f"{share:6.1%} {kind} {function}")
