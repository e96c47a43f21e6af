"""Writing that fails in one line: which file, why, and what to do."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench.errors import RunError, StorageError, WorkbenchError

_AGAIN = "then resume or repeat"
_MENDS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), f"make room, {_AGAIN}"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), f"make it writable, {_AGAIN}"),
    errno.EIO: f"see to the disk, {_AGAIN}",
    errno.ENOENT: "make its folder first",
}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file in what is raised when it cannot be written.

    Args:
        path: The file or folder that is written while open.

    Raises:
        StorageError: If the system refused.
    """
    try:
        yield
    except WorkbenchError:
        raise
    except Exception as error:
        if (number := _system_error(error)) is None:
            raise
        mend = _MENDS.get(number, "choose another")
        raise StorageError(f"{path}: cannot be written ({os.strerror(number)}); {mend}.") from error


def _system_error(error: Exception) -> int | None:
    """The system's number of an error; libraries in Rust have it in their text only."""
    if isinstance(error, OSError):
        return error.errno
    told = re.search(r"\(os error (\d+)\)", str(error))
    return int(told[1]) if told else None


def check_writable(folder: Path) -> None:
    """Refuse an output folder that cannot be written, or made; nothing is made yet.

    Raises:
        RunError: If so.
    """
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        raise RunError(f"{folder}: cannot be written; make it writable, or choose another.")
