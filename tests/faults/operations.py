"""Every file operation of this process in a folder: counted, and at one of them, something fails.

Only what changes the folder counts: opening to write, writing, flushing, renaming, linking,
removing, making folders, truncating. Writes are those of the system, after Python's buffering.
Nothing is truly flushed: that is told to `Disk`, which knows what would be left without power.
"""

import builtins
import errno
import io
import os
import signal
from pathlib import Path

import safetensors
import safetensors.numpy
import safetensors.torch
from disk import SURVIVE, Disk

KILLS = ("before", "after", "half")
"""SIGKILL before the operation, after it, or with half of a write done."""

REFUSALS = ("ENOSPC", "EIO", "EROFS")
"""A disk that is full or read-only from then on, or that fails once."""

PAUSE = "pause"
"""Stopped before the operation, to go on when told."""

GROWS = ("open", "write", "mkdir", "link", "fsync")
"""What a full disk refuses."""

_real = {name: getattr(os, name) for name in (
    "open", "write", "fsync", "fdatasync", "rename", "replace", "link", "unlink", "remove",
    "rmdir", "mkdir", "truncate", "ftruncate",
)} | {"io.open": io.open}  # fmt: skip


class Operations:
    """What this process does in a folder.

    Args:
        root: The folder; below it everything counts.
        at: Number of the operation, from 1, at which something happens.
        fault: One of `KILLS`, of `REFUSALS`, `PAUSE`, or `power`: then what a reboot would find is
            written beside the folder, by what survives, and the process is killed before it.
        log: A file that gets a line per operation.
    """

    def __init__(self, root, *, at=None, fault=None, log=None):
        self.root, self.at, self.fault = Path(root).absolute(), at, fault
        self.count = 0
        self._log = _real["io.open"](log, "w", buffering=1) if log else None
        self._disk = Disk(self.root) if fault == "power" else None
        self._within = False

    def install(self):
        """Put this between Python and the system."""
        os.open, os.write = self._open, self._write
        os.fsync = os.fdatasync = self._fsync
        os.unlink = os.remove = self._on_path("unlink")
        os.rmdir, os.mkdir = self._on_path("rmdir"), self._on_path("mkdir")
        os.truncate = self._on_path("truncate")
        os.ftruncate = self._ftruncate
        os.rename, os.replace = self._on_two("rename"), self._on_two("replace")
        os.link = self._on_two("link")
        builtins.open = io.open = self._io_open
        for module in (safetensors.torch, safetensors.numpy):
            module.serialize_file = self._serialize_file
        return self

    def __call__(self, kind, path, do, half=None):
        """Do an operation, unless this is where something else happens."""
        self.count += 1
        if self._log:
            self._log.write(f"{self.count} {kind} {path.relative_to(self.root)}\n")
        hit = self.count == self.at
        if self._refuses(kind, hit):
            if hit and half is not None:
                done = half()
                if self.fault != "EIO":
                    return done  # a short write; what is left of it is refused
            number = getattr(errno, self.fault)
            raise OSError(number, os.strerror(number), str(path))
        if hit and self.fault == PAUSE:
            os.kill(os.getpid(), signal.SIGSTOP)
        if hit and self.fault == "power":
            for survive in SURVIVE:
                self._disk.rebuild(f"{self.root}.{survive}", survive)
        if hit and self.fault == "half" and half is not None:
            half()
        if hit and self.fault in ("before", "half", "power"):
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return do()
        finally:
            if hit and self.fault == "after":
                os.kill(os.getpid(), signal.SIGKILL)

    def _refuses(self, kind, hit):
        if self.at is None or self.fault not in REFUSALS:
            return False
        if self.fault == "ENOSPC":
            return self.count >= self.at and kind in GROWS
        return hit or (self.fault == "EROFS" and self.count > self.at)

    def _inside(self, path, folder=None):
        """The absolute path of what is in the folder; None if it is elsewhere."""
        if isinstance(path, int):
            path = _of_descriptor(path)
        elif folder is not None:
            path = _of_descriptor(folder) / os.fsdecode(path)
        found = Path(os.path.abspath(os.fsdecode(path)))  # noqa: PTH100 (a link is not followed)
        return found if found == self.root or self.root in found.parents else None

    def _open(self, path, flags, mode=0o777, *, dir_fd=None):
        def do():
            return _real["open"](path, flags, mode, dir_fd=dir_fd)

        place = self._inside(path, dir_fd) if flags & (os.O_WRONLY | os.O_RDWR) else None
        return do() if place is None else self("open", place, do)

    def _write(self, descriptor, data):
        place = self._inside(descriptor)
        if place is None:
            return _real["write"](descriptor, data)
        return self(
            "write",
            place,
            lambda: _real["write"](descriptor, data),
            lambda: _real["write"](descriptor, bytes(data)[: len(data) // 2]),
        )

    def _fsync(self, descriptor):
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        if (place := self._inside(number)) is not None:
            self("fsync", place, lambda: self._disk and self._disk.flushed(place))

    def _ftruncate(self, descriptor, length):
        def do():
            return _real["ftruncate"](descriptor, length)

        place = self._inside(descriptor)
        return do() if place is None else self("truncate", place, do)

    def _on_path(self, name):
        def replaced(path, *args, dir_fd=None, **options):
            if dir_fd is not None:
                options["dir_fd"] = dir_fd

            def do():
                _real[name](path, *args, **options)
                if self._disk and place is not None and name in ("unlink", "rmdir"):
                    self._disk.removed(place)

            place = self._inside(path, dir_fd)
            return do() if place is None else self(name, place, do)

        return replaced

    def _on_two(self, name):
        def replaced(source, target, **options):
            def do():
                _real[name](source, target, **options)
                if self._disk and start is not None and end is not None:
                    (self._disk.linked if name == "link" else self._disk.moved)(start, end)

            start, end = self._inside(source), self._inside(target)
            place = end or start
            return do() if place is None else self(name, place, do)

        return replaced

    def _io_open(self, file, mode="r", buffering=-1, encoding=None, errors=None, newline=None,
                 closefd=True, opener=None):  # fmt: skip
        place = None
        if {*mode} & {*"wax+"} and opener is None:
            place = self._inside(file)
        if place is None:
            return _real["io.open"](
                file, mode, buffering, encoding, errors, newline, closefd, opener
            )
        plain = mode.replace("b", "").replace("t", "")
        raw = self("open", place, lambda: _Raw(self, place, file, plain, closefd))
        if buffering == 0:
            return raw
        buffer = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffer
        text = io.TextIOWrapper(buffer, encoding, errors, newline, buffering == 1)
        text.mode = mode
        return text

    def _serialize_file(self, tensors, filename, metadata=None):
        """In Python what safetensors does in Rust, where nothing could come between."""
        with io.open(filename, "wb") as file:  # noqa: UP020
            file.write(safetensors.serialize(tensors, metadata=metadata))


def _of_descriptor(number):
    return Path(f"/proc/self/fd/{number}").readlink()


class _Raw(io.FileIO):
    """A file whose writes count."""

    def __init__(self, operations, place, file, mode, closefd):
        super().__init__(file, mode, closefd)
        self._operations, self._place = operations, place

    def write(self, data):
        content, write = bytes(data), super().write
        half = content[: len(content) // 2]
        return self._operations("write", self._place, lambda: write(content), lambda: write(half))

    def truncate(self, size=None):
        truncate = super().truncate
        return self._operations("truncate", self._place, lambda: truncate(size))
