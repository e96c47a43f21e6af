"""Galleries: views that show one of several whole figures."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from workbench.plots.page import bare_figure
from workbench.plots.view import Bound, Cells, Control, Plot, Table, View

Draw = Callable[[dict[str, int]], go.Figure | None]
"""From a choice, the figure; None where the one before stands for it too."""


def gallery(
    title: str,
    controls: Sequence[Control],
    draw: Draw,
    *,
    alt: str,
    cells: Sequence[Cells] = (),
    tables: Mapping[str, Table] | None = None,
) -> View:
    """Return a view of the figures that `draw` gives for every choice.

    Args:
        title: Of the view.
        controls: What can be chosen.
        draw: Called for every combination of options, the last control's changing fastest. It may
            give None for all later options of the last control: then the last figure stands.
        alt: What is seen, for who cannot see it.
        cells: Tables below the figure.
        tables: What those show.
    """
    drawn = _nested(controls, {}, draw)
    by = tuple(control.name for control in controls)
    parts: dict[str, Table] = {part: _part(drawn, part, len(by)) for part in ("data", "layout")}
    first: Any = drawn
    for control in controls:
        first = first[min(control.chosen, len(first) - 1)]
    figure = go.Figure(layout={"height": first["layout"].get("height")})
    bound = tuple(Bound((part,), part, by) for part in parts)
    return View(
        title=title,
        tables=parts | dict(tables or {}),
        controls=tuple(controls),
        plots=(Plot("figure", figure, alt, bound),),
        cells=tuple(cells),
    )


def _nested(controls: Sequence[Control], choice: dict[str, int], draw: Draw) -> Any:
    """Figures as JSON values, nested along the controls, short where `draw` gave none."""
    if not controls:
        figure = draw(choice)
        return None if figure is None else bare_figure(figure)
    control, *inner = controls
    places = range(len(control.options))
    every = [_nested(inner, choice | {control.name: place}, draw) for place in places]
    return [one for one in every if one is not None]


def _part(drawn: Any, part: str, depth: int) -> Any:
    if depth == 0:
        return drawn[part]
    return [_part(one, part, depth - 1) for one in drawn]
