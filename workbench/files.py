"""Files that are whole or not there: flushed to disk, then renamed into place."""

import glob
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Collection
from pathlib import Path
from typing import Any

from workbench.storing import writing

DRAFT = "tmp"
"""How the name ends of what is being written: `.NAME.….tmp`."""

MARK, KEPT, TOLD = 12, 50, 8
"""Characters of what tells drafts apart, of the name, a file system allows 255 bytes, and, where
that is longer, of its hash: the drafts of another name are not its own."""


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` so that a crash leaves either the old file or the new one.

    Raises:
        StorageError: If the system refused.
    """
    draft = draft_of(path)
    with writing(path):
        try:
            with draft.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        flush_folder(path.parent)


def write_json(path: Path, data: Any) -> None:
    """Write `data` as indented JSON, atomically; NaN is refused, use None."""
    write_atomic(path, json_bytes(data))


def json_bytes(data: Any) -> bytes:
    """Return what `write_json` writes."""
    text = json.dumps(data, indent=1, allow_nan=False, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def append_whole(path: Path, content: bytes) -> None:
    """Append `content` and flush it; what fails half-way (a full disk) leaves the file as it was.

    A process that is killed may leave the first part.

    Raises:
        StorageError: If the system refused.
    """
    with writing(path), path.open("ab", buffering=0) as file:
        end = os.fstat(file.fileno()).st_size
        try:
            left = memoryview(content)
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except BaseException:
            os.truncate(file.fileno(), end)
            raise


def cut(path: Path, size: int) -> None:
    """Cut a file to its first `size` bytes, and flush it."""
    with path.open("r+b") as file:
        file.truncate(size)
        file.flush()
        os.fsync(file.fileno())


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, and their being there durable.

    Raises:
        StorageError: If the system refused.
    """
    if not folder.is_dir():
        make_folder(folder.parent)
        with writing(folder):
            folder.mkdir(exist_ok=True)
            flush_folder(folder.parent)


def flush_folder(folder: Path) -> None:
    """Make a rename or a new file in `folder` durable; of a file, its content."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(folder: Path) -> None:
    """Make every file and folder below `folder` durable, whoever wrote them."""
    for path in (*folder.rglob("*"), folder):
        flush_folder(path)


def draft_of(path: Path) -> Path:
    """Return a name, beside `path`, that nothing else has."""
    return path.with_name(f".{_short(path.name)}.{uuid.uuid4().hex[:MARK]}.{DRAFT}")


def drafts_of(path: Path) -> list[Path]:
    """Return the drafts of a file or folder that are there."""
    name = glob.escape(_short(path.name))
    return sorted(path.parent.glob(f".{name}.{'[0-9a-f]' * MARK}.{DRAFT}"))


def _short(name: str) -> str:
    """A name as its drafts have it."""
    if len(name) <= KEPT:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest()
    return f"{name[:KEPT]}-{digest[:TOLD]}"


def drafts_in(folder: Path) -> list[Path]:
    """Return what writers that were killed left in a folder and below it, and live ones write."""
    return sorted(folder.rglob(f".*.{DRAFT}"))


def remove_drafts(folder: Path, *, but: Collection[str] = ()) -> None:
    """Remove what killed writers left in a folder that no other process writes now.

    Args:
        folder: Which, and what is below it.
        but: Folders there that others may write.
    """
    for draft in drafts_in(folder):
        if draft.relative_to(folder).parts[0] in but:
            continue
        shutil.rmtree(draft) if draft.is_dir() else draft.unlink(missing_ok=True)
