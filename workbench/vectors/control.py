"""Control vectors: the gguf files of repeng and llama.cpp."""

import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from workbench.errors import ConfigError, LayerError, ProvenanceError
from workbench.vectors.base import NOTES, Vectors, layer_of, reading

ARCHITECTURE = "controlvector"


def read_gguf(path: Path) -> Vectors:
    """Read a control vector.

    Raises:
        ConfigError: If the gguf package is not installed.
        ProvenanceError: If it is another gguf, something else, or damaged.
    """
    gguf = _package()
    with reading(path, "control vectors"):
        reader = gguf.GGUFReader(path)
        if (found := _string(reader, "general.architecture")) != ARCHITECTURE:
            raise ProvenanceError(f"{path}: a gguf of {found!r}, not of a {ARCHITECTURE}.")
        by_layer = {}
        for tensor in reader.tensors:
            if (precision := tensor.tensor_type.name) not in ("F32", "F16", "BF16"):
                raise ProvenanceError(
                    f"{path}: {tensor.name} is {precision}; write it again as F32."
                )
            values = gguf.dequantize(tensor.data, tensor.tensor_type)
            layer = layer_of(path, tensor.name, "direction")
            by_layer[layer] = torch.from_numpy(np.array(values, dtype=np.float32))
        told = {name: _string(reader, f"workbench.{name}") for name in NOTES}
        model_type = _string(reader, f"{ARCHITECTURE}.model_hint") or "unknown"
    notes = {name: note for name, note in told.items() if note is not None}
    return Vectors(by_layer, "llama.cpp", notes, model_type)


def gguf_content(vectors: Vectors) -> bytes:
    """Return a control vector of float32 vectors.

    Raises:
        ConfigError: If the gguf package is not installed.
        LayerError: If it is for llama.cpp and has layer 0.
    """
    gguf = _package()
    if vectors.format == "llama.cpp" and 0 in vectors.by_layer:
        raise LayerError(
            "llama.cpp refuses a control vector that has layer 0; choose other layers, or format "
            "repeng."
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.gguf"
        writer = gguf.GGUFWriter(path, ARCHITECTURE)
        writer.add_string(f"{ARCHITECTURE}.model_hint", vectors.model_type)
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(vectors.by_layer))
        for name, note in vectors.notes.items():
            writer.add_string(f"workbench.{name}", note)
        for layer, vector in vectors.by_layer.items():
            writer.add_tensor(f"direction.{layer}", vector.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def _package() -> ModuleType:
    try:
        import gguf
    except ImportError as error:
        raise ConfigError(
            "Control vectors need the gguf package: pip install 'reversion-workbench[gguf]'."
        ) from error
    return gguf


def _string(reader: Any, name: str) -> str | None:
    stored = reader.get_field(name)
    return None if stored is None else bytes(stored.parts[-1]).decode()
