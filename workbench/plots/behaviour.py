"""Behaviour over steps: harmfulness, task loss and the other scores of every arm."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.plots.style import (
    SHARES,
    STEP_TITLE,
    TITLES,
    ArmStyle,
    inert,
    new_figure,
    number,
)
from workbench.plots.trajectories import (
    Source,
    Trajectories,
    read_trajectories,
    runs_told,
    shown_arms,
    source_styles,
    waiting_told,
)

DODGE = 0.014
"""Distance between arms at one step, as a share of the axis."""


def behaviour(
    source: Source, quantities: Sequence[str] = ("harmfulness", "task_loss")
) -> go.Figure:
    """Plot scores over the fine-tuning steps, one panel each.

    Bars are one sd over runs, or the run's own 95 % interval where an arm has one run. Arms are
    drawn side by side at each step; the axis is log(1 + step), so that it starts at step 0.

    Args:
        source: A run, several, or the summary of an experiment.
        quantities: Scores, such as `harmfulness`, `task_loss`, `kl`.

    Raises:
        ConfigError: If no run was evaluated.
    """
    panels = [read_trajectories(source, quantity) for quantity in quantities]
    every = [one for panel in panels for one in panel]
    styles = source_styles(source)
    single = all(len(one.values) == 1 for one in every)
    bars = "bars: 95 % interval of the run over prompts" if single else _bars(every)
    bars += waiting_told(every)
    figure = new_figure("Behaviour during fine-tuning", bars, height=420)
    figure.set_subplots(1, len(panels), horizontal_spacing=0.1)
    for column, (quantity, panel) in enumerate(zip(quantities, panels, strict=True), start=1):
        scale = 100 if quantity in SHARES else 1
        end = _position(max(int(one.steps.max()) for one in panel))
        shown = [one.arm for one in panel if one.arm in shown_arms(panel)]
        for one in panel:
            # An arm that waits in the legend has no place of its own beside the others.
            index = shown.index(one.arm) if one.arm in shown else (len(shown) - 1) / 2
            shift = (index - (len(shown) - 1) / 2) * DODGE * end
            place = {"col": column, "visible": True if one.arm in shown else "legendonly"}
            _add_arm(figure, one, styles[one.arm], shift, scale, place)
        title = TITLES.get(quantity, quantity)
        figure.update_yaxes(title_text=title.replace("(share of", "(% of"), col=column)
        if quantity in (*SHARES, "kl"):
            figure.update_yaxes(rangemode="tozero", col=column)
        figure.update_xaxes(_step_axis(panel, end, len(shown)), col=column)
    return figure


def _bars(every: Sequence[Trajectories]) -> str:
    return f"mean of n = {runs_told(every)} runs, bars ±1 sd; small marks: single runs"


def _position(step: int) -> float:
    return float(np.log10(1 + step))


def _add_arm(
    figure: go.Figure,
    one: Trajectories,
    style: ArmStyle,
    shift: float,
    scale: int,
    place: Mapping[str, Any],
) -> None:
    x = [_position(step) + shift for step in one.steps.tolist()]
    shared: dict[str, Any] = {
        "name": inert(one.arm),
        "legendgroup": inert(one.arm),
        "row": 1,
        **place,
    }
    if len(one.values) > 1:
        _add_single_runs(figure, one, style, x, scale, shared)
        up = down = one.sd
    else:
        up, down = one.high[0] - one.mean, one.mean - one.low[0]
    figure.add_scatter(
        x=x,
        y=(one.mean * scale).tolist(),
        error_y={
            "array": (up * scale).tolist(),
            "arrayminus": (down * scale).tolist(),
            "color": style.colour,
            "thickness": 1.2,
            "width": 2,
        },
        customdata=[
            [step, f"{number(mean * scale)} ± {number(sd * scale)}"]
            for step, mean, sd in zip(one.steps.tolist(), one.mean, one.sd, strict=True)
        ],
        mode="lines+markers",
        line={"color": style.colour, "width": 1.6, "dash": style.dash},
        marker={"symbol": style.symbol, "size": 8, "color": style.colour},
        hovertemplate="step %{customdata[0]}: %{customdata[1]}",
        showlegend=place["col"] == 1,
        meta="mean",
        **shared,
    )


def _add_single_runs(
    figure: go.Figure,
    one: Trajectories,
    style: ArmStyle,
    x: Sequence[float],
    scale: int,
    shared: dict[str, Any],
) -> None:
    figure.add_scatter(
        x=[*x] * len(one.values),
        y=(one.values.ravel() * scale).tolist(),
        customdata=[
            f"{inert(run)}, step {step}: {number(value * scale)}, 95 % "
            f"[{number(low * scale)}, {number(high * scale)}] over prompts"
            for run, *row in zip(one.runs, one.values, one.low, one.high, strict=True)
            for step, value, low, high in zip(one.steps.tolist(), *row, strict=True)
        ],
        mode="markers",
        marker={"symbol": style.symbol, "size": 5, "color": style.faded(0.35)},
        hovertemplate="%{customdata}",
        showlegend=False,
        meta="runs",
        **shared,
    )


def _step_axis(panel: Sequence[Trajectories], end: float, n_arms: int) -> dict[str, Any]:
    steps = sorted({step for one in panel for step in one.steps.tolist()})
    margin = (n_arms / 2 + 1) * DODGE * end or 1.0
    shown, previous = [], -np.inf
    for step in steps:
        if _position(step) - previous >= 0.06 * end:
            shown.append(step)
            previous = _position(step)
    return {
        "title": {"text": f"{STEP_TITLE} (log scale from 0)"},
        "tickvals": [_position(step) for step in shown],
        "ticktext": [str(step) for step in shown],
        "range": [_position(steps[0]) - margin, end + margin],
    }
