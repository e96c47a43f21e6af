"""Experiments: arms × seeds × lineages, run here or in processes side by side, then summed up."""

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workbench.archive import PLAN, SCHEMA, read_json
from workbench.arms import Arm, waves
from workbench.cluster import Cluster, joined
from workbench.config import EVALUATED_STEPS, Recipe
from workbench.directions import ReversionDirections
from workbench.errors import ConfigError, RunError
from workbench.files import make_folder, write_json
from workbench.groundwork import DIRECTIONS, Groundwork, check_trials, lay_groundwork
from workbench.inputs import Inputs, LoadedInputs
from workbench.judges import find_judge
from workbench.locks import locked
from workbench.manifest import manifest_of
from workbench.records import StepRecord
from workbench.runs import Run
from workbench.storing import check_writable
from workbench.summary import summarise
from workbench.trial import Trial, run_trial
from workbench.workers import OnProgress, run_in_processes

NAME_LENGTH, MOST_BYTES = 100, 200
"""Of a lineage in the names of folders, and of a run's folder: file systems take 255 bytes."""


@dataclass(frozen=True)
class Experiment:
    """What was run, where it is, and what came out."""

    folder: Path
    summary: dict[str, Any]
    """As in summary.json."""

    @property
    def runs(self) -> list[Run]:
        """All runs, in order of their names."""
        return [Run(path.parent) for path in sorted(self.folder.glob("runs/[!.]*/run.json"))]


def run_experiment(
    inputs: Inputs | Sequence[Inputs],
    *,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    recipe: Recipe,
    out: str | Path,
    evaluate_at: Sequence[int] = EVALUATED_STEPS,
    judge: str | None = None,
    max_new_tokens: int = 32,
    jobs: int | None = None,
    on: str | None = None,
    threads: int | None = None,
    state_every: int = 10,
    save_models: bool = False,
    resume: bool = False,
    break_lock: bool = False,
    device: str | None = None,
    on_progress: OnProgress | None = None,
) -> Experiment:
    """Run every arm with every seed on every lineage, store the runs, and sum them up.

    Args:
        inputs: Files of one lineage, or of several.
        arms: Conditions, with those that others need (`arms.choose_arms` checks it).
        seeds: Of data order, penalty minibatches and control directions.
        recipe: Numbers of the fine-tuning, the same in all arms.
        out: Folder to make: runs, directions, `experiment.json` and `summary.json`.
        evaluate_at: Steps at which behaviour is evaluated; the last step always is.
        judge: Rule for answers; by default the lineage's own.
        max_new_tokens: Length of an answer.
        jobs: Runs side by side, each in a process with one model; by default 1, or on a cluster as
            many as fit.
        on: Ray cluster to run on, `ray` or `ray://HOST:PORT`, as of `cluster.joined`.
        threads: Of a run on a cluster; by default 1.
        state_every: Steps between training states.
        save_models: Keep every final model as a Hugging Face folder in its run.
        resume: Continue an experiment that was stopped; finished runs are kept.
        break_lock: When resuming, take runs over from a writer that is known to be gone.
        device: Where models run.
        on_progress: Called as runs advance.

    Raises:
        RunError: If `out` is already used and `resume` is off, or its settings differ.
        WorkbenchError: What keeps trials from starting, with nothing written; or whatever stops one
            later, with the others' results on disk.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError(f"jobs is {jobs}; it must be at least 1.")
    started = time.monotonic()
    several = [inputs] if isinstance(inputs, Inputs) else list(inputs)
    wanted = {0, *evaluate_at, recipe.steps}
    evaluate_at = tuple(sorted(step for step in wanted if 0 <= step <= recipe.steps))
    folder = _usable(Path(out), resume=resume)
    loaded = [one.load() for one in several]
    names = _unique_names(loaded)
    _check_depths(loaded)
    judges = [find_judge(judge or held.lineage.judge).name for held in loaded]
    places = [folder / "lineages" / name for name in names]
    shared: dict[str, Any] = {
        "store": folder / "runs",
        "recipe": recipe,
        "evaluate_at": evaluate_at,
        "max_new_tokens": max_new_tokens,
        "state_every": state_every,
        "save_model": save_models,
        "device": device,
        "break_lock": break_lock,
    }
    grounds = zip(several, loaded, places, judges, strict=True)
    trials = [trial for ground in grounds for trial in _trials_on(*ground, arms, seeds, shared)]
    _check_ids([trial.run_id for trial in trials])
    plan = {
        "schema": SCHEMA,
        "id": folder.name,
        "lineages": [_about(held, name) for held, name in zip(loaded, names, strict=True)],
        "arms": [asdict(arm) for arm in arms],
        "seeds": list(seeds),
        "recipe": asdict(recipe),
        "measured_steps": list(recipe.measured_steps),
        "evaluated_steps": list(evaluate_at),
        "runs": [trial.run_id for trial in trials],
    }
    with joined(on, threads) as cluster:
        laid = _lay(places, loaded, arms, recipe, judge, device)
        make_folder(folder)
        with locked(folder / "lock", break_lock=break_lock):
            for place, groundwork in laid.items():
                if not place.exists():
                    groundwork.save(place)
            _run_all(trials, jobs, cluster, on_progress)
            write_json(folder / "experiment.json", _timed(folder, plan, started))
            return Experiment(folder, summarise(folder))


def _timed(folder: Path, plan: dict[str, Any], started: float) -> dict[str, Any]:
    """The plan with the shared files and how long it took; if it was done before, how long then."""
    plan |= {"files": manifest_of(folder, "lineages"), "wall_seconds": 0}
    if (path := folder / "experiment.json").exists():
        earlier = read_json(path, PLAN)
        if earlier | {"wall_seconds": 0} == json.loads(json.dumps(plan)):
            return earlier
    return plan | {"wall_seconds": round(time.monotonic() - started, 1)}


def _trials_on(
    inputs: Inputs,
    held: LoadedInputs,
    place: Path,
    judge: str,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    shared: Mapping[str, Any],
) -> list[Trial]:
    """The trials on one lineage, whose groundwork is laid at `place`."""
    by_name = {arm.name: arm for arm in arms}
    return [
        Trial(
            run_id=_run_id(place, arm, seed),
            lineage=held.lineage.name,
            inputs=inputs,
            directions=place / DIRECTIONS,
            arm=arm,
            seed=seed,
            judge=judge,
            runs={name: _run_id(place, by_name[name], seed) for name in arm.needs},
            **shared,
        )
        for arm in arms
        for seed in seeds
    ]


def _run_id(place: Path, arm: Arm, seed: int) -> str:
    return f"{place.name}-{arm.slug}-{seed}"


def _check_ids(ids: Iterable[str]) -> None:
    """Refuse runs that would have one folder, or none below `runs`; case does not tell apart."""
    seen: set[str] = set()
    for name in ids:
        if name.lower() in seen:
            raise ConfigError(f"Two runs would be called {name!r}; rename a lineage or an arm.")
        if Path(name).name != name or not name.isprintable() or len(name.encode()) > MOST_BYTES:
            raise ConfigError(
                f"{name!r} is not a name for a run; give the arm a short one, in letters, digits "
                "and dashes."
            )
        seen.add(name.lower())


def _usable(folder: Path, *, resume: bool) -> Path:
    """Return the output folder if it can be one; nothing is made yet."""
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]) and not resume:
        raise RunError(f"{folder}: already used; choose another output folder, or use --resume.")
    check_writable(folder)
    return folder


def _lay(
    places: Sequence[Path],
    loaded: Sequence[LoadedInputs],
    arms: Sequence[Arm],
    recipe: Recipe,
    judge: str | None,
    device: str | None,
) -> dict[Path, Groundwork]:
    """Lay the groundwork of every lineage that has none yet; nothing is written."""
    laid = {}
    for place, held in zip(places, loaded, strict=True):
        if (place / DIRECTIONS).is_file():
            model = held.lineage.load_model(held.lineage.aligned, device=device)
            directions = ReversionDirections.load(place / DIRECTIONS)
            _check_fitted_on(directions, held, place)
            check_trials(model, held, directions, arms, recipe)
        else:
            laid[place] = lay_groundwork(held, arms, recipe, judge=judge, device=device)
    return laid


def _check_fitted_on(directions: ReversionDirections, held: LoadedInputs, place: Path) -> None:
    """Refuse a groundwork that was laid with another witness or on other prompts."""
    told, lineage = directions.provenance, held.lineage
    now = {"witness": lineage.witness.name, "probes_hash": held.fit.fingerprint()}
    if changed := sorted(name for name in now if told.get(name) != now[name]):
        raise RunError(
            f"{place / DIRECTIONS}: made with other inputs ({', '.join(changed)}); resume with the "
            "same ones, or choose another output folder."
        )


def _run_all(
    trials: list[Trial], jobs: int | None, cluster: Cluster | None, on_progress: OnProgress | None
) -> None:
    """Run the trials, those that need another's end after the others."""
    if cluster is not None:
        cluster.run(trials, jobs, on_progress)
        return
    several = dict.fromkeys(trial.arm for trial in trials)
    groups = [[trial for trial in trials if trial.arm in wave] for wave in waves(several)]
    if jobs is not None and jobs > 1:
        run_in_processes(groups, jobs, on_progress)
        return
    for trial in (trial for group in groups for trial in group):
        run_trial(trial, _reporting(on_progress))


