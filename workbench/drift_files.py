"""The drift files of a run: one for each measured step, vectors and projections."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from workbench.errors import RunError
from workbench.files import flush_folder, write_atomic
from workbench.limits import MAX_TENSORS_BYTES, check_size, parse_json, read_bounded
from workbench.records import Drift
from workbench.shape import TABLE, check_shape

SUFFIX = ".safetensors"
SOURCES = ("model", "directions", "probes", "inputs")
"""Settings of a run, hashes all of them, that tell what a drift is of."""


@dataclass(frozen=True)
class DriftFiles:
    """The folder that they are in."""

    folder: Path

    def save(self, step: int, drift: Drift, source: dict[str, Any]) -> str:
        """Write the file of a step, and return its SHA-256.

        Args:
            step: Which.
            drift: Its vectors, projections and floor are kept: float32, float32, float64.
            source: What it was made from, kept in the file.
        """
        content = save(
            {
                "vector": drift.vector.astype(np.float32),
                "projections": drift.projections.astype(np.float32),
                "floor": drift.floor,
            },
            # One entry: of several the order would change from process to process.
            metadata={"workbench": json.dumps(source | {"step": step}, sort_keys=True)},
        )
        write_atomic(self.path(step), content)
        return hashlib.sha256(content).hexdigest()

    def load(self, step: int, digest: str) -> dict[str, np.ndarray]:
        """Return what is kept of a step.

        Args:
            step: Which.
            digest: The SHA-256 that the file must have.

        Raises:
            RunError: If it is missing, or damaged.
        """
        path = self.path(step)
        try:
            content = read_bounded(path, MAX_TENSORS_BYTES, RunError)
            if hashlib.sha256(content).hexdigest() != digest:
                raise RunError(f"{path}: not the file that the record was made with.")
            found = load(content)
            if missing := {"vector", "projections"} - found.keys():
                raise ValueError(f"without {min(missing)}")
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path}: cannot be read ({error}).") from error
        return found

    def source(self, step: int) -> dict[str, Any]:
        """Return what the file of a step says that it was made from; `RunError` if damaged."""
        path = self.path(step)
        check_size(path, MAX_TENSORS_BYTES, RunError)
        try:
            with safe_open(path, "np") as file:
                told = parse_json((file.metadata() or {}).get("workbench", "{}").encode())
            check_shape(told, TABLE)
        except (OSError, SafetensorError, ValueError) as error:
            raise RunError(f"{path}: cannot be read ({error}).") from error
        return told

    def steps(self) -> Iterator[int]:
        """Iterate over the steps that have a file, in order."""
        names = sorted(path.stem for path in self.folder.glob(f"[!.]*{SUFFIX}"))
        return (int(name) for name in names if name.isascii() and name.isdigit())

    def drop_after(self, step: int) -> None:
        """Delete the files of later steps."""
        for later in [one for one in self.steps() if one > step]:
            self.path(later).unlink()
        flush_folder(self.folder)

    def path(self, step: int) -> Path:
        """Return where the file of a step is."""
        return self.folder / f"{step:06d}{SUFFIX}"


def made_from(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run's drift files were made from, as they keep it."""
    return {name: config[name] for name in SOURCES if name in config}
