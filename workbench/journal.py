"""A file of JSON lines that grows: what was read of it is not read again."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from workbench.errors import RunError
from workbench.limits import MB, check_size, parse_json

MAX_LINE_BYTES, MAX_RECORDS_BYTES = 50 * MB, 20_000 * MB
"""A line of 100 layers with every interval has 15 kB."""

Check = Callable[[Sequence[Any], Sequence[dict[str, Any]]], None]
"""Given new lines and those before, raises `ValueError` unless the new may follow."""


@dataclass(frozen=True)
class _Read:
    """What was read of a file."""

    file: tuple[int, int] = (0, 0)
    """Device and inode."""

    end: int = 0
    """Where the last whole line ends, in bytes."""

    last: bytes = b""
    """That line: if it is not there any more, the file was rewound."""

    lines: list[dict[str, Any]] = field(default_factory=list)


class Journal:
    """A file of JSON lines that one process appends to, and others read.

    Args:
        path: The file.
        check: What the lines must be.
    """

    def __init__(self, path: Path, check: Check | None = None) -> None:
        self.path = path
        self._check = check
        self._read = _Read()

    def read(self) -> list[dict[str, Any]]:
        """Return its lines so far; one that is still being written is left out.

        Only what was appended since is read, unless the file was rewound or replaced.

        Raises:
            RunError: If it cannot be read.
        """
        check_size(self.path, MAX_RECORDS_BYTES, RunError)
        try:
            self._read = self._go_on(self._read)
        except (OSError, ValueError) as error:
            raise RunError(f"{self.path}: cannot be read ({error}).") from error
        return self._read.lines

    def _go_on(self, read: _Read) -> _Read:
        with self.path.open("rb") as file:
            stat = os.fstat(file.fileno())
            now = (stat.st_dev, stat.st_ino)
            file.seek(read.end - len(read.last))
            if now != read.file or file.read(len(read.last)) != read.last:
                read = _Read(now)
                file.seek(0)
            whole = list(_whole_lines(file))
        if not whole:
            return read
        new = [parse_json(line) for line in whole]
        if self._check is not None:
            self._check(new, read.lines)
        # A list of its own: those returned before do not change.
        return _Read(now, read.end + sum(map(len, whole)), whole[-1], read.lines + new)


def _whole_lines(file: BinaryIO) -> Iterator[bytes]:
    """What is left of a file, line by line, but for one without its end."""
    while (line := file.readline(MAX_LINE_BYTES)).endswith(b"\n"):
        yield line
    if len(line) >= MAX_LINE_BYTES:
        raise ValueError(f"a line is longer than {MAX_LINE_BYTES:,} bytes")
