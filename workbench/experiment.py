"""Experiments: arms × seeds × lineages, run here or in processes side by side, then summed up."""

import multiprocessing
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from workbench.activations import read_activations
from workbench.config import Arm, Recipe
from workbench.directions import PhaseReading, fit_between, read_phase
from workbench.errors import ConfigError, RunError
from workbench.files import write_json
from workbench.finetune import MEASURED_STEPS
from workbench.inputs import Inputs, LoadedInputs
from workbench.nulls import Null, isotropic_null, matched_null
from workbench.records import StepRecord
from workbench.runs import Run
from workbench.summary import summarise
from workbench.trial import Trial, run_trial

SCHEMA = 1
EVALUATED_STEPS = (0, 1, 20, 100)
POLL_SECONDS = 0.25

OnProgress = Callable[[str, int, float | None], None]
"""Told run id, step and mean alignment as runs advance."""


@dataclass(frozen=True)
class Experiment:
    """What was run, where it is, and what came out."""

    folder: Path
    summary: dict[str, Any]
    """As in summary.json."""

    @property
    def runs(self) -> list[Run]:
        """All runs, in order of their names."""
        return [Run(path.parent) for path in sorted(self.folder.glob("runs/*/run.json"))]


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
    jobs: int = 1,
    state_every: int = 10,
    save_models: bool = False,
    resume: bool = False,
    device: str | None = None,
    on_progress: OnProgress | None = None,
) -> Experiment:
    """Run every arm with every seed on every lineage, store the runs, and sum them up.

    Args:
        inputs: Files of one lineage, or of several.
        arms: Conditions; a matched arm needs the arm it is matched to.
        seeds: Of data order, penalty minibatches and control directions.
        recipe: Numbers of the fine-tuning, the same in all arms.
        out: Folder to make: runs, directions, `experiment.json` and `summary.json`.
        evaluate_at: Steps at which behaviour is evaluated; the last step always is.
        judge: Rule for answers; by default the lineage's own.
        max_new_tokens: Length of an answer.
        jobs: Processes side by side; each holds one model.
        state_every: Steps between training states.
        save_models: Keep every final model as a Hugging Face folder in its run.
        resume: Continue an experiment that was stopped; finished runs are kept.
        device: Where models run.
        on_progress: Called as runs advance.

    Raises:
        RunError: If `out` is already used and `resume` is off, or its settings differ.
        WorkbenchError: Whatever stops a run; the others' results stay on disk.
    """
    started = time.time()
    several = [inputs] if isinstance(inputs, Inputs) else list(inputs)
    evaluate_at = tuple(sorted({0, recipe.steps, *(s for s in evaluate_at if s <= recipe.steps)}))
    loaded = [one.load() for one in several]
    names = _unique_names(loaded)
    folder = _claim(Path(out), resume=resume)
    trials: list[Trial] = []
    for one, held, name in zip(several, loaded, names, strict=True):
        held.lineage.check()
        directions = _prepare(folder / "lineages" / name, held, device)
        for arm in arms:
            for seed in seeds:
                trials.append(
                    Trial(
                        run_id=f"{name}-{arm.name}-{seed}",
                        lineage=held.lineage.name,
                        store=folder / "runs",
                        inputs=one,
                        directions=directions,
                        arm=arm,
                        seed=seed,
                        recipe=recipe,
                        judge=judge or held.lineage.judge,
                        evaluate_at=evaluate_at,
                        max_new_tokens=max_new_tokens,
                        state_every=state_every,
                        matched_run=f"{name}-{arm.match}-{seed}" if arm.match else None,
                        save_model=save_models,
                        device=device,
                    )
                )
    _run_all(trials, jobs, on_progress)
    write_json(
        folder / "experiment.json",
        {
            "schema": SCHEMA,
            "id": folder.name,
            "lineages": [_about(held, name) for held, name in zip(loaded, names, strict=True)],
            "arms": [asdict(arm) for arm in arms],
            "seeds": list(seeds),
            "recipe": asdict(recipe),
            "measured_steps": sorted({*(recipe.measure_at or MEASURED_STEPS), recipe.steps}),
            "evaluated_steps": list(evaluate_at),
            "runs": [trial.run_id for trial in trials],
            "wall_seconds": round(time.time() - started, 1),
        },
    )
    return Experiment(folder, summarise(folder))


