"""The run store: config, records, drift vectors and training state of every run, on disk.

Opening a run imports neither torch nor TransformerLens. One process writes a run; any number read.
"""

import json
import os
import shutil
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from workbench.config import changed_settings, package_versions
from workbench.errors import RunError
from workbench.files import flush_folder, write_atomic, write_json
from workbench.journal import Journal
from workbench.locks import take_lock
from workbench.records import StepRecord
from workbench.states import States

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
AFTERMATH, CONTROL = "aftermath.safetensors", "control.safetensors"
"""In a run's folder: what it left on the fit probes, and along what it acts if not along v_rev."""


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
        if run_id is None:
            run_id = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
        folder = self.vacant(run_id)
        draft = self.root / f".new-{uuid.uuid4().hex}"
        try:
            for part in ("drift", "state"):
                (draft / part).mkdir(parents=True)
            (draft / "records.jsonl").touch()
            Run(draft).lock()
            Run(draft).write_info(
                {
                    "schema": SCHEMA,
                    "id": run_id,
                    "status": "running",
                    "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    "config": dict(config),
                    "versions": package_versions(),
                }
            )
            # One rename: a crash leaves a run that can be resumed, or none.
            draft.rename(folder)
            flush_folder(self.root)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise RunError(f"{folder}: cannot be created ({error.strerror}).") from error
        return Run(folder)

    def vacant(self, run_id: str) -> Path:
        """Return the folder that a new run called `run_id` would have.

        Raises:
            RunError: If it exists.
        """
        folder = self._folder(run_id)
        if folder.exists():
            raise RunError(f"{folder}: already used; resume it, or choose another output folder.")
        return folder

    def open(self, run_id: str) -> "Run":
        """Open a run for reading; `RunError` if there is none."""
        return Run(self._folder(run_id)).checked()

    def resume(self, run_id: str, config: Mapping[str, Any], *, break_lock: bool = False) -> "Run":
        """Take up a run where its last training state was saved; a finished one is left alone.

        Args:
            run_id: Which run.
            config: Must equal what it was created with.
            break_lock: Take the lock of a writer on another machine that is known to be gone.

        Returns:
            The run, locked; if its status is `done`, not locked.

        Raises:
            RunError: If it is locked, or was made with another config.
        """
        run = self.open(run_id)
        if changed := changed_settings(run.info["config"], json.loads(json.dumps(dict(config)))):
            raise RunError(
                f"{run.folder}: made with other settings ({', '.join(changed[:5])}); "
                "resume with the same ones, or choose another output folder."
            )
        run.lock(break_lock=break_lock)
        if run.status == "done":
            run.unlock()
            return run
        run.rewind()
        info = {key: value for key, value in run.info.items() if key != "failure"}
        run.write_info(info | {"status": "running"})
        return run

    def __iter__(self) -> Iterator["Run"]:
        """Iterate over the runs in order of their names."""
        for info in sorted(self.root.glob("[!.]*/run.json")):
            yield Run(info.parent).checked()

    def _folder(self, run_id: str) -> Path:
        """The folder of a run: right below the root, whatever its name tries."""
        name = Path(run_id).name
        if not run_id or name != run_id or name.startswith(".") or not name.isprintable():
            raise RunError(f"{run_id!r} is not a name for a run; use letters, digits and dashes.")
        return self.root / run_id


class Run:
    """One fine-tuning on disk."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._journal = Journal(self.folder / "records.jsonl")

    def checked(self) -> "Run":
        """Return this run if its folder holds one of a known schema."""
        if not (self.folder / "run.json").is_file():
            raise RunError(f"{self.folder}: no run here (no run.json).")
        if (schema := self.info.get("schema")) != SCHEMA:
            raise RunError(f"{self.folder}: schema {schema!r}, this version reads {SCHEMA}.")
        return self

    @property
    def id(self) -> str:
        """Name of the run."""
        return self.folder.name

    @property
    def info(self) -> dict[str, Any]:
        """What run.json says now."""
        try:
            return dict(json.loads((self.folder / "run.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise RunError(f"{self.folder}/run.json: cannot be read ({error}).") from error

    @property
    def status(self) -> str:
        """`running`, `done` or `failed`."""
        return self.info["status"]

    def write_info(self, info: Mapping[str, Any]) -> None:
        """Replace run.json."""
        write_json(self.folder / "run.json", dict(info))

    def append(self, record: StepRecord) -> None:
        """Store a record; once this returns it is on disk, its drift before its line."""
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

    @property
    def states(self) -> States:
        """Its training states."""
        return States(self.folder / "state")

    def save_state(self, step: int, blob: bytes) -> None:
        """Store the training state after `step`, in place of the one before."""
        self.states.save(step, blob, (self.folder / "records.jsonl").stat().st_size)

    def load_state(self) -> bytes | None:
        """Return the last training state, or None if there is none yet."""
        return self.states.load()

    def rewind(self) -> None:
        """Drop the records that came after the last training state."""
        step, records_bytes = self.states.reached()
        os.truncate(self.folder / "records.jsonl", records_bytes)
        for file in (self.folder / "drift").glob("*.safetensors"):
            if int(file.stem) > step:
                file.unlink()
        self.refresh()

    def finish(self) -> None:
        """Mark the run done, drop its training state, and release the lock."""
        info = {key: value for key, value in self.info.items() if key != "failure"}
        self.write_info(info | {"status": "done"})
        shutil.rmtree(self.folder / "state")
        self.unlock()

    def fail(self, reason: str) -> None:
        """Mark the run failed and why, keep its training state, and release the lock."""
        self.write_info({**self.info, "status": "failed", "failure": reason})
        self.unlock()

    def lock(self, *, break_lock: bool = False) -> None:
        """Become the writer of this run; `RunError` if another process is, or may be."""
        take_lock(self.folder / "lock", break_lock=break_lock)

    def unlock(self) -> None:
        """Stop being the writer."""
        (self.folder / "lock").unlink(missing_ok=True)

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
        return np.array([line["drift"][name] for line in self.measured], dtype=float)

    def drift(self) -> Float[np.ndarray, "step layer d_model"]:
        """Return the drift vectors at measured steps, in residual-stream units."""
        return np.stack([self._drift_file(line["step"])["vector"] for line in self.measured])

    def projections(self) -> Float[np.ndarray, "step layer prompt"]:
        """Return every prompt's displacement along the direction, in phase gaps."""
        return np.stack([self._drift_file(line["step"])["projections"] for line in self.measured])

    def scores(self) -> dict[int, dict[str, dict[str, float]]]:
        """Return the scores by step."""
        return {line["step"]: line["scores"] for line in self.lines if "scores" in line}

    def gradient_trace(self, name: str) -> tuple[float, ...]:
        """Return the applied gradient norm of an auxiliary loss at every step, from step 1."""
        lines = (line.get("auxiliary", {}).get(name) for line in self.lines if line["step"] > 0)
        return tuple(told["gradient_norm"] * told["scale"] if told else 0.0 for told in lines)

    def _drift_file(self, step: int) -> dict[str, np.ndarray]:
        path = self.folder / "drift" / f"{step:06d}.safetensors"
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise RunError(f"{path}: cannot be read ({error}).") from error
