"""What stands at the points of a plotly trace, on matplotlib axes: marks, arrows and names."""

import re
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.patches import FancyArrowPatch

from workbench.errors import ConfigError
from workbench.plots.paper.lettering import mathtext

POINT = 0.75
"""Points per pixel."""

SYMBOLS: dict[str, Any] = {
    "circle": "o", "square": "s", "diamond": "D", "cross": "P", "x": "X", "triangle-up": "^",
    "triangle-down": "v", "triangle-left": "<", "triangle-right": ">", "pentagon": "p",
    "hexagon": "h", "star": "*", "diamond-tall": "d", "x-thin": "x", "cross-thin": "+",
    "diamond-wide": [(-1, 0), (0, 0.6), (1, 0), (0, -0.6), (-1, 0)],
    "hourglass": [(-1, 1), (1, 1), (-1, -1), (1, -1), (-1, 1)],
    "bowtie": [(-1, -1), (-1, 1), (1, -1), (1, 1), (-1, -1)],
    "star-triangle-up": (3, 1, 0), "star-square": (4, 1, 45),
}  # fmt: skip
"""Plotly's symbols as matplotlib's markers."""

SEVERAL = 0.7
"""Opacity that plotly gives to marks of several sizes."""

Sheet = dict[str, Any]


def refusal(what: str, known: str) -> ConfigError:
    """Return the error for what only a browser draws."""
    return ConfigError(
        f"Without a browser no {what} can be drawn, only {known}: install Chrome or Chromium."
    )


def colour(value: Any, otherwise: Any = "#222222") -> tuple[float, float, float, float]:
    """Return a colour of plotly's as numbers from 0 to 1."""
    found = re.fullmatch(r"rgba?\(([^)]*)\)", str(value))
    if not found:
        return to_rgba(value if isinstance(value, str) else otherwise)
    red, green, blue, *alpha = (float(part) for part in found[1].split(","))
    return (red / 255, green / 255, blue / 255, alpha[0] if alpha else 1.0)


def add_points(axes: Axes, trace: Sheet, x: Any, y: Any, shown: Sheet) -> None:
    """Draw a trace's marks, each in its own symbol, size, colour and opacity.

    Raises:
        ConfigError: If a symbol is not known, or colours are numbers on a scale.
    """
    looks: dict[tuple[Any, ...], list[int]] = {}
    if all(one != one for one in x):
        return  # such as the trace that holds a colour bar
    for index in range(len(x)):
        looks.setdefault(_look(trace, index), []).append(index)
    for (marker, size, inside, edge, width), chosen in looks.items():
        axes.plot(
            [x[index] for index in chosen], [y[index] for index in chosen], linestyle="none",
            marker=marker, markersize=size, markerfacecolor=inside, markeredgecolor=edge,
            markeredgewidth=width, **shown,
        )  # fmt: skip


def _look(trace: Sheet, index: int) -> tuple[Any, ...]:
    """One mark: its shape, size, two colours and width of its edge."""
    marker = trace.get("marker", {})
    line, sizes = marker.get("line", {}), marker.get("size", 6)
    name, given = _at(marker.get("symbol", "circle"), index), _at(marker.get("color"), index)
    base = str(name).removesuffix("-open")
    if base not in SYMBOLS:
        raise refusal(f"mark {name!r}", "plain and open ones such as 'circle' and 'diamond-open'")
    if not isinstance(given, str | None):
        raise refusal("mark coloured by a number", "marks with a colour of their own")
    opacity = _at(marker.get("opacity", 1.0 if np.isscalar(sizes) else SEVERAL), index)
    opacity *= trace.get("opacity", 1.0)
    open_, thin = str(name).endswith("-open"), base.endswith("-thin")
    inside, edge = (
        _faded(colour(one), opacity) for one in (given, _at(line.get("color"), index) or given)
    )
    width = _at(line.get("width", 0.0), index) or (1.0 if open_ or thin else 0.0)
    size = float(_at(sizes, index))
    return (
        _hashable(SYMBOLS[base]), POINT * size, "none" if open_ else inside,
        inside if open_ else edge, POINT * width if size else 0.0,
    )  # fmt: skip


def _at(value: Any, index: int) -> Any:
    """One value for all points, or that of a point."""
    if isinstance(value, list | tuple | np.ndarray):
        return value[index] if index < len(value) else value[-1]
    return value


def _hashable(symbol: Any) -> Any:
    return tuple(symbol) if isinstance(symbol, list) else symbol


def _faded(tone: tuple[float, float, float, float], opacity: float) -> tuple[float, ...]:
    return (*tone[:3], tone[3] * opacity)


def add_arrows(axes: Axes, trace: Sheet, x: Any, y: Any, zorder: float) -> None:
    """Draw a trace whose marks point away from the point before, each line up to its mark.

    Raises:
        ConfigError: If a mark is no arrow.
    """
    marker, line = trace["marker"], trace.get("line", {})
    width = POINT * line.get("width", 2) if "lines" in trace.get("mode", "lines") else 0.0
    for index in range(1, len(x)):
        if (name := _at(marker.get("symbol"), index)) != "arrow":
            raise refusal(f"mark {name!r} that points", "'arrow'")
        size = POINT * float(_at(marker.get("size", 6), index))
        tone = colour(_at(marker.get("color"), index) or line.get("color"))
        tone = _faded(tone, trace.get("opacity", 1.0) * _at(marker.get("opacity", 1.0), index))
        ends = [(x[at], y[at]) for at in (index - 1, index)]
        apart = POINT * float(_at(marker.get("standoff", 0), index))
        head = f"-|>,head_length={size},head_width={size / 2}"
        # Without an edge, or the head would be larger than asked for by its corners.
        for style, stroke, short in (("-", width, apart + size / 2), (head, 0.0, apart)):
            arrow = FancyArrowPatch(
                *ends, arrowstyle=style, mutation_scale=1, shrinkA=0, shrinkB=short, color=tone,
                linewidth=stroke, capstyle="butt", zorder=zorder,
            )  # fmt: skip
            axes.add_patch(arrow)
    axes.update_datalim(np.column_stack([x, y]))


def add_texts(axes: Axes, trace: Sheet, x: Any, y: Any, shown: Sheet) -> None:
    """Write a trace's names beside their points, in their own font and place."""
    font, marked = trace.get("textfont", {}), "markers" in trace.get("mode", "")
    for index, (across, up) in enumerate(zip(x, y, strict=True)):
        text = _at(trace.get("text"), index)
        if not text or across != across or up != up:
            continue
        place = str(_at(trace.get("textposition", "middle center"), index))
        vertical, horizontal = place.split()
        radius = _at(trace.get("marker", {}).get("size", 6), index) / 2 if marked else 0
        shift = POINT * (radius / 0.8 + 1 if marked else 0)
        axes.annotate(
            mathtext(str(text)), (across, up), textcoords="offset points",
            xytext=(SIDES[horizontal][1] * shift, SIDES[vertical][1] * shift),
            ha=SIDES[horizontal][0], va=SIDES[vertical][0],
            fontsize=POINT * _at(font.get("size", 9), index),
            color=colour(_at(font.get("color"), index)), annotation_clip=True, **shown,
        )  # fmt: skip


SIDES: dict[str, tuple[Any, int]] = {
    "left": ("right", -1), "center": ("center", 0), "right": ("left", 1),
    "top": ("bottom", 1), "middle": ("center_baseline", 0), "bottom": ("top", -1),
}  # fmt: skip
"""How a text stands beside its point, and which way it is moved."""
