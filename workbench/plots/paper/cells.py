"""The cells of a heat map as filled polygons, which stay sharp at every size."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from plotly.colors import get_colorscale, sample_colorscale

LEVELS = 254
"""Steps of the colour scale: one trace holds all cells of one step."""

SEAM = 0.4
"""Width of a cell's outline in its own colour: no light shows between neighbours."""

Sheet = dict[str, Any]
"""A figure as plotly's JSON: `data` and `layout`."""


def draw_cells(sheet: Sheet) -> None:
    """Replace every heat map that has numbers on both axes by polygons and a colour bar."""
    data: list[Sheet] = []
    for trace in sheet["data"]:
        drawable = trace["type"] == "heatmap" and _numeric(trace, "x") and _numeric(trace, "y")
        data += _polygons(trace, _colour_axis(trace, sheet["layout"])) if drawable else [trace]
    sheet["data"] = data


def _numeric(trace: Sheet, axis: str) -> bool:
    return all(isinstance(value, int | float) for value in _listed(trace.get(axis)))


def _listed(values: Any) -> Sequence[Any]:
    return [] if values is None else list(values)


def _colour_axis(trace: Sheet, layout: Sheet) -> Mapping[str, Any]:
    """The layout's colour axis; a heat map with a scale of its own becomes one."""
    name = trace.setdefault("coloraxis", "coloraxis")
    own = {"colorscale": trace.get("colorscale"), "cmin": trace.get("zmin")}
    own |= {"cmax": trace.get("zmax"), "colorbar": trace.get("colorbar", {})}
    axis = layout.setdefault(name, {key: value for key, value in own.items() if value is not None})
    values = [v for row in trace["z"] for v in row if _known(v)]
    for key, extreme in (("cmin", min), ("cmax", max)):
        if axis.get(key) is None:
            axis[key] = extreme(values, default=0)
    return axis


def _polygons(trace: Sheet, axis: Mapping[str, Any]) -> list[Sheet]:
    place = {key: trace[key] for key in ("xaxis", "yaxis", "opacity") if key in trace}
    x, y = (_edges(_listed(trace.get(name)), n) for name, n in _counts(trace))
    by_level: dict[int, tuple[list[float | int | None], list[float | int | None]]] = {}
    span = (axis["cmax"] - axis["cmin"]) or 1.0
    for row, values in enumerate(trace["z"]):
        for column, value in enumerate(values):
            if not _known(value):
                continue
            share = min(1.0, max(0.0, (value - axis["cmin"]) / span))
            xs, ys = by_level.setdefault(round(share * LEVELS), ([], []))
            (left, right), (low, high) = x[column : column + 2], y[row : row + 2]
            xs += [left, right, right, left, left, None]
            ys += [low, low, high, high, low, None]
    scale = axis.get("colorscale") or "Viridis"
    scale = get_colorscale(scale) if isinstance(scale, str) else scale
    cells = []
    for level, (xs, ys) in sorted(by_level.items()):
        colour = sample_colorscale(scale, [level / LEVELS])[0]
        cells.append(
            {"type": "scatter", "mode": "lines", "fill": "toself", "fillcolor": colour,
             "line": {"color": colour, "width": SEAM}, "x": xs, "y": ys, "meta": "cells",
             "showlegend": False} | place
        )  # fmt: skip
    # No cell has the colour axis any more: an empty trace keeps its bar.
    marker = {"color": [axis["cmin"]], "coloraxis": trace["coloraxis"]}
    bar = {"type": "scatter", "mode": "markers", "x": [None], "y": [None], "marker": marker}
    return [*cells, bar | {"showlegend": False} | place]


def _counts(trace: Sheet) -> list[tuple[str, int]]:
    return [("x", max(map(len, trace["z"]), default=0)), ("y", len(trace["z"]))]


def _edges(centres: Sequence[float | int], n: int) -> list[float | int]:
    """The n + 1 edges of cells around their centres."""
    if len(centres) == n + 1:
        return list(centres)
    at = list(centres) if len(centres) == n else [float(index) for index in range(n)]
    if n < 2:
        return [at[0] - 0.5, at[0] + 0.5] if n else []
    between = [(a + b) / 2 for a, b in pairwise(at)]
    return [2 * at[0] - between[0], *between, 2 * at[-1] - between[-1]]


def _known(value: Any) -> bool:
    return value is not None and math.isfinite(value)
