"""One layer over the steps: its alignment with interval and null, and its motion in phase gaps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.plots.alignment import ROUND_STEPS
from workbench.plots.style import INK, STEP_TITLE, ZERO_LINE, new_figure
from workbench.plots.view import Bound, Plot

HEIGHT = 430

MARKED = 40
"""More steps than this have no marks: they would touch."""

CURVES = {
    "alignment": ("#AA4499", "circle", 1),
    "along": ("#117733", "triangle-up", 2),
    "across": ("#999933", "cross", 2),
}
"""Colour, symbol and panel of a quantity; the colours are none of an arm's."""


def layer_curves(steps: Sequence[int], by: tuple[str, ...]) -> Plot:
    """Return the plot of one layer.

    What it shows is in the tables `alignment`, `low`, `high`, `along`, `across` and `null_band`,
    by run and layer, and `at`, by step.

    Args:
        steps: That are shown.
        by: Controls that choose the run; `layer` and `step` choose the rest.
    """
    layer = (*by, "layer")
    tables = ("null_band", "low", "high", "alignment", "along", "across")
    return Plot(
        "curves",
        _empty(list(steps)),
        "Alignment of the chosen layer with its interval over the steps, and its motion along and "
        "across the reversion direction in phase gaps",
        (
            *(Bound(("data", place, "y"), table, layer) for place, table in enumerate(tables)),
            *(Bound(("layout", "shapes", 0, end), "at", ("step",)) for end in ("x0", "x1")),
        ),
        {"step": "index"},
    )


def _empty(steps: list[int]) -> go.Figure:
    """The figure with its traces, in the order of the tables, and the line at the chosen step."""
    figure = new_figure("", height=HEIGHT)
    figure.set_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.06, row_heights=[0.6, 0.4])
    ends = [min(steps) * 0.9, max(steps) * 1.12]
    for trace in _bands(steps, ends):
        figure.add_trace(trace, row=1, col=1)
    for name, (colour, symbol, row) in CURVES.items():
        figure.add_scatter(
            x=steps,
            mode="lines+markers" if len(steps) <= MARKED else "lines",
            line={"color": colour, "width": 2},
            marker={"color": colour, "symbol": symbol, "size": 6},
            name=name,
            hovertemplate=f"step %{{x}}, {'cos' if row == 1 else name} %{{y:.2f}}"
            f"{'' if row == 1 else ' phase gaps'}<extra></extra>",
            row=row,
            col=1,
        )
    ticks = [step for step in ROUND_STEPS if step <= max(steps)]
    figure.update_xaxes(type="log", range=np.log10(ends).tolist(), tickvals=ticks)
    figure.update_xaxes(title_text=f"{STEP_TITLE} (log scale)", row=2)
    figure.update_yaxes(title_text="alignment (cosine)", range=[-1.05, 1.05], row=1, **ZERO_LINE)
    figure.update_yaxes(title_text="phase gaps", row=2, **ZERO_LINE)
    line = {"type": "line", "xref": "x", "yref": "paper", "y0": 0, "y1": 1, "x0": 1, "x1": 1}
    legend = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"}
    return figure.update_layout(
        shapes=[line | {"line": {"color": INK, "width": 1, "dash": "dot"}}],
        legend=legend,
        margin_t=76,
    )


def _bands(steps: list[int], ends: list[float]) -> list[go.Scatter]:
    """The null, and the two ends of the interval with what lies between them."""
    quiet: dict[str, Any] = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    return [
        go.Scatter(
            x=[*ends, *ends[::-1]],
            fill="toself",
            fillcolor="rgba(107, 107, 107, 0.17)",
            name="matched null, ±p99",
            **quiet,
        ),
        go.Scatter(x=steps, showlegend=False, **quiet),
        go.Scatter(
            x=steps,
            fill="tonexty",
            fillcolor="rgba(170, 68, 153, 0.2)",
            name="95 % interval over prompts",
            **quiet,
        ),
    ]
