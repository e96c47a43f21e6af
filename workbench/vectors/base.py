"""Vectors of single layers, and what the readers of all formats share."""

import pickle
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor

from workbench.errors import ProvenanceError, WorkbenchError
from workbench.limits import MB, brief

NOTES = ("scale", "provenance")
"""What is said about the vectors where a format has room for it."""

DAMAGED = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError),
    *(MemoryError, OSError, RuntimeError, TypeError, ValueError, SyntaxError, struct.error),
    *(SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, tokenize.TokenError),
)
"""What the readers of these formats raise at a file that is something else, or cut off."""


@dataclass(frozen=True)
class Vectors:
    """One vector per layer."""

    by_layer: Mapping[int, Tensor]
    """Of shape [d_model], in residual-stream units; not checked before `read_vectors` returns."""

    format: str
    """The tool whose file it is, one of `FORMATS`."""

    notes: Mapping[str, str] = field(default_factory=dict)
    """Of `NOTES`, those that are known."""

    model_type: str = "unknown"
    """Architecture as in a Hugging Face config, for the formats that name it."""


def check_zip(path: Path, limit: int) -> None:
    """Refuse an archive whose parts are more than `limit` bytes once they are unpacked.

    Raises:
        ProvenanceError: If they are.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            unpacked = sum(part.file_size for part in file.infolist())
        if unpacked > limit:
            raise ProvenanceError(
                f"{path}: unpacks to {unpacked / MB:,.0f} MB, larger than {limit // MB:,} MB; it "
                "is something else, or damaged."
            )


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn what a reader raises at a damaged file into one line."""
    try:
        yield
    except WorkbenchError:
        raise
    except DAMAGED as error:
        said = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise ProvenanceError(f"{path}: not a file of {what}, or damaged ({said}).") from error


def layer_of(path: Path, name: str, word: str) -> int:
    """Return the layer that the name of a tensor says.

    Raises:
        ProvenanceError: If it says none.
    """
    if not (match := re.fullmatch(rf"{word}\.(-?[0-9]+)", name)):
        raise ProvenanceError(
            f"{path}: tensor {brief(name)}; tensors must be named {word}.0, {word}.1 and so on."
        )
    return int(match[1])


def of_rows(table: Float[Tensor, "row d_model"], first: int = 0) -> dict[int, Tensor]:
    """Return the rows that are not all zeros, by layer; row `first` is layer 0."""
    return {layer: row for layer, row in enumerate(table[first:]) if row.count_nonzero()}


def to_rows(vectors: Vectors, first: int = 0) -> Float[Tensor, "row d_model"]:
    """Return one row per layer, zeros where there is no vector; row `first` is layer 0."""
    width = len(next(iter(vectors.by_layer.values())))
    table = torch.zeros(first + max(vectors.by_layer) + 1, width)
    for layer, vector in vectors.by_layer.items():
        table[first + layer] = vector
    return table
