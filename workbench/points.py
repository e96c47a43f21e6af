"""Points of a grid that is not finished: one JSON line each, so that little is lost."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench.errors import ProvenanceError
from workbench.files import append_whole
from workbench.grids import Point, Said
from workbench.limits import MAX_JSON_BYTES, parse_json, read_bounded
from workbench.records import scores_from_json, scores_to_json

Place = tuple[int, tuple[int, ...], float]
"""Number of the model, edited layers and strength; without an edit no layers and strength 0."""


class Points:
    """Points that are kept, and if there is a file, in it.

    A line that was being written when the process ended is dropped: its point is computed again.

    Args:
        path: The file; None keeps nothing beyond this object.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.found: dict[Place, Point] = {}
        if path is not None and path.is_file():
            self._read(path)

    def add(self, place: Place, point: Point) -> Point:
        """Keep a point; return it as it will be read again."""
        line = json.dumps(_to_json(place, point), allow_nan=False)
        if self.path is not None:
            append_whole(self.path, line.encode() + b"\n")
        # By way of JSON, which knows no infinity: continued and uninterrupted grids are equal.
        self.found[place] = _from_json(json.loads(line))[1]
        return self.found[place]

    def close(self) -> None:
        """Delete the file: the grid is finished."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _read(self, path: Path) -> None:
        content = read_bounded(path, MAX_JSON_BYTES, ProvenanceError)
        whole = content.rfind(b"\n") + 1
        for line in content[:whole].splitlines():
            try:
                place, point = _from_json(parse_json(line))
                self.found[place] = point
            except (KeyError, TypeError, ValueError, AttributeError):
                continue  # damaged: it is computed again
        if whole < len(content):
            os.truncate(path, whole)


def _to_json(place: Place, point: Point) -> dict[str, Any]:
    return {"place": place, "scores": scores_to_json(point.scores), "answers": point.answers}


def _from_json(data: dict[str, Any]) -> tuple[Place, Point]:
    model, layers, strength = data["place"]
    answers: Sequence[Sequence[str]] = data["answers"]
    point = Point(scores_from_json(data["scores"]), tuple(Said(*said) for said in answers))
    return (model, tuple(layers), strength), point
