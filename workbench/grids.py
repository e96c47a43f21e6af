"""Ablation grids: what models do at every strength of an ablation, as numpy.

What an ablation slider moves through. Nothing here imports torch, so that a view opens at once.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from workbench.config import is_sealed, sealed
from workbench.errors import ProvenanceError
from workbench.files import write_json
from workbench.limits import MAX_JSON_BYTES, brief, is_file, parse_json, read_bounded
from workbench.records import SCORE_NAMES, Scores
from workbench.runs import Run

SCHEMA = "workbench.ablation/1"

FOLDER = "ablation"
"""In a run's folder: its grids, and points of unfinished ones."""

STRENGTHS = tuple(quarter / 4 for quarter in range(-4, 9))
"""−1 doubles what the coordinate has beyond its centre, 0 edits nothing, 1 puts it at the centre,
2 mirrors it."""

DECISIVE = ("models", "directions", "probes", "judge", "max_new_tokens")
"""What of the provenance, beside the axes, decides the numbers. Versions and device do not: they
move last digits, and an old grid should open after an upgrade; a change of method changes `SCHEMA`.
"""


class Said(NamedTuple):
    """An answer as the model gave it, and what the judge makes of it."""

    text: str
    """Raw: whoever shows it escapes it."""

    verdict: str


Answers = tuple[tuple[tuple[tuple[Said, ...], ...], ...], ...]
"""By model, layer set, strength and prompt."""


@dataclass(frozen=True)
class Point:
    """One model at one strength of an ablation of one layer set."""

    scores: Scores
    answers: tuple[Said, ...]
    """To the shown prompts, in their order."""


