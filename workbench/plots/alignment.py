"""Alignment over steps: arms against the nulls, every run visible, the sibling control beside."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.errors import ConfigError
from workbench.plots.curves import Quantity, add_curves
from workbench.plots.readings import snapshots
from workbench.plots.style import (
    COSINES,
    NULL_COLOUR,
    STEP_TITLE,
    TITLES,
    ZERO_LINE,
    inert,
    new_figure,
    number,
)
from workbench.plots.trajectories import (
    Source,
    Trajectories,
    read_trajectories,
    runs_told,
    source_styles,
    waiting_told,
)
from workbench.runs import Run

HEADINGS: dict[str, str] = {
    "alignment": "Alignment of the drift with the reversion direction",
    "stacked_alignment": "Alignment with the reversion direction, layers stacked in gap units",
    "alignment_sibling": "Alignment of the drift with the sibling's reversion direction",
    "along": "Drift along the reversion direction",
    "across": "Drift across the reversion direction",
    "norm": "Norm of the drift",
    "loss": "Training loss of the batch before each update",
}
ROUND_STEPS = [m * 10**k for k in range(7) for m in (1, 2, 5)]


def alignment(
    source: Source,
    *,
    quantity: Quantity = "alignment",
    layer: int | None = None,
    nulls: Mapping[str, Mapping[str, Any]] | None = None,
    log_steps: bool = True,
) -> go.Figure:
    """Plot alignment, or another reading of the drift, over the fine-tuning steps.

    A click on an arm in the legend hides its mean, band and runs.

    Args:
        source: A run, several, or the summary of an experiment.
        quantity: What to plot.
        layer: At which layer of the model; by default the mean over layers. A summary has the
            alignment only, and only if it tells its layers.
        nulls: As in a summary, which has its own; drawn for the mean `alignment` only. At a layer
            the matched null is drawn where runs have it.
        log_steps: Logarithmic step axis, which shows the early phase.

    Raises:
        ConfigError: If no run has measured the quantity, or it is not known at that layer.
    """
    if not isinstance(source, Mapping):
        source = snapshots([source] if isinstance(source, Run) else source)
    trajectories = read_trajectories(source, quantity, layer=layer)
    drawn = {} if quantity != "alignment" else _bounds(source, nulls, layer)
    heading = HEADINGS[quantity] + ("" if layer is None else f", layer {layer}")
    subtitle = _subtitle(trajectories, quantity, layer)
    figure = new_figure(heading, subtitle, height=460)
    axis = _step_axis(trajectories, log_steps)
    _add_nulls(figure, drawn, [10**end if log_steps else end for end in axis["range"]])
    add_curves(figure, trajectories, source_styles(source), quantity=quantity, layer=layer)
    figure.update_xaxes(axis)
    figure.update_yaxes(title_text=TITLES[quantity], **({} if quantity == "loss" else ZERO_LINE))
    if quantity in COSINES:
        figure.update_yaxes(range=_cosine_range(trajectories, drawn.values()))
    elif quantity in ("across", "norm"):
        figure.update_yaxes(rangemode="tozero")
    return figure


def sibling(summary: Mapping[str, Any], *, log_steps: bool = True) -> go.Figure:
    """Plot the alignment beside the alignment with a direction that shares no endpoint with it.

    Raises:
        ConfigError: If the experiment had no sibling.
    """
    if not any(arm.get("alignment_sibling") for arm in summary["arms"].values()):
        raise ConfigError("No sibling here; name one under [roles] in the lineage file.")
    panels = [read_trajectories(summary, name) for name in ("alignment", "alignment_sibling")]
    every = [one for panel in panels for one in panel]
    figure = new_figure("The shared endpoint, separated", _subtitle(every), height=440)
    figure.set_subplots(
        1,
        2,
        shared_yaxes=True,
        horizontal_spacing=0.03,
        subplot_titles=[
            "own direction, cos(θ<sub>T</sub> − θ<sub>S</sub>, θ<sub>H</sub> − θ<sub>S</sub>)",
            "sibling's, cos(θ<sub>T</sub> − θ<sub>S</sub>, θ<sub>H</sub> − θ<sub>S′</sub>)",
        ],
    )
    styles = source_styles(summary)
    for column, panel in enumerate(panels, start=1):
        name: Quantity = "alignment" if column == 1 else "alignment_sibling"
        add_curves(figure, panel, styles, quantity=name, column=column)
    figure.update_annotations(font_size=13)
    figure.update_xaxes(_step_axis(every, log_steps))
    figure.update_yaxes(range=_cosine_range(every, []), **ZERO_LINE)
    figure.update_yaxes(title_text="cosine, mean over layers", col=1)
    figure.update_layout(margin_t=92)
    return figure


def null_bounds(nulls: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return the p99 of the mean alignment by null; with several lineages, the largest."""
    bounds = {}
    for name, null in nulls.items():
        told = null.get("aggregate_p99")
        values = [v for v in (told if isinstance(told, list) else [told]) if v is not None]
        if values:
            bounds[name] = float(max(values))
    return bounds


