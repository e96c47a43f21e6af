"""Read and write files of vectors, whatever their format."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.errors import ConfigError, DegenerateDirectionError, LayerError, ProvenanceError
from workbench.files import write_atomic
from workbench.limits import MAX_LAYERS, MAX_VECTORS_BYTES, check_size, is_file
from workbench.vectors.arrays import npz_content, read_npz, read_safetensors, safetensors_content
from workbench.vectors.base import Vectors
from workbench.vectors.control import gguf_content, read_gguf
from workbench.vectors.tensors import (
    check_plain,
    read_torch,
    rows_content,
    steering_vectors_content,
)

_WRITERS: dict[str, Callable[[Vectors], bytes]] = {
    "steering-vectors": steering_vectors_content,
    "repeng": gguf_content,
    "llama.cpp": gguf_content,
    "persona-vectors": rows_content,
    "rows": rows_content,
    "safetensors": safetensors_content,
    "npz": npz_content,
}
FORMATS = tuple(_WRITERS)
"""Names of the formats; `workbench.vectors` says what each is."""

_READERS: dict[str, Callable[[Path], Vectors]] = {
    "repeng": read_gguf,
    "llama.cpp": read_gguf,
    "safetensors": read_safetensors,
    "npz": read_npz,
}
"""Of the formats that torch does not read."""

_BY_SUFFIX = {".gguf": "llama.cpp", ".safetensors": "safetensors", ".npz": "npz"}
_OF_TORCH = (".pt", ".pth", ".bin", ".pkl")
"""Several tools write them: the content says which one, as far as it can."""


def read_vectors(path: Path, format: str | None = None) -> Vectors:
    """Read the vectors of a file, in float64.

    Args:
        path: The file.
        format: One of `FORMATS`; by default what its name and content say.

    Raises:
        ConfigError: If the format is unknown, or must be said.
        ProvenanceError: If the file is something else, or damaged.
        LayerError: If a layer is counted from the end.
        DegenerateDirectionError: If a vector is zero or not finite.
    """
    if not is_file(path):
        raise ProvenanceError(f"{path}: no such file.")
    check_size(path, MAX_VECTORS_BYTES, ProvenanceError)
    if not path.stat().st_size:
        raise ProvenanceError(f"{path}: empty.")
    if format is not None or path.suffix not in _OF_TORCH:
        format = format_of(path, format)
    reader = _READERS.get(format or "")
    found = reader(path) if reader else read_torch(path, format)
    return replace(found, by_layer=_checked(path, found), format=format or found.format)


def write_vectors(path: Path, vectors: Vectors) -> None:
    """Write vectors as float32, in their format; the file is whole or not there.

    Raises:
        ConfigError: If a package is missing.
        LayerError: If the format cannot hold one of the layers.
    """
    plain = {
        layer: vector.to("cpu", torch.float32).contiguous()
        for layer, vector in sorted(vectors.by_layer.items())
    }
    write_atomic(path, _WRITERS[vectors.format](replace(vectors, by_layer=plain)))


def format_of(path: Path, format: str | None) -> str:
    """Return the format asked for, or the one that the name of the file says.

    Raises:
        ConfigError: If it is unknown, or the name says none.
    """
    names = ", ".join(FORMATS)
    format = _BY_SUFFIX.get(path.suffix) if format is None else format
    if format is None:
        raise ConfigError(f"{path}: its name does not say the format; choose one of {names}.")
    if format not in FORMATS:
        raise ConfigError(f"Format {format!r} is unknown; choose one of {names}.")
    return format


def _checked(path: Path, found: Vectors) -> Mapping[int, Float[Tensor, " d_model"]]:
    """Return the vectors in float64 after a check of each."""
    if not found.by_layer:
        raise ProvenanceError(f"{path}: no vectors in it.")
    checked: dict[int, Tensor] = {}
    for layer, tensor in found.by_layer.items():
        if not MAX_LAYERS > layer > -MAX_LAYERS:
            raise LayerError(f"{path}: a layer beyond {MAX_LAYERS}, which no model has.")
        check_plain(path, tensor)
        vector = tensor.detach().squeeze()
        if not tensor.is_floating_point() or vector.ndim != 1:
            raise ProvenanceError(
                f"{path}: layer {layer} is {str(tensor.dtype).removeprefix('torch.')} of shape "
                f"{list(tensor.shape)}; it must be one vector of floating-point numbers."
            )
        if layer < 0:
            raise LayerError(f"{path}: layer {layer} counts from the end; count from 0.")
        checked[layer] = vector.double()
        if not vector.any() or not vector.isfinite().all():
            raise DegenerateDirectionError(
                f"{path}: layer {layer} is zero or not finite, which is no direction; write the "
                "file without it."
            )
    if len(widths := {len(vector) for vector in checked.values()}) > 1:
        raise ProvenanceError(
            f"{path}: vectors of widths {sorted(widths)}; one model has one width."
        )
    return checked
