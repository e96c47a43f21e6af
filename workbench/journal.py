"""A file of JSON lines that grows: what was read of it is not read again."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.errors import RunError


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
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = _Read()

    def read(self) -> list[dict[str, Any]]:
        """Return its lines so far; one that is still being written is left out.

        Only what was appended since is read, unless the file was rewound or replaced.

        Raises:
            RunError: If it cannot be read.
        """
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
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1].splitlines(keepends=True)
        if not whole:
            return read
        # A list of its own: those returned before do not change.
        lines = read.lines + [json.loads(line) for line in whole]
        return _Read(now, read.end + sum(map(len, whole)), whole[-1], lines)
