"""What figures of an experiment or of runs are made from: its runs, summary and nulls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from workbench.archive import read_json
from workbench.config import is_sealed
from workbench.errors import RunError
from workbench.plots.heatmap import heatmap
from workbench.plots.sources import RunSource, runs_of
from workbench.plots.trajectories import arm_name
from workbench.runs import Run
from workbench.shape import NAMES, Each, Maybe, Open
from workbench.surroundings import Surroundings, surroundings_of

Origin = RunSource
"""Folder of an experiment or of a run, a run, several, or an experiment's result."""

SUMMARY = Open({"arms": Each(Open({"runs": Maybe(NAMES)}))})
"""What is looked at here of summary.json."""


@dataclass(frozen=True)
class Material:
    """An experiment, or runs outside of one."""

    name: str

    runs: tuple[Run, ...]

    summary: Mapping[str, Any] | None = None
    """Of an experiment."""

    surroundings: Mapping[Path, Surroundings] = field(default_factory=dict)
    """By a run's folder, what its drift is seen against; names of runs may be equal."""

    @property
    def has_null(self) -> bool:
        """Whether the matched null of any run is known."""
        return any(one.p99 is not None for one in self.surroundings.values())

    def by_arm(self) -> dict[str, list[Run]]:
        """Return the runs that have measured steps, by arm."""
        found: dict[str, list[Run]] = {}
        for run in self.runs:
            if run.measured:
                found.setdefault(arm_name(run), []).append(run)
        return found

    def heatmap(self, run: Run) -> go.Figure:
        """Plot a run's alignment by layer, marked where it is not above the lineage's null."""
        around = self.surroundings.get(run.folder, Surroundings())
        depth = run.layer_values("alignment").shape[1]
        layers = around.layers if around.layers and len(around.layers) == depth else None
        p99 = around.p99.tolist() if around.p99 is not None and len(around.p99) == depth else None
        return heatmap(run, p99=p99, layers=layers)


def gather(source: Origin) -> Material:
    """Return what there is to draw; of an experiment that is under way, its runs so far.

    Raises:
        ConfigError: If the source is nothing that has runs.
        RunError: If there is no experiment or run, or it cannot be read.
    """
    folder = source if isinstance(source, str | Path) else getattr(source, "folder", None)
    folder = None if folder is None else Path(folder)
    if folder is not None and (folder / "summary.json").is_file():
        return _experiment(folder)
    runs = runs_of(source)
    whole = folder is not None and not (folder / "run.json").is_file()
    name = folder.resolve().name if folder and whole else ", ".join(run.id for run in runs[:3])
    return Material(name, runs, None, _around(runs))


def _experiment(folder: Path) -> Material:
    summary = read_json(folder / "summary.json", SUMMARY)
    if not is_sealed(summary):
        raise RunError(
            f"{folder}/summary.json: not what was written; write it again with `workbench "
            "experiment --recompute`."
        )
    by_id = {path.parent.name: Run(path.parent) for path in folder.glob("runs/[!.]*/run.json")}
    named = [run_id for arm in summary["arms"].values() for run_id in arm.get("runs", ())]
    runs = [by_id[run_id] for run_id in named or sorted(by_id) if run_id in by_id]
    return Material(folder.resolve().name, tuple(runs), summary, _around(runs))


def _around(runs: Sequence[Run]) -> dict[Path, Surroundings]:
    return {run.folder: one for run, one in zip(runs, surroundings_of(runs), strict=True)}
