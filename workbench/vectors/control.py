"""Control vectors: the gguf files of repeng and llama.cpp."""

import struct
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from workbench.errors import ConfigError, LayerError, ProvenanceError
from workbench.limits import brief
from workbench.vectors.base import NOTES, Vectors, layer_of, reading

ARCHITECTURE = "controlvector"

MAX_ENTRIES = 10_000
"""Tensors, fields, and values of a field: the package reads them one by one."""

SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a number, by its type in a gguf."""

STRING, ARRAY = 8, 9


def read_gguf(path: Path) -> Vectors:
    """Read a control vector.

    Raises:
        ConfigError: If the gguf package is not installed.
        ProvenanceError: If it is another gguf, something else, or damaged.
    """
    gguf = _package()
    with reading(path, "control vectors"):
        _check_header(path)
        reader = gguf.GGUFReader(path)
        if (found := _string(reader, "general.architecture")) != ARCHITECTURE:
            raise ProvenanceError(f"{path}: a gguf of {brief(found)}, not of a {ARCHITECTURE}.")
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


def _check_header(path: Path) -> None:
    """Refuse counts that the package would take minutes to come to the end of.

    Raises:
        ProvenanceError: If there are any.
        struct.error: If the file ends before its header does.
    """
    with path.open("rb") as file:

        def number(kind: str) -> int:
            return struct.unpack(order + kind, file.read(struct.calcsize(order + kind)))[0]

        def counted(count: int) -> int:
            if count > MAX_ENTRIES:
                raise ProvenanceError(
                    f"{path}: {count} entries, where a control vector has few; it is something "
                    "else, or damaged."
                )
            return count

        def skip(kind: int) -> None:
            if kind == STRING:
                file.seek(number("Q"), 1)
            elif kind == ARRAY:
                inner, count = number("I"), counted(number("Q"))
                if inner == ARRAY:
                    raise ProvenanceError(f"{path}: lists in lists; no control vector has them.")
                for _ in range(count):
                    skip(inner)
            else:
                file.seek(SIZES[kind], 1)

        order, magic = "<", file.read(4)
        if magic != b"GGUF":
            return  # the package says what is wrong
        if number("I") & 0xFFFF == 0:  # as it is then told by the package
            order = ">"
        counted(number("Q"))
        for _ in range(counted(number("Q"))):
            skip(STRING)
            skip(number("I"))


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
