"""The run store: config, records, drift vectors and training state of every run, on disk.

Opening a run imports neither torch nor TransformerLens. One process writes a run; any number read.
"""

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from safetensors.numpy import load_file, save

from workbench.errors import RunError
from workbench.files import flush_folder, write_atomic, write_json
from workbench.locks import take_lock
from workbench.records import StepRecord

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
PACKAGES = ("reversion-workbench", "torch", "transformers", "transformer-lens", "numpy")


class RunStore:
    """A folder of runs."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def create(self, config: Mapping[str, Any], run_id: str | None = None) -> "Run":
        """Start a run and hold its lock.

        Args:
            config: What the run needs to be repeated, as JSON values.
            run_id: Name of its folder; by default a new one.

        Raises:
            RunError: If the folder exists, or cannot be written.
        """
        run_id = run_id or f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
        if Path(run_id).name != run_id or run_id in (".", ".."):
            raise RunError(f"{run_id!r} is not a name for a run; use letters, digits and dashes.")
        folder = self.root / run_id
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            raise RunError(
                f"{folder}: already used; resume it, or choose another output folder."
            ) from None
        except OSError as error:
            raise RunError(f"{folder}: cannot be created ({error.strerror}).") from error
        run = Run(folder)
        run.lock()
        for part in ("drift", "state"):
            (folder / part).mkdir()
        (folder / "records.jsonl").touch()
        run.write_info(
            {
                "schema": SCHEMA,
                "id": run_id,
                "status": "running",
                "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "config": dict(config),
                "versions": _versions(),
            }
        )
        return run

    def open(self, run_id: str) -> "Run":
        """Open a run for reading.

        Raises:
            RunError: If there is no such run.
        """
        return Run(self.root / run_id).checked()

    def resume(self, run_id: str, config: Mapping[str, Any], *, break_lock: bool = False) -> "Run":
        """Take up a run where its last training state was saved.

        Args:
            run_id: Which run.
            config: Must equal what it was created with.
            break_lock: Take the lock of a writer on another machine that is known to be gone.

        Raises:
            RunError: If it is locked, or was made with another config.
        """
        run = self.open(run_id)
        if run.info["config"] != json.loads(json.dumps(dict(config))):
            changed = [
                key for key in config if run.info["config"].get(key) != _plain(config[key])
            ]
            raise RunError(
                f"{run.folder}: made with other settings ({', '.join(changed) or 'fewer now'}); "
                "resume with the same ones, or choose another output folder."
            )
        run.lock(break_lock=break_lock)
        run.rewind()
        run.write_info({**run.info, "status": "running"})
        return run

    def __iter__(self) -> Iterator["Run"]:
        """Iterate over the runs in order of their names."""
        for info in sorted(self.root.glob("*/run.json")):
            yield Run(info.parent).checked()


class Run:
    """One fine-tuning on disk."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def checked(self) -> "Run":
        """Return this run if its folder holds one of a known schema."""
        if not (self.folder / "run.json").is_file():
            raise RunError(f"{self.folder}: no run here (no run.json).")
        if self.info.get("schema") != SCHEMA:
            raise RunError(
                f"{self.folder}: schema {self.info.get('schema')!r}, this version reads {SCHEMA}."
            )
        return self

    @property
    def id(self) -> str:
        """Name of the run."""
        return self.folder.name

    @property
    def info(self) -> dict[str, Any]:
        """What run.json says now."""
        try:
            return json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{self.folder}/run.json: cannot be read ({error}).") from error

    @property
    def status(self) -> str:
        """`running`, `done` or `failed`."""
        return self.info["status"]

    def write_info(self, info: Mapping[str, Any]) -> None:
        """Replace run.json."""
        write_json(self.folder / "run.json", dict(info))

    def append(self, record: StepRecord) -> None:
        """Store a record; when this returns it is on disk, drift before the line that tells of it."""
        if (drift := record.drift) is not None:
            content = save(
                {
                    "vector": drift.vector.astype(np.float32),
                    "projections": drift.projections.astype(np.float32),
                    "floor": drift.floor,
                },
                metadata={"step": str(record.step)},
            )
            write_atomic(self.folder / "drift" / f"{record.step:06d}.safetensors", content)
        line = json.dumps(record.to_json(), allow_nan=False) + "\n"
        with (self.folder / "records.jsonl").open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    def save_state(self, step: int, blob: bytes) -> None:
        """Store the training state after `step`, then point to it, then drop the one before."""
        folder = self.folder / "state" / f"{step:06d}"
        folder.mkdir(exist_ok=True)
        offset = (self.folder / "records.jsonl").stat().st_size
        write_atomic(folder / "state.safetensors", blob)
        write_json(folder / "state.json", {"step": step, "records_bytes": offset})
        flush_folder(folder.parent)
        write_atomic(self.folder / "state" / "current", f"{step:06d}".encode())
        for old in (self.folder / "state").iterdir():
            if old.is_dir() and old != folder:
                shutil.rmtree(old)

    def load_state(self) -> bytes | None:
        """Return the last training state, or None if there is none yet."""
        pointer = self.folder / "state" / "current"
        if not pointer.is_file():
            return None
        return (self.folder / "state" / pointer.read_text() / "state.safetensors").read_bytes()

    def rewind(self) -> None:
        """Drop the records that came after the last training state."""
        pointer, records = self.folder / "state" / "current", self.folder / "records.jsonl"
        step, offset = -1, 0
        if pointer.is_file():
            state = json.loads((pointer.parent / pointer.read_text() / "state.json").read_text())
            step, offset = state["step"], state["records_bytes"]
        os.truncate(records, offset)
        for file in (self.folder / "drift").glob("*.safetensors"):
            if int(file.stem) > step:
                file.unlink()
        self.__dict__.pop("lines", None)

    def finish(self) -> None:
        """Mark the run done, drop its training state, and release the lock."""
        self.write_info({**self.info, "status": "done"})
        shutil.rmtree(self.folder / "state")
        self.unlock()

    def fail(self, reason: str) -> None:
        """Mark the run failed and why, keep its training state, and release the lock."""
        self.write_info({**self.info, "status": "failed", "failure": reason})
        self.unlock()

    def lock(self, *, break_lock: bool = False) -> None:
        """Become the writer of this run.

        Raises:
            RunError: If another process is, or may be on another machine.
        """
        take_lock(self.folder / "lock", break_lock=break_lock)

    def unlock(self) -> None:
        """Stop being the writer."""
        (self.folder / "lock").unlink(missing_ok=True)

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        """The records as stored, in order; a line that is still being written is left out."""
        content = (self.folder / "records.jsonl").read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        return [json.loads(line) for line in whole.splitlines()]

    def refresh(self) -> "Run":
        """Read the records again on next use; for watching a run that is being written."""
        self.__dict__.pop("lines", None)
        return self

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
        return pd.DataFrame(rows).set_index("step").astype(float)

    def layer_values(self, name: str) -> Float[np.ndarray, "step layer"]:
        """Return `alignment`, `low`, `high`, `along`, `across` or `norm` at measured steps."""
        return np.array([line["drift"][name] for line in self.measured], dtype=float)

    def drift(self) -> Float[np.ndarray, "step layer d_model"]:
        """Return the drift vectors at measured steps, in residual-stream units."""
        return np.stack([self._drift_file(step)["vector"] for step in self.measured_steps])

    def projections(self) -> Float[np.ndarray, "step layer prompt"]:
        """Return every prompt's displacement along the direction, in phase gaps."""
        return np.stack([self._drift_file(step)["projections"] for step in self.measured_steps])

    def scores(self) -> dict[int, dict[str, dict[str, float]]]:
        """Return the scores by step."""
        return {line["step"]: line["scores"] for line in self.lines if "scores" in line}

    def gradient_trace(self, name: str) -> tuple[float, ...]:
        """Return the applied gradient norm of an auxiliary loss at every step, from step 1."""
        told = [line["auxiliary"][name] for line in self.lines if line["step"] > 0]
        return tuple(one["gradient_norm"] * one["scale"] for one in told)

    def _drift_file(self, step: int) -> dict[str, np.ndarray]:
        return load_file(self.folder / "drift" / f"{step:06d}.safetensors")


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))
