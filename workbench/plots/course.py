"""The course of a model over its training: layer × phase, and the way along and across v_rev."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from workbench.course import Course
from workbench.errors import ConfigError
from workbench.plots.captions import COURSE, COURSE_SHARED, COURSE_SIBLING
from workbench.plots.heatmap import spread, zero_contour
from workbench.plots.style import (
    COSINE_COLOURS,
    FAINT,
    INK,
    UNDEFINED,
    ZERO_LINE,
    inert,
    new_figure,
)
from workbench.records import mean_defined

BEFORE_FIRST = 0.5
"""Where step 0 stands on the logarithmic axis: decades left of the first step after it."""

MARKED = 40
"""More phases than this have no marks: they would touch."""

CURVES = {
    "alignment": ("cos with <i>v</i><sub>rev</sub>", "#AA4499", "circle", 2),
    "alignment_sibling": ("cos with the sibling's", "#DDCC77", "diamond", 2),
    "turning": ("turning", "#888888", "x", 2),
    "along": ("along", "#117733", "triangle-up", 3),
    "across": ("across", "#999933", "cross", 3),
}
"""Name, colour, symbol and panel of a quantity; along and across look as in the explorer."""

SYMBOLS = {
    "witness": "θ<sub>H</sub>",
    "aligned": "θ<sub>S</sub>",
    "sibling": "θ<sub>S′</sub>",
}


def course(course: Course, *, layer: int | None = None) -> go.Figure:
    """Plot where each phase of a lineage lies, seen from the aligned one.

    Above, the cosine of the displacement with v_rev at every layer; then the cosines and the
    coordinates at one layer or their mean over layers. Steps stand on a logarithmic axis with 0
    left of it; phases without steps that ascend stand at equal distances.

    Args:
        course: From `Passage.course`.
        layer: Of the model; by default the mean over layers.

    Raises:
        ConfigError: If there are fewer than 2 phases, or the layer was not read.
    """
    if len(course.phases) < 2:
        raise ConfigError("One phase makes no course: read at least 2.")
    if layer is not None and layer not in course.layers:
        raise ConfigError(f"Layer {layer} was not read: there are {list(course.layers)}.")
    at = positions(course)
    told = "mean over layers" if layer is None else f"layer {layer}"
    figure = new_figure(
        f"The course of {inert(course.lineage)} over its training",
        f"curves: {told}; seen from {inert(course.roles['aligned'])}",
        height=760,
    )
    figure.set_subplots(
        3, 1, shared_xaxes=True, vertical_spacing=0.05, row_heights=[0.44, 0.28, 0.28]
    )
    _add_cells(figure, course, at)
    _add_curves(figure, course, at, layer)
    _mark_roles(figure, course, at)
    _set_axes(figure, course, at)
    sibling = COURSE_SHARED if course.alignment_sibling is None else COURSE_SIBLING
    caption = COURSE.format(curves=told, sibling=sibling)
    return figure.update_layout(meta={"caption": " ".join(caption.split())})


def positions(course: Course) -> Float[np.ndarray, " phase"]:
    """Return where each phase stands: the logarithm of its step, or its place in the order."""
    if not course.log_steps:
        return np.arange(len(course.phases), dtype=float)
    steps = np.array(course.steps, dtype=float)
    first = np.log10(steps[steps > 0].min())
    return np.where(steps > 0, np.log10(np.maximum(steps, 1)), first - BEFORE_FIRST)


def _add_cells(figure: go.Figure, course: Course, at: Float[np.ndarray, " phase"]) -> None:
    hover = np.stack([course.along.T, course.across.T], axis=-1)
    figure.add_heatmap(
        x=at.tolist(),
        y=list(range(len(course.layers))),
        z=_plain(course.alignment.T),
        text=[[f"layer {layer}, {_told(course, n)}" for n in range(len(at))]
              for layer in course.layers],
        customdata=hover.tolist(),
        coloraxis="coloraxis",
        hoverongaps=False,
        hovertemplate="%{text}, cos %{z:.2f}<br>along %{customdata[0]:.2f}, across "
        "%{customdata[1]:.2f} phase gaps<extra></extra>",
        meta="alignment",
        row=1,
        col=1,
    )  # fmt: skip
    edges = _edges(at)
    x, y = zero_contour(course.alignment)
    figure.add_scatter(
        x=[None if one is None else float(edges[round(one + 0.5)]) for one in x],
        y=y,
        mode="lines",
        line={"color": INK, "width": 1.8},
        hoverinfo="skip",
        showlegend=False,
        name="zero",
        meta="zero",
        row=1,
        col=1,
    )


def _add_curves(
    figure: go.Figure, course: Course, at: Float[np.ndarray, " phase"], layer: int | None
) -> None:
    # The sibling is no stage of the way: its marks stand alone, after a gap in the line.
    aside = [n for n, name in enumerate(course.phases) if name == course.roles.get("sibling")]
    order = [n for n in range(len(at)) if n not in aside] + [None, *aside] * bool(aside)
    x, texts = (
        [None if n is None else values[n] for n in order]
        for values in (at.tolist(), [_told(course, n) for n in range(len(at))])
    )
    for quantity, (name, colour, symbol, row) in CURVES.items():
        values = getattr(course, quantity)
        if values is None:
            continue
        chosen = mean_defined(values) if layer is None else values[:, course.layers.index(layer)]
        unit = "" if row == 2 else " phase gaps"
        figure.add_scatter(
            x=x,
            y=[None if n is None else _plain(chosen)[n] for n in order],
            mode="lines+markers" if len(at) <= MARKED else "lines",
            line={"color": colour, "width": 2, "dash": "dot" if quantity == "turning" else "solid"},
            marker={"color": colour, "symbol": symbol, "size": 6},
            name=name,
            text=texts,
            hovertemplate=f"%{{text}}, {name} %{{y:.2f}}{unit}<extra></extra>",
            meta=quantity,
            row=row,
            col=1,
        )


def _mark_roles(figure: go.Figure, course: Course, at: Float[np.ndarray, " phase"]) -> None:
    """A line through the panels at each phase with a role, its symbol above."""
    for role, symbol in SYMBOLS.items():
        if (name := course.roles.get(role)) not in course.phases:
            continue
        x = float(at[course.phases.index(str(name))])
        for axis in ("x2", "x3"):
            y = axis.replace("x", "y")
            line = {"color": INK, "width": 1, "dash": "dot"}
            figure.add_shape(
                type="line", xref=axis, yref=f"{y} domain", x0=x, x1=x, y0=0, y1=1, line=line
            )
        figure.add_annotation(
            x=x, y=1, xref="x", yref="y domain", text=symbol, showarrow=False, yanchor="bottom"
        )


def _set_axes(figure: go.Figure, course: Course, at: Float[np.ndarray, " phase"]) -> None:
    edges = _edges(at)
    ticks, texts = _ticks(course, at)
    margin = 0.015 * float(edges[-1] - edges[0])
    figure.update_xaxes(
        range=[float(edges[0]), float(edges[-1]) + margin],
        tickvals=ticks,
        ticktext=texts,
        tickangle=0 if course.log_steps else None,
        gridcolor=FAINT,
    )
    title = "training step (log scale)" if course.log_steps else "phase, in training order"
    figure.update_xaxes(title_text=title, row=3)
    rows = range(0, len(course.layers), max(1, -(-len(course.layers) // 12)))
    figure.update_xaxes(showgrid=False, row=1)
    figure.update_yaxes(
        title_text="layer",
        tickvals=list(rows),
        ticktext=[str(course.layers[row]) for row in rows],
        range=[-0.5, len(course.layers) - 0.5],
        showgrid=False,
        row=1,
    )
    figure.update_yaxes(title_text="cosine", range=[-1.05, 1.05], row=2, **ZERO_LINE)
    figure.update_yaxes(title_text="phase gaps", row=3, **ZERO_LINE)
    # Undefined cells are grey; behind the curves that colour would be in the way.
    figure.add_shape(
        type="rect", xref="x", yref="y domain", x0=float(edges[0]), x1=float(edges[-1]), y0=0, y1=1,
        fillcolor=UNDEFINED, line_width=0, layer="below",
    )  # fmt: skip
    bar = COSINE_COLOURS["colorbar"] | {"len": 0.44, "y": 1, "yanchor": "top"}
    figure.update_layout(
        coloraxis=COSINE_COLOURS | {"colorbar": bar},
        legend={"orientation": "h", "x": 0, "y": -0.09, "yanchor": "top"},
        margin_t=84,
    )


def _ticks(course: Course, at: Float[np.ndarray, " phase"]) -> tuple[list[float], list[str]]:
    if not course.log_steps:
        kept = spread(len(at), 12)
        return at[kept].tolist(), [inert(course.phases[n], length=24) for n in kept]
    last = max(step for step in course.steps if step is not None)
    first = min(step for step in course.steps if step)
    decades = [k for k in range(12) if first <= 10**k <= last]
    zero = [float(at[0])] if course.steps[0] == 0 else []
    return [*zero, *map(float, decades)], [*("0" for _ in zero), *(f"{10**k:,}" for k in decades)]


def _told(course: Course, place: int) -> str:
    step = course.steps[place]
    name = inert(course.phases[place])
    return name if step is None or str(step) in name else f"{name}, step {step}"


def _edges(at: Float[np.ndarray, " phase"]) -> Float[np.ndarray, " edge"]:
    between = (at[1:] + at[:-1]) / 2
    return np.array([2 * at[0] - between[0], *between, 2 * at[-1] - between[-1]])


def _plain(values: np.ndarray) -> Sequence[Any]:
    """Numbers as JSON has them: undefined is null."""
    told = values.astype(object)
    told[np.isnan(values)] = None
    return told.tolist()
