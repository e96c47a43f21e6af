"""A run held against itself: settings, records, drift files, answers, states and manifest."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from workbench.config import is_sealed, settings_hash
from workbench.drift_files import DriftFiles, made_from
from workbench.files import drafts_in, file_hash
from workbench.grids import stored_grids
from workbench.info import RUN_JSON
from workbench.locks import is_held
from workbench.manifest import names_in, unlike_manifest
from workbench.runs import Run
from workbench.standing import Standing, recipe_of
from workbench.surroundings import DIRECTIONS, Surroundings, home_of
from workbench.verification.answers import verify_answers
from workbench.verification.findings import Findings
from workbench.verification.numbers import differences, drift_again

Line = Mapping[str, Any]


def verify_run(folder: Path, findings: Findings) -> None:
    """Check one run; what is wrong goes to `findings`.

    Args:
        folder: Of the run.
        findings: Filled.
    """
    run = Run(folder)
    with findings.catching():
        info = run.info
        findings.checked["run"] += 1
        if not is_sealed(info):
            findings.fault(folder / RUN_JSON, "says something else than what was written")
        if is_held(folder / "lock"):
            findings.remarks.append(f"{folder}: being written, as its lock says")
        lines = run.lines
        findings.checked["record"] += len(lines)
        if (standing := Standing.of(run)).state in ("stopped", "failed"):
            findings.remarks.append(f"{folder}: not finished, {_told(standing)}")
        _verify_steps(run, info, lines, findings)
        _verify_drift(run, info, lines, findings)
        verify_answers(run, info["config"], lines, findings)
        _verify_ending(run, info, findings)
        _verify_grids(run, findings)


def _told(standing: Standing) -> str:
    """How far a run came, and why no further."""
    of = "" if standing.steps is None else f" of {standing.steps}"
    return f"it came to step {standing.step}{of}: {standing.why}"


def _verify_steps(run: Run, info: Line, lines: Sequence[Line], findings: Findings) -> None:
    """Steps are those that the settings ask for, as far as the run has come."""
    config, records = info["config"], run.folder / "records.jsonl"
    recipe, done = recipe_of(config), info["status"] == "done"
    steps = [line["step"] for line in lines]
    last = steps[-1] if steps else 0
    if recipe is None:
        return
    # A Trainer tells the loss of some steps only, and a callback of its may end it early.
    trainer = "trainer" in config
    if trainer and done and last < recipe.steps:
        findings.remarks.append(f"{run.folder}: ended at step {last} of {recipe.steps}")
    elif done and last != recipe.steps:
        findings.fault(records, f"ends at step {last}, but the run is done and has {recipe.steps}")
    if last > recipe.steps:
        findings.fault(records, f"goes on to step {last}, but the run has {recipe.steps}")
    if not trainer:
        for before, step in pairwise(steps):
            if step != before + 1:
                findings.fault(records, f"step {step} follows step {before}")
        if steps and steps[0] > 1:
            findings.fault(records, f"begins at step {steps[0]}")
    wanted = {"measured": ("drift", recipe.measured_steps)}
    if config.get("directions") is None:
        wanted["measured"] = ("drift", ())
    if "evaluate_at" in config:
        wanted["evaluated"] = ("scores", config["evaluate_at"])
    for what, (key, at) in wanted.items():
        due = {step for step in at if step <= last and steps}
        found = {line["step"] for line in lines if key in line}
        # A Trainer measures where it ends, unless it has loaded its best weights by then; resumed
        # with more steps, it ends once more.
        for step in sorted(due - found - {last} if trainer else due ^ found):
            told = "is not" if step in due else "is"
            findings.fault(records, f"step {step} {told} {what}, other than its settings say")


def _verify_drift(run: Run, info: Line, lines: Sequence[Line], findings: Findings) -> None:
    """Each measured line has its file, and its numbers are those that the file gives."""
    files, measured = DriftFiles(run.folder / "drift"), [line for line in lines if "drift" in line]
    _verify_strays(files, info, lines, findings)
    around = Surroundings()
    with findings.catching():
        around = _directions(run, info["config"], findings)
    if not measured:
        return
    for line in measured:
        with findings.catching():
            _verify_line(files, line, around, info["config"], findings)


def _verify_line(
    files: DriftFiles, line: Line, around: Surroundings, config: Line, findings: Findings
) -> None:
    step, told = line["step"], line["drift"]
    path = files.path(step)
    kept = files.load(step, told["sha256"])
    findings.checked["drift file"] += 1
    if (source := files.source(step)) != made_from(config) | {"step": step}:
        findings.fault(path, f"was made from something else than this run ({source.get('step')})")
    vector, projections, layers = kept["vector"], kept["projections"], len(told["alignment"])
    if vector.ndim != 2 or projections.ndim != 2 or {len(vector), len(projections)} != {layers}:
        findings.fault(path, f"holds {vector.shape} and {projections.shape}, not {layers} layers")
    elif around.unit is None or around.gap is None:
        return
    elif around.unit.shape != vector.shape or len(around.gap) != layers:
        findings.fault(path, f"holds {vector.shape}, but v_rev is {around.unit.shape}")
    else:
        again = drift_again(kept, around.unit, around.gap)
        for difference in differences(told, again, around.gap):
            findings.fault(files.folder.parent / "records.jsonl", f"step {step}: {difference}")
        findings.checked["number"] += 4 * layers + 3


def _verify_strays(
    files: DriftFiles, info: Line, lines: Sequence[Line], findings: Findings
) -> None:
    """No drift file is without its line, but for those after the last that a kill may leave."""
    measured = {line["step"] for line in lines if "drift" in line}
    last = lines[-1]["step"] if lines else -1
    for step in files.steps():
        if step not in measured and (step <= last or info["status"] == "done"):
            findings.fault(files.path(step), "no record of this step is measured")


def _directions(run: Run, config: Line, findings: Findings) -> Surroundings:
    """The directions that the settings name, if they are there."""
    home, told = home_of(run), config.get("directions")
    around, path = Surroundings.at(home), home / DIRECTIONS
    if told is None:
        return around
    if around.unit is None:
        what = f"{path}: is missing: along and across cannot be made again"
        # One that was killed before it stored them has measured nothing either; those of a run
        # that was copied out of its experiment stayed there.
        if run.measured:
            (findings.remarks if isinstance(told, str) else findings.faults).append(what)
    elif isinstance(told, str) and file_hash(path) != told:
        findings.fault(path, "not the file that the run was made with")
    elif isinstance(told, Mapping):
        provenance = {k: v for k, v in around.provenance.items() if k != "prompts"}
        if changed := sorted(k for k in {*told, *provenance} if told.get(k) != provenance.get(k)):
            findings.fault(path, f"other directions than the run's ({', '.join(changed[:5])})")
    return around


def _verify_grids(run: Run, findings: Findings) -> None:
    """Ablation grids say what was written; their numbers need the model."""
    with findings.catching():
        findings.checked["ablation grid"] += len(stored_grids(run))


def _verify_ending(run: Run, info: Line, findings: Findings) -> None:
    """A finished run is as its manifest says; another has a state that its records reach."""
    for draft in drafts_in(run.folder):
        findings.remarks.append(f"{draft}: left by a writer that was killed; resuming removes it")
    if info["status"] == "done":
        if "files" not in info:
            findings.fault(run.folder / "run.json", "the run is done, but lists no files")
            return
        findings.checked["file"] += len(info["files"])
        findings.faults += unlike_manifest(run.folder, info["files"])
        for name in [one for one in names_in(run.folder) if one not in info["files"]]:
            findings.remarks.append(f"{run.folder / name}: came after the run had ended")
        return
    run.states.load()
    if (state := run.states.last()) is None:
        return
    findings.checked["state"] += 1
    where = run.folder / "state" / f"{state['step']:06d}"
    if state["config"] != settings_hash(info["config"]):
        findings.fault(where, "was made with other settings than run.json says")
    run.states.check_records(run.folder / "records.jsonl")
