"""Ablation grids of stored runs: the aligned model beside the one that a run has made of it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from workbench.ablation import ablation_grid
from workbench.checkpoints import Checkpoint
from workbench.directions import ReversionDirections
from workbench.errors import RunError
from workbench.files import file_hash
from workbench.grid_work import OnProgress, Source
from workbench.grids import FOLDER, STRENGTHS, AblationGrid
from workbench.inputs import Inputs
from workbench.judges import Judge
from workbench.phases import Lineage
from workbench.probes import ProbeSet
from workbench.runs import Run
from workbench.surroundings import DIRECTIONS

MODEL = "model"
"""In a run's folder: the fine-tuned model, where it was kept."""

N_PROMPTS = 75
"""How many prompts of each kind a grid is measured on by default, at most."""


def grid_of_run(
    run: Run,
    inputs: Inputs,
    *,
    directions: ReversionDirections | None = None,
    layer_sets: Sequence[Sequence[int]] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    positions: str = "all",
    judge: str | Judge | None = None,
    prompts: Sequence[str] | None = None,
    n_prompts: int = N_PROMPTS,
    device: str | None = None,
    on_progress: OnProgress | None = None,
) -> AblationGrid:
    """Return the grid of a run's aligned and fine-tuned model; what is there is not made again.

    It is kept in the run's folder, where `grids.stored_grids` finds it.

    Args:
        run: A finished run that kept its model.
        inputs: The files of its lineage, which a run does not know the place of.
        directions: By default those of the run: its experiment's for its lineage, or its own.
        layer_sets: As in `ablation_grid`, like the next two.
        strengths: Of the ablation.
        positions: `"all"` or `"last"`.
        judge: By default the run's, else the lineage's.
        prompts: Prompts to show answers to; by default some of those evaluated.
        n_prompts: Prompts of each kind to evaluate on, at most, evenly spaced among those given.
        device: Where models run.
        on_progress: Told how many points there are, and how many there will be.

    Raises:
        RunError: If the run is not finished, kept no model, or has no directions.
        WorkbenchError: As `ablation_grid`, or if the inputs cannot be read.
    """
    if run.status != "done":
        raise RunError(f"{run.folder}: {run.status}; resume it, its model is kept when it is done.")
    config, held = run.info["config"], inputs.load()
    return ablation_grid(
        sources_of_run(run, held.lineage, device=device),
        directions or directions_of_run(run),
        harmful=_fewer(held.harmful, n_prompts),
        benign=_fewer(held.benign, n_prompts),
        task=_fewer(held.task, n_prompts),
        layer_sets=layer_sets,
        strengths=strengths,
        positions=positions,
        judge=judge or config.get("judge") or held.lineage.judge,
        prompts=prompts,
        max_new_tokens=config.get("max_new_tokens", 32),
        cache=run.folder / FOLDER,
        about={"run": run.id, "arm": _arm_of(config), "lineage": held.lineage.name},
        on_progress=on_progress,
    )


def sources_of_run(run: Run, lineage: Lineage, *, device: str | None = None) -> dict[str, Source]:
    """Return what loads a run's aligned and fine-tuned model, by name.

    Raises:
        RunError: If the run kept no model.
    """
    if not (folder := run.folder / MODEL).is_dir():
        raise RunError(
            f"{run.folder}: kept no model; run it again with --save-model (of an experiment: "
            "--save-models)."
        )
    aligned = lineage.aligned
    on_disk = Checkpoint.of(lineage, aligned, device=device)
    return {
        "aligned": on_disk or (lambda: lineage.load_model(aligned, device=device)),
        "fine-tuned": Checkpoint(folder, lineage.chat, aligned.dtype, device, lineage.overflow),
    }


def directions_of_run(run: Run) -> ReversionDirections:
    """Return what a run was measured along: beside it, or what its experiment shares.

    Raises:
        RunError: If neither is there.
    """
    if (beside := run.folder / DIRECTIONS).is_file():
        return ReversionDirections.load(beside)
    told = run.info["config"].get("directions")
    for path in sorted(run.folder.absolute().parents[1].glob(f"lineages/*/{DIRECTIONS}")):
        if file_hash(path) == told:
            return ReversionDirections.load(path)
    raise RunError(f"{run.folder}: no directions here or in its experiment; give directions=….")


def _arm_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a run did, as figures need it to choose a style."""
    arm = config.get("arm")
    if isinstance(arm, Mapping):
        return {name: arm.get(name) for name in ("name", "intervention", "direction")}
    several = config.get("interventions") or ()
    name = " and ".join(str(one.get("name")) for one in several) or "ordinary"
    return {"name": name, "intervention": name if several else "none", "direction": None}


def _fewer(probes: ProbeSet, count: int) -> ProbeSet:
    """At most so many of the probes, evenly spaced."""
    total = len(probes)
    chosen = sorted({number * total // count for number in range(count)}) if count < total else ()
    return replace(probes, probes=tuple(probes.probes[i] for i in chosen)) if chosen else probes
