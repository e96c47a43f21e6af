"""Traces of a plotly figure as marks on matplotlib axes: curves, points, areas, bars."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba

from workbench.errors import ConfigError
from workbench.plots.lettering import mathtext

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

DASHES = {"dash": (4, 2), "dot": (1, 1.5), "dashdot": (4, 1.5, 1, 1.5), "longdash": (7, 2)}
SHAPES = {"linear": "default", "hv": "steps-post", "vh": "steps-pre", "hvh": "steps-mid"}

Sheet = dict[str, Any]


def add_trace(axes: Axes, trace: Sheet, order: int) -> None:
    """Draw a trace; later ones lie above earlier ones.

    Raises:
        ConfigError: If it is of a kind that is not drawn here.
    """
    draw = TRACES.get(trace["type"])
    if draw is None:
        raise ConfigError(
            f"Without a browser no {trace['type']!r} trace can be drawn, only "
            f"{', '.join(TRACES)}: install Chrome or Chromium."
        )
    draw(axes, trace, order)


def colour(value: Any, otherwise: Any = "#222222") -> tuple[float, float, float, float]:
    """Return a colour of plotly's as numbers from 0 to 1."""
    found = re.fullmatch(r"rgba?\(([^)]*)\)", str(value))
    if not found:
        return to_rgba(value if isinstance(value, str) else otherwise)
    red, green, blue, *alpha = (float(part) for part in found[1].split(","))
    return (red / 255, green / 255, blue / 255, alpha[0] if alpha else 1.0)


def dashes(value: str | None) -> Any:
    """Return a line style: a name of plotly's, or lengths such as `4px,2px`."""
    if value in (None, "solid", ""):
        return "-"
    if value in DASHES:
        return (0, DASHES[value])
    return (0, tuple(POINT * float(part.removesuffix("px")) for part in value.split(",")))


def numbers(values: Any) -> Any:
    """Return coordinates with NaN for what is missing; names of categories as they are."""
    listed = [] if values is None else list(values)
    if any(isinstance(value, str) for value in listed):
        return [str(value) for value in listed]
    return np.array([np.nan if value is None else value for value in listed], dtype=float)


def _scatter(axes: Axes, trace: Sheet, order: int) -> None:
    x, y = numbers(trace.get("x")), numbers(trace.get("y"))
    mode, line, zorder = trace.get("mode", "lines+markers"), trace.get("line", {}), 3 + order / 1000
    shown = {"zorder": zorder, "clip_on": trace.get("cliponaxis", True)}
    if trace.get("fill", "none") != "none":
        _fill(axes, trace, x, y, zorder)
    elif "lines" in mode and line.get("width", 2) > 0:
        axes.plot(
            x, y, color=colour(line.get("color")), linewidth=POINT * line.get("width", 2),
            linestyle=dashes(line.get("dash")), drawstyle=SHAPES[line.get("shape", "linear")],
            dash_capstyle="butt", **shown,
        )  # fmt: skip
    for axis in ("x", "y"):
        if bar := trace.get(f"error_{axis}"):
            _error_bars(axes, bar, axis, (x, y), zorder)
    if "markers" in mode:
        _points(axes, trace.get("marker", {}), x, y, shown)
    if "text" in mode:
        for at, up, text in zip(x, y, trace.get("text") or (), strict=False):
            axes.annotate(mathtext(str(text)), (at, up), xytext=(3, 3), textcoords="offset points")


def _points(axes: Axes, marker: Sheet, x: Any, y: Any, shown: Sheet) -> None:
    if not isinstance(marker.get("color", ""), str):
        return  # it stands for a colour bar
    name, line = str(marker.get("symbol", "circle")), marker.get("line", {})
    open_, thin = name.endswith("-open"), name.endswith("-thin")
    inside, edge = colour(marker.get("color")), colour(line.get("color", marker.get("color")))
    sizes = np.broadcast_to(np.asarray(marker.get("size", 6), dtype=float), np.shape(x))
    width = POINT * line.get("width", 1.0 if open_ or thin else 0.0)
    for size in dict.fromkeys(sizes.tolist()):
        chosen = np.flatnonzero(sizes == size)
        axes.plot(
            [x[index] for index in chosen], [y[index] for index in chosen], linestyle="none",
            marker=SYMBOLS.get(name.removesuffix("-open"), "o"), markersize=POINT * size,
            markerfacecolor="none" if open_ else inside, markeredgewidth=width,
            markeredgecolor=inside if open_ else edge, **shown,
        )  # fmt: skip


def _fill(axes: Axes, trace: Sheet, x: Any, y: Any, zorder: float) -> None:
    """Areas within closed lines; a gap in the line begins another."""
    line = trace.get("line", {})
    if trace["fill"] == "tozeroy":
        x, y = np.concatenate([x[:1], x, x[-1:]]), np.concatenate([[0.0], y, [0.0]])
    corners = np.column_stack([x, y])
    gaps = np.flatnonzero(np.isnan(corners).any(axis=1))
    parts = [part[~np.isnan(part).any(axis=1)] for part in np.split(corners, gaps)]
    inside = colour(trace.get("fillcolor"), line.get("color"))
    width = POINT * line.get("width", 2)
    polygons = PolyCollection(
        [part for part in parts if len(part)],
        facecolors=[inside],
        edgecolors=[colour(line.get("color"), inside)] if width else "none",
        linewidths=width,
        zorder=zorder,
    )
    axes.add_collection(polygons, autolim=True)


def _error_bars(axes: Axes, bar: Sheet, axis: str, at: tuple[Any, Any], zorder: float) -> None:
    if bar.get("visible") is False or bar.get("array") is None:
        return
    above = numbers(bar["array"])
    below = above if bar.get("arrayminus") is None else numbers(bar["arrayminus"])
    length: Any = {f"{axis}err": np.nan_to_num(np.stack([below, above]))}
    axes.errorbar(
        *at, **length, fmt="none",
        ecolor=colour(bar.get("color")), elinewidth=POINT * bar.get("thickness", 2),
        capsize=POINT * bar.get("width", 4), capthick=POINT * bar.get("thickness", 2),
        zorder=zorder,
    )  # fmt: skip


def _bars(axes: Axes, trace: Sheet, order: int) -> None:
    x, y = numbers(trace.get("x")), numbers(trace.get("y"))
    inside = _each(trace.get("marker", {}).get("color"), len(x))
    flat = trace.get("orientation") == "h"
    draw = axes.barh if flat else axes.bar
    extent: Any = {"height" if flat else "width": trace.get("width") or 0.8}
    draw(*((y, x) if flat else (x, y)), color=inside, zorder=3 + order / 1000, **extent)
    for axis in ("x", "y"):
        if bar := trace.get(f"error_{axis}"):
            _error_bars(axes, bar, axis, (x, y), 3 + order / 1000)


def _each(value: Any, n: int) -> Sequence[tuple[float, float, float, float]]:
    several = isinstance(value, list | tuple)
    return [colour(one) for one in value] if several else [colour(value)] * n


TRACES: dict[str, Callable[[Axes, Sheet, int], None]] = {"scatter": _scatter, "bar": _bars}
