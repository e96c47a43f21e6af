"""A run on disk: config, records, drift vectors and training state.

Opening a run imports neither torch nor TransformerLens. One process writes a run; any number read.
"""

import json
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from workbench.config import settings_hash
from workbench.drift_files import DriftFiles, made_from
from workbench.errors import RunError
from workbench.files import (
    append_whole,
    cut,
    remove_drafts,
    write_atomic,
    write_json,
)
from workbench.info import RUN_JSON, read_info, seal
from workbench.journal import Journal
from workbench.lines import check_lines
from workbench.locks import check_lock, release_lock, take_lock
from workbench.manifest import manifest_of
from workbench.records import StepRecord
from workbench.states import States

if TYPE_CHECKING:
    import pandas as pd

AFTERMATH, CONTROL = "aftermath.safetensors", "control.safetensors"
"""In a run's folder: what it left on the fit probes, and along what it acts if not along v_rev."""


class Run:
    """One fine-tuning on disk."""

    def __init__(self, folder: str | Path) -> None:
        self._nonce: str | None = None
        self.move(Path(folder))

    def move(self, folder: Path) -> None:
        """Follow the folder to where it was moved."""
        self.folder = folder
        self.refresh()
        self._journal = Journal(folder / "records.jsonl", check_lines)
        self._drift = DriftFiles(folder / "drift")

    def checked(self) -> "Run":
        """Return this run if its folder holds one of a known schema; else `RunError`."""
        read_info(self.folder)
        return self

    @property
    def id(self) -> str:
        """Name of the run."""
        return self.folder.name

    @property
    def info(self) -> dict[str, Any]:
        """What run.json says now; `RunError` if it cannot be read."""
        return read_info(self.folder)

    @property
    def status(self) -> str:
        """`running`, `done` or `failed`."""
        return self.info["status"]

    def write_info(self, info: Mapping[str, Any]) -> None:
        """Replace run.json; `RunError` if that could not be read again."""
        sealed = seal(info, self.folder)
        self.check_writer()
        write_json(self.folder / RUN_JSON, sealed)

    def append(self, record: StepRecord) -> None:
        """Store a record; once this returns it is on disk, its drift before its line."""
        self.check_writer()
        append_whole(self.folder / "records.jsonl", self._line(record))

    def amend(self, record: StepRecord) -> None:
        """Store a record in place of the last one, which is of the same step."""
        self.check_writer()
        records = self.folder / "records.jsonl"
        *kept, _ = records.read_bytes().splitlines(keepends=True)
        write_atomic(records, b"".join([*kept, self._line(record)]))

    def _line(self, record: StepRecord) -> bytes:
        """The line of a record; its drift is stored."""
        line = record.to_json()
        if (drift := record.drift) is not None:
            line["drift"]["sha256"] = self._drift.save(record.step, drift, self._source)
        return json.dumps(line, allow_nan=False).encode() + b"\n"

    @property
    def states(self) -> States:
        """Its training states."""
        return States(self.folder / "state")

    def save_state(self, step: int, blob: bytes) -> None:
        """Store the training state after `step`, in place of the one before."""
        self.check_writer()
        records = (self.folder / "records.jsonl").read_bytes()
        self.states.save(step, blob, records, settings_hash(self.info["config"]))

    def load_state(self) -> bytes | None:
        """Return the last training state, or None if there is none yet."""
        return self.states.load()

    def rewind(self) -> None:
        """Drop the records that came after the last training state.

        Raises:
            RunError: If the records up to it are not what they were.
        """
        self.check_writer()
        records = self.folder / "records.jsonl"
        size = self.states.check_records(records)
        cut(records, size)
        self._drift.drop_after(self.states.reached()[0])
        self.refresh()

    def finish(self) -> None:
        """Mark the run done, note its files, drop its training state, and release the lock."""
        info = {key: value for key, value in self.info.items() if key != "failure"}
        remove_drafts(self.folder, but=("figures", "ablation"))
        if info["status"] != "done":
            self.write_info(info | {"status": "done", "files": manifest_of(self.folder)})
        if (state := self.folder / "state").is_dir():
            shutil.rmtree(state)
        self.unlock()

    def fail(self, reason: str) -> None:
        """Mark the run failed and why, keep its training state, and release the lock.

        Where that cannot be written (a full disk, no memory) the run is one whose process is gone.
        A run that another process has taken over is left alone; one that is done stays so, as only
        clearing up has failed, which resuming does again.
        """
        with suppress(OSError, RunError, MemoryError):
            if (info := self.info)["status"] != "done":
                self.write_info(info | {"status": "failed", "failure": reason})
        with suppress(OSError):
            self.unlock()

    def lock(self, *, break_lock: bool = False) -> None:
        """Become the writer of this run; `RunError` if another process is, or may be."""
        self._nonce = take_lock(self.folder / "lock", break_lock=break_lock)

    def unlock(self) -> None:
        """Stop being the writer."""
        if self._nonce is not None:
            release_lock(self.folder / "lock", self._nonce)
            self._nonce = None

    def check_writer(self) -> None:
        """Raise `RunError` if another process has taken the run over from this writer."""
        if self._nonce is not None:
            check_lock(self.folder / "lock", self._nonce)

    @cached_property
    def _source(self) -> dict[str, Any]:
        return made_from(self.info["config"])

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        """The records as stored, in order; a line that is still being written is left out."""
        return self._journal.read()

    def refresh(self) -> "Run":
        """Read what has come since on next use; for watching a run that is being written."""
        self.__dict__.pop("lines", None)
        return self

    def only(self, steps: Collection[int]) -> "Run":
        """Return the run as it stands, with its records of some steps only."""
        run = Run(self.folder)
        run.lines = [line for line in self.lines if line["step"] in steps]
        return run

    @property
    def measured(self) -> list[dict[str, Any]]:
        """The records with a drift."""
        return [line for line in self.lines if "drift" in line]

    @property
    def measured_steps(self) -> Int[np.ndarray, " step"]:
        """Steps at which drift was measured."""
        return np.array([line["step"] for line in self.measured], dtype=int)

    def records(self) -> "pd.DataFrame":
        """Return one row per step: losses, mean alignment and, where evaluated, the scores."""
        import pandas as pd

        rows = []
        for line in self.lines:
            row = {key: line[key] for key in ("step", "loss", "learning_rate", "gradient_norm")}
            for key in ("mean_alignment", "stacked_alignment", "undefined"):
                row[key] = line.get("drift", {}).get(key)
            row |= {name: score["value"] for name, score in line.get("scores", {}).items()}
            rows.append(row)
        frame = pd.DataFrame(rows) if rows else pd.DataFrame(columns=["step"])
        return frame.set_index("step").astype(float)

    def layer_values(self, name: str) -> Float[np.ndarray, "step layer"]:
        """Return `alignment`, `low`, `high`, `along`, `across` or `norm` at measured steps."""
        values = [line["drift"][name] for line in self.measured]
        return np.array(values, dtype=float) if values else np.empty((0, 0))

    def drift(self) -> Float[np.ndarray, "step layer d_model"]:
        """Return the drift vectors at measured steps, in residual-stream units."""
        return self._stacked("vector")

    def projections(self) -> Float[np.ndarray, "step layer prompt"]:
        """Return every prompt's displacement along the direction, in phase gaps."""
        return self._stacked("projections")

    def scores(self) -> dict[int, dict[str, dict[str, float]]]:
        """Return the scores by step."""
        return {line["step"]: line["scores"] for line in self.lines if "scores" in line}

    def gradient_trace(self, name: str) -> tuple[float, ...]:
        """Return the applied gradient norm of an auxiliary loss at every step, from step 1."""
        lines = (line.get("auxiliary", {}).get(name) for line in self.lines if line["step"] > 0)
        return tuple(told["gradient_norm"] * told["scale"] if told else 0.0 for told in lines)

    def _stacked(self, name: str) -> np.ndarray:
        lines = self.measured
        if not lines:
            raise RunError(f"{self.folder}: no drift was measured yet.")
        try:
            return np.stack(
                [self._drift.load(line["step"], line["drift"]["sha256"])[name] for line in lines]
            )
        except ValueError as error:
            raise RunError(f"{self.folder / 'drift'}: cannot be read ({error}).") from error
