"""The layer explorer: alignment of every layer and step, and what lies behind a single cell."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from workbench.errors import ConfigError
from workbench.plots.alignment import ROUND_STEPS
from workbench.plots.heatmap import (
    LAYER_VALUES,
    MAX_COLUMNS,
    by_column,
    new_heatmap,
    spread,
    zero_contour,
)
from workbench.plots.selection import Selection
from workbench.plots.style import (
    FAMILIES,
    INK,
    NULL_COLOUR,
    STEP_TITLE,
    ZERO_LINE,
    new_figure,
    number,
)
from workbench.plots.view import Bound, Cells, Control, Field, Plot, View, Words
from workbench.runs import Run
from workbench.surroundings import Surroundings
from workbench.text import printable

VALUES = ("alignment", *LAYER_VALUES)
"""What a cell tells."""

NOTHING = Surroundings()

HEIGHT = 430
TOKENS = 10
"""Of the readout, at either end."""


def explorer(runs: Sequence[Run], surroundings: Mapping[Path, Surroundings] | None = None) -> View:
    """Return the layer explorer of runs.

    A heat map of the chosen run's alignment, layer × step; a layer number box and a step slider
    that are tied to it, by click too; the chosen layer's alignment with interval and null, and its
    motion along and across v_rev, over the steps; and what v_rev says there in tokens.

    Args:
        runs: Measured ones, of models equally deep.
        surroundings: By run, what its drift is seen against: the null's p99 and the readout.

    Raises:
        ConfigError: If no run was measured, or they differ in depth.
    """
    measured = [run for run in runs if run.measured]
    selection = Selection.of(measured)
    depths = {run.layer_values("alignment").shape[1] for run in measured}
    if len(depths) > 1:
        raise ConfigError(f"These runs are {sorted(depths)} layers deep; show equally deep ones.")
    (n_layers,) = depths
    every = sorted(set().union(*(run.measured_steps.tolist() for run in measured)))
    steps = [every[place] for place in spread(len(every), MAX_COLUMNS)]
    known = surroundings or {}
    read = _Reader(steps, n_layers, known)
    tables = {
        name: selection.table(lambda run, name=name: read.values(run, name)) for name in VALUES
    }
    tables |= {name: selection.table(told) for name, told in read.marks().items()}
    tables |= _cursor_tables(steps, n_layers)
    controls = (
        *selection.controls,
        Control("layer", "layer", "number", tuple(map(str, range(n_layers))), n_layers - 1),
        Control("step", "step", "slider", tuple(map(str, steps)), len(steps) - 1),
    )
    by = selection.by
    cell = (*by, "layer", "step")
    tables["readout"] = selection.table(
        lambda run: _readout(known.get(run.folder, NOTHING).readout or {}, n_layers)
    )
    return View(
        title="Layer explorer",
        tables=tables,
        controls=controls,
        plots=(_map(steps, n_layers, by), _curves(steps, by)),
        words=(
            Words(
                "cell",
                "Layer {layer}, step {step}: cos {alignment}, 95 % [{low}, {high}] over prompts; "
                "along {along}, across {across} phase gaps; norm {norm} (residual stream)",
                {name: Field(name, cell, 3 if name == "norm" else 2) for name in VALUES},
            ),
        ),
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


class _Reader:
    """Values of runs at the shown steps; None where a run was not measured."""

    def __init__(
        self, steps: Sequence[int], n_layers: int, known: Mapping[Path, Surroundings]
    ) -> None:
        self.steps, self.n_layers, self.known = steps, n_layers, known

    def array(self, run: Run, name: str) -> Float[np.ndarray, "layer step"]:
        """Values by layer and shown step; NaN where there is none."""
        return by_column(run, name, self.steps).T

    def values(self, run: Run, name: str) -> list[list[float]]:
        """The same as lists."""
        return self.array(run, name).tolist()

    def bound(self, run: Run) -> list[float] | None:
        """The null's p99 of every layer."""
        p99 = self.known.get(run.folder, NOTHING).p99
        return p99.tolist() if p99 is not None and len(p99) == self.n_layers else None

    def marks(self) -> dict[str, Callable[[Run], Any]]:
        """What is drawn over the heat map and behind the curve, by table."""
        return {
            "zero_x": lambda run: zero_contour(self.array(run, "alignment").T)[0],
            "zero_y": lambda run: zero_contour(self.array(run, "alignment").T)[1],
            "undefined_x": lambda run: self._where(run, "undefined")[1],
            "undefined_y": lambda run: self._where(run, "undefined")[0],
            "null_x": lambda run: self._where(run, "null")[1],
            "null_y": lambda run: self._where(run, "null")[0],
            "null_band": self._null_band,
        }

    def _where(self, run: Run, which: str) -> tuple[list[int], list[int]]:
        values = self.array(run, "alignment")
        if which == "undefined":
            measured = np.isin(self.steps, run.measured_steps)
            marked = np.isnan(values) & measured
        else:
            bound = self.bound(run)
            marked = np.zeros_like(values, bool) if bound is None else np.array(bound) >= values.T
            marked = marked if bound is None else marked.T
        layers, columns = np.nonzero(marked)
        return layers.tolist(), columns.tolist()

    def _null_band(self, run: Run) -> list[list[float]]:
        bound = self.bound(run)
        return [[p, p, -p, -p] for p in bound] if bound is not None else [[]] * self.n_layers


