"""Layer sweep: what an intervention does at each set of layers, beside ordinary fine-tuning."""

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
    say,
    say_interval,
    say_whole,
    spread_told,
)
from workbench.plots.style import FAMILIES, ZERO_LINE, arm_styles, inert, new_figure
from workbench.plots.typeset import CELLS, Table
from workbench.text import printable

PANELS = {
    "alignment": ("alignment (cosine)", 1),
    "harmfulness": ("harmfulness (% of harmful prompts)", 100),
}
"""Axis title and factor of each panel."""

COLUMNS = (
    ("alignment", "alignment", 1, 3),
    ("harmful %", "harmfulness", 100, 1),
    ("task cost %", "task_cost", 100, 1),
    ("refusal log-odds", "refusal_log_odds", 1, 2),
)
"""Of the table: heading, quantity, factor, decimals."""

ROW_HEIGHT = 30


def layers(summary: Mapping[str, Any]) -> go.Figure:
    """Plot alignment and harmfulness at the last step, one row per set of layers.

    A vertical line and band carry ordinary fine-tuning's mean and interval.

    Args:
        summary: Of an experiment that has `layers`.

    Raises:
        ConfigError: If it has none.
    """
    rows = (summary.get("layers") or {}).get("rows") or ()
    if not rows:
        raise ConfigError("No layer sweep here: run an intervention at several sets of layers.")
    ordinary = {name: _ordinary(summary, name) for name in PANELS}
    spread = spread_told(row.get(name) for row in rows for name in PANELS)
    figure = new_figure(
        "The intervention at different layers, last step",
        f"bars and band: {spread}",
        height=150 + ROW_HEIGHT * len(rows),
    )
    figure.update_layout(meta={"spread": spread})
    figure.set_subplots(1, len(PANELS), shared_yaxes=True, horizontal_spacing=0.04)
    for column, (name, (title, scale)) in enumerate(PANELS.items(), start=1):
        _add_ordinary(figure, ordinary[name], scale, column, len(rows))
        _add_rows(figure, rows, name, scale, column, summary.get("arms") or {})
        figure.update_xaxes(title_text=title, col=column, **ZERO_LINE)
    figure.update_yaxes(
        tickvals=list(range(len(rows))),
        ticktext=[inert(_label(row), length=44) for row in rows],
        range=[len(rows) - 0.5, -0.5],
    )
    figure.update_layout(
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.01, "yanchor": "bottom"},
        margin_t=76,
    )
    return figure


def layers_table(summary: Mapping[str, Any]) -> Table | None:
    """Return the sweep as a table, intervals in the second line of a cell."""
    rows = (summary.get("layers") or {}).get("rows") or ()
    if not rows:
        return None
    columns = [column for column in COLUMNS if any(row.get(column[1]) for row in rows)]
    return Table(
        f"At which layers, at step {summary['steps']}: {CELLS}",
        ("arm", *(heading for heading, *_ in columns)),
        tuple(
            (printable(_label(row)), *(say(row.get(name), *form) for _, name, *form in columns))
            for row in rows
        ),
        tuple(
            ("", *(say_interval(row.get(name), *form) for _, name, *form in columns))
            for row in rows
        ),
    )


def _label(row: Mapping[str, Any]) -> str:
    at = row.get("layers")
    if not at:
        return f"{row['arm']} (all layers)"
    named = ", ".join(str(layer) for layer in at)
    return f"{row['arm']} (layer{'s' if len(at) > 1 else ''} {named})"


def _ordinary(summary: Mapping[str, Any], name: str) -> Statistic | None:
    arm = (summary.get("arms") or {}).get("ordinary") or {}
    return (arm.get(name) or {}).get(str(summary["steps"]))


def _add_ordinary(
    figure: go.Figure, statistic: Statistic | None, scale: int, column: int, n_rows: int
) -> None:
    value, (low, high) = mean_of(statistic), bounds(statistic)
    style = FAMILIES["ordinary"]
    if known(low):
        figure.add_scatter(
            x=[scale * end for end in (low, high, high, low)],
            y=[-0.5, -0.5, n_rows - 0.5, n_rows - 0.5],
            fill="toself",
            fillcolor=style.faded(0.1),
            mode="lines",
            line_width=0,
            showlegend=False,
            hoverinfo="skip",
            meta="interval",
            row=1,
            col=column,
        )
    if known(value):
        figure.add_scatter(
            x=[scale * value] * 2,
            y=[-0.5, n_rows - 0.5],
            mode="lines",
            line={"color": style.colour, "width": 1.6, "dash": "dash"},
            name="ordinary",
            showlegend=column == 1,
            hoverinfo="skip",
            meta="ordinary",
            row=1,
            col=column,
        )


def _add_rows(
    figure: go.Figure,
    rows: Sequence[Mapping[str, Any]],
    name: str,
    scale: int,
    column: int,
    arms: Mapping[str, Any],
) -> None:
    names = [row["arm"] for row in rows]
    styles = arm_styles(names, arms)
    colours = [styles[arm].colour for arm in names]
    statistics = [row.get(name) for row in rows]
    for colour in dict.fromkeys(colours):
        picked = [index for index, one in enumerate(colours) if one == colour]
        chosen = [statistics[index] for index in picked]
        figure.add_scatter(
            x=[scale * mean_of(one) for one in chosen],
            y=picked,
            error_x={**error_bars(chosen, scale), "color": colour, "thickness": 1.6, "width": 4},
            customdata=[say_whole(one, scale, 1 if scale == 100 else 3) for one in chosen],
            mode="markers",
            marker={"symbol": "circle", "size": 9, "color": colour},
            hovertemplate="%{customdata}<extra></extra>",
            showlegend=False,
            meta="rows",
            row=1,
            col=column,
        )
