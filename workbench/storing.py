"""Writing that fails in one line: which file, why, and what to do."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench.errors import RunError, StorageError, WorkbenchError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file in what is raised when it cannot be written.

    Args:
        path: What is written while open, unless the error itself names it.

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
        told = getattr(error, "filename", None)
        place = Path(os.fsdecode(told)) if isinstance(told, str | bytes) else path
        mend = "make room" if number in _FULL else "make it writable"
        raise StorageError(
            f"{place}: cannot be written ({os.strerror(number)}); {mend}, then continue with "
            "--resume."
        ) from error


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
        raise RunError(f"{folder}: cannot be written; choose another output folder.")
