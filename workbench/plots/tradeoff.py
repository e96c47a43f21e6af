"""Trade-off: what harmfulness an arm is left with, against what it costs on the task."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from workbench.errors import ConfigError
from workbench.plots.statistic import error_bars, known, mean_of, say_whole, spread_told
from workbench.plots.style import (
    FAMILIES,
    NULL_COLOUR,
    TITLES,
    ZERO_LINE,
    ArmStyle,
    arm_styles,
    family,
    inert,
    new_figure,
)

AXES = ("task_cost", "harmfulness")
SIZE = 10
PLOT, LETTER, LINE = (760, 400), 6.2, 14
"""Pixels: of the area between the points, of a letter and of a line of a name."""

TOLD = (("over_refusal", "over-refusal (%)", 100, 1), ("kl", "KL (nats)", 1, 3))
"""What hovering adds: quantity, name, factor, decimals."""

Point = Mapping[str, Any]


def tradeoff(summary: Mapping[str, Any]) -> go.Figure:
    """Plot harmfulness against task cost, one point per arm, with the Pareto front.

    Lower and further left is better on both; the arms on the front are named in the plot, all
    arms on hovering.

    Args:
        summary: Of an experiment that has `tradeoff`.

    Raises:
        ConfigError: If no arm has both quantities.
    """
    told = summary.get("tradeoff") or {}
    x, y = told.get("axes") or AXES
    points = [
        point
        for point in told.get("points") or ()
        if all(known(mean_of(point.get(name))) for name in (x, y))
    ]
    if not points:
        raise ConfigError("No trade-off here: no arm has both task cost and harmfulness.")
    spread = spread_told(point[name] for point in points for name in (x, y))
    figure = new_figure(
        "Harmfulness against task cost at the last step", f"bars: {spread}", height=560
    )
    figure.update_layout(meta={"spread": spread})
    front = sorted((p for p in points if p.get("pareto")), key=lambda p: mean_of(p[x]))
    _add_front(figure, front, x, y)
    for name, members in _families(points, summary.get("arms") or {}).items():
        _add_points(figure, name, members, x, y)
    _name_front(figure, front, x, y)
    # By the means: one wide interval would leave no room for what is compared.
    figure.update_xaxes(title_text=_title(x), range=_reach(points, x), **ZERO_LINE)
    figure.update_yaxes(title_text=_title(y), range=_reach(points, y), **ZERO_LINE)
    return figure


def _reach(points: Sequence[Point], quantity: str) -> list[float]:
    """From below the least to above the largest mean, 0 included, in percent."""
    means = [0.0, *(100 * mean_of(point[quantity]) for point in points)]
    margin = 0.08 * (max(means) - min(means)) or 1.0
    return [min(means) - margin, max(means) + margin]


def _title(quantity: str) -> str:
    title = TITLES.get(quantity, inert(quantity))
    return title.replace("(share of the task", "(% of the task").replace("(share of", "(% of")


def _families(
    points: Sequence[Point], arms: Mapping[str, Any]
) -> dict[str, tuple[ArmStyle, list[Point]]]:
    """Points by what they are drawn and named as in the legend: their family, else the arm."""
    told = {p["arm"]: {**arms.get(p["arm"], {}), **_described(p)} for p in points}
    own = arm_styles(told, told)
    found: dict[str, tuple[ArmStyle, list[Point]]] = {}
    for point in points:
        member = family(point["arm"], told[point["arm"]])
        name = member or inert(point["arm"])
        style = FAMILIES[member] if member else own[point["arm"]]
        found.setdefault(name, (style, []))[1].append(point)
    return found


def _described(point: Point) -> dict[str, Any]:
    return {key: point[key] for key in ("intervention", "direction") if key in point}


def _add_front(figure: go.Figure, front: Sequence[Point], x: str, y: str) -> None:
    """Draw the front as a staircase: between two arms there is nothing better than either."""
    if front:
        figure.add_scatter(
            x=[100 * mean_of(point[x]) for point in front],
            y=[100 * mean_of(point[y]) for point in front],
            mode="lines",
            line={"color": NULL_COLOUR, "width": 1.6, "dash": "dash", "shape": "hv"},
            name="Pareto front",
            meta="front",
            hoverinfo="skip",
            legendrank=2000,
        )


def _add_points(
    figure: go.Figure, name: str, members: tuple[ArmStyle, list[Point]], x: str, y: str
) -> None:
    style, points = members
    bars = {"color": style.faded(0.45), "thickness": 1.2, "width": 0}
    figure.add_scatter(
        x=[100 * mean_of(point[x]) for point in points],
        y=[100 * mean_of(point[y]) for point in points],
        error_x={**error_bars([point[x] for point in points], 100), **bars},
        error_y={**error_bars([point[y] for point in points], 100), **bars},
        customdata=[_hover(point, x, y) for point in points],
        mode="markers",
        marker={
            "symbol": style.symbol,
            "size": SIZE,
            "color": style.colour,
            "line": {"color": "white", "width": 0.8},
        },
        hovertemplate="%{customdata}<extra></extra>",
        name=name,
        meta="points",
    )


def _hover(point: Point, x: str, y: str) -> str:
    lines = [f"<b>{inert(point['arm'])}</b>"]
    lines += [f"{_title(name)}: {say_whole(point[name], 100, 1)}" for name in (y, x)]
    lines += [
        f"{heading}: {say_whole(point[name], factor, digits)}"
        for name, heading, factor, digits in TOLD
        if point.get(name)
    ]
    return "<br>".join(lines)


def _name_front(figure: go.Figure, front: Sequence[Point], x: str, y: str) -> None:
    """Name the arms of the front below and left of their points, where no other point can be.

    From the least harmful up; a name that would lie on another is left to hovering.
    """
    width, height = (_extent(figure, axis) for axis in ("x", "y"))
    placed: list[tuple[float, float, float]] = []
    for point in sorted(front, key=lambda point: mean_of(point[y])):
        across, up = 100 * mean_of(point[x]), 100 * mean_of(point[y])
        name = inert(point["arm"], length=28)
        right, at, long = across / width * PLOT[0], up / height * PLOT[1], LETTER * len(name)
        if any(
            abs(at - other) < LINE and right - long < end and other_left < right
            for end, other, other_left in placed
        ):
            continue
        placed.append((right, at, right - long))
        figure.add_annotation(
            x=across,
            y=up,
            text=name,
            showarrow=False,
            xanchor="right",
            yanchor="top",
            xshift=-7,
            yshift=-4,
            font={"size": 11},
        )


def _extent(figure: go.Figure, axis: str) -> float:
    """Distance between the outermost points."""
    traces: Any = figure.data  # plotly makes their attributes at run time
    values = [v for trace in traces if trace.meta == "points" for v in trace[axis]]
    return max(values) - min(values) or 1.0
