"""Comparisons as tables: control directions, other phases, and the ordering's sign test."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from workbench.plots.statistic import (
    Statistic,
    known,
    mean_and_sd_over_runs,
    say,
    say_interval,
)
from workbench.plots.style import number
from workbench.plots.typeset import CELLS, Table
from workbench.text import printable

MAX_COLUMNS = 12
"""Of a table by layers; with more layers only the largest cosine is told."""


def controls_table(summary: Mapping[str, Any]) -> Table | None:
    """Return how much each control direction overlaps with v_rev, and how much was applied."""
    arms = summary.get("controls") or {}
    overlaps = {arm: mean_and_sd_over_runs(told.get("cosine") or ()) for arm, told in arms.items()}
    n_layers = max(map(len, overlaps.values()), default=0)
    if not arms:
        return None
    n_layers = n_layers if n_layers <= MAX_COLUMNS else 0
    applied = any(told.get("applied") for told in arms.values())
    rows = []
    for arm, statistics in overlaps.items():
        cells = [_at(statistics, layer) for layer in range(n_layers)]
        largest = max(
            (abs(v) for run in arms[arm].get("cosine") or () for v in run if known(v)),
            default=None,
        )
        last = [say(arms[arm].get("applied"), 100, 0)] if applied else []
        rows.append((printable(arm), *cells, number(largest, 2), *last))
    header = ("arm", *(f"layer {layer}" for layer in range(n_layers)), "largest |cos|")
    return Table(
        "Cosine of each control's direction with v_rev, mean ± sd over runs",
        header + (("of block's gradient norm, %",) if applied else ()),
        tuple(rows),
    )


def other_phases_table(summary: Mapping[str, Any]) -> Table | None:
    """Return ordinary fine-tuning's alignment with directions between other phases."""
    phases = summary.get("other_phases") or {}
    steps = sorted({step for told in phases.values() for step in told["alignment"]}, key=int)
    if not steps:
        return None
    # More than a few would not fit beside the names.
    steps = [step for step in steps if step in (steps[0], "20", steps[-1])]
    usual = summary["arms"].get("ordinary", {}).get("alignment") or {}
    rows = {"v_rev": usual} | {name: told["alignment"] for name, told in phases.items()}
    return Table(
        f"Alignment with directions between other phases: a comparison, not a test; {CELLS}",
        ("direction", *(f"step {step}" for step in steps)),
        tuple(
            (printable(name), *(say(told.get(step)) for step in steps))
            for name, told in rows.items()
        ),
        tuple(("", *(say_interval(told.get(step)) for step in steps)) for told in rows.values()),
    )


def ordering_table(summary: Mapping[str, Any]) -> Table | None:
    """Return the test of block < ordinary < push over lineages and the correlations within arms.

    None for a summary without the test, such as that of one lineage.
    """
    ordering = summary.get("ordering") or {}
    rows = [
        (
            f"block < ordinary < push in {name}",
            f"{told['holds']} of {told['n']}",
            f"on lineage means in {told['lineages_hold']} of {told['lineages']}, "
            f"p = {number(told['p'], 4)}",
        )
        for name, told in ordering.items()
        if known(told.get("p"))
    ]
    if not rows:
        return None
    within = (summary.get("spearman") or {}).get("within_arms") or {}
    values = [value for value in within.values() if known(value)]
    if values:
        told = f"median {number(float(np.median(values)), 2)}"
        ends = f"from {number(min(values), 2)} to {number(max(values), 2)}"
        rows.append(("Spearman ρ within an arm", f"{len(values)} arms", f"{told}, {ends}"))
    return Table("Ordering, tested", ("claim", "holds in", "told"), tuple(rows))


def _at(statistics: list[Statistic], layer: int) -> str:
    return say(statistics[layer], 1, 2) if layer < len(statistics) else "–"
