"""Ablation: scores of the aligned and the fine-tuned model against the strength of an ablation."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.errors import ConfigError
from workbench.grids import AblationGrid
from workbench.plots.captions import ABLATION, ONLY_ANSWERS
from workbench.plots.style import (
    ARMS,
    NULL_COLOUR,
    SHARES,
    TITLES,
    ArmStyle,
    arm_styles,
    inert,
    new_figure,
    number,
)

QUANTITIES = ("harmfulness", "refusal_log_odds", "task_loss", "kl")

ALIGNED = ArmStyle(NULL_COLOUR, "circle-open", "dash")
"""Of the first model: what everything starts from, not an arm."""

MARKS = {0.0: "unedited", 1.0: "fully ablated"}
"""Strengths with a line across, and what is there."""


def ablation(
    grid: AblationGrid,
    *,
    layer_set: int = 0,
    strength: float | None = None,
    quantities: Sequence[str] = QUANTITIES,
) -> go.Figure:
    """Plot scores against the strength of an ablation, one panel each, one line per model.

    Bands are 95 % intervals over prompt clusters; where a score is undefined there is no point.

    Args:
        grid: What was measured.
        layer_set: Which of its layer sets, by number.
        strength: Marks a current point, at the strength of the grid that is nearest.
        quantities: Scores, such as `harmfulness`, `over_refusal`, `kl`.

    Raises:
        ConfigError: If the grid has no such layer set or score.
    """
    if not 0 <= layer_set < len(grid.layer_sets):
        raise ConfigError(f"No layer set {layer_set}; there are 0 to {len(grid.layer_sets) - 1}.")
    if unknown := [name for name in quantities if name not in grid.scores]:
        raise ConfigError(f"No score {unknown[0]!r}; there are {', '.join(grid.scores)}.")
    columns = min(2, len(quantities))
    rows = -(-len(quantities) // columns)
    figure = new_figure(
        f"Ablation along <i>v</i><sub>rev</sub>, {where(grid, layer_set)}",
        f"bands: 95 % intervals over prompt clusters, {counts(grid, quantities)}",
        height=130 + 260 * rows,
    )
    figure.set_subplots(rows, columns, horizontal_spacing=0.11, vertical_spacing=0.17)
    styles = model_styles(grid)
    for index, name in enumerate(quantities):
        place: dict[str, Any] = {"row": 1 + index // columns, "col": 1 + index % columns}
        for model in range(len(grid.models)):
            shared = place | {"showlegend": index == 0}
            _add_model(figure, grid, (model, layer_set), name, styles[model], shared)
            if strength is not None:
                _add_current(figure, grid, (model, layer_set), name, strength, styles[model], place)
        title = TITLES.get(name, name).replace("(share of", "(% of")
        figure.update_yaxes(title_text=title, **place)
        if name in (*SHARES, "kl"):
            figure.update_yaxes(rangemode="tozero", **place)
        _add_marks(figure, named=index < columns, place=place)
    figure.update_xaxes(title_text="strength <i>s</i>", dtick=0.5)
    figure.update_layout(
        margin={"t": 92, "b": 84},
        legend={"orientation": "h", "x": 0, "y": -0.05 - 0.12 / rows, "yanchor": "top"},
    )
    return figure


def ablation_caption(
    grid: AblationGrid, *, layer_set: int = 0, quantities: Sequence[str] = QUANTITIES
) -> str:
    """Return what the figure shows, in plain text: bands, n, positions, and what would refute."""
    inside = grid.positions == "all"
    centre = " (θ_S's mean over tokens)" if inside else " (θ_S's mean at the read position)"
    return ABLATION.format(
        where=where(grid, layer_set),
        centre=centre,
        counts=counts(grid, quantities),
        last="" if inside else ONLY_ANSWERS,
        price=_price(grid, layer_set),
    )


def where(grid: AblationGrid, layer_set: int) -> str:
    """Return which layers and tokens are edited, such as `layers 0–3, all positions`."""
    layers = list(grid.layer_sets[layer_set])
    in_a_row = len(layers) > 1 and layers == list(range(layers[0], layers[-1] + 1))
    told = f"{layers[0]}–{layers[-1]}" if in_a_row else ", ".join(map(str, layers))
    tokens = "all positions" if grid.positions == "all" else "last position and new tokens"
    return f"{'layer' if len(layers) == 1 else 'layers'} {told}, {tokens}"


def counts(grid: AblationGrid, quantities: Sequence[str]) -> str:
    """Return the numbers of prompts behind the scores, such as `n = 75 or 50 prompts`."""
    several = dict.fromkeys(grid.counts[name] for name in quantities)
    return f"n = {' or '.join(map(str, several))} prompts"


def model_styles(grid: AblationGrid) -> list[ArmStyle]:
    """Return a style for every model: grey for the first, the arm's own for a run's."""
    arm = grid.provenance.get("arm")
    told = arm if isinstance(arm, Mapping) and arm.get("name") else {"name": "ordinary"}
    named = arm_styles([str(told["name"])], {str(told["name"]): told})[str(told["name"])]
    others = arm_styles(grid.models[2:])
    return [ALIGNED, named, *(others.get(name, ARMS["ordinary"]) for name in grid.models[2:])][
        : len(grid.models)
    ]


def _price(grid: AblationGrid, layer_set: int) -> str:
    """What full ablation does to benign prompts, which no panel may show."""
    full = grid.strengths.index(1.0)
    ends = 100 * grid.scores["over_refusal"][-1, layer_set, full]
    value, low, high = ends.tolist()
    return (
        f"At 1, {number(value, 0)} % of benign prompts are refused in the last model, 95 % "
        f"[{number(low, 0)}, {number(high, 0)}]. "
    )


def _add_model(
    figure: go.Figure,
    grid: AblationGrid,
    at: tuple[int, int],
    name: str,
    style: ArmStyle,
    shared: Mapping[str, Any],
) -> None:
    """Add the band and the line of one model, where its score is defined."""
    ends = grid.scores[name][at] * (100 if name in SHARES else 1)
    strengths, label = np.array(grid.strengths), inert(grid.models[at[0]])
    group = {"name": label, "legendgroup": label}
    banded = ~np.isnan(ends).any(axis=1)
    x, low, high = strengths[banded], ends[banded, 1], ends[banded, 2]
    figure.add_scatter(
        x=[*x.tolist(), *x[::-1].tolist()],
        y=[*high.tolist(), *low[::-1].tolist()],
        fill="toself",
        fillcolor=style.faded(0.15),
        mode="lines",
        line_width=0,
        hoverinfo="skip",
        meta="interval",
        **{**shared, **group, "showlegend": False},
    )
    defined = ~np.isnan(ends[:, 0])
    figure.add_scatter(
        x=strengths[defined].tolist(),
        y=ends[defined, 0].tolist(),
        customdata=[
            f"s = {number(s, 2)}: {_told(row)}"
            for s, row in zip(strengths[defined].tolist(), ends[defined].tolist(), strict=True)
        ],
        mode="lines+markers",
        line={"color": style.colour, "width": 2, "dash": style.dash},
        marker={"symbol": style.symbol, "size": 6, "color": style.colour},
        hovertemplate="%{customdata}",
        meta="value",
        **{**shared, **group},
    )


def _add_current(
    figure: go.Figure,
    grid: AblationGrid,
    at: tuple[int, int],
    name: str,
    strength: float,
    style: ArmStyle,
    place: Mapping[str, Any],
) -> None:
    nearest = int(np.abs(np.array(grid.strengths) - strength).argmin())
    value = float(grid.scores[name][(*at, nearest, 0)]) * (100 if name in SHARES else 1)
    if np.isnan(value):
        return
    figure.add_scatter(
        x=[grid.strengths[nearest]],
        y=[value],
        mode="markers",
        marker={
            "symbol": "circle",
            "size": 13,
            "color": style.faded(0.35),
            "line": {"color": style.colour, "width": 2},
        },
        hoverinfo="skip",
        showlegend=False,
        legendgroup=inert(grid.models[at[0]]),
        meta="current",
        **place,
    )


def _add_marks(figure: go.Figure, *, named: bool, place: Mapping[str, Any]) -> None:
    line = {"color": NULL_COLOUR, "width": 1, "dash": "dot"}
    name = {"font": {"size": 11, "color": NULL_COLOUR}, "yanchor": "bottom"}
    for strength, text in MARKS.items():
        told = {"annotation": {**name, "text": text}, "annotation_position": "top"} if named else {}
        figure.add_vline(x=strength, line=line, **told, **place)


def _told(ends: Sequence[float]) -> str:
    value, low, high = map(number, ends)
    return value if low == "–" else f"{value}, 95 % [{low}, {high}]"
