"""Views of several runs at once: their comparison, and the geometry of their paths."""

from collections.abc import Sequence
from typing import get_args

import plotly.graph_objects as go

from workbench.errors import ConfigError
from workbench.plots.compare import compare, comparison_table
from workbench.plots.curves import Quantity
from workbench.plots.gallery import gallery
from workbench.plots.geometry import draw_scene
from workbench.plots.heatmap import spread
from workbench.plots.readings import BY_LAYER, common_layers, snapshots
from workbench.plots.scene import read_ground
from workbench.plots.sources import RunSource, runs_of
from workbench.plots.style import TITLES
from workbench.plots.trajectories import source_styles
from workbench.plots.view import Cells, Control, View
from workbench.records import SCORE_NAMES
from workbench.runs import Run
from workbench.text import printable

MOST_LAYERS = 32
"""More are thinned: every one costs a figure per quantity."""


def comparison(source: RunSource) -> View:
    """Return the comparison of runs: a quantity over the steps, arm by arm, at a layer or the mean.

    Args:
        source: A run, several, an experiment's result or the folder of either.

    Raises:
        ConfigError: If no run was measured.
        RunError: If there is no run, or a file cannot be read.
    """
    runs = snapshots(runs_of(source))
    every = (*get_args(Quantity), *SCORE_NAMES)
    means = {name: figure for name in every if (figure := _mean(runs, name)) is not None}
    if not means:
        raise ConfigError("No run to compare: none was measured yet.")
    offered, layers = list(means), [None, *_thinned(common_layers(runs))]
    table = comparison_table(runs)

    def draw(choice: dict[str, int]) -> go.Figure | None:
        name, layer = offered[choice["quantity"]], layers[choice["layer"]]
        if layer is None:
            return means[name]
        return compare(runs, name, layer=layer) if name in BY_LAYER else None

    return gallery(
        "Comparison of runs",
        (
            Control("quantity", "quantity", "select", tuple(map(_plain_title, offered))),
            Control(
                "layer",
                "layer",
                "select",
                tuple("mean over layers" if one is None else str(one) for one in layers),
            ),
        ),
        draw,
        alt="The chosen quantity over the fine-tuning steps, one curve per arm, single runs thin",
        cells=(Cells("runs", table.caption, table.header, "runs", ()),),
        tables={"runs": [list(row) for row in table.rows]},
    )


def plane(source: RunSource) -> View:
    """Return the geometry of runs: their paths in the plane of v_rev and the main across direction.

    Args:
        source: A run, several, an experiment's result or the folder of either.

    Raises:
        ConfigError: If nothing was measured, or v_rev is not stored.
        RunError: If there is no run, or a file cannot be read.
    """
    runs = snapshots(runs_of(source))
    ground, styles = read_ground(runs), source_styles(runs)
    lineages, layers = tuple(ground.lineages), [None, *_thinned(ground.layers)]
    return gallery(
        "Geometry",
        (
            Control("lineage", "lineage", "select", tuple(map(printable, lineages))),
            Control(
                "layer",
                "layer",
                "select",
                tuple("all, stacked" if one is None else str(one) for one in layers),
            ),
        ),
        lambda choice: draw_scene(
            ground.scene(layer=layers[choice["layer"]], lineage=lineages[choice["lineage"]]), styles
        ),
        alt="Where the phases and the fine-tuned models lie, along the reversion direction and in "
        "the main direction across it",
    )


def _mean(runs: Sequence[Run], quantity: str) -> go.Figure | None:
    """The figure of the mean over layers; None where no run has the quantity."""
    try:
        return compare(runs, quantity)
    except ConfigError:
        return None


def _thinned(layers: Sequence[int]) -> list[int]:
    return [layers[place] for place in spread(len(layers), MOST_LAYERS)] if layers else []


def _plain_title(quantity: str) -> str:
    """The title of an axis without markup."""
    plain = TITLES.get(quantity, quantity)
    for tag in ("<i>", "</i>", "<sub>", "</sub>"):
        plain = plain.replace(tag, "_" if tag == "<sub>" else "")
    return plain