@dataclass(frozen=True)
class AblationGrid:
    """Behaviour of models against the strength of an ablation at several sets of layers."""

    models: tuple[str, ...]
    """The first is the one that KL is measured from, where nothing is edited."""

    layer_sets: tuple[tuple[int, ...], ...]
    """Layers that are edited together."""

    strengths: tuple[float, ...]
    """Ascending, with 0 (unedited) and 1 (coordinates put at their centres)."""

    positions: str
    """Which tokens are edited: `"all"` or `"last"`, see `edits.POSITIONS`."""

    prompts: tuple[str, ...]
    """Shown with their answers."""

    scores: Mapping[str, Float[np.ndarray, "model layer_set strength 3"]]
    """By name as in `Scores`: value, low and high of the 95 % interval; NaN where undefined."""

    counts: Mapping[str, int]
    """By score, the number of prompts behind each value."""

    answers: Answers

    provenance: Mapping[str, Any]
    """Fingerprints of models and probes, directions, judge, `max_new_tokens`, and `centre`, by
    layer of the directions, in residual-stream units; versions, time and device."""

    @classmethod
    def of(
        cls,
        axes: Mapping[str, Any],
        points: Sequence[Sequence[Sequence[Point]]],
        provenance: Mapping[str, Any],
    ) -> "AblationGrid":
        """Put points together.

        Args:
            axes: The first five fields, by name.
            points: By model, layer set and strength.
            provenance: As the field.
        """
        every = [point for sets in points for row in sets for point in row]
        shape = (len(points), len(points[0]), len(points[0][0]), 3)
        return cls(
            **axes,
            scores={
                name: np.array([_ends(point.scores, name) for point in every]).reshape(shape)
                for name in SCORE_NAMES
            },
            counts={name: max(point.scores[name].n for point in every) for name in SCORE_NAMES},
            answers=tuple(
                tuple(tuple(point.answers for point in row) for row in sets) for sets in points
            ),
            provenance=provenance,
        )

    def identity(self) -> str:
        """Return the SHA-256 of everything that decides the numbers: axes and `DECISIVE`."""
        axes = {name: getattr(self, name) for name in AXES}
        return identity_of(axes, self.provenance)

    def to_json(self) -> dict[str, Any]:
        """Return the grid as plain JSON values; NaN is null."""
        scores = {name: _with_nulls(values.tolist()) for name, values in self.scores.items()}
        told = {item.name: getattr(self, item.name) for item in fields(self)}
        return sealed({"schema": SCHEMA, "identity": self.identity()} | told | {"scores": scores})

    @classmethod
    def from_json(cls, data: Any, where: str = "ablation grid") -> "AblationGrid":
        """Rebuild the grid that `to_json` gave.

        Args:
            data: The values.
            where: What to call it in an error.

        Raises:
            ProvenanceError: If it is something else, or damaged.
        """
        try:
            if (found := data["schema"]) != SCHEMA:
                raise ProvenanceError(
                    f"{where}: schema {brief(found)}, not {SCHEMA}; make it again."
                )
            grid = _grid_from(data)
            if data["identity"] != grid.identity() or not is_sealed(data):
                raise ValueError("its content is not what its identity says")
            return grid
        except ProvenanceError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ProvenanceError(
                f"{where}: not an ablation grid, or damaged ({error}); delete it and make it again."
            ) from error

    def save(self, path: str | Path) -> None:
        """Write the grid as JSON, whole or not at all."""
        write_json(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> "AblationGrid":
        """Read what `save` wrote; `ProvenanceError` if the file is missing, else or damaged."""
        path = Path(path)
        if not is_file(path):
            raise ProvenanceError(f"{path}: no such ablation grid.")
        content = read_bounded(path, MAX_JSON_BYTES, ProvenanceError)
        try:
            data = parse_json(content)
        except ValueError as error:
            raise ProvenanceError(
                f"{path}: not JSON, or damaged ({error}); delete it and make it again."
            ) from error
        return cls.from_json(data, str(path))


AXES = ("models", "layer_sets", "strengths", "positions", "prompts")


def identity_of(axes: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what decides the numbers of a grid, before there is one.

    Args:
        axes: The fields named in `AXES`.
        provenance: At least what `DECISIVE` names.
    """
    asked, told = {name: axes[name] for name in AXES}, {name: provenance[name] for name in DECISIVE}
    text = json.dumps([SCHEMA, asked, told], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def stored_grids(run: Run) -> list[AblationGrid]:
    """Return the finished grids in a run's folder, the newest last.

    Raises:
        ProvenanceError: If one is damaged.
    """
    grids = [AblationGrid.load(path) for path in sorted((run.folder / FOLDER).glob("[!.]*.json"))]
    return sorted(grids, key=lambda grid: str(grid.provenance.get("created")))


def _ends(scores: Scores, name: str) -> tuple[float, float, float]:
    return scores[name].value, scores[name].low, scores[name].high


def _with_nulls(values: Any) -> Any:
    if isinstance(values, list):
        return [_with_nulls(value) for value in values]
    return None if math.isnan(values) else values


def _grid_from(data: Mapping[str, Any]) -> AblationGrid:
    """Rebuild all fields, and check that they fit each other."""
    axes: dict[str, Any] = {
        "models": tuple(map(str, data["models"])),
        "layer_sets": tuple(tuple(map(int, layers)) for layers in data["layer_sets"]),
        "strengths": tuple(map(float, data["strengths"])),
        "positions": str(data["positions"]),
        "prompts": tuple(map(str, data["prompts"])),
    }
    if unknown := {*data} - {
        "schema",
        "identity",
        "sha256",
        *(item.name for item in fields(AblationGrid)),
    }:
        raise ValueError(f"unknown key {brief(min(unknown))}")
    if not isinstance(data["provenance"], dict):
        raise TypeError("its provenance is no object")
    shape = tuple(len(axes[name]) for name in ("models", "layer_sets", "strengths"))
    scores = {name: np.array(data["scores"][name], dtype=float) for name in SCORE_NAMES}
    for name, values in scores.items():
        if values.shape != (*shape, 3):
            raise ValueError(f"{name} has shape {values.shape}")
    answers = tuple(
        tuple(tuple(tuple(Said(*said) for said in point) for point in row) for row in sets)
        for sets in data["answers"]
    )
    said = [
        one for sets in answers for row in sets for point in row for told in point for one in told
    ]
    if not all(isinstance(one, str) for one in said):
        raise TypeError("an answer is no text")
    counted = [len(point) for sets in answers for row in sets for point in row]
    if counted != [len(axes["prompts"])] * int(np.prod(shape)):
        raise ValueError("there is not one answer per prompt and point")
    counts = {name: int(data["counts"][name]) for name in SCORE_NAMES}
    return AblationGrid(
        **axes, scores=scores, counts=counts, answers=answers, provenance=data["provenance"]
    )
