"""Plots that are replaced as a whole: all of a figure is in the tables of its view."""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.plots.page import bare_figure
from workbench.plots.view import Bound, Plot, Table

PARTS = ("data", "layout")


def whole_plot(name: str, figure: go.Figure, alt: str) -> Plot:
    """Return a plot that shows whatever figure is in the tables of `whole_tables`."""
    frame = go.Figure(layout={"height": figure["layout"]["height"]})
    return Plot(name, frame, alt, tuple(Bound((part,), _table(name, part), ()) for part in PARTS))


def whole_tables(figures: Mapping[str, go.Figure]) -> dict[str, Table]:
    """Return the tables of whole plots, by name; the template stays out, as all share it."""
    tables = {}
    for name, figure in figures.items():
        stored = bare_figure(figure)
        tables |= {_table(name, part): _lists(stored[part]) for part in PARTS}
    return tables


def _lists(value: Any) -> Any:
    """The same with arrays as lists; plotly packs them into texts that it does not read again."""
    if isinstance(value, Mapping):
        if "bdata" not in value:
            return {key: _lists(item) for key, item in value.items()}
        packed = np.frombuffer(base64.b64decode(value["bdata"]), dtype=value["dtype"])
        shape = str(value.get("shape", len(packed))).split(",")
        return packed.reshape([int(size) for size in shape]).tolist()
    return list(map(_lists, value)) if isinstance(value, list) else value


def _table(name: str, part: str) -> str:
    return f"{name} {part}"
