"""Findings: what a verification has looked at, and what is wrong."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from workbench.errors import WorkbenchError


@dataclass
class Findings:
    """Filled while something is verified."""

    faults: list[str] = field(default_factory=list)
    """Each in one line, with the file."""

    remarks: list[str] = field(default_factory=list)
    """What is no fault but good to know, such as what could not be checked."""

    checked: Counter[str] = field(default_factory=Counter)
    """How many of what was looked at."""

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    def fault(self, where: object, what: str) -> None:
        """Note that something is wrong."""
        self.faults.append(f"{where}: {what}")

    @contextmanager
    def catching(self) -> Iterator[None]:
        """Take our own errors, which name their file, as faults."""
        try:
            yield
        except WorkbenchError as error:
            self.faults.append(str(error).rstrip("."))
