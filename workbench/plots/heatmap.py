"""The heat map of alignment: layer × step of one run."""

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int

from workbench.errors import ConfigError
from workbench.plots.style import (
    COSINE_COLOURS,
    INK,
    STEP_TITLE,
    UNDEFINED,
    inert,
    new_figure,
)
from workbench.runs import Run

MAX_COLUMNS = 120
"""More measured steps than this are thinned: they could not be told apart."""

Corner = tuple[float, float]
"""Of a cell: column and row."""

LAYER_VALUES = ("low", "high", "along", "across", "norm")
HOVER = (
    "%{text}, cos %{z:.2f}<br>95 % [%{customdata[0]:.2f}, %{customdata[1]:.2f}]"
    "<br>along %{customdata[2]:.2f}, across %{customdata[3]:.2f} phase gaps"
    "<br>norm %{customdata[4]:.4g} (residual stream)<extra></extra>"
)


def heatmap(
    run: Run,
    *,
    p99: Sequence[float] | None = None,
    steps: Sequence[int] | None = None,
    layers: Sequence[int] | None = None,
) -> go.Figure:
    """Plot one run's alignment at every layer and measured step.

    The colour scale is fixed to −1…1, a line separates positive from negative cells, a cross
    marks what is undefined. Hovering tells the interval, along, across and the norm.

    Args:
        run: With measured steps.
        p99: Per layer, the 99th percentile of a null; cells that do not exceed it get a dot.
        steps: Columns, those still to come included; by default the measured ones.
        layers: Of the model that the rows belong to; by default what the run says, else from 0.

    Raises:
        ConfigError: If the run has no measured step, or `p99` or `layers` are of another model.
    """
    if not run.measured:
        raise ConfigError(f"{run.folder}: no step of this run was measured yet.")
    columns = run.measured_steps if steps is None else np.array(steps, dtype=int)
    kept = spread(len(columns), MAX_COLUMNS)
    shown = columns[kept].tolist()
    values = by_column(run, "alignment", shown)
    layers = layers_of(run, layers)
    if p99 is not None and len(p99) != len(layers):
        raise ConfigError(f"{len(p99)} percentiles for {len(layers)} layers.")
    figure = new_heatmap(f"Alignment by layer and step: {inert(run.id)}", shown, layers)
    told = [by_column(run, name, shown).T for name in LAYER_VALUES]
    undefined = np.isnan(values) & np.isin(shown, run.measured_steps)[:, None]
    cells, *marks = cast("tuple[Any, ...]", figure.data)
    cells.update(z=values.T.tolist(), customdata=np.stack(told, axis=-1).tolist())
    below = np.zeros(values.shape, bool) if p99 is None else values <= np.array(p99)
    for trace, (x, y) in zip(
        marks, (zero_contour(values), np.nonzero(undefined), np.nonzero(below)),
        strict=True,
    ):  # fmt: skip
        trace.update(x=list(map(_plain, x)), y=list(map(_plain, y)))
    if len(kept) < len(columns):
        figure.update_layout(title_subtitle_text=f"{len(kept)} of {len(columns)} measured steps")
    return figure


def layers_of(run: Run, layers: Sequence[int] | None = None) -> tuple[int, ...]:
    """Return the layers of the model that a measured run's values belong to.

    Args:
        run: With measured steps.
        layers: Where they are known; by default what the run says, else they count from 0.

    Raises:
        ConfigError: If there is another number of them than of values.
    """
    depth = run.layer_values("alignment").shape[1]
    told = run.info.get("config", {}).get("layers") if layers is None else layers
    known = tuple(range(depth)) if told is None else tuple(told)
    if len(known) != depth:
        raise ConfigError(f"{run.folder}: {len(known)} layers named, {depth} measured.")
    return known


