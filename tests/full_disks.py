"""Real file systems that get full in the middle of what a test does."""

import builtins
import io
import os
import resource
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest


class Disk:
    """A file system that gets full when a file is opened to be written, and stays so."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.patch = folder, monkeypatch

    @contextmanager
    def full_at(self, place, call):
        calls, plain = [], io.open

        def opened(file, mode="r", *arguments, **options):
            # A draft has the name of what it becomes.
            name = (
                "/".join(
                    part.removeprefix(".").rpartition(".")[0].rpartition(".")[0]
                    if part.endswith(".tmp")
                    else part
                    for part in os.fspath(file).split("/")
                )
                if isinstance(file, str | os.PathLike)
                else ""
            )
            if place in name and {*mode} & {*"wax"}:
                calls.append(name)
                if len(calls) == call:
                    self.fill(file)
            return plain(file, mode, *arguments, **options)

        with self.patch.context() as patched:
            patched.setattr(io, "open", opened)
            patched.setattr(builtins, "open", opened)
            try:
                yield
                assert len(calls) >= call, f"{place} was never written"
            finally:
                if len(calls) >= call:
                    self.make_room()


class Limited(Disk):
    """No file may become larger than one is, and a byte: that much of a write is done."""

    reason = "File too large"

    def fill(self, file):
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        size = Path(file).stat().st_size if Path(file).exists() else 0
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1, self.before[1]))

    def make_room(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


class Small(Disk):
    """A file system of its own in memory, without a free page left."""

    reason = "No space left on device"

    def fill(self, _file):
        with (self.folder / "filler").open("wb", buffering=0) as file:
            while True:
                try:
                    file.write(bytes(4096))
                except OSError:
                    return

    def make_room(self):
        (self.folder / "filler").unlink()


def mounted(*arguments):
    """Mount, or skip the test where that is not permitted."""
    try:
        done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"mount cannot be run ({error})")
    if done.returncode:
        pytest.skip(f"mounting is not permitted ({done.stderr.strip()[:80]})")
