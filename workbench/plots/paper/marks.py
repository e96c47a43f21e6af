"""Traces of a plotly figure on matplotlib axes: curves, points, areas, bars."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection

from workbench.plots.paper.points import POINT, add_arrows, add_points, add_texts, colour, refusal

DASHES = {"dash": (4, 2), "dot": (1, 1.5), "dashdot": (4, 1.5, 1, 1.5), "longdash": (7, 2)}
SHAPES = {"linear": "default", "hv": "steps-post", "vh": "steps-pre", "hvh": "steps-mid"}

Sheet = dict[str, Any]


def add_trace(axes: Axes, trace: Sheet, order: int, before: Sheet | None = None) -> None:
    """Draw a trace; later ones lie above earlier ones.

    Args:
        axes: Of its panel.
        trace: Of a printed figure.
        order: Its place among all.
        before: The curve drawn before it in the panel, to which an area may reach.

    Raises:
        ConfigError: If it is of a kind, or has a mark or an area, that is not drawn here.
    """
    if trace["type"] == "scatter":
        _scatter(axes, trace, order, before)
    elif trace["type"] == "bar":
        _bars(axes, trace, order)
    else:
        raise refusal(f"{trace['type']!r} trace", "scatter, bar")


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


def _scatter(axes: Axes, trace: Sheet, order: int, before: Sheet | None) -> None:
    x, y = numbers(trace.get("x")), numbers(trace.get("y"))
    mode, line, zorder = trace.get("mode", "lines+markers"), trace.get("line", {}), 3 + order / 1000
    shown = {"zorder": zorder, "clip_on": trace.get("cliponaxis", True)}
    fill, marker = trace.get("fill", "none"), trace.get("marker", {})
    if fill != "none":
        _fill(axes, trace, (x, y), before, zorder)
    if "markers" in mode and marker.get("angleref") == "previous":
        add_arrows(axes, trace, x, y, zorder)
        mode = mode.replace("markers", "").replace("lines", "")
    if "lines" in mode and line.get("width", 2) > 0 and fill != "toself":
        axes.plot(
            x, y, color=colour(line.get("color")), linewidth=POINT * line.get("width", 2),
            alpha=trace.get("opacity"), linestyle=dashes(line.get("dash")),
            drawstyle=SHAPES[line.get("shape", "linear")], dash_capstyle="butt", **shown,
        )  # fmt: skip
    for axis in ("x", "y"):
        if bar := trace.get(f"error_{axis}"):
            _error_bars(axes, bar, axis, (x, y), zorder)
    if "markers" in mode:
        add_points(axes, trace, x, y, shown)
    if "text" in mode:
        add_texts(axes, trace, x, y, shown)


def _fill(
    axes: Axes, trace: Sheet, at: tuple[Any, Any], before: Sheet | None, zorder: float
) -> None:
    """Areas within closed lines; a gap in the line begins another."""
    (x, y), line = at, trace.get("line", {})
    fill = trace["fill"]
    if fill == "tonexty" and before is not None:
        x = np.concatenate([x, numbers(before["x"])[::-1]])
        y = np.concatenate([y, numbers(before["y"])[::-1]])
    elif fill in ("tozeroy", "tonexty"):
        x, y = np.concatenate([x[:1], x, x[-1:]]), np.concatenate([[0.0], y, [0.0]])
    elif fill != "toself":
        raise refusal(f"area {fill!r}", "'toself', 'tonexty', 'tozeroy'")
    corners = np.column_stack([x, y])
    gaps = np.flatnonzero(np.isnan(corners).any(axis=1))
    parts = [part[~np.isnan(part).any(axis=1)] for part in np.split(corners, gaps)]
    inside = colour(trace.get("fillcolor"), line.get("color"))
    width = POINT * line.get("width", 2) if fill == "toself" else 0
    polygons = PolyCollection(
        [part for part in parts if len(part)],
        facecolors=[inside],
        edgecolors=[colour(line.get("color"), inside)] if width else "none",
        linewidths=width,
        alpha=trace.get("opacity"),
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
