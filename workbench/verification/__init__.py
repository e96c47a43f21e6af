"""Verification: what lies in a folder held against itself, with every number made again."""

from pathlib import Path

from workbench.errors import RunError
from workbench.passage import is_passage
from workbench.verification.experiment import verify_experiment
from workbench.verification.findings import Findings
from workbench.verification.passage import verify_passage
from workbench.verification.run import verify_run


def verify(folder: str | Path) -> Findings:
    """Check a run, an experiment or a passage; nothing is written.

    Args:
        folder: Which; one that is being written is checked as it stands.

    Returns:
        What is wrong with it, each in one line with the file, and what was checked.

    Raises:
        RunError: If it holds none of the three.
    """
    folder, findings = Path(folder), Findings()
    if is_passage(folder):
        verify_passage(folder, findings)
    elif (folder / "run.json").exists():
        verify_run(folder, findings)
    elif (folder / "experiment.json").exists() or (folder / "runs").is_dir():
        verify_experiment(folder, findings)
    else:
        raise RunError(f"{folder}: neither a run, nor an experiment or passage.")
    return findings
