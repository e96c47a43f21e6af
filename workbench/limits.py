"""Limits on what is read: a file is refused by its size, or by what it promises, before it is read.

They are far above what is met: 100 MB of vocabulary, 1 GB of training examples, a config of 70
billion weights. Nothing that is no plain file, such as a pipe or a device, is ever opened.
"""

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from reprlib import Repr
from typing import Any

from workbench.errors import WorkbenchError

MB, GB = 10**6, 10**9

MAX_LINEAGE_BYTES = MB
MAX_LINE_BYTES = MB
"""Of a line of JSONL."""

MAX_JSONL_BYTES = 16 * GB
MAX_JSON_BYTES = 100 * MB
"""Of what the workbench writes: plans, readouts, nulls, grids."""

MAX_CONFIG_BYTES = 4 * MB
"""Of config.json and the like, of a checkpoint or an adapter."""

MAX_INDEX_BYTES = 200 * MB
"""Of the list of a checkpoint's shards; 9 MB are met."""

MAX_TOKENIZER_BYTES = GB
"""Of any other file of text in a checkpoint: vocabulary, merges, chat template."""

MAX_VECTORS_BYTES = 256 * MB
"""Of a file of vectors, and of what is unpacked from it."""

MAX_TENSORS_BYTES = 8 * GB
"""Of what the workbench keeps of a run or lineage."""

MAX_STATE_BYTES = 4_000 * GB
"""Of a training state: weights and two moments in float32."""

MAX_READING_BYTES = 256 * GB
"""Of a phase of a passage, which may hold every prompt."""

MAX_LAYERS = 2_000
"""Of a model; 126 are met."""


def is_file(path: str | Path) -> bool:
    """Whether a plain file is there; there is none whose name no file can have."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def is_there(path: str | Path) -> bool:
    """Whether anything is there; nothing is where no name can lead."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def is_folder(path: str | Path) -> bool:
    """Whether a folder is there."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


def check_size(path: Path, limit: int, error: type[WorkbenchError]) -> int:
    """Return the size of a plain file of at most `limit` bytes; raise `error` if it is none."""
    try:
        found = path.stat()
    except (OSError, ValueError) as cause:
        raise error(f"{path}: cannot be read ({reason(cause)}).") from cause
    if not stat.S_ISREG(found.st_mode):
        raise error(f"{path}: no plain file; give a file.")
    if found.st_size > limit:
        raise error(
            f"{path}: {found.st_size / MB:,.0f} MB, larger than {limit // MB:,} MB, which such "
            "files are at most; it is something else, or damaged."
        )
    return found.st_size


def read_bounded(path: Path, limit: int, error: type[WorkbenchError]) -> bytes:
    """Return the content of a file of at most `limit` bytes; else raise `error`, unread."""
    check_size(path, limit, error)
    try:
        with path.open("rb") as file:
            # Of the open file: one that is replaced meanwhile has another size.
            size = min(os.fstat(file.fileno()).st_size, limit)
            content = file.read(size + 1)
    except OSError as cause:
        raise error(f"{path}: cannot be read ({reason(cause)}).") from cause
    if len(content) > size:
        raise error(f"{path}: grows while it is read; try again when it is whole.")
    return content


def parse_json(content: bytes, *, once: bool = True) -> Any:
    """Return the values in JSON.

    Args:
        content: The bytes.
        once: Whether to refuse an object with a key twice; else the later one counts.

    Raises:
        ValueError: If it is not UTF-8, no JSON, nested too deeply, or has a key twice.
    """
    try:
        return json.loads(content.decode("utf-8"), object_pairs_hook=_once if once else None)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def reason(error: BaseException) -> str:
    """Return why a file cannot be read, without its name."""
    return getattr(error, "strerror", None) or str(error)


_SHORT = Repr()
_SHORT.maxlevel = 2
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


def brief(value: Any) -> str:
    """Return what `repr` would say, but short: of values that a file holds."""
    return _SHORT.repr(value)


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys come once: of two values, one would be dropped unseen."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {brief(key)} comes twice")
        found[key] = value
    return found
