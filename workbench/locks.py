"""A lock file that names its holder, so that a stale one can be told from a live one."""

import json
import os
import socket
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.errors import RunError


def take_lock(path: Path, *, break_lock: bool = False) -> None:
    """Create the lock file at `path`, replacing one whose holder is gone.

    Args:
        path: The lock file.
        break_lock: Also replace one whose holder cannot be seen from here.

    Raises:
        RunError: If another process holds it, or may hold it on another machine.
    """
    if path.exists():
        holder = _holder(path)
        if not (break_lock or _gone(holder)):
            raise RunError(
                f"{path.parent}: being written by process {holder.get('pid')} on "
                f"{holder.get('host')}; if that process is gone, use --break-lock."
            )
        _remove(path, holder)
    try:
        with path.open("x") as file:
            json.dump({**_this_process(), "nonce": uuid.uuid4().hex}, file)
    except FileExistsError:
        raise _overtaken(path) from None


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock file at `path`, or may on another machine."""
    return path.exists() and not _gone(_holder(path))


def _remove(path: Path, holder: Mapping[str, Any]) -> None:
    """Remove the lock of `holder`, unless another process has replaced it in the meantime."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    if _holder(aside) != holder:
        aside.rename(path)
        raise _overtaken(path)
    aside.unlink()


def _overtaken(path: Path) -> RunError:
    return RunError(f"{path.parent}: another process has just begun to write it.")


def _holder(path: Path) -> dict[str, Any]:
    """What a lock file says; nothing if it is damaged."""
    try:
        holder = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _gone(holder: Mapping[str, Any]) -> bool:
    """Whether a holder is certainly gone: it ran on this host, and does not any more."""
    here = _this_process()
    if holder.get("host") != here["host"]:
        return False
    if holder.get("boot") != here["boot"]:
        return True
    pid = holder.get("pid", 0)
    if here["started"] is None:
        return not _alive(pid)
    started = _started(pid)
    return started is None or started != holder.get("started")


def _this_process() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "boot": _read("/proc/sys/kernel/random/boot_id"),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
    }


def _started(pid: int) -> str | None:
    """When a process began, in clock ticks since boot, so that a reused pid is told apart."""
    if (text := _read(f"/proc/{pid}/stat")) is None:
        return None
    fields = text.rpartition(")")[2].split()
    # A killed process whose parent never asks for its exit status stays listed as a zombie.
    return None if fields[0] in "ZX" else fields[19]


def _alive(pid: int) -> bool:
    """Whether a process exists, for systems without /proc."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
