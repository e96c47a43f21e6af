"""The heat map of alignment: layer × step of one run."""

import math
from collections.abc import Sequence

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

LAYER_VALUES = ("low", "high", "along", "across", "norm")
HOVER = (
    "layer %{y}, step %{customdata[5]:d}<br>alignment %{z:.3f}, 95 % [%{customdata[0]:.3f}, "
    "%{customdata[1]:.3f}]<br>along %{customdata[2]:.3f}, across %{customdata[3]:.3f} phase gaps"
    "<br>norm %{customdata[4]:.4g} (residual stream)<extra></extra>"
)


def heatmap(run: Run, *, p99: Sequence[float] | None = None) -> go.Figure:
    """Plot one run's alignment at every layer and measured step.

    The colour scale is fixed to −1…1, a line separates positive from negative cells, a cross
    marks what is undefined. Hovering tells the interval, along, across and the norm.

    Args:
        run: With measured steps.
        p99: Per layer, the 99th percentile of a null; cells that do not exceed it get a dot.

    Raises:
        ConfigError: If the run has no measured step, or `p99` another number of layers.
    """
    if not run.measured:
        raise ConfigError(f"{run.folder}: no step of this run was measured yet.")
    steps = run.measured_steps
    shown = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), MAX_COLUMNS)).astype(int))
    values = run.layer_values("alignment")[shown]
    if p99 is not None and len(p99) != values.shape[1]:
        raise ConfigError(f"{len(p99)} percentiles for {values.shape[1]} layers.")
    figure = new_figure(f"Alignment by layer and step: {inert(run.id)}")
    figure.add_heatmap(
        z=values.T.tolist(),
        customdata=_told_on_hover(run, shown),
        coloraxis="coloraxis",
        hoverongaps=False,
        hovertemplate=HOVER,
        meta="alignment",
    )
    _add_zero_contour(figure, values)
    _add_marks(figure, values, p99)
    _set_axes(figure, steps[shown], values.shape[1])
    if len(shown) < len(steps):
        figure.update_layout(title_subtitle_text=f"{len(shown)} of {len(steps)} measured steps")
    return figure


def zero_contour(
    values: Float[np.ndarray, "step layer"],
) -> tuple[list[float | None], list[float | None]]:
    """Return x and y of the cell edges between positive and negative alignments, None between."""
    x: list[float | None] = []
    y: list[float | None] = []
    for step, layer in np.ndindex(*values.shape):
        for beside, edge in (
            ((step + 1, layer), ((step + 0.5, layer - 0.5), (step + 0.5, layer + 0.5))),
            ((step, layer + 1), ((step - 0.5, layer + 0.5), (step + 0.5, layer + 0.5))),
        ):
            inside = beside[0] < values.shape[0] and beside[1] < values.shape[1]
            if inside and _crosses(float(values[step, layer]), float(values[beside])):
                x += [edge[0][0], edge[1][0], None]
                y += [edge[0][1], edge[1][1], None]
    return x, y


def _told_on_hover(run: Run, shown: Int[np.ndarray, " column"]) -> list[list[list[float]]]:
    """By layer and column: the layer values, then the step."""
    layers = [run.layer_values(name)[shown].T for name in LAYER_VALUES]
    steps = np.broadcast_to(run.measured_steps[shown], layers[0].shape)
    return np.stack([*layers, steps], axis=-1).tolist()


def _crosses(one: float, other: float) -> bool:
    return math.isfinite(one) and math.isfinite(other) and (one < 0) != (other < 0)


def _add_zero_contour(figure: go.Figure, values: Float[np.ndarray, "step layer"]) -> None:
    x, y = zero_contour(values)
    if x:
        figure.add_scatter(
            x=x,
            y=y,
            mode="lines",
            line={"color": INK, "width": 1.8},
            name="zero",
            meta="zero",
            hoverinfo="skip",
        )


def _add_marks(
    figure: go.Figure, values: Float[np.ndarray, "step layer"], p99: Sequence[float] | None
) -> None:
    cross = {"symbol": "x-thin", "size": 8, "line": {"color": INK, "width": 1.2}}
    crowded = values.shape[1] > 16
    dot = {"symbol": "circle", "size": 2 if crowded else 5}
    dot["line"] = {"color": "white", "width": 0 if crowded else 0.8}
    marks = {"undefined": (np.isnan(values), cross)}
    if p99 is not None:
        marks["not above p99"] = (values <= np.array(p99), dot)
    for name, (where, marker) in marks.items():
        columns, layers = np.nonzero(where)
        if len(columns):
            figure.add_scatter(
                x=columns.tolist(),
                y=layers.tolist(),
                mode="markers",
                marker={"color": INK, **marker},
                name=name,
                meta=name,
                hovertemplate="layer %{y}: undefined, below ten noise floors<extra></extra>"
                if name == "undefined"
                else None,
                hoverinfo="skip",
            )


def _set_axes(figure: go.Figure, steps: Int[np.ndarray, " column"], n_layers: int) -> None:
    """Columns are equally wide, whatever lies between their steps."""
    columns = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), 16)).round().astype(int))
    figure.update_xaxes(
        title_text=f"{STEP_TITLE} (measured ones, equally spaced)",
        tickvals=columns.tolist(),
        ticktext=[str(steps[column]) for column in columns],
        range=[-0.5, len(steps) - 0.5],
        showgrid=False,
        tickangle=0,
    )
    every = max(1, -(-n_layers // 16))
    figure.update_yaxes(
        title_text="layer",
        tickvals=list(range(0, n_layers, every)),
        range=[-0.5, n_layers - 0.5],
        showgrid=False,
    )
    figure.update_layout(
        coloraxis=COSINE_COLOURS,
        plot_bgcolor=UNDEFINED,
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.01, "yanchor": "bottom"},
    )
