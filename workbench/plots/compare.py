"""Comparison of runs: one quantity over the steps of every arm, and a table at the last step."""

from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

import plotly.graph_objects as go

from workbench.errors import ConfigError
from workbench.plots import captions
from workbench.plots.alignment import alignment
from workbench.plots.behaviour import behaviour
from workbench.plots.curves import Quantity
from workbench.plots.readings import Told, read_values, snapshots
from workbench.plots.sources import RunSource, run_name, runs_of
from workbench.plots.style import ARMS, number
from workbench.plots.trajectories import arm_name, read_trajectories, runs_told
from workbench.plots.typeset import Table
from workbench.records import SCORE_NAMES
from workbench.runs import Run
from workbench.text import printable

COLUMNS = (
    ("alignment", "alignment", 1, 3),
    ("along", "along", 1, 3),
    ("across", "across", 1, 3),
    ("harmful %", "harmfulness", 100, 1),
    ("task loss", "task_loss", 1, 3),
)
"""Of the table: heading, quantity, factor, decimals."""


def compare(
    source: RunSource | Mapping[str, Any],
    quantity: str = "alignment",
    *,
    layer: int | None = None,
    log_steps: bool = True,
) -> go.Figure:
    """Plot one quantity over the steps of all runs, arm by arm.

    Args:
        source: A run, several, an experiment's result or folder, or its summary.
        quantity: A reading of the drift (`alignment`, `alignment_sibling`, `along`, `across`,
            `norm`), the training `loss`, or a score (`harmfulness`, `task_loss`, …).
        layer: Of the drift; by default the mean over layers.
        log_steps: Logarithmic step axis; scores have one that starts at step 0.

    Raises:
        ConfigError: If no run has the quantity, or it has no such layer.
        RunError: If there is no run, or a file cannot be read.
    """
    known = source if isinstance(source, Mapping) else snapshots(runs_of(source))
    if quantity in get_args(Quantity):
        named = cast(Quantity, quantity)
        figure = alignment(known, quantity=named, layer=layer, log_steps=log_steps)
    elif quantity not in SCORE_NAMES:
        there = ", ".join((*get_args(Quantity), *SCORE_NAMES))
        raise ConfigError(f"There is no quantity {quantity!r}; there are {there}.")
    elif layer is not None:
        raise ConfigError(f"{quantity} has no layers: it is of the whole model.")
    else:
        figure = behaviour(known, [quantity])
    n = runs_told(read_trajectories(known, quantity, layer=layer))
    figure.update_layout(meta={"caption": _caption(n, quantity, layer)})
    return figure


def comparison_table(source: RunSource) -> Table:
    """Return a row per run: which it is, how far it is, and its values at the last common step.

    That step is the last at which all runs that were measured, or evaluated, have been; it may
    differ between drift and scores and stands in the caption.

    Raises:
        RunError: If there is no run, or a file cannot be read.
    """
    runs = sorted(snapshots(runs_of(source)), key=_place)
    told = {
        heading: [read_values(run, quantity) for run in runs] for heading, quantity, *_ in COLUMNS
    }
    steps = {heading: step for heading, values in told.items() if (step := _last_common(values))}
    cells = {
        heading: [_say(one.get(steps[heading]), *form) for one in told[heading]]
        for heading, _, *form in COLUMNS
        if heading in steps
    }
    at = ", ".join(f"{heading} at {step}" for heading, step in steps.items())
    if len({*steps.values()}) == 1:
        at = str(next(iter(steps.values())))
    return Table(
        f"The runs, at the last step that all have: {at or 'none yet'}",
        ("arm", "seed", "lineage", "status", "steps", *cells),
        tuple(
            (*_about(run), *(column[index] for column in cells.values()))
            for index, run in enumerate(runs)
        ),
    )


def _last_common(told: Sequence[Mapping[int, Told]]) -> int | None:
    """The last step that all runs have that have any."""
    having = [set(values) for values in told if values]
    return max(set.intersection(*having), default=None) if having else None


def _say(told: Told | None, factor: int, digits: int) -> str:
    value = None if told is None else told[0]
    return number(None if value is None else factor * value, digits)


def _caption(n: str, quantity: str, layer: int | None) -> str:
    """What stands below the figure; export and report read it there."""
    over = "" if quantity in ("loss", *SCORE_NAMES) else ", mean over layers"
    stacked = over if layer is None else f", at layer {layer}"
    return captions.VIEWS["comparison"].format(runs=f"n = {n} per arm", stacked=stacked)


def _about(run: Run) -> tuple[str, ...]:
    config = run.info.get("config", {})
    last = run.lines[-1]["step"] if run.lines else 0
    seed, lineage = (config.get(key) for key in ("seed", "lineage"))
    return (
        printable(arm_name(run)),
        "–" if seed is None else printable(seed),
        "–" if lineage is None else printable(lineage),
        printable(run.status),
        str(last),
    )


def _place(run: Run) -> tuple[int, str, str]:
    """The main job's arms in their usual order, then the others by name."""
    arm = arm_name(run)
    return [*ARMS, arm].index(arm), arm, run_name(run)
