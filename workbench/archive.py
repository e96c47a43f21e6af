"""The archive of an experiment: its plan and runs as they lie on disk, for summing up."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from workbench.errors import RunError
from workbench.runs import Run
from workbench.statistic import statistic
from workbench.store import RunStore

SCHEMA = 1

Statistic = dict[str, Any]


@dataclass(frozen=True)
class Archive:
    """A finished experiment's folder; nothing of it is changed."""

    folder: Path
    plan: dict[str, Any]
    """What experiment.json says."""

    @classmethod
    def open(cls, folder: Path) -> "Archive":
        """Read the plan and check that every run is there and finished.

        Raises:
            RunError: If the folder holds no experiment, or a run is not finished.
        """
        if not (folder / "experiment.json").is_file():
            raise RunError(f"{folder}: no finished experiment here (no experiment.json).")
        archive = cls(folder, read_json(folder / "experiment.json"))
        if archive.plan.get("schema") != SCHEMA:
            raise RunError(
                f"{folder}: schema {archive.plan.get('schema')!r}, this version reads {SCHEMA}."
            )
        if (
            missing := {"arms", "lineages", "measured_steps", "recipe", "runs"}
            - archive.plan.keys()
        ):
            raise RunError(f"{folder}/experiment.json: lacks {', '.join(sorted(missing))}.")
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
            name = run.info["config"]["arm"]["name"]
            if name not in runs:
                raise RunError(f"{run.folder}: of arm {name!r}, which experiment.json lacks.")
            runs[name].append(run)
        return runs

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
        name = run.info["config"]["lineage"]
        found = next(one["folder"] for one in self.plan["lineages"] if one["name"] == name)
        return self.folder / "lineages" / found

    def lineage_folders(self) -> dict[str, Path]:
        """Return the folder of every lineage by name."""
        lineages = self.plan["lineages"]
        return {one["name"]: self.folder / "lineages" / one["folder"] for one in lineages}

    def statistic(self, runs: Sequence[Run], values: Sequence[float | None]) -> Statistic:
        """Return the statistic of one value per run, its interval over lineages if several."""
        return statistic(values, [run.info["config"]["lineage"] for run in runs])

    def by_step(
        self, runs: Sequence[Run], column: Callable[[Run], Sequence[float | None]]
    ) -> dict[str, Statistic]:
        """Return statistics over runs at every measured step, of what `column` gives per run."""
        columns = [column(run) for run in runs]
        return {
            str(step): self.statistic(runs, [values[index] for values in columns])
            for index, step in enumerate(self.plan["measured_steps"])
        }


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object; `RunError` names the file if it cannot be read."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path}: cannot be read ({error}).") from error


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a safetensors file; `RunError` names it if it cannot be read."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path}: cannot be read ({error}).") from error
