"""Training states on disk: whole or not there, and a pointer to the last one."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from workbench.files import flush_folder, write_atomic, write_json


@dataclass(frozen=True)
class States:
    """The training states of a run; only the last one is kept."""

    folder: Path

    def save(self, step: int, blob: bytes, records_bytes: int) -> None:
        """Store the state after `step`, then point to it, then drop the one before.

        Args:
            step: Step that the state follows.
            blob: The state.
            records_bytes: How much of the records belongs to it; what comes later is made again.
        """
        folder = self.folder / f"{step:06d}"
        folder.mkdir(exist_ok=True)
        write_atomic(folder / "state.safetensors", blob)
        write_json(folder / "state.json", {"step": step, "records_bytes": records_bytes})
        flush_folder(self.folder)
        write_atomic(self.folder / "current", f"{step:06d}".encode())
        for old in self.folder.iterdir():
            if old.is_dir() and old != folder:
                shutil.rmtree(old)

    def load(self) -> bytes | None:
        """Return the last state, or None if there is none yet."""
        folder = self._last()
        return None if folder is None else (folder / "state.safetensors").read_bytes()

    def reached(self) -> tuple[int, int]:
        """Return the step of the last state and its records' bytes; before the first, −1 and 0."""
        if (folder := self._last()) is None:
            return -1, 0
        state = json.loads((folder / "state.json").read_text())
        return state["step"], state["records_bytes"]

    def _last(self) -> Path | None:
        pointer = self.folder / "current"
        return self.folder / pointer.read_text() if pointer.is_file() else None
