"""One job at one size with every tool: results compared, rounds interleaved, memory apart."""

import random
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from entries import Compared, Entry, entries_of
from environments import find
from protocol import Process, Task, ToolError

TOLERANCE = 1e-3
"""Largest relative difference between results that are called the same."""

Say = Callable[[str], None]


@dataclass
class Row:
    """What one entry took, in every round; plain values, as they are stored."""

    tool: str
    entry: str
    given: str
    limit: bool
    compared: Compared
    note: str
    wall: list[float] = field(default_factory=list)
    """Seconds, by round."""

    cpu: list[float] = field(default_factory=list)
    """Seconds of all threads, user and system, by round."""

    peak: int | None = None
    """Bytes that one run adds to resident memory at its peak."""

    difference: dict[str, float] | None = None
    """From our result: largest absolute, and norm relative to the norm of ours."""

    failure: str | None = None
    """Why there is no timing, or no memory, in the tool's own words."""

    @classmethod
    def of(cls, tool: str, entry: Entry) -> "Row":
        """Return the empty row of an entry."""
        told = asdict(entry)
        return cls(
            tool, told["name"], *(told[key] for key in ("given", "limit", "compared", "note"))
        )


def measure(
    job: str,
    world: Path,
    tools: Iterable[str],
    *,
    rounds: int,
    threads: int,
    prompts: int | None,
    logs: Path,
    memory: bool = True,
    only: Callable[[Entry], bool] = lambda _: True,
    say: Say = print,
) -> list[Row]:
    """Return what every entry of a job took; a tool that cannot do it says why."""
    rows: list[Row] = []
    tasks: list[Task] = []
    for tool in tools:
        for entry in filter(only, entries_of(tool, job)):
            rows.append(Row.of(tool, entry))
            tasks.append(Task(tool, entry.name, job, str(world), threads, prompts))
    with ExitStack() as processes, tempfile.TemporaryDirectory() as results:
        loaded: list[Process | None] = []
        for row, task in zip(rows, tasks, strict=True):
            with _failing(row, say):
                loaded.append(processes.enter_context(_start(task, logs)))
            loaded += [None] * bool(row.failure)
        live = [(row, one) for row, one in zip(rows, loaded, strict=True) if one is not None]
        _compare(live, Path(results), say)
        _time(live, rounds, say)
    for row, task in zip(rows, tasks, strict=True):
        if memory and not row.failure:
            with _failing(row, say), _start(task, logs) as process:
                row.peak = process.memory()
    return rows


def difference(result: np.ndarray, ours: np.ndarray, compared: Compared) -> dict[str, float]:
    """Return how far a result is from ours, over the layers where they are the same quantity."""
    if compared == "but last":
        result, ours = result[..., :-1, :], ours[..., :-1, :]
    if result.shape != ours.shape:
        raise ToolError(f"Its result has shape {result.shape}, ours {ours.shape}.")
    gap = np.abs(result.astype(float) - ours)
    return {
        "absolute": float(gap.max()),
        "relative": float(np.linalg.norm(gap) / np.linalg.norm(ours)),
    }


class _failing:
    """Keeps a tool's error in its row, and says it."""

    def __init__(self, row: Row, say: Say) -> None:
        self._row, self._say = row, say

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: Any, error: BaseException | None, _trace: Any) -> bool:
        if not isinstance(error, ToolError | FileNotFoundError):
            return False
        self._row.failure = str(error)
        self._say(f"  {self._row.tool}, {self._row.entry}: {error}")
        return True


def _start(task: Task, logs: Path) -> Process:
    environment = find(task.tool)
    if environment.failure:
        raise ToolError(f"Not installable: {environment.failure}")
    return Process(environment.python, task, logs / f"{task.tool}.log")


def _compare(live: list[tuple[Row, Process]], folder: Path, say: Say) -> None:
    """Run each once, untimed, and compare its result with our first."""
    ours: np.ndarray | None = None
    for number, (row, process) in enumerate(live):
        with _failing(row, say):
            path = folder / f"{number}.npy"
            found = process.run(path)["result"]
            if found is None or row.compared == "none":
                continue
            result: np.ndarray = np.load(found)
            ours = result if ours is None else ours
            row.difference = difference(result, ours, row.compared)


def _time(live: list[tuple[Row, Process]], rounds: int, say: Say) -> None:
    """Run all in turn, in another order each round; only one works at a time."""
    shuffled = random.Random(0)
    for number in range(rounds):
        order = [pair for pair in live if not pair[0].failure]
        shuffled.shuffle(order)
        for row, process in order:
            with _failing(row, say):
                took = process.run()
                row.wall.append(took["wall"])
                row.cpu.append(took["cpu"])
        say(f"  round {number + 1} of {rounds}")
