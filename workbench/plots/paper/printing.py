"""A figure set for paper: a copy at its final size, in small type, that nothing is cut from."""

import math
from copy import deepcopy
from typing import Any

import plotly.graph_objects as go
from plotly.colors import DEFAULT_PLOTLY_COLORS as PLOTLY

from workbench.errors import ConfigError
from workbench.plots.paper.cells import draw_cells
from workbench.plots.paper.panels import PX, Panels

BASE, TICKS, NAMES = 8 * PX / 72, 6.5 * PX / 72, 7 * PX / 72
"""Pixels, of 8, 6.5 and 7 points: titles of axes; their numbers; names in legends and panels."""

SHRINK = 0.62
"""What lines and marks become smaller by: a screen's figure is about as much wider."""

THINNEST = 0.45
"""Pixels of the thinnest line: a third of a point."""

FONT = "Liberation Sans, Arial, Helvetica, DejaVu Sans, sans-serif"
"""The first that is there is embedded; the first three are as wide as each other."""

DASHES = {
    "dash": "4px,2px",
    "dot": "1px,1.5px",
    "dashdot": "4px,1.5px,1px,1.5px",
    "longdash": "7px,2px",
    "longdashdot": "7px,1.5px,1px,1.5px",
}
"""Plotly's own are made for a screen: too long to be told apart in a legend."""

ON_SCREEN = ("customdata", "hovertemplate", "hoverinfo", "hoverongaps", "legendgroup", "visible")
"""Of traces: nothing to point at or to click on."""

Sheet = dict[str, Any]


def for_print(figure: go.Figure, width: float, height: float | int | None = None) -> go.Figure:
    """Return a copy of a figure as it is printed at this width.

    Title and subtitle go, as a caption tells them; panels that would be too narrow side by side
    are stacked; the legend stands below. What waits in the legend for a click is left out.

    Args:
        figure: Any of ours; it is not changed.
        width: In inches.
        height: In inches; by default what the panels need.

    Raises:
        ConfigError: If the height is no number of inches, or nothing would be left of the panels.
    """
    if height is not None and not (
        isinstance(height, int | float) and math.isfinite(height) and height > 0
    ):
        raise ConfigError(f"Height {height!r} is no length in inches: give a number above 0.")
    sheet = deepcopy(figure.to_plotly_json())
    layout = sheet["layout"]
    _colour_in(sheet)
    sheet["data"] = [
        _on_paper(trace) for trace in sheet["data"] if trace.get("visible") in (None, True)
    ]
    draw_cells(sheet)
    for trace in sheet["data"]:
        _shrink(trace)
    for key in ("title", "margin", "meta", "hoverlabel", "updatemenus", "sliders"):
        layout.pop(key, None)
    layout["font"] = {**layout.get("font", {}), "family": FONT, "size": NAMES}
    for name in [key for key in layout if key.startswith(("xaxis", "yaxis"))]:
        _set_axis(layout[name])
    for shape in layout.get("shapes", ()):
        _shrink_line(shape.setdefault("line", {}), 2)
    for note in layout.get("annotations", ()):
        _set_note(note)
    asked = None if height is None else height * PX
    panels = Panels(sheet, width * PX, base=BASE, ticks=TICKS, names=NAMES)
    if not panels.arrange(asked):
        raise ConfigError(f"Height {height:g} in leaves no room for the panels: give a larger one.")
    layout["meta"] = {"stacked": panels.stacked}
    return go.Figure(sheet)


def _colour_in(sheet: Sheet) -> None:
    """Write out the colours that plotly gives: to marks their line's, else the next in order.

    The legend's keys are traces of their own, which would come later in that order.
    """
    layout = sheet["layout"]
    template = layout.get("template", {}).get("layout", {})
    colours = layout.get("colorway") or template.get("colorway") or PLOTLY
    for index, trace in enumerate(sheet["data"]):
        given = [(trace.get(name) or {}).get("color") for name in ("line", "marker")]
        own = next((one for one in given if isinstance(one, str)), colours[index % len(colours)])
        for name in {"scatter": ("line", "marker"), "bar": ("marker",)}.get(trace["type"], ()):
            trace[name] = {"color": own} | (trace.get(name) or {})


def _on_paper(trace: Sheet) -> Sheet:
    return {key: value for key, value in trace.items() if key not in ON_SCREEN}


def _shrink(trace: Sheet) -> None:
    """Make a trace's lines, marks and error bars smaller."""
    if trace.get("meta") == "cells":
        return
    if trace["type"] == "scatter" and "lines" in trace.get("mode", "lines"):
        _shrink_line(trace.setdefault("line", {}), 2)
    if trace["type"] == "scatter" and "markers" in trace.get("mode", "markers"):
        marker = trace.setdefault("marker", {})
        marker["size"] = _smaller(marker.get("size", 6))
        if "standoff" in marker:
            marker["standoff"] = _smaller(marker["standoff"])
        if "line" in marker:
            _shrink_line(marker["line"], 0)
    if trace["type"] == "scatter" and "text" in trace.get("mode", ""):
        trace["textfont"] = {**trace.get("textfont", {}), "size": NAMES}
    for name in ("error_x", "error_y"):
        if trace.get(name):
            bar = trace[name]
            bar["thickness"] = _thin(bar.get("thickness", 2))
            bar["width"] = SHRINK * bar.get("width", 4)


def _smaller(size: Any) -> Any:
    """One size of marks, or one for each."""
    return SHRINK * size if isinstance(size, int | float) else [SHRINK * one for one in size]


def _shrink_line(line: Sheet, usual: float | int) -> None:
    line["width"] = _thin(line.get("width", usual))
    if line.get("dash") in DASHES:
        line["dash"] = DASHES[line["dash"]]


def _thin(width: float | int) -> float | int:
    return max(THINNEST, SHRINK * width) if width else 0


def _set_axis(axis: Sheet) -> None:
    axis |= {"linewidth": 0.7, "gridwidth": 0.5, "ticklen": 2.5, "tickwidth": 0.7}
    axis["tickfont"] = {**axis.get("tickfont", {}), "size": TICKS}
    if axis.get("zerolinewidth"):
        axis["zerolinewidth"] = _thin(axis["zerolinewidth"])
    title = axis.setdefault("title", {})
    title |= {"standoff": 3, "font": {**title.get("font", {}), "size": BASE}}


def _set_note(note: Sheet) -> None:
    note["font"] = {**note.get("font", {}), "size": TICKS}
    for shift in ("xshift", "yshift"):
        if note.get(shift):
            note[shift] *= SHRINK
