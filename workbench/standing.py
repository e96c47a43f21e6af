"""How a run stands: what its folder says of it, while it is written, after, and elsewhere."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from workbench.config import Recipe
from workbench.errors import RunError
from workbench.locks import is_held
from workbench.runs import Run

RESUME = "resume to continue"
"""How the reason ends of a run that was stopped, not broken."""

PACE_SECONDS = 20.0
"""How far back the pace looks."""


@dataclass(frozen=True)
class Standing:
    """How far a run has come."""

    state: Literal["running", "stopped", "done", "failed"]
    """A run whose process is gone is stopped, whatever its folder says."""

    step: int
    """The newest stored; 0 before the first."""

    steps: int | None
    """Of the whole run, where its config tells."""

    loss: float | None = None
    """Training loss of the newest step, in nats per response token."""

    alignment: float | None = None
    """Mean over layers at the newest measured step."""

    why: str = ""
    """What stopped or failed it."""

    @classmethod
    def of(cls, run: Run) -> "Standing":
        """Read it from the folder, anew.

        Raises:
            RunError: If the run cannot be read.
        """
        # The status before the records: nothing is appended to a run that has ended.
        held, info = is_held(run.folder / "lock"), run.info
        lines = run.refresh().lines
        aligned = [line["drift"]["mean_alignment"] for line in run.measured]
        state, why = info["status"], str(info.get("failure", ""))
        if state == "running" and not held:
            state, why = "stopped", f"its process is gone; {RESUME}"
        elif why.endswith(RESUME):
            state = "stopped"
        recipe = recipe_of(info["config"])
        return cls(
            state,
            step=lines[-1]["step"] if lines else 0,
            steps=recipe and recipe.steps,
            loss=lines[-1]["loss"] if lines else None,
            alignment=aligned[-1] if aligned else None,
            why=why,
        )


def recipe_of(config: Mapping[str, Any]) -> Recipe | None:
    """Return the recipe in a run's config, if there is one."""
    told = config.get("recipe")
    if not isinstance(told, Mapping):
        return None
    known = {item.name: told[item.name] for item in fields(Recipe) if item.name in told}
    measured = known.pop("measure_at", None)
    return Recipe(**known, measure_at=None if measured is None else tuple(measured))


def stamp(run: Run) -> tuple[int, int, bool]:
    """Return what differs once the folder has something new to say; much cheaper than reading it.

    Raises:
        RunError: If the folder is gone.
    """
    try:
        records, info = ((run.folder / name).stat() for name in ("records.jsonl", "run.json"))
    except OSError as error:
        raise RunError(f"{run.folder}: cannot be read ({error.strerror}).") from error
    return records.st_size, info.st_mtime_ns, is_held(run.folder / "lock")


class Pace:
    """Steps per second, from when new steps were seen."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, step: int, now: float) -> None:
        """Take note of the newest step at a time, in seconds."""
        if self._seen and step < self._seen[-1][1]:
            self._seen.clear()  # resumed from an earlier one
        if not self._seen or step > self._seen[-1][1]:
            self._seen.append((now, step))
        while len(self._seen) > 2 and now - self._seen[0][0] > PACE_SECONDS:
            self._seen.popleft()

    @property
    def rate(self) -> float | None:
        """Steps per second lately; None until two steps were seen."""
        if len(self._seen) < 2:
            return None
        (start, first), (end, last) = self._seen[0], self._seen[-1]
        return (last - first) / (end - start) if end > start else None
