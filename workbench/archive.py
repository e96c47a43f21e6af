"""The archive of an experiment: its plan and runs as they lie on disk, for summing up."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from workbench.errors import RunError
from workbench.info import RECIPE
from workbench.limits import (
    MAX_JSON_BYTES,
    MAX_TENSORS_BYTES,
    brief,
    check_size,
    is_file,
    parse_json,
    read_bounded,
)
from workbench.manifest import ENTRIES
from workbench.runs import Run
from workbench.shape import (
    COUNTS,
    FOLDER,
    NAME,
    NAMES,
    NULL,
    NUMBER,
    NUMBERS,
    TABLE,
    Kind,
    Open,
    check_shape,
)
from workbench.statistic import statistic
from workbench.store import RunStore

SCHEMA = 1

ABOUT = {"name": NAME, "folder": FOLDER, "witness": NAME, "aligned": NAME, "sibling": NAME | NULL}
PLAN = {
    "schema": Kind(f"{SCHEMA}, which this version reads", lambda value: value == SCHEMA),
    "id": NAME,
    "lineages": [ABOUT],
    "arms": [Open({"name": NAME})],
    "seeds": NUMBERS,
    "recipe": RECIPE,
    "measured_steps": COUNTS,
    "evaluated_steps": COUNTS,
    "runs": NAMES,
    "wall_seconds": NUMBER,
    "files": ENTRIES,
}
"""What experiment.json says; the files are what the lineages' runs share."""

Statistic = dict[str, Any]


@dataclass(frozen=True)
class Archive:
    """A finished experiment's folder; nothing of it is changed."""

    folder: Path
    plan: dict[str, Any]
    """What experiment.json says."""

    _made: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Arm and lineage of runs, by their ids."""

    @classmethod
    def open(cls, folder: Path) -> "Archive":
        """Read the plan and check that every run is there and finished.

        Raises:
            RunError: If the folder holds no experiment, or a run is not finished.
        """
        if not is_file(folder / "experiment.json"):
            raise RunError(f"{folder}: no finished experiment here (no experiment.json).")
        archive = cls(folder, read_json(folder / "experiment.json", PLAN))
        for run in (run for several in archive.by_arm.values() for run in several):
            if run.status != "done":
                raise RunError(f"{folder}: {run.id} is not finished; continue with --resume.")
            if run.measured_steps.tolist() != archive.plan["measured_steps"]:
                raise RunError(f"{run.folder}: measured at other steps than experiment.json says.")
        return archive

    @cached_property
    def by_arm(self) -> dict[str, list[Run]]:
        """The runs of every arm: lineage by lineage, in each by seed."""
        store = RunStore(self.folder / "runs")
        runs: dict[str, list[Run]] = {arm["name"]: [] for arm in self.plan["arms"]}
        for run in map(store.open, self.plan["runs"]):
            arm, lineage = self._made[run.id] = _made_of(run)
            if arm not in runs:
                raise RunError(f"{run.folder}: of arm {brief(arm)}, which experiment.json lacks.")
            if lineage not in self.lineage_folders():
                raise RunError(
                    f"{run.folder}: of lineage {brief(lineage)}, which experiment.json lacks."
                )
            runs[arm].append(run)
        return runs

    def lineage_of(self, run: Run) -> str:
        """Return the name of a run's lineage, which is read once: its statistics ask often."""
        if run.id not in self._made:
            self._made[run.id] = _made_of(run)
        return self._made[run.id][1]

    @property
    def last_step(self) -> str:
        """The last step, as the summary's keys have it."""
        return str(self.plan["recipe"]["steps"])

    @property
    def n_lineages(self) -> int:
        """Number of lineages."""
        return len(self.plan["lineages"])

    def lineage_folder(self, run: Run) -> Path:
        """Return the folder of what the runs of this run's lineage share."""
        return self.lineage_folders()[self.lineage_of(run)]

    def lineage_folders(self) -> dict[str, Path]:
        """Return the folder of every lineage by name."""
        lineages = self.plan["lineages"]
        return {one["name"]: self.folder / "lineages" / one["folder"] for one in lineages}

    def statistic(self, runs: Sequence[Run], values: Sequence[float | None]) -> Statistic:
        """Return the statistic of one value per run, its interval over lineages if several."""
        return statistic(values, [self.lineage_of(run) for run in runs])

    def by_step(
        self, runs: Sequence[Run], column: Callable[[Run], Sequence[float | None]]
    ) -> dict[str, Statistic]:
        """Return statistics over runs at every measured step, of what `column` gives per run."""
        columns = [column(run) for run in runs]
        return {
            str(step): self.statistic(runs, [values[index] for values in columns])
            for index, step in enumerate(self.plan["measured_steps"])
        }


def _made_of(run: Run) -> tuple[str, str]:
    """The names of a run's arm and lineage."""
    try:
        config = run.info["config"]
        return str(config["arm"]["name"]), str(config["lineage"])
    except (KeyError, TypeError) as error:
        raise RunError(f"{run.folder}/run.json: names no arm and lineage.") from error


def read_json(path: Path, shape: Any = TABLE) -> dict[str, Any]:
    """Return a JSON table; `RunError` names the file if it is not of the shape."""
    try:
        found = parse_json(read_bounded(path, MAX_JSON_BYTES, RunError))
        check_shape(found, shape)
    except ValueError as error:
        raise RunError(f"{path}: cannot be read ({error}).") from error
    return found


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a safetensors file; `RunError` names it if it cannot be read."""
    check_size(path, MAX_TENSORS_BYTES, RunError)
    try:
        return load_file(path)
    # numpy lacks some types that a file may name.
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{path}: cannot be read ({error}).") from error
