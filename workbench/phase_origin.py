"""Where a phase comes from, so that it is known again when it has changed."""

import hashlib
from dataclasses import asdict
from typing import Any

from workbench.phases import Phase
from workbench.sources.source import places_here


def origin_of(phase: Phase) -> dict[str, Any]:
    """Return where a phase comes from: its settings, and what its files look like, if it is local.

    Files are known by size and time of change: the weights would have to be read for more. What a
    branch of the hub stands for may change unseen; name a tag or a commit.
    """
    told = {key: value for key, value in asdict(phase).items() if key not in ("name", "step")}
    places = places_here(phase.model, phase.base)
    if phase.tokenizer is not None:
        places += places_here(phase.tokenizer)
    files = [
        path
        for place in places
        for path in (sorted(place.iterdir()) if place.is_dir() else [place])
        if path.is_file()
    ]
    marks = [(str(one), one.stat().st_size, one.stat().st_mtime_ns) for one in files]
    return {"source": told, "files": hashlib.sha256(repr(marks).encode()).hexdigest()}
