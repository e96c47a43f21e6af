"""`workbench doctor`: what is installed, and what a lineage needs."""

from argparse import Namespace

from workbench.doctor import installed, needed
from workbench.phases import Lineage
from workbench.text import printable


def run(arguments: Namespace) -> None:
    """Say what is installed, and what a lineage needs."""
    for line in installed():
        print(printable(line))
    if arguments.lineage:
        for line in needed(Lineage.load(arguments.lineage)):
            print(printable(line))
