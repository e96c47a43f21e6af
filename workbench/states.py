"""Training states on disk: whole or not there, and a pointer to the last one."""

import hashlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import RunError
from workbench.files import flush_folder, make_folder, write_atomic, write_json
from workbench.shape import COUNT, NAME, Maybe, check_shape, parse_json

STATE = {"step": COUNT, "records_bytes": COUNT, "sha256": Maybe(NAME), "config": Maybe(NAME)}
"""What state.json says; the last two are missing in what version 0.1.0 wrote."""


@dataclass(frozen=True)
class States:
    """The training states of a run; only the last one is kept."""

    folder: Path

    def save(self, step: int, blob: bytes, records_bytes: int, config: str | None = None) -> None:
        """Store the state after `step`, then point to it, then drop the one before.

        Args:
            step: Step that the state follows.
            blob: The state.
            records_bytes: How much of the records belongs to it; what comes later is made again.
            config: Hash of the settings that it was made with.
        """
        folder = self.folder / f"{step:06d}"
        make_folder(folder)  # also what an archive left out as it was empty
        write_atomic(folder / "state.safetensors", blob)
        told = {"step": step, "records_bytes": records_bytes}
        told |= {"sha256": hashlib.sha256(blob).hexdigest()}
        write_json(folder / "state.json", told | ({"config": config} if config else {}))
        flush_folder(self.folder)
        write_atomic(self.folder / "current", f"{step:06d}".encode())
        for old in self.folder.iterdir():
            if old.is_dir() and old != folder:
                shutil.rmtree(old)

    def load(self) -> bytes | None:
        """Return the last state, or None if there is none yet.

        Raises:
            RunError: If it is damaged.
        """
        if (told := self.last()) is None:
            return None
        path = self.folder / f"{told['step']:06d}" / "state.safetensors"
        try:
            blob = path.read_bytes()
        except OSError as error:
            raise RunError(f"{path}: cannot be read ({error}).") from error
        if hashlib.sha256(blob).hexdigest() != told.get("sha256", hashlib.sha256(blob).hexdigest()):
            raise RunError(f"{path}: damaged (another hash than when it was stored); begin anew.")
        return blob

    def reached(self) -> tuple[int, int]:
        """Return the step of the last state and its records' bytes; before the first, −1 and 0."""
        told = self.last()
        return (-1, 0) if told is None else (told["step"], told["records_bytes"])

    def last(self) -> dict[str, Any] | None:
        """Return what state.json of the last state says, or None if there is none yet.

        Raises:
            RunError: If it is damaged.
        """
        path = pointer = self.folder / "current"
        try:
            if not pointer.is_file():
                return None
            name = pointer.read_bytes()
            if not re.fullmatch(rb"\d{6,18}", name):
                raise ValueError(f"{name[:20]!r} is no step")
            path = self.folder / name.decode() / "state.json"
            told = parse_json(path.read_bytes())
            check_shape(told, STATE)
            if told["step"] != int(name):
                raise ValueError(f"step is {told['step']}")
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: cannot be read ({error}).") from error
        return told
