"""Widths of figures on paper: those of venues by name, any other with its unit."""

import re

from workbench.errors import ConfigError

WIDTHS = {
    "single": 3.5,
    "double": 7.16,
    "icml-column": 3.25,
    "icml-full": 6.75,
    "neurips": 5.5,
}
"""Inches: a column and a page of IEEE and most journals; ICML; NeurIPS and ICLR."""

UNITS = {"in": 1.0, "mm": 1 / 25.4, "cm": 1 / 2.54, "pt": 1 / 72.27}
"""Inches per unit; pt is TeX's, of which `\\columnwidth` tells."""

LEAST, MOST = 1.5, 20.0


def inches(width: str) -> float:
    """Return a width in inches.

    Args:
        width: One of `WIDTHS`, or a number with its unit, such as `85mm`, `3.3in`, `240pt`.

    Raises:
        ConfigError: If it is neither, or too small or large for a figure.
    """
    name = width.strip() if isinstance(width, str) else ""
    if name in WIDTHS:
        return WIDTHS[name]
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(in|mm|cm|pt)", name)
    if not found:
        raise ConfigError(
            f"No width {width!r}: name one of {', '.join(WIDTHS)}, or give a length "
            "such as 85mm, 8.5cm, 3.3in or 240pt."
        )
    asked = float(found[1]) * UNITS[found[2]]
    if not LEAST <= asked <= MOST:
        raise ConfigError(f"Width {width!r} is outside {LEAST:g} to {MOST:g} inches.")
    return asked
