"""Sources of figures: a run, several, an experiment, or the folder of either, as runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from workbench.errors import ConfigError, RunError
from workbench.runs import Run
from workbench.store import RunStore


@runtime_checkable
class HasRuns(Protocol):
    """The result of an experiment, or anything else that holds runs."""

    @property
    def runs(self) -> Sequence[Run]:
        """Its runs."""
        ...


RunSource = Run | Sequence[Run] | HasRuns | str | Path
"""A run, several, an experiment's result, or the folder of an experiment or run."""


def runs_of(source: RunSource) -> tuple[Run, ...]:
    """Return the runs of a source; of an experiment also those that are under way.

    Raises:
        ConfigError: If it is nothing that has runs.
        RunError: If there is none.
    """
    if isinstance(source, str | Path):
        runs = _below(Path(source))
    elif isinstance(source, Run):
        runs = (source.checked(),)
    else:
        several = source.runs if isinstance(source, HasRuns) else source
        runs = tuple(run.checked() for run in _only_runs(several))
    if not runs:
        raise RunError("No run to show.")
    return runs


def run_name(run: Run, *, among: Sequence[Run] = ()) -> str:
    """Return what to call a run within its arm: its seed, and its lineage if there are several."""
    config = run.info.get("config", {})
    if "arm" not in config or "seed" not in config:
        return run.id
    lineages = {one.info.get("config", {}).get("lineage") for one in among}
    several = len(lineages) > 1
    seed = f"seed {config['seed']}"
    return f"{config.get('lineage', 'no lineage')}, {seed}" if several else seed


def _only_runs(several: Any) -> Sequence[Run]:
    """The same, if runs it is."""
    if isinstance(several, Sequence):
        others = [one for one in several if not isinstance(one, Run)]
        if not others:
            return several
        several = others[0]
    raise ConfigError(
        f"No runs in a {type(several).__name__}: give a run, several, an experiment's result, or "
        "the folder of an experiment or run."
    )


def _below(folder: Path) -> tuple[Run, ...]:
    if (folder / "run.json").is_file():
        return (Run(folder).checked(),)
    if (folder / "runs").is_dir():
        return tuple(RunStore(folder / "runs"))
    raise RunError(f"{folder}: neither an experiment (runs/) nor a run (run.json) here.")
