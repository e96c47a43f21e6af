"""The ablation slider: behaviour against the strength of an ablation, moved by hand."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from workbench.grids import AblationGrid
from workbench.plots.ablation import QUANTITIES, ablation, where
from workbench.plots.gallery import gallery
from workbench.plots.style import SHARES, number
from workbench.plots.view import Bound, Cells, Control, View, Words
from workbench.text import printable

SCORES = {
    "harmfulness": "harmful prompts complied with, %",
    "broken": "broken answers, %",
    "refusal_log_odds": "refusal log-odds, nats",
    "over_refusal": "benign prompts refused, %",
    "task_loss": "task loss, nats per token",
    "kl": "KL from the aligned model, nats per token",
}
"""Rows of the table of numbers, with their units."""

PROMPT_LENGTH = 70


def slider(
    grid: AblationGrid, *, quantities: Sequence[str] = QUANTITIES, ask: bool = False
) -> View:
    """Return the ablation slider of a grid.

    Curves of the scores against the strength at chosen layers, with the current point on them;
    below, the numbers with their intervals, and what every model answers to a chosen prompt.

    Args:
        grid: What was measured; all of it is in the view.
        quantities: Scores that are drawn.
        ask: Whether there is a box for a prompt of one's own; something must answer it.
    """
    sets = range(len(grid.layer_sets))
    layers = tuple(where(grid, index).split(", ")[0] for index in sets)
    if len({*layers}) < len(layers):
        layers = tuple(", ".join(map(str, one)) for one in grid.layer_sets)
    controls = (
        Control("layers", "layers", "select", layers),
        Control(
            "strength",
            "strength s",
            "slider",
            tuple(number(strength, 2) for strength in grid.strengths),
            grid.strengths.index(0.0),
        ),
        Control("prompt", "prompt", "select", tuple(map(_short, grid.prompts)) or ("none",)),
    )
    strengths = range(len(grid.strengths))
    texts = {
        "scores": [[_score_rows(grid, one, s) for s in strengths] for one in sets],
        "answers": [
            [[_answers(grid, one, s, p) for p in range(len(grid.prompts))] for s in strengths]
            for one in sets
        ],
    }
    positions = where(grid, 0).split(", ")[-1]
    at = ("layers", "strength")
    header = ("", *map(printable, grid.models))
    curves = gallery(
        "Ablation slider",
        controls[:1],
        lambda choice: ablation(
            grid, layer_set=choice["layers"], strength=0.0, quantities=quantities
        ),
        alt="Scores of every model against the strength of the ablation, with the current point; "
        "the slider moves it",
    )
    moving, bound = _current(grid, curves, quantities)
    (plot,) = curves.plots
    return View(
        title=curves.title,
        tables={**curves.tables, **texts, **moving},
        controls=controls,
        plots=(plot.and_bound(*bound),),
        cells=(
            Cells("scores", "At this strength", header, "scores", at),
            Cells("answers", "Answers", ("model", "answer", "verdict"), "answers",
                  (*at, "prompt")),
        ),
        words=(Words("where", "s = {strength}, {layers}, " + positions),),
        ask="your own prompt: answered now, and again when a control is let go of" if ask else "",
    )  # fmt: skip


def _current(
    grid: AblationGrid, curves: View, quantities: Sequence[str]
) -> tuple[dict[str, Any], list[Bound]]:
    """Where the current points are, by layer set and strength, and what they are bound to."""
    tables: dict[str, Any] = {"current": [[strength] for strength in grid.strengths]}
    traces = curves.tables["data"][0]
    places = iter(place for place, one in enumerate(traces) if one.get("meta") == "current")
    bound = []
    for name in quantities:
        values = grid.scores[name][..., 0] * (100 if name in SHARES else 1)
        for model in range(len(grid.models)):
            if np.isnan(values[model, 0, grid.strengths.index(0.0)]):
                continue  # it has no point at all
            place = next(places)
            tables[f"current_{place}"] = values[model][..., None].tolist()
            at = ("layers", "strength")
            bound += [
                Bound(("data", place, "x"), "current", ("strength",)),
                Bound(("data", place, "y"), f"current_{place}", at),
            ]
    return tables, bound


def _score_rows(grid: AblationGrid, layer_set: int, strength: int) -> list[list[str]]:
    """By score, its name and the value of every model with its interval."""
    rows = []
    for name, label in SCORES.items():
        scale, digits = (100, 1) if name in SHARES else (1, 3)
        ends = scale * grid.scores[name][:, layer_set, strength]
        told = [[number(float(end), digits) for end in row] for row in ends]
        rows.append([label, *(f"{value} [{low}, {high}]" for value, low, high in told)])
    return rows


def _answers(grid: AblationGrid, layer_set: int, strength: int, prompt: int) -> list[list[str]]:
    return [
        [printable(model), *map(printable, grid.answers[place][layer_set][strength][prompt])]
        for place, model in enumerate(grid.models)
    ]


def _short(prompt: str) -> str:
    line = printable(prompt)
    return line if len(line) <= PROMPT_LENGTH else line[: PROMPT_LENGTH - 1] + "…"
