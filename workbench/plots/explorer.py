"""The layer explorer: alignment of every layer and step, and what lies behind a single cell."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import ConfigError
from workbench.plots.heatmap import LAYER_VALUES, MAX_COLUMNS, layers_of, new_heatmap, spread
from workbench.plots.layer_curves import HEIGHT, layer_curves
from workbench.plots.layer_values import NOTHING, LayerValues
from workbench.plots.selection import Selection
from workbench.plots.style import INK, number
from workbench.plots.view import Bound, Cells, Control, Field, Plot, View, Words
from workbench.runs import Run
from workbench.surroundings import Surroundings
from workbench.text import printable

VALUES = ("alignment", *LAYER_VALUES)
"""What a cell tells."""

TOKENS = 10
"""Of the readout, at either end."""


def explorer(runs: Sequence[Run], surroundings: Mapping[Path, Surroundings] | None = None) -> View:
    """Return the layer explorer of runs.

    A heat map of the chosen run's alignment, layer × step; a layer number box and a step slider
    that are tied to it, by click too; the chosen layer's alignment with interval and null, and its
    motion along and across v_rev, over the steps; and what v_rev says there in tokens.

    Args:
        runs: Measured ones, at the same layers.
        surroundings: By run, what its drift is seen against: its layers, the null's p99 and the
            readout.

    Raises:
        ConfigError: If no run was measured, or they are measured at different layers.
    """
    measured, known = [run for run in runs if run.measured], surroundings or {}
    selection = Selection.of(measured)
    layers = _common_layers(measured, known)
    every = sorted(set().union(*(run.measured_steps.tolist() for run in measured)))
    steps = [every[place] for place in spread(len(every), MAX_COLUMNS)]
    controls = (
        *selection.controls,
        Control("layer", "layer", "number", tuple(map(str, layers)), len(layers) - 1),
        Control("step", "step", "slider", tuple(map(str, steps)), len(steps) - 1),
    )
    by = selection.by
    return View(
        title="Layer explorer",
        tables=_tables(selection, steps, layers, known),
        controls=controls,
        plots=(_map(steps, layers, by), layer_curves(steps, by)),
        words=(_words(by),),
        cells=(
            Cells(
                "readout",
                "What the layer’s v_rev says in tokens: change of the logit per phase gap",
                ("", "tokens"),
                "readout",
                (*by, "layer"),
            ),
        ),
    )


def known_layers(run: Run, around: Surroundings) -> tuple[int, ...]:
    """Return the layers of the model that a measured run's values belong to."""
    depth = run.layer_values("alignment").shape[1]
    fits = around.layers is not None and len(around.layers) == depth
    return layers_of(run, around.layers if fits else None)


def _common_layers(runs: Sequence[Run], known: Mapping[Path, Surroundings]) -> tuple[int, ...]:
    found = {known_layers(run, known.get(run.folder, NOTHING)) for run in runs}
    if len(found) > 1:
        told = " and ".join(f"{len(one)} ({one[0]} to {one[-1]})" for one in sorted(found))
        raise ConfigError(f"These runs are measured at {told} layers; show equal ones together.")
    return found.pop()


def _tables(
    selection: Selection,
    steps: Sequence[int],
    layers: Sequence[int],
    known: Mapping[Path, Surroundings],
) -> dict[str, Any]:
    read = LayerValues(steps, len(layers), known)
    tables = {
        name: selection.table(lambda run, name=name: read.values(run, name)) for name in VALUES
    }
    tables |= {name: selection.table(told) for name, told in read.marks().items()}
    tables["readout"] = selection.table(
        lambda run: _readout(known.get(run.folder, NOTHING).readout or {}, layers)
    )
    return tables | _cursor_tables(steps, len(layers))


def _words(by: tuple[str, ...]) -> Words:
    cell = (*by, "layer", "step")
    digits: dict[str, Any] = {name: {"digits": 2} for name in VALUES} | {"norm": {"significant": 4}}
    return Words(
        "cell",
        "Layer {layer}, step {step}: cos {alignment}, 95 % [{low}, {high}] over prompts; "
        "along {along}, across {across} phase gaps; norm {norm} (residual stream)",
        {name: Field(name, cell, **digits[name]) for name in VALUES},
    )


def _map(steps: Sequence[int], layers: Sequence[int], by: tuple[str, ...]) -> Plot:
    figure = new_heatmap("Alignment by layer and step", steps, layers)
    corner = {"type": "rect", "line": {"color": INK, "width": 2.5}}
    figure.update_layout(height=HEIGHT, shapes=[corner | {"x0": 0, "x1": 1, "y0": 0, "y1": 1}])
    marks = [("zero", 1), ("undefined", 2), ("null", 3)]
    corners = [("x0", "before", "step"), ("x1", "after", "step"), ("y0", "before", "layer"),
               ("y1", "after", "layer")]  # fmt: skip
    return Plot(
        "map",
        figure,
        "Heat map of the alignment at every layer and measured step; the number box and the slider "
        "choose a cell",
        (
            Bound(("data", 0, "z"), "alignment", by),
            Bound(("data", 0, "customdata"), LAYER_VALUES, by),
            *(
                Bound(("data", place, axis), f"{name}_{axis}", by)
                for name, place in marks
                for axis in ("x", "y")
            ),
            *(
                Bound(("layout", "shapes", 0, corner), side, (control,))
                for corner, side, control in corners
            ),
        ),
        {"layer": "row", "step": "column"},
    )


def _cursor_tables(steps: Sequence[int], n_layers: int) -> dict[str, list[float]]:
    """Edges of the chosen cell, and the step that is chosen."""
    places = np.arange(max(len(steps), n_layers))
    return {
        "before": (places - 0.5).tolist(),
        "after": (places + 0.5).tolist(),
        "at": [float(step) for step in steps],
    }


def _readout(told: Mapping[str, Any], layers: Sequence[int]) -> list[list[list[str]]]:
    """By layer, rows of tokens that v_rev raises and lowers; empty where none was read."""
    places = {layer: place for place, layer in enumerate(told.get("layers", ()))}
    return [
        [
            [name, ", ".join(map(_token, told[end][places[layer]][:TOKENS]))]
            for name, end in (("raises", "top"), ("lowers", "bottom"))
        ]
        if layer in places
        else []
        for layer in layers
    ]


def _token(told: Mapping[str, Any]) -> str:
    return f"“{printable(told['text'])}” {number(told['change'], 1)}"
