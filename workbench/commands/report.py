"""`workbench report`: write report.html of an experiment or run."""

from argparse import Namespace
from pathlib import Path

from workbench.plots.report import write_report
from workbench.storing import check_writable
from workbench.text import printable


def run(arguments: Namespace) -> None:
    """Write report.html."""
    folder = Path(arguments.folder)
    out = Path(arguments.out or folder / "report.html")
    check_writable(out.parent)
    write_report(folder, out)
    print(printable(out))
