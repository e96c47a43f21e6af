"""Dose response: alignment, behaviour and task cost against the strength of an intervention."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from workbench.errors import ConfigError
from workbench.plots.statistic import (
    Statistic,
    bounds,
    error_bars,
    known,
    mean_of,
    say_whole,
    spread_told,
)
from workbench.plots.style import (
    NULL_COLOUR,
    SHARES,
    ZERO_LINE,
    ArmStyle,
    arm_styles,
    inert,
    new_figure,
)

QUANTITIES = {
    "alignment": "alignment (cosine)",
    "harmfulness": "harmfulness (% of harmful prompts)",
    "task_cost": "task cost (% of the task gain lost)",
}
"""Axis titles; one column each, in this order."""

APART = 0.4
"""Distance of strength 0 from the smallest other one, in decades, at the least."""


def dose(summary: Mapping[str, Any]) -> go.Figure:
    """Plot each quantity at the last step against the strength, one line per intervention.

    The axis is logarithmic; strength 0, ordinary fine-tuning, stands apart at the left, and a
    dashed line carries its mean across.

    Args:
        summary: Of an experiment that has `dose`.

    Raises:
        ConfigError: If no intervention has several strengths, or one is negative.
    """
    told = summary.get("dose") or {}
    panels = [name for name in QUANTITIES if any(one.get(name) for one in told.values())]
    positive = _positive(told)
    if not panels or not positive:
        raise ConfigError("No dose response here: run an intervention at several strengths.")
    zero = _place(positive[0]) - max(APART, 0.12 * math.log10(positive[-1] / positive[0]))
    statistics = [stat for one in told.values() for name in panels for stat in one.get(name) or ()]
    spread = spread_told(statistics)
    figure = new_figure("Dose response at the last step", f"bands: {spread}", height=410)
    figure.update_layout(meta={"spread": spread})
    figure.set_subplots(1, len(panels), horizontal_spacing=0.075)
    styles = arm_styles(told)
    for column, name in enumerate(panels, start=1):
        scale = 100 if name in SHARES else 1
        place = {"row": 1, "col": column, "showlegend": column == 1}
        _add_ordinary(figure, told, name, scale, (zero, _place(positive[-1])), place)
        for intervention, one in told.items():
            if one.get(name):
                named = {"name": inert(intervention), "legendgroup": inert(intervention)}
                doses = [
                    (float(s), v) for s, v in zip(one["strength"], one[name], strict=True) if s > 0
                ]
                _add_line(figure, doses, styles[intervention], scale, place | named)
        figure.update_yaxes(title_text=QUANTITIES[name], col=column, **ZERO_LINE)
        if name == "harmfulness":
            figure.update_yaxes(rangemode="tozero", col=column)
    _set_axes(figure, positive, zero)
    return figure


def _positive(told: Mapping[str, Any]) -> list[float]:
    strengths = sorted({float(s) for one in told.values() for s in one["strength"]})
    if strengths and strengths[0] < 0:
        raise ConfigError(f"Strength {strengths[0]:g} has no place on a logarithmic axis.")
    return [strength for strength in strengths if strength > 0]


def _place(strength: float) -> float:
    return math.log10(strength)


def _add_line(
    figure: go.Figure,
    doses: Sequence[tuple[float, Statistic]],
    style: ArmStyle,
    scale: int,
    shared: Mapping[str, Any],
) -> None:
    """Add the means over strengths with a band of their intervals; a lone dose gets a bar."""
    statistics = [statistic for _, statistic in doses]
    x = [_place(strength) for strength, _ in doses]
    ends = [
        (at, *bounds(one)) for at, one in zip(x, statistics, strict=True) if known(bounds(one)[0])
    ]
    if len(ends) > 1:
        figure.add_scatter(
            x=[at for at, *_ in ends] + [at for at, *_ in reversed(ends)],
            y=[scale * high for *_, high in ends] + [scale * low for _, low, _ in reversed(ends)],
            fill="toself",
            fillcolor=style.faded(0.15),
            mode="lines",
            line_width=0,
            hoverinfo="skip",
            meta="interval",
            **{**shared, "showlegend": False},
        )
    figure.add_scatter(
        x=x,
        y=[scale * mean_of(one) for one in statistics],
        error_y=_bars(statistics, scale, style.colour) if len(ends) == 1 else None,
        customdata=[
            [f"{strength:g}", say_whole(one, scale, 1 if scale == 100 else 3)]
            for strength, one in doses
        ],
        mode="lines+markers",
        line={"color": style.colour, "width": 2, "dash": style.dash},
        marker={"symbol": style.symbol, "size": 8, "color": style.colour},
        hovertemplate="strength %{customdata[0]}: %{customdata[1]}",
        meta="mean",
        **shared,
    )


def _add_ordinary(
    figure: go.Figure,
    told: Mapping[str, Any],
    name: str,
    scale: int,
    ends: tuple[float, float],
    place: Mapping[str, Any],
) -> None:
    """Add strength 0, once for each arm that stands there, and its mean as a line across."""
    at_zero = {
        arm: statistic
        for one in told.values()
        for arm, strength, statistic in zip(
            one["arms"], one["strength"], one.get(name) or (), strict=False
        )
        if strength == 0
    }
    styles, (zero, end) = arm_styles(at_zero, {arm: {} for arm in at_zero}), ends
    for arm, statistic in at_zero.items():
        style, value = styles[arm], scale * mean_of(statistic)
        named = {**place, "name": inert(arm), "legendgroup": inert(arm)}
        figure.add_scatter(
            x=[zero, end],
            y=[value, value],
            mode="lines",
            line={"color": style.colour, "width": 1, "dash": "dash"},
            hoverinfo="skip",
            meta="across",
            **{**named, "showlegend": False},
        )
        figure.add_scatter(
            x=[zero],
            y=[value],
            error_y=_bars([statistic], scale, style.colour),
            customdata=[say_whole(statistic, scale, 1 if scale == 100 else 3)],
            mode="markers",
            marker={"symbol": style.symbol, "size": 9, "color": style.colour},
            hovertemplate="strength 0: %{customdata}",
            meta="zero",
            **named,
        )


def _bars(statistics: Sequence[Statistic], scale: int, colour: str) -> dict[str, Any]:
    return {**error_bars(statistics, scale), "color": colour, "thickness": 1.4, "width": 4}


def _set_axes(figure: go.Figure, positive: Sequence[float], zero: float) -> None:
    low, high = _place(positive[0]), _place(positive[-1])
    steps = (1, 3) if high - low > 1 else (1, 2, 5)
    round_ones = [
        m * 10.0**k
        for k in range(math.floor(low), math.ceil(high) + 1)
        for m in steps
        if low - 1e-9 <= math.log10(m * 10.0**k) <= high + 1e-9
    ]
    shown = round_ones if 1 < len(round_ones) <= 7 else [positive[0], positive[-1]]
    figure.update_xaxes(
        title_text="strength (log scale from the gap)",
        tickvals=[zero, *(_place(value) for value in dict.fromkeys(shown))],
        ticktext=["0", *(f"{value:g}" for value in dict.fromkeys(shown))],
        range=[zero - 0.15, high + 0.08 * (high - zero)],
        tickangle=0,
    )
    # The gap in the axis: what is left of it is not on the scale.
    gap = (zero + low) / 2
    figure.add_vline(x=gap, line={"color": NULL_COLOUR, "width": 1, "dash": "dot"})
    figure.update_layout(
        margin_b=96, legend={"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top"}
    )
