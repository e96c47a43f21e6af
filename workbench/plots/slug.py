"""Names from data, as parts of file names and of places in a page."""

import re


def slug(name: str) -> str:
    """Return a name in letters, digits, dots, dashes and underscores; never empty."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.")[:60] or "unnamed"
