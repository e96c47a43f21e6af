"""What run.json says of a run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.config import sealed
from workbench.errors import RunError
from workbench.limits import MAX_JSON_BYTES, is_there, parse_json, read_bounded
from workbench.manifest import ENTRIES
from workbench.shape import (
    ANY,
    COUNT,
    COUNTS,
    NAME,
    NULL,
    NUMBER,
    TABLE,
    Each,
    Kind,
    Maybe,
    Open,
    check_shape,
)

RUN_JSON, SCHEMA = "run.json", 1


def _is_arm(value: Any) -> bool:
    """Whether it is an arm, as an experiment keeps it, the name of a caller's own, or none."""
    name = value.get("name") if isinstance(value, dict) else value or ""
    layers = value.get("layers") if isinstance(value, dict) else None
    return NAME.holds(name) and (COUNTS | NULL).holds(layers)


RECIPE = Open(
    {
        "steps": COUNT,
        "learning_rate": Maybe(NUMBER),
        "batch_size": Maybe(COUNT),
        "warmup": Maybe(COUNT),
        "schedule": Maybe(NAME),
        "weight_decay": Maybe(NUMBER),
        "clip": Maybe(NUMBER | NULL),
        "accumulation": Maybe(COUNT),
        "measure_at": Maybe(COUNTS | NULL),
        "lora": Maybe(COUNT | NULL),
    }
)
CONFIG = Open(
    {
        "recipe": Maybe(RECIPE),
        "seed": Maybe(NUMBER),
        "lineage": Maybe(NAME | NULL),
        "arm": Maybe(Kind("a name, or a table with one", _is_arm)),
        "layers": Maybe(COUNTS | NULL),
        "directions": Maybe(NAME | TABLE | NULL),
        "interventions": Maybe([TABLE]),
        "judge": Maybe(NAME),
        "max_new_tokens": Maybe(COUNT),
    }
)
"""What views look at; a caller's own settings may be there, too."""

INFO = {
    "schema": Kind(f"{SCHEMA}, which this version reads", lambda value: value == SCHEMA),
    "id": NAME,
    "status": Kind("running, done or failed", lambda value: value in ("running", "done", "failed")),
    "created": NAME,
    "config": CONFIG,
    "versions": Each(NAME),
    "machine": Maybe(Each(ANY)),
    "command": Maybe([NAME]),
    "failure": Maybe(NAME),
    "files": Maybe(ENTRIES),
    "sha256": Maybe(NAME),
}
"""The last is the hash of the others: of what was written."""


def read_info(folder: Path) -> dict[str, Any]:
    """Return what run.json in a run's folder says now.

    Raises:
        RunError: If there is none, or it is damaged or of another version.
    """
    path = folder / RUN_JSON
    if not is_there(path):
        raise RunError(f"{folder}: no run here (no {RUN_JSON}).")
    content = read_bounded(path, MAX_JSON_BYTES, RunError)
    try:
        info = parse_json(content)
        check_shape(info, INFO)
    except ValueError as error:
        raise RunError(f"{path}: cannot be read ({error}).") from error
    return info


def check_info(info: dict[str, Any], folder: Path) -> None:
    """Raise `RunError` if this, written as run.json, could not be read again."""
    try:
        check_shape(json.loads(json.dumps(info, allow_nan=False)), INFO)
    except (TypeError, ValueError, RecursionError) as error:
        raise RunError(f"{folder}: {RUN_JSON} cannot be written ({error}).") from error


def seal(info: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return what run.json is to say, with its hash; `RunError` if it could not be read again."""
    check_info(dict(info), folder)
    return sealed(info)
