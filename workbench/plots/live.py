"""A run in progress: alignment of every layer so far, and the loss."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int

from workbench.plots.alignment import ROUND_STEPS
from workbench.plots.heatmap import MAX_COLUMNS, heatmap, new_heatmap, spread
from workbench.plots.style import (
    FAMILIES,
    INK,
    STEP_TITLE,
    ZERO_LINE,
    inert,
    new_figure,
    number,
)
from workbench.runs import Run
from workbench.standing import Standing, recipe_of

HEIGHT = 430
MAX_POINTS = 500
"""Longer curves than this are thinned: their points could not be told apart."""


def live_figures(run: Run) -> dict[str, go.Figure]:
    """Return what a run in progress has to show: `map`, unless it measures nothing, and `curves`.

    The map has a column for every step that is still to be measured. Colours and the axis of
    cosines are fixed, so that nothing jumps while the run goes on.
    """
    config = run.info["config"]
    recipe = recipe_of(config)
    planned = () if recipe is None else recipe.measured_steps
    steps = sorted({*planned, *run.measured_steps.tolist()})
    drawn = {"curves": _curves(run, None if recipe is None else recipe.steps)}
    if run.measured or config.get("directions") is not None:
        drawn = {"map": _map(run, steps, config.get("layers") or (0,))} | drawn
    return drawn


def live_words(standing: Standing, rate: float | None = None) -> str:
    """Return how far a run is, in one line.

    Args:
        standing: Of the run.
        rate: Steps per second, while it goes on.
    """
    of = "" if standing.steps is None else f" of {standing.steps}"
    told = [f"step {standing.step}{of}"]
    if standing.loss is not None:
        told.append(f"loss {number(standing.loss, 2)}")
    if standing.alignment is not None:
        told.append(f"cos {number(standing.alignment, 2)}")
    line = ", ".join(told)
    if rate is None:
        return line
    line += f"; {rate:.2g} steps/s" if rate < 10 else f"; {rate:.0f} steps/s"
    if standing.steps is None:
        return line
    return f"{line}, about {_duration((standing.steps - standing.step) / rate)} left"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _map(run: Run, steps: Sequence[int], layers: Sequence[int]) -> go.Figure:
    measured = len(run.measured)
    columns = [steps[place] for place in spread(len(steps), MAX_COLUMNS)]
    thinned = run.only({*columns})
    if thinned.measured:
        figure = heatmap(thinned, steps=columns)
    else:
        figure = new_heatmap(f"Alignment by layer and step: {inert(run.id)}", columns, layers)
    told = [] if len(columns) == len(steps) else [f"{len(columns)} of {len(steps)} steps shown"]
    if not measured:
        told = ["waiting for the first measured step"]
    elif measured < len(steps):
        told = [f"{measured} of {len(steps)} steps measured", *told, "grey: still to come"]
    return figure.update_layout(height=HEIGHT, title_subtitle_text="; ".join(told))


def thin(
    steps: Int[np.ndarray, " step"], values: Float[np.ndarray, " step"]
) -> Int[np.ndarray, " kept"]:
    """Return the places of at most `MAX_POINTS` values that draw the same curve over log steps.

    They are the first, the last, and the lowest and highest of every equal stretch of the axis.

    Args:
        steps: Increasing, from 1.
        values: Undefined ones are left out if any must be.
    """
    if len(steps) <= MAX_POINTS:
        return np.arange(len(steps))
    defined = np.flatnonzero(~np.isnan(values))
    share = np.log(steps[defined]) / np.log(steps[-1])
    stretch = np.floor(share * (MAX_POINTS // 2 - 2))
    order = np.lexsort((values[defined], stretch))
    begins = np.diff(stretch[order], prepend=-1) > 0
    lowest, highest = defined[order[begins]], defined[order[np.append(begins[1:], begins[:1])]]
    return np.unique(np.concatenate([defined[:1], lowest, highest, defined[-1:]]))


def _curves(run: Run, n_steps: int | None) -> go.Figure:
    lines = [line for line in run.lines if line["step"] > 0]
    losses = _thinned((line["step"], line["loss"]) for line in lines)
    means = _thinned((line["step"], line["drift"]["mean_alignment"]) for line in run.measured)
    figure = new_figure("Mean alignment, and training loss", height=HEIGHT)
    figure.set_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.06, row_heights=[0.5, 0.5])
    figure.add_scatter(
        **means,
        mode="lines+markers", marker_size=6, name="mean alignment", row=1, col=1,
        line={"color": FAMILIES["block"].colour, "width": 2.2},
        hovertemplate="step %{x}, mean cos %{y:.2f}<extra></extra>",
    )  # fmt: skip
    figure.add_scatter(
        **losses,
        mode="lines", name="training loss", row=2, col=1, line={"color": INK, "width": 1.4},
        hovertemplate="step %{x}, loss %{y:.3f} nats per token<extra></extra>",
    )  # fmt: skip
    last = n_steps or max((line["step"] for line in lines), default=1)
    ends = np.log10([0.9, max(last, 2) * 1.12]).tolist()
    # 1, 2, 5, 10, … while there is room for them; then 1, 10, 100, …
    ticks = [s for s in ROUND_STEPS if s <= last and (last < 500 or str(s)[0] == "1")]
    figure.update_xaxes(type="log", range=ends, tickvals=ticks, tickangle=0)
    figure.update_xaxes(title_text=f"{STEP_TITLE} (log scale)", row=2)
    figure.update_yaxes(title_text="alignment (cosine)", range=[-1.05, 1.05], row=1, **ZERO_LINE)
    figure.update_yaxes(title_text="loss (nats per token)", row=2)
    return figure.update_layout(showlegend=False)


def _thinned(points: Iterable[tuple[int, float | None]]) -> dict[str, list[Any]]:
    steps, values = np.array([*points], dtype=float).reshape(-1, 2).T
    kept = thin(steps.astype(int), values)
    return {"x": steps[kept].astype(int).tolist(), "y": values[kept].tolist()}
