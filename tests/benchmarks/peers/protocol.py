"""The benchmark's side of a tool's process."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SERVER = Path(__file__).parent / "server.py"


class ToolError(RuntimeError):
    """A tool did not do a job; the message is its own first line."""


@dataclass(frozen=True)
class Task:
    """What a process is started for."""

    tool: str
    entry: str
    job: str
    world: str
    threads: int
    prompts: int | None = None


class Process:
    """One tool, loaded, doing nothing until it is asked; a context manager.

    Args:
        python: Interpreter of the tool's environment.
        task: What it is to do.
        log: File that gets what it prints.
        server: The program; another one only in tests.

    Raises:
        ToolError: If it cannot load.
    """

    def __init__(self, python: str, task: Task, log: Path, server: Path = SERVER) -> None:
        threads = str(task.threads)
        self._log = log.open("a", encoding="utf-8")
        self._process = subprocess.Popen(
            [python, str(server)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ
            | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
            | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "WANDB_MODE": "disabled"},
        )
        try:
            self._ask("load", **vars(task))
        except BaseException:
            self.close()
            raise

    def run(self, out: Path | None = None) -> dict[str, Any]:
        """Do the job once; with `out`, write its result there as .npy."""
        return self._ask("run", out=None if out is None else str(out))

    def memory(self) -> int:
        """Return the bytes that one run needs at its peak; ask a process that has done nothing."""
        answer = self._ask("memory")
        if not answer["reset"]:
            raise ToolError("This machine does not let a process reset its memory peak.")
        return answer["peak"]

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _ask(self, what: str, **message: Any) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": what, **message}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._process.wait()
            raise ToolError(f"Its process ended with status {self._process.returncode}.")
        answer = json.loads(line)
        if "error" in answer:
            raise ToolError(answer["error"])
        return answer
