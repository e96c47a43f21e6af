"""What a tool brings to a job: a name, how to begin, and what its result can be compared with."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from peer_worlds import World

TOOLS = (
    "workbench",
    "hf",
    "transformer_lens",
    "transformer_lens_3",
    "nnsight",
    "nnterp",
    "steering_vectors",
    "repeng",
    "safety_compass",
)
JOBS = ("means", "directions", "fit", "drift", "trainer", "hooks")
Given = Literal["tokens", "text"]
Compared = Literal["all", "but last", "none"]
Prepare = Callable[[World], Callable[[], Any]]
"""Sets up one round, untimed; what it returns is timed, and returns an array to compare or None."""


@dataclass(frozen=True)
class Entry:
    """One way of doing a job with one tool."""

    job: str
    name: str
    """What is called, as a user of the tool would say it."""

    start: Callable[[World], Prepare]
    """Loads what stays loaded from one round to the next."""

    given: Given = "tokens"
    """Whether it begins with tokens in our batches or has to make them of texts."""

    limit: bool = False
    """Whether it is the work without the job: what no tool can be faster than."""

    compared: Compared = "all"
    """Layers whose result is the same quantity as ours."""

    note: str = ""
    """How it differs from what the others do."""


def entries_of(tool: str, job: str) -> list[Entry]:
    """Return the ways in which a tool does a job."""
    return [entry for entry in import_module(f"tools.{tool}").ENTRIES if entry.job == job]


def find_entry(tool: str, job: str, name: str) -> Entry:
    """Return one of them by its name."""
    (found,) = [entry for entry in entries_of(tool, job) if entry.name == name]
    return found
