"""What tools save by torch: steering vectors, persona vectors, rows of layers."""

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.errors import ConfigError, ProvenanceError
from workbench.limits import MAX_VECTORS_BYTES, brief
from workbench.vectors.base import Vectors, check_zip, of_rows, reading, to_rows

EMBEDDINGS = {"persona-vectors": 1, "rows": 0}
"""How many rows come before that of layer 0."""


def read_torch(path: Path, format: str | None) -> Vectors:
    """Read a dictionary as a steering vector, one tensor as the format asked for.

    Raises:
        ConfigError: If it is one tensor and no format is asked for.
        ProvenanceError: If it is something else, or holds pickled objects: they can run code.
    """
    with reading(path, "tensors"):
        check_zip(path, MAX_VECTORS_BYTES)
        try:
            stored = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ProvenanceError(
                f"{path}: not plain tensors, and pickled objects are not opened, as they can run "
                "code; in the tool that made it: torch.save(vars(vector), 'plain.pt')."
            ) from error
    one = isinstance(stored, Tensor)
    if one:
        check_plain(path, stored)
    told = f"one tensor of shape {list(stored.shape)}" if one else f"a {type(stored).__name__}"
    if format in EMBEDDINGS:
        if not one or stored.ndim != 2 or not stored.is_floating_point():
            raise ProvenanceError(f"{path}: {told}; {format} is one tensor [layer, d_model].")
        return Vectors(of_rows(stored, EMBEDDINGS[format]), format)
    if one and format is None:
        raise ConfigError(
            f"{path}: {told}; choose format persona-vectors (row 0 is the embedding) or rows "
            "(row 0 is layer 0)."
        )
    by_layer = stored.get("layer_activations", stored) if isinstance(stored, dict) else None
    if not isinstance(by_layer, dict) or not all(
        isinstance(layer, int) and isinstance(value, Tensor) for layer, value in by_layer.items()
    ):
        raise ProvenanceError(
            f"{path}: {told}; steering-vectors is vars(vector): layer_activations, from layer to "
            "tensor, and layer_type."
        )
    if (place := stored.get("layer_type", "decoder_block")) != "decoder_block":
        raise ProvenanceError(
            f"{path}: of layer_type {brief(place)}; directions are of the stream after a "
            "decoder_block."
        )
    return Vectors(by_layer, "steering-vectors")


def check_plain(path: Path, tensor: Tensor) -> None:
    """Refuse a tensor that is kept otherwise than number by number, or is larger than its file.

    Raises:
        ProvenanceError: If it is.
    """
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
    if not plain or tensor.is_quantized or tensor.is_complex():
        raise ProvenanceError(f"{path}: a tensor is no plain one on the CPU; save it as that.")
    if tensor.numel() * tensor.element_size() > MAX_VECTORS_BYTES:  # one number, shown often
        raise ProvenanceError(
            f"{path}: a tensor of shape {list(tensor.shape)}, more than a file of vectors has."
        )


def steering_vectors_content(vectors: Vectors) -> bytes:
    """Return the fields of a `SteeringVector`, as saved by torch."""
    return _content({"layer_activations": dict(vectors.by_layer), "layer_type": "decoder_block"})


def rows_content(vectors: Vectors) -> bytes:
    """Return one tensor [layer, d_model], as saved by torch."""
    return _content(to_rows(vectors, EMBEDDINGS[vectors.format]))


def _content(stored: Any) -> bytes:
    torch.save(stored, buffer := io.BytesIO())
    return buffer.getvalue()