def new_heatmap(title: str, steps: Sequence[int], layers: Sequence[int]) -> go.Figure:
    """Return the heat map of alignment before anything is in it.

    Its traces are the cells [layer column], the contour of zero, the marks of undefined cells and
    those of cells that are not above a null; an empty one is not drawn.

    Args:
        title: Markup allowed.
        steps: Of the columns, which are equally wide, whatever lies between their steps.
        layers: Of the model, by row.
    """
    figure = new_figure(title)
    figure.add_heatmap(
        # Told as text: the place of a row or column is not its layer or step.
        text=[[f"layer {layer}, step {step}" for step in steps] for layer in layers],
        coloraxis="coloraxis",
        hoverongaps=False,
        hovertemplate=HOVER,
        meta="alignment",
    )
    skip: dict[str, Any] = {"hoverinfo": "skip", "x": [], "y": []}
    figure.add_scatter(mode="lines", line={"color": INK, "width": 1.8}, name="zero", meta="zero",
                       **skip)  # fmt: skip
    cross = {"symbol": "x-thin", "size": 8, "line": {"color": INK, "width": 1.2}}
    crowded = len(layers) > 16
    dot = {"symbol": "circle", "size": 2 if crowded else 5}
    dot["line"] = {"color": "white", "width": 0 if crowded else 0.8}
    for name, marker in (("undefined", cross), ("not above p99", dot)):
        figure.add_scatter(
            mode="markers", marker={"color": INK, **marker}, name=name, meta=name, **skip
        )
    figure.update_traces(
        selector={"name": "undefined"},
        hovertemplate="undefined: below ten noise floors<extra></extra>",
    )
    _set_axes(figure, steps, layers)
    return figure


def by_column(run: Run, name: str, steps: Sequence[int]) -> Float[np.ndarray, "step layer"]:
    """Return a layer value of a measured run at these steps; NaN where it was not measured."""
    values = run.layer_values(name)
    places = {int(step): place for place, step in enumerate(run.measured_steps)}
    found = np.full((len(steps), values.shape[1]), np.nan)
    for column, step in enumerate(steps):
        if step in places:
            found[column] = values[places[step]]
    return found


def spread(count: int, most: int) -> Int[np.ndarray, " kept"]:
    """Return at most `most` of `count` places, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def zero_contour(
    values: Float[np.ndarray, "step layer"],
) -> tuple[list[float | None], list[float | None]]:
    """Return x and y of the cell edges between positive and negative alignments, None between.

    Edges that meet are one line: every line that plotly draws costs time.
    """
    ways: dict[Corner, list[Corner]] = {}
    for step, layer in np.ndindex(*values.shape):
        for beside, edge in (
            ((step + 1, layer), ((step + 0.5, layer - 0.5), (step + 0.5, layer + 0.5))),
            ((step, layer + 1), ((step - 0.5, layer + 0.5), (step + 0.5, layer + 0.5))),
        ):
            inside = beside[0] < values.shape[0] and beside[1] < values.shape[1]
            if inside and _crosses(float(values[step, layer]), float(values[beside])):
                for start, end in (edge, edge[::-1]):
                    ways.setdefault(start, []).append(end)
    x: list[float | None] = []
    y: list[float | None] = []
    # Lines begin at loose ends; what is left then are rings.
    for start in sorted(ways, key=lambda corner: (len(ways[corner]) % 2 == 0, corner)):
        while ways[start]:
            line = _walk(ways, start)
            x += [*(corner[0] for corner in line), None]
            y += [*(corner[1] for corner in line), None]
    return x, y


def _walk(ways: dict[Corner, list[Corner]], start: Corner) -> list[Corner]:
    """Follow edges from a corner until there is none left, and take them away."""
    line = [start]
    while ways[line[-1]]:
        here = line[-1]
        there = ways[here].pop()
        ways[there].remove(here)
        line.append(there)
    return line


def _crosses(one: float, other: float) -> bool:
    return math.isfinite(one) and math.isfinite(other) and (one < 0) != (other < 0)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _set_axes(figure: go.Figure, steps: Sequence[int], layers: Sequence[int]) -> None:
    # Long labels would overlap where the figure is narrow.
    columns = spread(len(steps), 16 if max(steps, default=0) < 1000 else 6)
    figure.update_xaxes(
        title_text=f"{STEP_TITLE} (measured ones, equally spaced)",
        tickvals=columns.tolist(),
        ticktext=[str(steps[column]) for column in columns],
        range=[-0.5, len(steps) - 0.5],
        showgrid=False,
        tickangle=0,
    )
    rows = range(0, len(layers), max(1, -(-len(layers) // 16)))
    figure.update_yaxes(
        title_text="layer",
        tickvals=list(rows),
        ticktext=[str(layers[row]) for row in rows],
        range=[-0.5, len(layers) - 0.5],
        showgrid=False,
    )
    figure.update_layout(
        coloraxis=COSINE_COLOURS,
        plot_bgcolor=UNDEFINED,
        showlegend=True,
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.01, "yanchor": "bottom"},
    )
