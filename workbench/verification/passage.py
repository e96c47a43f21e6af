"""A passage held against itself: each phase's file, and the mean of its single prompts."""

from pathlib import Path

import numpy as np

from workbench.locks import is_held
from workbench.passage import ACTS, MEAN, PHASES, Passage, phase_file, read_about
from workbench.verification.findings import Findings

TOLERANCE = 1e-9
"""Relative to the largest value of a mean: both are sums in float64 of the same readings."""


def verify_passage(folder: Path, findings: Findings) -> None:
    """Check a passage; what is wrong goes to `findings`.

    Args:
        folder: Of the passage.
        findings: Filled.
    """
    with findings.catching():
        passage = Passage(folder)
        findings.checked["passage"] += 1
        if is_held(folder / "lock"):
            findings.remarks.append(f"{folder}: being written; checked as it stands")
        for name, why in passage.missing.items():
            findings.remarks.append(f"{folder}: {name} is missing: {why.rstrip('.')}")
        first = None
        for name in passage.phases:
            with findings.catching():
                about = _verify_phase(passage, name, findings)
                told = about["provenance"]
                alike = (told["tokens_hash"], told["probes_hash"], about["layers"])
                if alike != (first := first or alike):
                    findings.fault(_path(passage, name), "read on other tokens, probes or layers")
        known = {_path(passage, name) for name in passage.phases}
        for path in sorted((folder / PHASES).glob("[!.]*.safetensors")):
            if path not in known:
                findings.remarks.append(f"{path}: of no phase of this passage")


def _verify_phase(passage: Passage, name: str, findings: Findings) -> dict:
    path = _path(passage, name)
    about, mean = read_about(path), passage.mean(name)
    findings.checked["phase"] += 1
    if about["provenance"].get("phase") != name:
        findings.fault(path, f"is of phase {about['provenance'].get('phase')!r}, not {name!r}")
    if mean.ndim != 2 or len(mean) != len(about["layers"]):
        findings.fault(path, f"its mean is {mean.shape}, for {len(about['layers'])} layers")
    elif not np.isfinite(mean).all():
        findings.fault(path, "its mean is not finite")
    elif ACTS in about["tensors"]:
        acts = passage.acts(name).astype(np.float64)
        if (
            acts.ndim != 3
            or np.abs(acts.mean(axis=1) - mean).max() > TOLERANCE * np.abs(mean).max()
        ):
            findings.fault(path, f"its {MEAN} is not that of its {ACTS}")
        findings.checked["number"] += mean.size
    if passage.hashes(name) != about["provenance"].get("sha256"):
        findings.fault(path, "holds other numbers than were read; remove it and read it again")
    return about


def _path(passage: Passage, name: str) -> Path:
    return phase_file(passage.folder, name)
