"""Artefacts: tensors with the story of what they were made from, in one safetensors file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from workbench.errors import ProvenanceError
from workbench.files import write_atomic


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
        if not Path(path).is_file():
            raise ProvenanceError(f"{path}: no such {kind} file.")
        try:
            with safe_open(path, "pt") as file:
                about = json.loads((file.metadata() or {})["workbench"])
                if (found := about.get("schema")) != schema:
                    raise ProvenanceError(f"{path}: schema {found!r}, not {schema}; make it again.")
                if {*file.keys()} != {*names}:
                    raise KeyError(", ".join(sorted({*file.keys()} ^ {*names})))
                tensors = {name: file.get_tensor(name) for name in names}
            return cls(tensors, tuple(about["layers"]), about["provenance"])
        except (SafetensorError, KeyError, TypeError, AttributeError, JSONDecodeError) as error:
            raise ProvenanceError(
                f"{path}: not a file of {kind}, or damaged ({error}); make it again."
            ) from error