def _map(steps: Sequence[int], n_layers: int, by: tuple[str, ...]) -> Plot:
    figure = new_heatmap("Alignment by layer and step", steps, n_layers)
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


def _curves(steps: Sequence[int], by: tuple[str, ...]) -> Plot:
    figure = new_figure("", height=HEIGHT)
    figure.set_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.06, row_heights=[0.6, 0.4])
    x, colour = list(steps), FAMILIES["block"]
    ends = [min(x) * 0.9, max(x) * 1.12]
    hidden = {"mode": "lines", "line_width": 0, "showlegend": False, "hoverinfo": "skip"}
    figure.add_scatter(
        x=[*ends, *ends[::-1]], fill="toself", fillcolor="rgba(107, 107, 107, 0.17)",
        mode="lines", line={"color": NULL_COLOUR, "width": 0}, name="matched null, ±p99",
        hoverinfo="skip",
    )  # fmt: skip
    figure.add_scatter(x=x, **hidden)
    figure.add_scatter(
        x=x, fill="tonexty", fillcolor=colour.faded(0.2), **hidden | {"showlegend": True},
        name="95 % interval over prompts",
    )  # fmt: skip
    line = {"mode": "lines+markers", "marker_size": 6, "x": x}
    figure.add_scatter(
        **line, line={"color": colour.colour, "width": 2.2}, name="alignment",
        hovertemplate="step %{x}, cos %{y:.2f}<extra></extra>",
    )  # fmt: skip
    for name, style in (("along", FAMILIES["push"]), ("across", FAMILIES["matched"])):
        figure.add_scatter(
            **line, line={"color": style.colour, "width": 1.8}, marker_symbol=style.symbol,
            name=name, row=2, col=1,
            hovertemplate=f"step %{{x}}, {name} %{{y:.2f}} phase gaps<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(type="log", range=np.log10(ends).tolist(), tickvals=_ticks(steps))
    figure.update_xaxes(title_text=f"{STEP_TITLE} (log scale)", row=2)
    figure.update_yaxes(title_text="alignment (cosine)", range=[-1.05, 1.05], row=1, **ZERO_LINE)
    figure.update_yaxes(title_text="phase gaps", row=2, **ZERO_LINE)
    figure.update_layout(
        shapes=[{"type": "line", "xref": "x", "yref": "paper", "y0": 0, "y1": 1, "x0": 1, "x1": 1,
                 "line": {"color": INK, "width": 1, "dash": "dot"}}],
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
        margin_t=76,
    )  # fmt: skip
    layer = (*by, "layer")
    return Plot(
        "curves",
        figure,
        "Alignment of the chosen layer with its interval over the steps, and its motion along and "
        "across the reversion direction in phase gaps",
        (
            Bound(("data", 0, "y"), "null_band", layer),
            Bound(("data", 1, "y"), "low", layer),
            Bound(("data", 2, "y"), "high", layer),
            Bound(("data", 3, "y"), "alignment", layer),
            Bound(("data", 4, "y"), "along", layer),
            Bound(("data", 5, "y"), "across", layer),
            Bound(("layout", "shapes", 0, "x0"), "at", ("step",)),
            Bound(("layout", "shapes", 0, "x1"), "at", ("step",)),
        ),
        {"step": "index"},
    )


def _ticks(steps: Sequence[int]) -> list[int]:
    """Round steps for a logarithmic axis."""
    return [step for step in ROUND_STEPS if step <= max(steps)]


def _cursor_tables(steps: Sequence[int], n_layers: int) -> dict[str, list[float]]:
    """Edges of the chosen cell, and the step that is chosen."""
    places = np.arange(max(len(steps), n_layers))
    return {
        "before": (places - 0.5).tolist(),
        "after": (places + 0.5).tolist(),
        "at": [float(step) for step in steps],
    }


def _readout(told: Mapping[str, Any], n_layers: int) -> list[list[list[str]]]:
    """By layer, rows of tokens that v_rev raises and lowers; empty where none was read."""
    rows: list[list[list[str]]] = [[] for _ in range(n_layers)]
    for place, layer in enumerate(told.get("layers", ())):
        if layer < n_layers:
            rows[layer] = [
                [name, ", ".join(map(_token, told[end][place][:TOKENS]))]
                for name, end in (("raises", "top"), ("lowers", "bottom"))
            ]
    return rows


def _token(told: Mapping[str, Any]) -> str:
    return f"“{printable(told['text'])}” {number(told['change'], 1)}"