def _bounds(
    source: Source, nulls: Mapping[str, Mapping[str, Any]] | None, layer: int | None
) -> dict[str, float]:
    """What nulls bound the mean alignment by, or the alignment at a layer."""
    if isinstance(source, Mapping):
        nulls = source.get("nulls") if nulls is None else nulls
        return null_bounds(nulls or {}) if layer is None else {}
    if layer is None:
        return null_bounds(nulls or {})
    p99 = [
        float(null[run.row(layer)])
        for run in snapshots([source] if isinstance(source, Run) else source)
        if run.measured and (null := run.around.p99) is not None
        if run.layers is not None and len(null) == len(run.layers)
    ]
    return {"matched": max(p99)} if p99 else {}


def _add_nulls(figure: go.Figure, bounds: Mapping[str, float], ends: Sequence[float | int]) -> None:
    """Draw what 98 % of each null's mean alignments lie within: the widest as an area."""
    left, right = ends
    by_width = sorted(bounds, key=lambda name: bounds[name], reverse=True)
    for name, dash in zip(by_width, ("solid", "dash", "dot", "dashdot"), strict=False):
        bound, widest = bounds[name], name == by_width[0]
        area = {"x": [left, right, right, left], "y": [bound, bound, -bound, -bound]}
        edges = {"x": [left, right, None, left, right], "y": [bound, bound, None, -bound, -bound]}
        figure.add_scatter(
            **(area if widest else edges),
            fill="toself" if widest else "none",
            fillcolor="rgba(107, 107, 107, 0.17)",
            mode="lines",
            line={"color": NULL_COLOUR, "width": 0 if widest else 1.2, "dash": dash},
            name=f"{inert(name)} null, ±p99 = {number(bound, 2)}",
            meta="null",
            legendrank=2000,
            hoverinfo="skip",
        )


def _subtitle(
    trajectories: Sequence[Trajectories], quantity: Quantity = "alignment", layer: int | None = None
) -> str:
    n, waiting = runs_told(trajectories), waiting_told(trajectories)
    over = "" if layer is not None or quantity == "loss" else ", mean over layers"
    if n == "1":
        return f"one run per arm{over}{waiting}"
    return f"mean of n = {n} runs{over}, band ±1 sd; thin lines: single runs{waiting}"


def _step_axis(trajectories: Sequence[Trajectories], log_steps: bool) -> dict[str, Any]:
    end = max(int(one.steps.max()) for one in trajectories)
    if not log_steps:
        return {"title": {"text": STEP_TITLE}, "range": [0, end * 1.02]}
    return {
        "title": {"text": f"{STEP_TITLE} (log scale)"},
        "type": "log",
        "tickvals": [step for step in ROUND_STEPS if step <= end],
        "range": [math.log10(0.9), math.log10(end * 1.12)],
    }


def _cosine_range(trajectories: Sequence[Trajectories], bounds: Any) -> list[float]:
    """A range around the data, zero always well inside, never beyond what a cosine can be."""
    seen = np.concatenate([one.values.ravel() for one in trajectories])
    known = [*seen[np.isfinite(seen)].tolist(), *bounds, *(-bound for bound in bounds)]
    return [max(-1.02, min([-0.15, *known]) - 0.06), min(1.02, max([0.25, *known]) + 0.06)]
