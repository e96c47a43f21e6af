"""Out of memory, told from other errors: one line that says where, and what to do about it."""

import errno
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from workbench.errors import OutOfMemoryError, WorkbenchError, causes

TRAINING = "a higher --accumulation (the same update in smaller parts), a smaller --batch-size or "
TRAINING += '--lora, or dtype = "bfloat16" in lineage.toml'
EVALUATING = 'a smaller --max-new-tokens, fewer prompts, or dtype = "bfloat16" in lineage.toml'
LOADING = 'dtype = "bfloat16" in lineage.toml, or a smaller model'

_SIGNS = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|not enough memory|bad_alloc"
    r"|can't start new thread|STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)
_SIZE = re.compile(r"tried to allocate ([\d.]+) ?(bytes|[KMGT]iB)", re.IGNORECASE)


@contextmanager
def enough_memory(doing: str, otherwise: str) -> Iterator[None]:
    """Turn what is raised for want of memory into one line.

    Args:
        doing: Where, such as `in step 3`.
        otherwise: What takes less.

    Raises:
        OutOfMemoryError: If what is done while open raised for want of memory.
    """
    try:
        yield
    except OutOfMemoryError:
        raise
    except Exception as error:
        if (cause := lack_of_memory(error)) is None:
            raise
        # What its frames hold would stay in memory for as long as the error does.
        for one in {error, cause}:
            traceback.clear_frames(one.__traceback__)
        raise OutOfMemoryError(
            f"Out of memory {doing}{_size(cause)}: free some (fewer --jobs) and resume, or begin "
            f"anew with {otherwise}; `workbench doctor LINEAGE` tells how much is needed."
        ) from error


def lack_of_memory(error: BaseException | None) -> BaseException | None:
    """Return which of an error and its causes is about memory; None if none is."""
    return next((one for one in causes(error) if _is_about_memory(one)), None)


def _is_about_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    if any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True  # PyTorch's own, which is not imported for it
    # Ours quote names and texts of others, which may say anything.
    return not isinstance(error, WorkbenchError) and _SIGNS.search(str(error)) is not None


def _size(error: BaseException) -> str:
    if (told := _SIZE.search(str(error))) is None:
        return ""
    number, unit = told.groups()
    if unit.lower() == "bytes":
        number, unit = f"{float(number) / 2**30:.2f}", "GiB"
    return f" ({number} {unit} more)"
