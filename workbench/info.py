"""What run.json says of a run."""

import json
import os
from pathlib import Path
from typing import Any

from workbench.errors import RunError
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
    parse_json,
)

RUN_JSON, SCHEMA = "run.json", 1
MAX_BYTES = 100_000_000
"""A config holds neither prompts nor tensors, and a manifest a hundred bytes per file."""


def _is_arm(value: Any) -> bool:
    """Whether it is an arm, as an experiment keeps it, or the name of a caller's own."""
    name = value.get("name") if isinstance(value, dict) else value
    layers = value.get("layers") if isinstance(value, dict) else None
    return NAME.holds(name) and (COUNTS | NULL).holds(layers)


RECIPE = Open(
    {
        "steps": COUNT,
        "learning_rate": NUMBER,
        "batch_size": COUNT,
        "warmup": COUNT,
        "schedule": NAME,
        "weight_decay": NUMBER,
        "clip": NUMBER | NULL,
        "accumulation": COUNT,
        "measure_at": COUNTS | NULL,
        "lora": COUNT | NULL,
    }
)
CONFIG = Open(
    {
        "recipe": RECIPE,
        "seed": NUMBER,
        "lineage": NAME | NULL,
        "arm": Kind("a name, or a table with one", _is_arm),
        "layers": COUNTS | NULL,
        "directions": NAME | TABLE | NULL,
        "interventions": [TABLE],
        "judge": NAME,
        "max_new_tokens": COUNT,
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
}


def read_info(folder: Path) -> dict[str, Any]:
    """Return what run.json in a run's folder says now.

    Raises:
        RunError: If there is none, or it is damaged or of another version.
    """
    path = folder / RUN_JSON
    try:
        if not path.is_file():
            raise RunError(f"{folder}: no run here (no {RUN_JSON}).")
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                raise ValueError(f"larger than {MAX_BYTES:,} bytes")
            info = parse_json(file.read())
        check_shape(info, INFO)
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error}).") from error
    return info


def check_info(info: dict[str, Any], folder: Path) -> None:
    """Raise `RunError` if this, written as run.json, could not be read again."""
    try:
        check_shape(json.loads(json.dumps(info, allow_nan=False)), INFO)
    except (TypeError, ValueError, RecursionError) as error:
        raise RunError(f"{folder}: {RUN_JSON} cannot be written ({error}).") from error
