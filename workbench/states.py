"""Training states on disk: whole or not there, and a pointer to the last one."""

import hashlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import RunError
from workbench.files import flush_folder, make_folder, write_atomic, write_json
from workbench.limits import MAX_JSON_BYTES, MAX_STATE_BYTES, is_there, parse_json, read_bounded
from workbench.shape import COUNT, NAME, check_shape

STATE = {
    "step": COUNT,
    "records_bytes": COUNT,
    "records_sha256": NAME,
    "sha256": NAME,
    "config": NAME,
}
"""What state.json says: hashes of the records, the state, and the settings it was made with."""


@dataclass(frozen=True)
class States:
    """The training states of a run; only the last one is kept."""

    folder: Path

    def save(self, step: int, blob: bytes, records: bytes, config: str) -> None:
        """Store the state after `step`, then point to it, then drop the one before.

        Args:
            step: Step that the state follows.
            blob: The state.
            records: Those that belong to it; what comes later is made again.
            config: Hash of the settings that it was made with.
        """
        folder = self.folder / f"{step:06d}"
        make_folder(folder)  # also what an archive left out as it was empty
        write_atomic(folder / "state.safetensors", blob)
        told = {
            "step": step,
            "records_bytes": len(records),
            "records_sha256": hashlib.sha256(records).hexdigest(),
            "sha256": hashlib.sha256(blob).hexdigest(),
            "config": config,
        }
        write_json(folder / "state.json", told)
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
        blob = read_bounded(path, MAX_STATE_BYTES, RunError)
        if hashlib.sha256(blob).hexdigest() != told["sha256"]:
            raise RunError(
                f"{path}: damaged, it has another hash than when it was stored; {self._anew()}."
            )
        return blob

    def check_records(self, path: Path) -> int:
        """Return how much of the records belongs to the last state, in bytes.

        Raises:
            RunError: If it is not all there, or not what it was.
        """
        if (told := self.last()) is None:
            return 0
        size, when = told["records_bytes"], f"when the state of step {told['step']} was stored"
        if (found := path.stat().st_size) < size:
            raise RunError(f"{path}: has {found} bytes, but {size} {when}; {self._anew()}.")
        with path.open("rb") as file:
            kept = file.read(size)
        if hashlib.sha256(kept).hexdigest() != told["records_sha256"]:
            raise RunError(f"{path}: has other content than {when}; {self._anew()}.")
        return size

    def _anew(self) -> str:
        return f"remove {self.folder} and resume, to begin the run again"

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
        if not is_there(pointer):
            return None
        try:
            name = read_bounded(pointer, MAX_JSON_BYTES, RunError)
            if not re.fullmatch(rb"\d{6,18}", name):
                raise ValueError(f"{name[:20]!r} is no step")
            path = self.folder / name.decode() / "state.json"
            told = parse_json(read_bounded(path, MAX_JSON_BYTES, RunError))
            check_shape(told, STATE)
            if told["step"] != int(name):
                raise ValueError(f"step is {told['step']}")
        except ValueError as error:
            raise RunError(f"{path}: cannot be read ({error}).") from error
        return told
