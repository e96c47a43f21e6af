"""The ablation slider: behaviour against the strength of an ablation, moved by hand."""

from collections.abc import Mapping, Sequence
from typing import Any

from workbench.grids import AblationGrid
from workbench.plots.ablation import QUANTITIES, ablation, ablation_caption, model_styles, where
from workbench.plots.gallery import gallery
from workbench.plots.style import SHARES, ArmStyle, number
from workbench.plots.view import Bound, Cells, Control, Field, View, Words
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

RADIUS = 7
"""Of a current point, in pixels."""


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
    controls = _controls(grid)
    curves = gallery(
        "Ablation slider",
        controls[:1],
        lambda choice: ablation(grid, layer_set=choice["layers"], quantities=quantities),
        alt="Scores of every model against the strength of the ablation, with the current point; "
        "the slider moves it",
    )
    points, bound = _current(grid, curves, quantities)
    (plot,) = curves.plots
    at = ("layers", "strength")
    header = ("", *map(printable, grid.models))
    positions = where(grid, 0).split(", ")[-1]
    return View(
        title=curves.title,
        tables={**curves.tables, **points, **_texts(grid, quantities)},
        controls=controls,
        plots=(plot.and_bound(*bound),),
        words=(
            Words("where", "s = {strength}, {layers}, " + positions),
            Words("caption", "{told}", {"told": Field("caption", ("layers",))}, below=True),
        ),
        cells=(
            Cells("scores", "At this strength", header, "scores", at),
            Cells("answers", "Answers", ("model", "answer", "verdict"), "answers", (*at, "prompt")),
        ),
        ask="your own prompt: answered now, and again when a control is let go of" if ask else "",
    )


def _controls(grid: AblationGrid) -> tuple[Control, ...]:
    places = range(len(grid.layer_sets))
    layers = tuple(where(grid, place).split(", ")[0] for place in places)
    if len({*layers}) < len(layers):
        layers = tuple(", ".join(map(str, one)) for one in grid.layer_sets)
    strengths = tuple(number(strength, 2) for strength in grid.strengths)
    return (
        Control("layers", "layers", "select", layers),
        Control("strength", "strength s", "slider", strengths, grid.strengths.index(0.0)),
        Control("prompt", "prompt", "select", tuple(map(_short, grid.prompts)) or ("none",)),
    )


def _texts(grid: AblationGrid, quantities: Sequence[str]) -> dict[str, Any]:
    """Numbers, answers and captions, by layer set, the first two by strength."""
    places, strengths = range(len(grid.layer_sets)), range(len(grid.strengths))
    return {
        "scores": [[_score_rows(grid, place, s) for s in strengths] for place in places],
        "answers": [
            [[_answers(grid, place, s, p) for p in range(len(grid.prompts))] for s in strengths]
            for place in places
        ],
        "caption": [
            ablation_caption(grid, layer_set=place, quantities=quantities) for place in places
        ],
    }


def _current(
    grid: AblationGrid, curves: View, quantities: Sequence[str]
) -> tuple[dict[str, Any], list[Bound]]:
    """The current points: tables of where they are, and the circles that are bound to them.

    Circles of a fixed size are put into the layouts of `curves`: to move one, nothing else has to
    be drawn again.
    """
    tables: dict[str, Any] = {"strengths": list(grid.strengths)}
    bound = []
    lines = [one for one in curves.tables["data"][0] if one.get("meta") == "value"]
    places = [(name, model) for name in quantities for model in range(len(grid.models))]
    styles = model_styles(grid)
    before = len(curves.tables["layout"][0].get("shapes", ()))
    for index, ((name, model), line) in enumerate(zip(places, lines, strict=True), start=before):
        values = grid.scores[name][model, :, :, 0] * (100 if name in SHARES else 1)
        tables[f"current {index}"] = values.tolist()
        for layout in curves.tables["layout"]:
            layout.setdefault("shapes", []).append(_circle(line, styles[model]))
        bound += [
            Bound(("layout", "shapes", index, "xanchor"), "strengths", ("strength",)),
            Bound(
                ("layout", "shapes", index, "yanchor"), f"current {index}", ("layers", "strength")
            ),
        ]
    return tables, bound


def _circle(line: Mapping[str, Any], style: ArmStyle) -> dict[str, Any]:
    """A circle of a fixed size in pixels, in the panel of a line."""
    return {
        "type": "circle",
        "xref": line.get("xaxis", "x"),
        "yref": line.get("yaxis", "y"),
        "xsizemode": "pixel",
        "ysizemode": "pixel",
        **{"x0": -RADIUS, "x1": RADIUS, "y0": -RADIUS, "y1": RADIUS},
        "fillcolor": style.faded(0.35),
        "line": {"color": style.colour, "width": 2},
    }


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
