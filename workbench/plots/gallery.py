"""Galleries: views that show one of several whole figures."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from workbench.errors import ConfigError
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

    Raises:
        ConfigError: If `draw` gives None elsewhere.
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
    control, *inner = controls
    choices = [choice | {control.name: place} for place in range(len(control.options))]
    if inner:
        return [_nested(inner, one, draw) for one in choices]
    figures = [draw(one) for one in choices]
    kept = [figure for figure in figures if figure is not None]
    # What comes after a gap would stand in the place of another option.
    if not kept or any(figure is None for figure in figures[: len(kept)]):
        gap = control.options[figures.index(None)]
        raise ConfigError(f"No figure for {control.label} {gap!r}; only the last ones may lack it.")
    return [bare_figure(figure) for figure in kept]


def _part(drawn: Any, part: str, depth: int) -> Any:
    if depth == 0:
        return drawn[part]
    return [_part(one, part, depth - 1) for one in drawn]
