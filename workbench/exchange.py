"""Directions in the files of other tools: which files, and what each means, says `vectors`."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from workbench.directions import TENSORS, ReversionDirections
from workbench.errors import ConfigError, LayerError, ProvenanceError
from workbench.files import file_hash
from workbench.vectors.arrays import is_own
from workbench.vectors.base import Vectors
from workbench.vectors.files import format_of, read_vectors, write_vectors

Scale = Literal["gap", "unit"]
"""How long a vector is: as the phase gap, so that 1 in the other tool is one gap; or 1."""


def save_directions_as(
    directions: ReversionDirections,
    path: str | Path,
    *,
    format: str | None = None,
    scale: Scale = "gap",
    layers: Sequence[int] | None = None,
    model_type: str | None = None,
) -> None:
    """Write directions as a file of another tool, in float32, whole or not at all.

    At one layer, the other tool at strength s does what `steer` does at strength s. At several,
    it adds every layer's vector in full to what earlier ones have left in the stream, where
    `steer` adds the difference: choose the layer to steer at.

    Args:
        directions: What to write. Only vectors are written: no uncertainty and no mean.
        path: The file; one that is there is replaced.
        format: One of `workbench.vectors.files.FORMATS`; by default what the name says.
        scale: How long the vectors are. It is noted in gguf, safetensors and npz; the others have
            no room for it.
        layers: Layers to write; by default all that the directions have.
        model_type: Architecture as in a Hugging Face config, such as "llama"; gguf names it.

    Raises:
        ConfigError: If format or scale is unknown, or a package is missing.
        LayerError: If a layer has no direction, or the format cannot hold it.
    """
    path = Path(path)
    format = format_of(path, format)
    if scale not in ("gap", "unit"):
        raise ConfigError(f"Scale {scale!r} is unknown; it must be 'gap' or 'unit'.")
    chosen = _at(directions, directions.layers if layers is None else layers, "The directions")
    rows = chosen.unit * chosen.gap[:, None] if scale == "gap" else chosen.unit
    notes = {"scale": scale, "provenance": json.dumps(directions.identity(), sort_keys=True)}
    by_layer = dict(zip(chosen.layers, rows, strict=True))
    write_vectors(path, Vectors(by_layer, format, notes, model_type or "unknown"))


def load_directions_from(
    path: str | Path,
    *,
    format: str | None = None,
    layers: Sequence[int] | None = None,
    like: ReversionDirections | None = None,
) -> ReversionDirections:
    """Read directions from a file of another tool; they point where its vectors point.

    A vector comes without uncertainty, which is NaN here. Alone it also lacks what belongs to an
    aligned model: its length is taken for the gap, the mean is NaN, so that ablating needs a
    centre, and any model is accepted.

    Args:
        path: The file; it is read without running code from it.
        format: One of `workbench.vectors.files.FORMATS`; by default what name and content say.
        layers: Layers to read; by default all in the file.
        like: Fitted directions of the aligned model, whose gaps, mean and provenance to take over,
            as a control does. The length of the vectors then counts for nothing.

    Raises:
        ConfigError: If the format is unknown, must be said, or needs a package.
        ProvenanceError: If the file is something else, or damaged, or of another width than `like`.
        LayerError: If a layer is not in the file, or not in `like`.
        DegenerateDirectionError: If a vector is zero or not finite.
    """
    path = Path(path)
    if is_own(path):
        raise ProvenanceError(f"{path}: the workbench's own; use ReversionDirections.load.")
    found = read_vectors(path, format)
    imported = {"file": path.name, "sha256": file_hash(path), "format": found.format}
    if scale := found.notes.get("scale"):
        imported["scale"] = scale
    directions = _alone(found, imported)
    chosen = _at(directions, directions.layers if layers is None else layers, str(path))
    if like is None:
        return chosen
    if chosen.unit.shape[1] != like.unit.shape[1]:
        raise ProvenanceError(
            f"{path}: vectors of width {chosen.unit.shape[1]}, the directions to be like have "
            f"{like.unit.shape[1]}; they are of another model."
        )
    fitted = _at(like, chosen.layers, "The directions to be like")
    return fitted.with_unit(chosen.unit, imported=imported)


def _alone(found: Vectors, imported: dict[str, str]) -> ReversionDirections:
    """Return directions that know their vectors and nothing else."""
    vectors = torch.stack(list(found.by_layer.values()))
    gap = vectors.norm(dim=-1)
    unknown = torch.full_like(gap, torch.nan)
    return ReversionDirections(
        unit=vectors / gap[:, None],
        gap=gap,
        split_half=unknown,
        interval=torch.stack([unknown, unknown], dim=-1),
        mean=torch.full_like(vectors, torch.nan),
        layers=tuple(found.by_layer),
        provenance={"imported": imported},
    )


def _at(directions: ReversionDirections, layers: Sequence[int], who: str) -> ReversionDirections:
    """Return the directions of these layers, in ascending order."""
    chosen = sorted(set(layers))
    unknown = sorted(set(chosen) - set(directions.layers))
    if unknown or not chosen:
        lacking = f"no layers {unknown}" if chosen else "no layers asked for"
        raise LayerError(f"{who}: {lacking}; there are {list(directions.layers)}.")
    rows = [directions.layers.index(layer) for layer in chosen]
    tensors = {name: getattr(directions, name)[rows] for name in TENSORS}
    return replace(directions, **tensors, layers=tuple(chosen))
