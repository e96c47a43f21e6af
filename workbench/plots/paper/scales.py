"""Where matplotlib's axes begin and end, how long their units are, and which numbers they show."""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from workbench.plots.paper.lettering import mathtext
from workbench.plots.paper.points import refusal

PX, DPI = 96, 300
BETWEEN = 38
"""Pixels from one number of an axis to the next, at the least, where matplotlib chooses them."""

Sheet = dict[str, Any]


def axis_of(layout: Sheet, name: str) -> Sheet:
    """An axis with what it does not say itself taken from the template."""
    template = layout.get("template", {}).get("layout", {})
    return template.get(f"{name[0]}axis", {}) | layout.get(full_name(name), {})


def full_name(name: str) -> str:
    """Return the key in the layout of an axis such as `x2`."""
    return f"{name[0]}axis{name[1:]}"


def set_ranges(panels: dict[str, Axes], layout: Sheet) -> None:
    """Fix every axis: where it begins and ends, and which numbers it shows."""
    for name, axes in panels.items():
        other = layout[full_name(name)].get("anchor", f"y{name[1:]}")
        for side, axis in (("x", axis_of(layout, name)), ("y", axis_of(layout, other))):
            limits = _limits(axes, side, axis)
            axes.set(**{f"{side}lim": limits})
            _set_numbers(axes, side, axis)
    for name, axes in panels.items():
        other = layout[full_name(name)].get("anchor", f"y{name[1:]}")
        if matched := axis_of(layout, name).get("matches"):
            axes.set_xlim(panels[f"x{matched[1:]}"].get_xlim())
        if matched := axis_of(layout, other).get("matches"):
            axes.set_ylim(panels[f"x{matched[1:]}"].get_ylim())
    _set_scales(panels, layout)
    for axes in panels.values():
        _hide_outside(axes)


def _set_scales(panels: dict[str, Axes], layout: Sheet) -> None:
    """Widen the range of x or y where a unit must be as long on both, as plotly does."""
    for name, axes in panels.items():
        other = layout[full_name(name)].get("anchor", f"y{name[1:]}")
        anchors = {one: axis_of(layout, one).get("scaleanchor") for one in (name, other)}
        if not any(anchors.values()):
            continue
        linear = axes.get_xscale() == axes.get_yscale() == "linear"
        if not linear or anchors not in ({name: None, other: name}, {name: other, other: None}):
            raise refusal("scale tied to another panel's or a logarithmic axis", "linear pairs")
        box, ranges = axes.get_window_extent(), (axes.get_xlim(), axes.get_ylim())
        ratio = axis_of(layout, other).get("scaleratio") or 1.0
        if anchors[name]:
            ratio = 1 / (axis_of(layout, name).get("scaleratio") or 1.0)
        lengths = (box.width, box.height / ratio)
        unit = min(length / abs(high - low)
                   for length, (low, high) in zip(lengths, ranges, strict=True))  # fmt: skip
        limits = []
        for length, (low, high) in zip(lengths, ranges, strict=True):
            half = math.copysign(length / unit / 2, high - low)
            limits.append(((low + high) / 2 - half, (low + high) / 2 + half))
        axes.set(xlim=limits[0], ylim=limits[1])


def _hide_outside(axes: Axes) -> None:
    """Take away what may reach over the axes but whose point lies beyond them."""
    ends = [sorted(axes.get_xlim()), sorted(axes.get_ylim())]
    for mark in axes.lines:
        if mark.get_clip_on() or mark.get_linestyle() != "None":
            continue
        spots = np.asarray(mark.get_xydata(), dtype=float)
        seen = [(low <= at) & (at <= high) for at, (low, high) in zip(spots.T, ends, strict=True)]
        mark.set_data(*spots[np.logical_and(*seen)].T)


def _limits(axes: Axes, side: str, axis: Sheet) -> tuple[float, float]:
    if asked := axis.get("range"):
        low, high = (10.0**end if axis.get("type") == "log" else float(end) for end in asked)
        return low, high
    axes.autoscale_view()
    low, high = axes.get_xlim() if side == "x" else axes.get_ylim()
    if axis.get("rangemode") == "tozero":
        data = axes.dataLim.intervaly if side == "y" else axes.dataLim.intervalx
        low, high = (0.0, high) if data[0] >= 0 else (low, max(0.0, high))
    return (high, low) if axis.get("autorange") == "reversed" else (low, high)


def _set_numbers(axes: Axes, side: str, axis: Sheet) -> None:
    of = axes.xaxis if side == "x" else axes.yaxis
    values = axis.get("tickvals")
    if values is None:
        if axis.get("type") != "log" and not of.have_units():
            box = axes.get_window_extent()
            length = (box.width if side == "x" else 1.6 * box.height) / DPI * PX
            most = max(2, min(int(length / BETWEEN), (axis.get("nticks") or 99) - 1))
            of.set_major_locator(MaxNLocator(most, steps=[1, 2, 5, 10]))
        return
    of.set_major_locator(FixedLocator(list(values)))
    of.set_minor_locator(NullLocator())
    texts = axis.get("ticktext") or [f"{value:g}" for value in values]
    of.set_ticklabels([mathtext(str(text)) for text in texts])
