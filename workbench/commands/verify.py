"""`workbench verify`: whether what is stored is whole, and its numbers are what they say."""

import json
from argparse import Namespace
from collections import Counter

from workbench.errors import RunError
from workbench.plots.style import counted
from workbench.text import printable
from workbench.verification import verify
from workbench.verification.findings import Findings


def run(arguments: Namespace) -> None:
    """Check runs, experiments and passages, and say what is wrong with each."""
    found = {folder: _verified(folder) for folder in arguments.folder}
    if arguments.json:
        told = {folder: vars(findings) for folder, findings in found.items()}
        print(json.dumps(told))
    else:
        for folder, findings in found.items():
            for line in (*findings.faults, *(f"note: {one}" for one in findings.remarks)):
                print(printable(line))
            if findings.sound:
                print(printable(f"{folder}: sound ({counts(findings.checked)})"))
    if faults := sum(len(findings.faults) for findings in found.values()):
        wrong = [folder for folder, findings in found.items() if not findings.sound]
        raise RunError(f"{', '.join(wrong)}: {counted(faults, 'fault')}.")


def _verified(folder: str) -> Findings:
    """What is found; that there is nothing to verify is a fault, too."""
    findings = Findings()
    with findings.catching():
        return verify(folder)
    return findings


def counts(checked: Counter[str]) -> str:
    """Return what was checked, in words."""
    return ", ".join(counted(number, name) for name, number in checked.items() if number)
