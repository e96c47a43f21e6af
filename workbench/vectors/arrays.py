"""Named tensors and arrays: safetensors and npz."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import safe_open

from workbench.errors import ProvenanceError
from workbench.limits import MAX_VECTORS_BYTES, brief, check_size
from workbench.vectors.base import NOTES, Vectors, check_zip, layer_of, of_rows, reading


def is_own(path: Path) -> bool:
    """Whether a file is the workbench's own, such as `ReversionDirections.save` writes."""
    try:
        check_size(path, MAX_VECTORS_BYTES, ProvenanceError)
        with safe_open(path, "pt") as file:
            return "workbench" in (file.metadata() or {})
    except Exception:  # whatever it is, it is not that
        return False


def read_safetensors(path: Path) -> Vectors:
    """Read tensors `layer.l`, or one tensor whose row l belongs to layer l.

    Raises:
        ProvenanceError: If the names are others, or the file is something else, or damaged.
    """
    with reading(path, "safetensors"), safe_open(path, "pt") as file:
        about = file.metadata() or {}
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    notes = {name: about[name] for name in NOTES if name in about}
    if len(found) == 1 and (table := next(iter(found.values()))).ndim == 2:
        return Vectors(of_rows(table), "safetensors", notes)
    by_layer = {layer_of(path, name, "layer"): tensor for name, tensor in found.items()}
    return Vectors(by_layer, "safetensors", notes)


def safetensors_content(vectors: Vectors) -> bytes:
    """Return tensors `layer.l`."""
    named = {f"layer.{layer}": vector for layer, vector in vectors.by_layer.items()}
    return safetensors.torch.save(named, metadata={"format": "pt", **vectors.notes})


def read_npz(path: Path) -> Vectors:
    """Read arrays `layer.l`.

    Raises:
        ProvenanceError: If the names are others, or the file is something else, or damaged.
    """
    with reading(path, "arrays"):
        check_zip(path, MAX_VECTORS_BYTES)
        stored = np.load(path, allow_pickle=False)
        if not isinstance(stored, np.lib.npyio.NpzFile):
            raise ProvenanceError(f"{path}: one array; save arrays layer.0, layer.1 … as npz.")
        with stored:
            _check_headers(path, stored.zip)
            arrays = {name: stored[name] for name in stored.files}
        notes = {name: str(arrays.pop(name)) for name in NOTES if name in arrays}
        by_layer = {
            layer_of(path, name, "layer"): torch.from_numpy(value) for name, value in arrays.items()
        }
    return Vectors(by_layer, "npz", notes)


def _check_headers(path: Path, archive: Any) -> None:
    """Refuse arrays that promise more numbers than they have: memory is taken by the promise."""
    for part in archive.infolist():
        with archive.open(part) as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0
            if version != (1, 0):
                read = np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
        if math.prod(shape) * dtype.itemsize > part.file_size or min(shape, default=0) < 0:
            raise ProvenanceError(
                f"{path}: {brief(part.filename)} promises shape {brief(shape)}, more than it has."
            )


def npz_content(vectors: Vectors) -> bytes:
    """Return arrays `layer.l`, and the notes as arrays of text."""
    arrays: dict[str, Any] = {f"layer.{at}": one.numpy() for at, one in vectors.by_layer.items()}
    np.savez(buffer := io.BytesIO(), **(arrays | dict(vectors.notes)))  # type: ignore[arg-type]
    return buffer.getvalue()
