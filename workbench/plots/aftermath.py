"""After blocking: what came back, along the direction and off it, as tables."""

from collections.abc import Mapping
from typing import Any

from workbench.plots.statistic import mean_and_sd_over_runs, say, say_interval
from workbench.plots.typeset import CELLS, Table
from workbench.text import printable

QUANTITIES = {
    "cosine": "cos(re-fitted, old v_rev)",
    "gap": "gap left, ‖H−T‖/g",
    "along": "along (phase gaps)",
    "off": "off (phase gaps)",
    "shared": "shared with ordinary",
}
"""Headings of the values per layer."""

RETURNED = {
    "harmfulness_returned": "of the harmfulness, %",
    "log_odds_returned": "of the refusal log-odds, %",
}
"""Headings of the shares of ordinary's behavioural shift."""


def aftermath_tables(summary: Mapping[str, Any]) -> list[Table]:
    """Return what is left per arm and layer, and what share of the behavioural shift is there."""
    arms = summary.get("after_blocking") or {}
    rows = [row for arm, told in arms.items() for row in _layer_rows(arm, told)]
    layers = Table(
        "Displacement at the end, re-fitted: mean ± sd over runs",
        ("arm", "layer", *QUANTITIES.values()),
        tuple(rows),
    )
    names = [name for name in RETURNED if any(told.get(name) for told in arms.values())]
    behaviour = Table(
        f"Share of ordinary fine-tuning's behavioural shift that is there, {CELLS}",
        ("arm", *(RETURNED[name] for name in names)),
        tuple(
            (printable(arm), *(say(told.get(name), 100, 1) for name in names))
            for arm, told in arms.items()
        ),
        tuple(
            ("", *(say_interval(told.get(name), 100, 1) for name in names))
            for told in arms.values()
        ),
    )
    return [table for table in (layers, behaviour) if table.rows and len(table.header) > 1]


def _layer_rows(arm: str, told: Mapping[str, Any]) -> list[tuple[str, ...]]:
    columns = {name: mean_and_sd_over_runs(told.get(name) or ()) for name in QUANTITIES}
    n_layers = max(map(len, columns.values()))
    return [
        (
            printable(arm),
            str(layer),
            *(say(column[layer]) if column else "–" for column in columns.values()),
        )
        for layer in range(n_layers)
    ]