def _claim(folder: Path, *, resume: bool) -> Path:
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]) and not resume:
        raise RunError(f"{folder}: already used; choose another output folder, or use --resume.")
    try:
        (folder / "runs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror}).") from error
    return folder


def _prepare(folder: Path, held: LoadedInputs, device: str | None) -> Path:
    """Fit v_rev, the sibling's direction and the nulls of one lineage, one phase at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    target, lineage = folder / "directions.safetensors", held.lineage
    if target.is_file():
        return target
    witness = read_phase(lineage, lineage.witness, held.fit, device=device)
    aligned = read_phase(lineage, lineage.aligned, held.fit, device=device)
    directions = fit_between(witness, aligned, held.fit, lineage=lineage.name)
    if lineage.sibling is not None:
        sibling = read_phase(lineage, lineage.sibling, held.fit, device=device)
        _same_layers(aligned, sibling)
        fit_between(witness, sibling, held.fit, lineage=lineage.name).save(
            folder / "sibling.safetensors"
        )
    model = lineage.load_model(lineage.aligned, device=device)
    acts = read_activations(model, held.measure, layers=list(directions.layers))
    nulls = [isotropic_null(directions), matched_null(directions, acts)]
    write_json(folder / "nulls.json", {null.name: _null_json(null) for null in nulls})
    directions.save(target)
    return target


def _same_layers(aligned: PhaseReading, sibling: PhaseReading) -> None:
    if aligned.layers != sibling.layers:
        raise ConfigError("The sibling has other layers than the aligned phase.")


def _null_json(null: Null) -> dict[str, Any]:
    return {
        "h0": null.h0,
        "p99": null.p99.tolist(),
        "aggregate_p99": null.aggregate_p99,
        "aggregate_p99_independent": null.aggregate_p99_independent,
    }


def _run_all(trials: list[Trial], jobs: int, on_progress: OnProgress | None) -> None:
    """Run the trials, those that need another's trace after the others."""
    first = [trial for trial in trials if trial.matched_run is None]
    second = [trial for trial in trials if trial.matched_run is not None]
    if jobs == 1:
        for trial in [*first, *second]:
            run_trial(trial, _reporting(on_progress))
        return
    context = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(
        jobs, mp_context=context, initializer=torch.set_num_threads, initargs=(threads,)
    ) as pool:
        for wave in (first, second):
            futures = [pool.submit(run_trial, trial) for trial in wave]
            try:
                _watch(futures, wave, on_progress)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _watch(
    futures: Sequence[Future], trials: Sequence[Trial], on_progress: OnProgress | None
) -> None:
    """Wait for runs in other processes; what they do is read from their folders."""
    seen: dict[str, int] = {}
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, timeout=POLL_SECONDS)
        for future in done:
            future.result()
        for trial in trials if on_progress else ():
            _tell(trial, seen, on_progress)


def _tell(trial: Trial, seen: dict[str, int], on_progress: OnProgress | None) -> None:
    folder = trial.store / trial.run_id
    if on_progress is None or seen.get(trial.run_id) == trial.recipe.steps:
        return
    if not (folder / "records.jsonl").is_file() or not (lines := Run(folder).lines):
        return
    step = lines[-1]["step"]
    if step > seen.get(trial.run_id, 0):
        measured = [line["drift"]["mean_alignment"] for line in lines if "drift" in line]
        on_progress(trial.run_id, step, measured[-1] if measured else None)
        seen[trial.run_id] = step


def _reporting(on_progress: OnProgress | None) -> Callable[[str, StepRecord], None] | None:
    if on_progress is None:
        return None

    def on_record(run_id: str, record: StepRecord) -> None:
        on_progress(run_id, record.step, record.drift.mean_alignment if record.drift else None)

    return on_record


def _unique_names(loaded: Iterable[LoadedInputs]) -> list[str]:
    names = []
    for held in loaded:
        name = re.sub(r"[^a-z0-9]+", "-", held.lineage.name.lower()).strip("-") or "lineage"
        if name in names:
            raise ConfigError(f"Two lineages are called {held.lineage.name!r}; rename one.")
        names.append(name)
    return names


def _about(held: LoadedInputs, folder: str) -> dict[str, Any]:
    lineage = held.lineage
    return {
        "name": lineage.name,
        "folder": folder,
        "witness": lineage.witness.name,
        "aligned": lineage.aligned.name,
        "sibling": lineage.sibling.name if lineage.sibling else None,
    }
