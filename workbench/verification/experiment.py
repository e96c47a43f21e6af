"""An experiment held against itself: its plan, its runs, its nulls, and its summary made again."""

from pathlib import Path

import numpy as np

from workbench.archive import Archive, read_json, read_tensors
from workbench.config import changed_settings
from workbench.files import json_bytes
from workbench.manifest import unlike_manifest
from workbench.nulls import isotropic_null, matched_null
from workbench.significance import BareDirections
from workbench.summary import summary_of
from workbench.surroundings import DIRECTIONS, Surroundings
from workbench.verification.findings import Findings
from workbench.verification.run import verify_run

TOLERANCE = 1e-6
"""Of a percentile between −1 and 1."""


def verify_experiment(folder: Path, findings: Findings) -> None:
    """Check an experiment and every run of it; what is wrong goes to `findings`.

    Args:
        folder: Of the experiment; of one that is not finished its runs are checked.
        findings: Filled.
    """
    findings.checked["experiment"] += 1
    for path in sorted(folder.glob("runs/[!.]*/run.json")):
        verify_run(path.parent, findings)
    if not (folder / "experiment.json").is_file():
        if (folder / "summary.json").is_file():
            findings.fault(folder / "experiment.json", "is missing, though there is a summary")
        findings.remarks.append(f"{folder}: not finished; continue it with --resume")
        return
    with findings.catching():
        archive = Archive.open(folder)
        _verify_plan(archive, findings)
        for place in archive.lineage_folders().values():
            with findings.catching():
                _verify_nulls(place, findings)
        with findings.catching():
            _verify_summary(archive, findings)


def _verify_plan(archive: Archive, findings: Findings) -> None:
    """Every run was made as the plan says, and every run of the plan is there once."""
    plan, path = archive.plan, archive.folder / "experiment.json"
    arms = {arm["name"]: arm for arm in plan["arms"]}
    findings.faults += unlike_manifest(archive.folder, plan["files"])
    findings.checked["file"] += len(plan["files"])
    due = len(plan["arms"]) * len(plan["seeds"]) * len(plan["lineages"])
    if len({*plan["runs"]}) != due:
        findings.fault(path, f"names {len({*plan['runs']})} runs; its arms and seeds make {due}")
    for run in (run for runs in archive.by_arm.values() for run in runs):
        config = run.info["config"]
        wanted = {"recipe": plan["recipe"], "arm": arms[config["arm"]["name"]]}
        if "evaluate_at" in config:
            wanted["evaluate_at"] = plan["evaluated_steps"]
        told = {name: config[name] for name in wanted}
        if changed := changed_settings(told, wanted):
            findings.fault(run.folder, f"made with other settings than {path}: {changed[0]}")
        if config["seed"] not in plan["seeds"]:
            findings.fault(run.folder, f"of seed {config['seed']}, which {path} lacks")
    for about in plan["lineages"]:
        place = archive.folder / "lineages" / about["folder"]
        for role, phase in Surroundings.at(place).roles.items():
            if about[role] != phase:
                findings.fault(
                    path, f"the {role} is {about[role]!r}, of {place / DIRECTIONS} {phase!r}"
                )
    present = {file.parent.name for file in archive.folder.glob("runs/[!.]*/run.json")}
    for name in sorted(present - {*plan["runs"]}):
        findings.remarks.append(f"{archive.folder / 'runs' / name}: no run of this experiment")


def _verify_nulls(place: Path, findings: Findings) -> None:
    """The stored percentiles are those of v_rev and of the stored readings."""
    path = place / "nulls.json"
    if not path.is_file():
        return
    stored, directions = read_json(path), read_tensors(place / "directions.safetensors")
    again = {"isotropic": isotropic_null(BareDirections(directions["unit"]))}
    if (place / "evidence.safetensors").is_file():
        kept = read_tensors(place / "evidence.safetensors")
        clusters = kept["measured_clusters"].tolist()
        again["matched"] = matched_null(
            BareDirections(directions["unit"]), kept["acts"], clusters=clusters
        )
    for name, null in again.items():
        told = np.array(stored[name]["p99"], dtype=float)
        if told.shape != null.p99.shape or np.abs(told - null.p99).max() > TOLERANCE:
            findings.fault(path, f"the 99th percentiles of the {name} null are others")
        findings.checked["number"] += null.p99.size


def _verify_summary(archive: Archive, findings: Findings) -> None:
    """summary.json has the very bytes that the runs give."""
    path = archive.folder / "summary.json"
    if not path.is_file():
        # Killed before it was written, nothing is lost: it says what the runs say.
        findings.remarks.append(
            f"{path}: is missing; write it with `workbench experiment --recompute`"
        )
    elif path.read_bytes() != json_bytes(again := summary_of(archive)):
        changed = changed_settings(read_json(path), again)
        findings.fault(
            path,
            f"not what the runs give ({', '.join(changed[:5]) or 'the order of keys'}); write it "
            "again with `workbench experiment --recompute`",
        )
