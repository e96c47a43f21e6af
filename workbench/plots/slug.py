"""Names from data, as parts of file names and of places in a page."""

import re
from collections.abc import Iterable
from itertools import chain, count


def slug(name: str) -> str:
    """Return a name in letters, digits, dots, dashes and underscores; never empty."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.")[:60] or "unnamed"


def distinct(names: Iterable[str]) -> list[str]:
    """Return the names, numbered where one would be another's file: case does not tell apart."""
    found: dict[str, str] = {}
    for name in names:
        numbered = chain((name,), (f"{name}-{n}" for n in count(2)))
        vacant = next(one for one in numbered if one.lower() not in found)
        found[vacant.lower()] = vacant
    return list(found.values())
