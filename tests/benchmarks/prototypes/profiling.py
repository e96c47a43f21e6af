"""Where the time of the demo's trials goes."""

import cProfile
import pstats
import tempfile
from pathlib import Path

from prototypes.bench import Bench

PACKAGE = "workbench"


def profiled(steps: int, arms: str) -> pstats.Stats:
    """The profile of an experiment on the organism, one seed, in this process."""
    from workbench.arms import choose_arms, standard_arms
    from workbench.experiment import run_experiment
    from workbench.inputs import Inputs
    from workbench.organism.recipe import DEMO_STRENGTHS, MAX_NEW_TOKENS, DEMO
    from dataclasses import replace

    profile = cProfile.Profile()
    with tempfile.TemporaryDirectory() as folder:
        profile.enable()
        run_experiment(
            Inputs.organism(),
            arms=choose_arms(arms, standard_arms(DEMO_STRENGTHS)),
            seeds=[0],
            recipe=replace(DEMO, steps=steps),
            out=Path(folder) / "out",
            max_new_tokens=MAX_NEW_TOKENS,
        )
        profile.disable()
    return pstats.Stats(profile)


def top(stats: pstats.Stats, column: int, count: int, *, ours: bool) -> list[tuple[str, float, int]]:
    """Functions by their own time (2) or with what they call (3): name, share, calls."""
    total = stats.total_tt  # type: ignore[attr-defined]
    rows = [
        (_name(place), row[column] / total, row[1])
        for place, row in stats.stats.items()  # type: ignore[attr-defined]
        if not ours or f"/{PACKAGE}/" in place[0]
    ]
    return sorted(rows, key=lambda row: -row[1])[:count]


def _name(place: tuple[str, int, str]) -> str:
    path, _, function = place
    return function if path == "~" else f"{Path(path).stem}.{function}"


def profile(bench: Bench) -> None:
    """Idea 13: the trials of the demo; times with the profiler's own, so only shares are told."""
    steps = 10 if bench.quick else 100
    for arms in ("ordinary", "ordinary,block"):
        stats = profiled(steps, arms)
        name = f"profile of {arms}, {steps} steps"
        bench.note(name, f"{stats.total_tt:.1f} s under the profiler")  # type: ignore[attr-defined]
        for kind, column, ours in (("with what it calls", 3, True), ("own time", 2, False)):
            for function, share, calls in top(stats, column, 40 if ours else 25, ours=ours):
                bench.note(name, f"{share:6.1%} {kind}, {calls} calls of {function}")
