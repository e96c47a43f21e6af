"""Artefacts: tensors with the story of what they were made from, in one safetensors file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from workbench.errors import ProvenanceError
from workbench.files import write_atomic
from workbench.limits import (
    MAX_LAYERS,
    MAX_TENSORS_BYTES,
    brief,
    check_size,
    is_file,
    parse_json,
)


@dataclass(frozen=True)
class Artefact:
    """Per-layer tensors, the layers of the model they belong to, and their provenance."""

    tensors: Mapping[str, Tensor]
    layers: tuple[int, ...]
    provenance: Mapping[str, Any]

    def save(self, path: str | Path, schema: str) -> None:
        """Write the file, whole or not at all."""
        about = {"schema": schema, "layers": list(self.layers), "provenance": dict(self.provenance)}
        content = save(
            {name: tensor.contiguous() for name, tensor in self.tensors.items()},
            metadata={"workbench": json.dumps(about, sort_keys=True)},
        )
        write_atomic(Path(path), content)

    @classmethod
    def load(cls, path: str | Path, schema: str, names: tuple[str, ...], kind: str) -> "Artefact":
        """Read what `save` wrote.

        Args:
            path: The file.
            schema: Which it must have.
            names: The tensors that it must hold, and no others.
            kind: What it is, in words, for errors.

        Raises:
            ProvenanceError: If the file is something else, or damaged.
        """
        if not is_file(path):
            raise ProvenanceError(f"{path}: no such {kind} file.")
        check_size(Path(path), MAX_TENSORS_BYTES, ProvenanceError)
        try:
            with safe_open(path, "pt") as file:
                about = parse_json((file.metadata() or {})["workbench"].encode())
                if (found := about.get("schema")) != schema:
                    raise ProvenanceError(
                        f"{path}: schema {brief(found)}, not {schema}; make it again."
                    )
                if {*about} != {"schema", "layers", "provenance"}:
                    raise KeyError(f"it says {', '.join(sorted(about))}")
                if {*file.keys()} != {*names}:
                    raise KeyError(", ".join(sorted({*file.keys()} ^ {*names})))
                tensors = {name: file.get_tensor(name) for name in names}
            return cls(tensors, _layers(about["layers"]), dict(about["provenance"]))
        except ProvenanceError:
            raise
        except (SafetensorError, KeyError, TypeError, AttributeError, ValueError, OSError) as error:
            raise ProvenanceError(
                f"{path}: not a file of {kind}, or damaged ({error}); make it again."
            ) from error

    def expect(self, path: str | Path, **shapes: tuple[int, ...]) -> "Artefact":
        """Return this, or raise `ProvenanceError` at a tensor of another kind or shape.

        Args:
            path: Where it was read from.
            **shapes: By name, the shape of a layer's row; every row is of floating-point numbers.
        """
        for name, shape in shapes.items():
            tensor, expected = self.tensors[name], (len(self.layers), *shape)
            if not tensor.is_floating_point() or tensor.shape != expected:
                raise ProvenanceError(
                    f"{path}: {name} is {str(tensor.dtype).removeprefix('torch.')} of shape "
                    f"{list(tensor.shape)}, not of floating-point numbers and shape "
                    f"{list(expected)}; it is damaged, make it again."
                )
        return self


def check_directions(path: str | Path, stored: Artefact) -> None:
    """Refuse directions whose vectors are not of length 1, gaps that are none, and wrong stories.

    Raises:
        ProvenanceError: If there is one.
    """
    width = tuple(stored.tensors["unit"].shape[-1:])
    stored.expect(path, unit=width, gap=(), split_half=(), interval=(2,), mean=width)
    unit, gap = stored.tensors["unit"].double(), stored.tensors["gap"]
    marks = stored.provenance.get("prompts", [])
    told = [stored.provenance.get("aligned_hash", ""), *(marks if isinstance(marks, list) else [0])]
    if not all(isinstance(one, str) for one in told):
        raise ProvenanceError(
            f"{path}: says nothing usable of its prompts or weights; make it again."
        )
    if not ((unit.norm(dim=-1) - 1).abs() < 1e-3).all() or not (gap.isfinite() & (gap > 0)).all():
        raise ProvenanceError(
            f"{path}: vectors are not of length 1, or a gap is not positive; make it again."
        )


def _layers(told: Any) -> tuple[int, ...]:
    """The layers that a file names: different ones, that a model may have."""
    if not isinstance(told, list) or not all(type(layer) is int for layer in told):
        raise TypeError("layers are no list of whole numbers")
    if not told or len({*told}) < len(told) or not 0 <= min(told) <= max(told) < MAX_LAYERS:
        raise ValueError(f"layers are {brief(told)}")
    return tuple(told)