def _reporting(on_progress: OnProgress | None) -> Callable[[str, StepRecord], None] | None:
    if on_progress is None:
        return None

    def on_record(run_id: str, record: StepRecord) -> None:
        on_progress(run_id, record.step, record.drift.mean_alignment if record.drift else None)

    return on_record


def _unique_names(loaded: Iterable[LoadedInputs]) -> list[str]:
    names = []
    for held in loaded:
        short = re.sub(r"[^a-z0-9]+", "-", held.lineage.name.lower()).strip("-")[:NAME_LENGTH]
        name = short or "lineage"
        if name in names:
            raise ConfigError(f"Two lineages are called {name!r}; rename one.")
        names.append(name)
    return names


def _check_depths(loaded: Sequence[LoadedInputs]) -> None:
    """Refuse lineages of different depth: their layers cannot stand in one row of a summary."""
    depths = {}
    for held in loaded:
        config = held.lineage.aligned.config()
        depths[held.lineage.name] = config.get_text_config().num_hidden_layers
    if len(set(depths.values())) > 1:
        told = ", ".join(f"{name} has {depth}" for name, depth in depths.items())
        raise ConfigError(f"Lineages of different depth ({told} layers): run them apart.")


def _about(held: LoadedInputs, folder: str) -> dict[str, Any]:
    lineage = held.lineage
    return {
        "name": lineage.name,
        "folder": folder,
        "witness": lineage.witness.name,
        "aligned": lineage.aligned.name,
        "sibling": lineage.sibling.name if lineage.sibling else None,
    }
