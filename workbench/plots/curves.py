"""Curves over steps: every arm's mean, its band of one sd, and a thin line per run."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go

from workbench.plots.style import ArmStyle, inert, number
from workbench.plots.trajectories import Trajectories, shown_arms

Quantity = Literal[
    "alignment", "stacked_alignment", "alignment_sibling", "along", "across", "norm", "loss"
]
Coordinates = list[int | float | None]
"""Positions of a line; None lifts the pen."""

WORDS = {
    "alignment": "cos {}",
    "stacked_alignment": "cos {}, layers stacked",
    "alignment_sibling": "cos {} with the sibling's direction",
    "along": "along {} phase gaps",
    "across": "across {} phase gaps",
    "norm": "norm {} (residual stream)",
    "loss": "loss {} nats per token",
}
"""What a value is called on hovering."""


def add_curves(
    figure: go.Figure,
    trajectories: Sequence[Trajectories],
    styles: Mapping[str, ArmStyle],
    *,
    quantity: Quantity = "alignment",
    layer: int | None = None,
    column: int | None = None,
) -> None:
    """Add each arm's mean, its band of one sd, and a thin line per run.

    Args:
        figure: To add to.
        trajectories: One per arm.
        styles: By arm.
        quantity: What they are of, for the words on hovering.
        layer: Of which layer; None for the mean over layers.
        column: Of a figure with subplots; the legend is drawn for the first.
    """
    shown = shown_arms(trajectories)
    behind: list[dict[str, Any]] = []
    means: list[dict[str, Any]] = []
    for one in trajectories:
        style = styles[one.arm]
        shared: dict[str, Any] = {
            "type": "scatter",
            "legendgroup": inert(one.arm),
            "name": inert(one.arm),
            "visible": True if one.arm in shown else "legendonly",
        }
        hidden = shared | {"mode": "lines", "showlegend": False, "hoverinfo": "skip"}
        band = {"fill": "toself", "fillcolor": style.faded(0.14), "line": {"width": 0}}
        thin = {"color": style.faded(0.4), "width": 0.8, "dash": style.dash}
        behind += [
            hidden | _band(one) | band | {"meta": "sd"},
            hidden | _single_runs(one) | {"line": thin, "meta": "runs"},
        ]
        means.append(
            shared
            | {
                "x": one.steps.tolist(),
                "y": one.mean.tolist(),
                "customdata": _hover(one, quantity, layer),
                "mode": "lines+markers",
                "line": {"color": style.colour, "width": 2.2, "dash": style.dash},
                "marker": {"symbol": style.symbol, "size": 7, "color": style.colour},
                "hovertemplate": "%{customdata}<extra></extra>",
                "meta": "mean",
                "showlegend": column in (None, 1),
            }
        )
    traces = [*behind, *means]
    # All at once: plotly checks every trace twice when they are added singly.
    rows, cols = (None, None) if column is None else ([1] * len(traces), [column] * len(traces))
    figure.add_traces(traces, rows=rows, cols=cols)


def _band(one: Trajectories) -> dict[str, Coordinates]:
    known = np.isfinite(one.mean) & np.isfinite(one.sd)
    steps, mean, sd = one.steps[known], one.mean[known], one.sd[known]
    return {
        "x": [*steps.tolist(), *steps[::-1].tolist()],
        "y": [*(mean + sd).tolist(), *(mean - sd)[::-1].tolist()],
    }


def _single_runs(one: Trajectories) -> dict[str, Coordinates]:
    """All runs as one line with gaps between them; nothing if the mean is the only run."""
    x: Coordinates = []
    y: Coordinates = []
    for values in one.values if len(one.values) > 1 else []:
        x += [*one.steps.tolist(), None]
        y += [*values.tolist(), None]
    return {"x": x, "y": y}


def _hover(one: Trajectories, quantity: Quantity, layer: int | None) -> list[str]:
    """What a mean says, such as `block, layer 3, step 20, cos 0.63 ± 0.04 (sd, n = 3)`."""
    where = inert(one.arm) + ("" if layer is None else f", layer {layer}")
    n = np.isfinite(one.values).sum(axis=0)
    told = []
    for index, (step, mean, sd) in enumerate(zip(one.steps, one.mean, one.sd, strict=True)):
        value, spread = number(mean), ""
        if n[index] > 1:
            value, spread = f"{value} ± {number(sd)}", f" (sd, n = {n[index]})"
        elif len(one.values) == 1 and np.isfinite(one.low[0, index]):
            low, high = number(one.low[0, index]), number(one.high[0, index])
            spread = f" (95 % over prompts {low} to {high})"
        told.append(f"{where}, step {step}, {WORDS[quantity].format(value)}{spread}")
    return told
