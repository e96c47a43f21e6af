"""A lock file that names its holder, so that a stale one can be told from a live one."""

import errno
import json
import os
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workbench.errors import RunError
from workbench.files import draft_of
from workbench.storing import writing

NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
"""How file systems say that they have no hard links."""


def take_lock(path: Path, *, break_lock: bool = False) -> str:
    """Create the lock file at `path`, replacing one whose holder is gone.

    Args:
        path: The lock file.
        break_lock: Also replace one whose holder is, or may be, there; it stops at its next write.

    Returns:
        Its nonce, for `check_lock` and `release_lock`.

    Raises:
        RunError: If another process holds it, or may hold it on another machine.
    """
    if path.exists():
        holder = _holder(path)
        # It may have been released between the two.
        if path.exists() and not (break_lock or _gone(holder)):
            raise RunError(
                f"{path.parent}: being written by process {holder.get('pid')} on "
                f"{holder.get('host')}{_advice(holder)}."
            )
        _remove(path, holder)
    nonce = uuid.uuid4().hex
    try:
        _create(path, json.dumps({**_this_process(), "nonce": nonce}).encode())
    except FileExistsError:
        raise _overtaken(path) from None
    return nonce


@contextmanager
def locked(path: Path, *, break_lock: bool = False) -> Iterator[Callable[[], None]]:
    """Hold the lock file at `path` while open.

    Args:
        path: The lock file.
        break_lock: As of `take_lock`.

    Yields:
        What raises `RunError` once another process has taken it over; to be called before a write.

    Raises:
        RunError: As of `take_lock`.
    """
    nonce = take_lock(path, break_lock=break_lock)
    try:
        yield lambda: check_lock(path, nonce)
    finally:
        release_lock(path, nonce)


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock file at `path`, or may on another machine."""
    return path.exists() and not _gone(_holder(path))


def check_lock(path: Path, nonce: str) -> None:
    """See that the lock is still the one that `take_lock` gave `nonce` for.

    Raises:
        RunError: If another process has taken it over.
    """
    if (holder := _holder(path)).get("nonce") != nonce:
        gone = "" if holder else " and ended, or its lock was removed"
        raise RunError(
            f"{path.parent}: another process has taken it over{gone}; this one writes nothing more."
        )


def release_lock(path: Path, nonce: str) -> None:
    """Remove the lock, unless another process has taken it over."""
    if _holder(path).get("nonce") == nonce:
        path.unlink(missing_ok=True)


def _create(path: Path, content: bytes) -> None:
    """Create a file with its content in one step, so that a crash leaves no empty lock."""
    draft = draft_of(path)
    try:
        with writing(path), draft.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            path.hardlink_to(draft)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            with path.open("xb") as file:
                file.write(content)
    finally:
        draft.unlink(missing_ok=True)


def _remove(path: Path, holder: Mapping[str, Any]) -> None:
    """Remove the lock of `holder`, unless another process has replaced it in the meantime."""
    aside = draft_of(path)
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
        holder = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _gone(holder: Mapping[str, Any]) -> bool:
    """Whether a holder is certainly gone: it ran on this host, and does not any more."""
    here = _this_process()
    if holder.get("host") != here["host"]:
        return False
    if holder.get("boot") != here["boot"]:
        return True
    pid = holder.get("pid")
    if type(pid) is not int or pid < 1:
        return False
    if here["started"] is None:
        return not _alive(pid)
    started = _started(pid)
    return started is None or started != holder.get("started")


def _advice(holder: Mapping[str, Any]) -> str:
    """What to do about a holder that is there, or may be."""
    if holder.get("host") == socket.gethostname():
        return ", which lives; wait for it or stop it (--break-lock if this folder is a copy)"
    return "; if that process is gone, use --break-lock"


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
