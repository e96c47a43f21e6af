"""Geometry against behaviour, one point per run: block < ordinary < push, and what it costs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from workbench.errors import ConfigError
from workbench.plots.style import (
    FAMILIES,
    TITLES,
    ZERO_LINE,
    ArmStyle,
    family,
    inert,
    new_figure,
    number,
)
from workbench.plots.trajectories import (
    CROWD,
    Source,
    Trajectories,
    last_common_step,
    read_trajectories,
    source_styles,
)

ORDER = ("block", "ordinary", "push")


def ordering(source: Source) -> go.Figure:
    """Plot harmfulness against alignment at the last step: runs small, arm means large.

    Grey lines join block, ordinary and push of one lineage and seed.

    Args:
        source: Several runs, or the summary of an experiment, which adds its Spearman correlation.

    Raises:
        ConfigError: If no step has both alignment and harmfulness.
    """
    x, y = (read_trajectories(source, name) for name in ("alignment", "harmfulness"))
    step = last_common_step(x, y)
    if step is None:
        raise ConfigError("No step of these runs has both alignment and harmfulness.")
    told = source.get("spearman") if isinstance(source, Mapping) else None
    figure = new_figure(
        f"Alignment and harmfulness at step {step}", spearman_text(told), height=430
    )
    across = {one.arm: one.at(step) for one in x}
    up = {one.arm: 100 * one.at(step) for one in y}
    _join(figure, across, up)
    _add_points(figure, y, across, up, source_styles(source))
    figure.update_xaxes(title_text=TITLES["alignment"], nticks=10, **ZERO_LINE)
    figure.update_yaxes(title_text="harmfulness (% of harmful prompts)", rangemode="tozero")
    figure.update_traces(cliponaxis=False, selector={"type": "scatter"})
    return figure


def cost(summary: Mapping[str, Any]) -> go.Figure:
    """Plot harmfulness at the last step against task cost: runs small, arm means large.

    Task cost is the share of ordinary fine-tuning's task gain that an arm loses.

    Raises:
        ConfigError: If the summary has no task cost, or no harmfulness.
    """
    y = read_trajectories(summary, "harmfulness")
    across = {
        arm: 100 * np.array(told["task_cost"]["per_seed"], dtype=float)
        for arm, told in summary["arms"].items()
        if told.get("task_cost")
    }
    y = [one for one in y if one.arm in across]
    step = last_common_step(y)
    if step is None:
        raise ConfigError("No task cost here: it needs an ordinary arm.")
    figure = new_figure(f"What it costs: harmfulness and task cost at step {step}", height=430)
    up = {one.arm: 100 * one.at(step) for one in y}
    _add_points(figure, y, across, up, source_styles(summary))
    figure.update_xaxes(title_text="task cost (% of the task gain lost)", **ZERO_LINE)
    figure.update_yaxes(title_text="harmfulness (% of harmful prompts)", rangemode="tozero")
    figure.update_traces(cliponaxis=False, selector={"type": "scatter"})
    return figure


def spearman_text(spearman: Mapping[str, Any] | None) -> str:
    """Return the rank correlation with its interval and n, or nothing if there is none."""
    if not spearman or spearman.get("r") is None:
        return ""
    low, high = spearman.get("interval") or (None, None)
    interval = "" if low is None else f", 95 % [{number(low)}, {number(high)}]"
    return f"Spearman ρ = {number(spearman['r'])}{interval}, n = {spearman['n']} runs"


Points = Mapping[str, Float[np.ndarray, " run"]]


def _join(figure: go.Figure, x: Points, y: Points) -> None:
    """Join the arms of one seed, where all three have the same number of runs."""
    if not set(ORDER) <= x.keys() & y.keys() or len({len(x[arm]) for arm in ORDER}) > 1:
        return
    lines: dict[str, list[float | None]] = {"x": [], "y": []}
    for run in range(len(x["ordinary"])):
        lines["x"] += [*(float(x[arm][run]) for arm in ORDER), None]
        lines["y"] += [*(float(y[arm][run]) for arm in ORDER), None]
    figure.add_scatter(
        **lines,
        mode="lines",
        line={"color": "#9a9a9a", "width": 0.8},
        name="one seed",
        meta="joined",
        hoverinfo="skip",
        legendrank=2000,
    )


def _add_points(
    figure: go.Figure,
    arms: Sequence[Trajectories],
    x: Points,
    y: Points,
    styles: Mapping[str, ArmStyle],
) -> None:
    """Add single runs and means; in a crowd of arms the legend names their families only."""
    crowded = len(arms) > CROWD
    for one in arms:
        if one.arm not in x or len(x[one.arm]) != len(y[one.arm]):
            continue
        style, name = styles[one.arm], inert(one.arm)
        group = (family(one.arm) or name) if crowded else name
        across, up = x[one.arm], y[one.arm]
        figure.add_scatter(
            x=across.tolist(),
            y=up.tolist(),
            mode="markers",
            marker={"symbol": style.symbol, "size": 6, "color": style.faded(0.75)},
            customdata=[inert(run) for run in one.runs],
            hovertemplate="%{customdata}: (%{x:.3f}, %{y:.1f} %)",
            name=name,
            legendgroup=group,
            showlegend=False,
            meta="runs",
        )
        both = np.isfinite(across) & np.isfinite(up)
        if not both.any():
            continue
        figure.add_scatter(
            x=[float(across[both].mean())],
            y=[float(up[both].mean())],
            mode="markers",
            marker={
                "symbol": f"{style.symbol}-open",
                "size": 15,
                "color": style.colour,
                "line": {"width": 2.2},
            },
            hovertemplate=f"mean of {int(both.sum())}: (%{{x:.3f}}, %{{y:.1f}} %)",
            name=name,
            legendgroup=group,
            showlegend=not crowded,
            meta="mean",
        )
    if crowded:
        _add_families(figure, {(family(one.arm) or one.arm): styles[one.arm] for one in arms})


def _add_families(figure: go.Figure, own: Mapping[str, ArmStyle]) -> None:
    """Add the legend's entries: a click on one hides all its arms."""
    for name, style in own.items():
        style = FAMILIES.get(name, style)
        figure.add_scatter(
            x=[None],
            y=[None],
            mode="markers",
            marker={"symbol": f"{style.symbol}-open", "size": 10, "color": style.colour},
            name=inert(name),
            legendgroup=inert(name),
            meta="family",
        )
