"""Does one job with one tool in a process of its own: JSON lines in, JSON lines out.

`load` answers with versions, `run` with what the job took and where its result is, `memory` with
the peak that one run adds. What a tool prints goes to standard error.
"""

import ctypes
import gc
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
FEW = 16


class Server:
    """The job of one entry, loaded."""

    def __init__(self, message: dict[str, Any]) -> None:
        import torch
        from entries import find_entry
        from peer_worlds import World

        torch.set_num_threads(message["threads"])
        self.world = World.load(message["world"], message["prompts"])
        self._prepare = find_entry(message["tool"], message["job"], message["entry"]).start(
            self.world
        )

    def run(self, out: str | None) -> dict[str, Any]:
        """Do the job and say what it took; collecting garbage is part of it for nobody."""
        import numpy as np

        job = self._prepare(self.world)
        tidy()
        started = time.perf_counter(), cpu_seconds()
        result = job()
        taken = time.perf_counter() - started[0], cpu_seconds() - started[1]
        if out is not None and result is not None:
            np.save(out, np.asarray(result))
        return {"wall": taken[0], "cpu": taken[1], "result": out if result is not None else None}

    def memory(self) -> dict[str, Any]:
        """Say how far resident memory rises above what a few prompts and one step leave behind."""
        self._prepare(self.world.first(FEW, steps=1))()
        job = self._prepare(self.world)
        tidy()
        reset = _reset_peak()
        before = _status("VmRSS")
        job()
        return {"peak": max(0, _status("VmHWM") - before), "reset": reset, "before": before}


def cpu_seconds() -> float:
    """Return what all threads of this process took, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def tidy() -> None:
    """Give back what is no longer needed, so that idle processes stay out of each other's way."""
    gc.collect()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def _status(name: str) -> int:
    """A field of /proc/self/status, in bytes."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def _reset_peak() -> bool:
    """Forget the highest memory so far; whether that is allowed."""
    try:
        CLEAR.write_text("5")
    except OSError:
        return False
    return True


def main() -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    server: Server | None = None
    for line in sys.stdin:
        message = json.loads(line)
        try:
            if message["do"] == "load":
                server = Server(message)
                answer: dict[str, Any] = {"ready": True}
            elif message["do"] == "run":
                answer = server.run(message["out"])
            else:
                answer = server.memory()
        except Exception as error:
            first = next(iter(str(error).strip().splitlines()), "")
            answer = {"error": f"{type(error).__name__}: {first}"[:300]}
            import traceback

            traceback.print_exc()
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
