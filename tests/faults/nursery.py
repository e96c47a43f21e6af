"""Processes that run `workbench`, forked from one that has imported torch once.

A nursery forks a process for a command line. It can also *prime* one: a process that has run a
fine-tuning's command line up to where it creates or resumes its run, and is forked there, again and
again, each time into another store. So a run is started, killed and resumed in a tenth of a second.
"""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 120.0


@dataclass(frozen=True)
class Ended:
    """How a process ended, and what it printed."""

    status: int
    """Exit status; of a killed one, the negative signal."""

    told: str


class Job:
    """A process under way."""

    def __init__(self, connection, output):
        self._connection, self.output = connection, output
        self._lines = connection.makefile()
        self.pid = json.loads(self._lines.readline())["pid"]

    def kill(self):
        """Kill it outright, unless it has ended already."""
        os.kill(self.pid, signal.SIGKILL)  # its parent has not asked for its status: it is there

    def alive(self):
        """Whether it is still there."""
        return _alive(self.pid)

    def wait_for_pause(self):
        """Wait until it has stopped itself."""
        end = time.monotonic() + PATIENCE
        while (state := _state(self.pid)) != "T":
            assert state not in "ZX", f"ended before it paused: {self.output.read_text()}"
            assert time.monotonic() < end, "does not pause"
            time.sleep(0.001)

    def go_on(self):
        """Let it go on after its pause."""
        os.kill(self.pid, signal.SIGCONT)

    def wait(self):
        """Wait for its end."""
        self._connection.settimeout(PATIENCE)
        try:
            self._connection.sendall(b"reap\n")
            status = json.loads(self._lines.readline())["status"]
        except TimeoutError:
            self.kill()
            raise AssertionError(f"hangs; it said {self.output.read_text()!r}") from None
        finally:
            self._lines.close()
            self._connection.close()
        told = self.output.read_text(errors="replace")
        self.output.unlink()
        return Ended(status, told)


class Nursery:
    """A process that forks others; close it.

    Args:
        folder: For sockets and outputs.
    """

    def __init__(self, folder, address=None):
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._primed = {}
        self._process = None
        self._numbers, self._stem = itertools.count(), address.stem if address else "n"
        self._address = address or self._new("socket")
        if address is None:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__)), str(self._address)],
                env=environment(),
                stdin=subprocess.DEVNULL,
            )
            self._await(self._address)

    def start(self, argv=(), *, root=None, at=None, fault=None, log=None):
        """Fork a process that runs a command line.

        Args:
            argv: Arguments of `workbench`; of a primed one, none.
            root: The folder whose operations count; of a primed one, the store as well.
            at: Which operation fails.
            fault: How; see `operations`.
            log: Where operations are listed.
        """
        output = self._new("txt")
        faults = {"root": str(root), "at": at, "fault": fault, "log": log and str(log)}
        return self._ask({
            "argv": [str(part) for part in argv],
            "output": str(output),
            "faults": faults if log or fault else None,
            "root": root and str(root),
        }, output)  # fmt: skip

    def run(self, argv=(), **options):
        """Fork, and wait for the end."""
        return self.start(argv, **options).wait()

    def prime(self, argv):
        """A nursery of processes that have come to where their run is created or resumed."""
        key = tuple(map(str, argv))
        if key not in self._primed:
            address, output = self._new("socket"), self._new("txt")
            job = self._ask({"argv": [*key], "output": str(output), "prime": str(address)}, output)
            self._await(address, job)
            self._primed[key] = Nursery(self._folder, address)
        return self._primed[key]

    def close(self):
        """End it, and those that it primed."""
        for primed in self._primed.values():
            primed.close()
        with self._connect() as connection:
            connection.sendall(b"{}\n")
            connection.makefile().read()
        if self._process is not None:
            self._process.wait(PATIENCE)

    def _ask(self, request, output):
        output.touch()  # the process may be killed before it opens it
        connection = self._connect()
        connection.sendall(json.dumps(request).encode() + b"\n")
        return Job(connection, output)

    def _connect(self):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self._address))
        return connection

    def _await(self, address, job=None):
        end = time.monotonic() + PATIENCE
        while not address.exists():
            assert time.monotonic() < end, "the nursery did not start"
            if job is not None and not _alive(job.pid):
                raise AssertionError(f"not primed: {job.output.read_text()}")
            time.sleep(0.01)

    def _new(self, suffix):
        return self._folder / f"{self._stem}-{next(self._numbers)}.{suffix}"


@contextmanager
def nursery(folder):
    """Open a nursery for a while."""
    opened = Nursery(folder)
    try:
        yield opened
    finally:
        opened.close()


def environment():
    """Of a process that gives the same bits each time, with the package of this checkout."""
    tests = Path(__file__).parents[1]
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONPATH": f"{tests.parent}{os.pathsep}{Path(__file__).parent}",
    }


def _alive(pid):
    return _state(pid) not in "ZX"


def _state(pid):
    """A letter, as in proc(5)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def _serve(address):
    """Fork at every request; return the request, in the forked process only."""
    server = socket.socket(socket.AF_UNIX)
    draft = f"{address}.new"
    server.bind(draft)
    server.listen()
    server.settimeout(5)
    Path(draft).rename(address)
    parent = os.getppid()
    while True:
        try:
            connection, _ = server.accept()
        except TimeoutError:
            if os.getppid() != parent:
                os._exit(0)
            continue
        connection.settimeout(None)
        lines = connection.makefile()
        if not (request := json.loads(lines.readline())):
            os._exit(0)
        if (pid := os.fork()) == 0:
            lines.close()
            connection.close()
            server.close()
            output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            return request
        connection.sendall(json.dumps({"pid": pid}).encode() + b"\n")
        if "prime" in request:
            continue  # a primed process lives as long as its nursery
        lines.readline()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        connection.sendall(json.dumps({"status": status}).encode() + b"\n")
        lines.close()
        connection.close()


def _prime(address):
    """Let a fine-tuning wait where its run is created or resumed, to be forked there."""
    from workbench import RunStore

    def waiting(method):
        def wait(self, *args, **options):
            request = _serve(address)
            self.root = Path(request["root"])
            _install(request)
            return method(self, *args, **options)

        return wait

    for name in ("create", "resume"):
        setattr(RunStore, name, waiting(getattr(RunStore, name)))
    RunStore.vacant = lambda self, run_id: self.root / run_id


def _install(request):
    if request.get("faults"):
        from operations import Operations

        Operations(**request["faults"]).install()


def _main():
    import peft  # noqa: F401
    import torch
    import transformer_lens  # noqa: F401

    import workbench.commands.experiment
    import workbench.commands.finetune
    import workbench.commands.read
    import workbench.experiment  # noqa: F401
    from workbench.cli import main

    torch.set_num_threads(1)
    request = _serve(sys.argv[1])
    if "prime" in request:
        _prime(request["prime"])
    else:
        _install(request)
    sys.argv = ["workbench", *request["argv"]]
    try:
        status = main(request["argv"])
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _main()
