"""What a disk holds after the power failed: of a folder, only what was flushed is certain."""

import os
from dataclasses import dataclass, field
from pathlib import Path

SURVIVE = ("flushed", "names", "zeros")
"""What outlives the power: only what was flushed; every name, but only flushed content; every name
and length, with zeros where content was not flushed."""


@dataclass
class Node:
    """A file or folder, whatever it is called now."""

    content: bytes | None = None
    """Of a file, when it was last flushed; None if never."""

    entries: dict[str, "Node"] = field(default_factory=dict)
    """Of a folder, when it was last flushed."""

    is_folder: bool = False


class Disk:
    """The flushed state of a folder; what it holds at first counts as flushed.

    Args:
        root: The folder.
    """

    def __init__(self, root):
        self.root = Path(root)
        self._now: dict[Path, Node] = {}
        for folder, _, files in os.walk(root, topdown=False):
            for name in files:
                self.flushed(Path(folder, name))
            self.flushed(Path(folder))

    def flushed(self, path):
        """Note that a file or folder was flushed."""
        node = self._node(path)
        if node.is_folder:
            node.entries = {child.name: self._node(child) for child in path.iterdir()}
        else:
            node.content = path.read_bytes()

    def moved(self, source, target):
        """Note a rename."""
        self.removed(target)
        for path in [path for path in self._now if path == source or source in path.parents]:
            self._now[target / path.relative_to(source)] = self._now.pop(path)

    def linked(self, source, target):
        """Note a second name of a file."""
        self._now[target] = self._node(source)

    def removed(self, path):
        """Note that a name is gone."""
        for gone in [one for one in self._now if one == path or path in one.parents]:
            del self._now[gone]

    def rebuild(self, target, survive):
        """Write to a new folder what a reboot would find."""
        if survive == "flushed":
            _write(self._node(self.root), Path(target))
            return
        for folder, _, files in os.walk(self.root):
            there = Path(target) / Path(folder).relative_to(self.root)
            there.mkdir(parents=True, exist_ok=True)
            for name in files:
                path = Path(folder, name)
                size, sure = path.stat().st_size, self._node(path).content or b""
                kept = sure[:size]
                (there / name).write_bytes(kept.ljust(size, b"\0") if survive == "zeros" else kept)

    def _node(self, path):
        if path not in self._now:
            self._now[path] = Node(is_folder=path.is_dir())
        return self._now[path]


def _write(node, path):
    if node.is_folder:
        path.mkdir(parents=True)
        for name, child in node.entries.items():
            _write(child, path / name)
    else:
        path.write_bytes(node.content or b"")
