"""The causal evidence of a summary, part by part: a figure, tables, and what they say."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from workbench.errors import ConfigError
from workbench.plots import captions
from workbench.plots.aftermath import aftermath_tables
from workbench.plots.controls import controls_table, ordering_table, other_phases_table
from workbench.plots.dose import dose
from workbench.plots.layers import layers, layers_table
from workbench.plots.readout import readout_tables
from workbench.plots.sections import Section
from workbench.plots.significance import family_told, significance, significance_table
from workbench.plots.tradeoff import tradeoff
from workbench.plots.typeset import Table

FIGURES: dict[str, Callable[[Mapping[str, Any]], go.Figure]] = {
    "significance": significance,
    "dose": dose,
    "tradeoff": tradeoff,
    "sweep": layers,
}
NAMES = ("significance", "readout", "dose", "tradeoff", "sweep", "controls", "aftermath")


@dataclass(frozen=True)
class Part:
    """One question of the report and what answers it."""

    name: str

    heading: str

    section: Section | None
    """Its figure, if it has one."""

    told: str
    """What the tables hold; plain text."""

    tables: tuple[Table, ...]


def evidence_parts(summary: Mapping[str, Any]) -> list[Part]:
    """Return the parts that a summary has numbers for, in the order of the report."""
    parts = []
    for name in NAMES:
        section, tables = _section(name, summary), tuple(_tables(name, summary))
        if section is not None or tables:
            told = captions.TOLD.get(name, "") if tables else ""
            parts.append(Part(name, captions.HEADINGS[name], section, told, tables))
    return parts


def _section(name: str, summary: Mapping[str, Any]) -> Section | None:
    if name not in FIGURES:
        return None
    try:
        figure = FIGURES[name](summary)
    except ConfigError:
        return None
    caption = captions.EVIDENCE[name].format(**_facts(name, summary, figure))
    return Section(name, figure, " ".join(caption.split()), name)


def _facts(name: str, summary: Mapping[str, Any], figure: go.Figure) -> dict[str, str]:
    """What a caption says of the data."""
    family = family_told(summary) if name == "significance" else ""
    # plotly makes the attributes of a layout at run time.
    spread = figure.layout.meta["spread"]  # type: ignore[reportAttributeAccessIssue]
    return {"spread": spread, "family": family}


def _tables(name: str, summary: Mapping[str, Any]) -> Iterable[Table]:
    held: dict[str, Iterable[Table | None]] = {
        "significance": [significance_table(summary), other_phases_table(summary)],
        "readout": readout_tables(summary),
        "sweep": [layers_table(summary)],
        "controls": [ordering_table(summary), controls_table(summary)],
        "aftermath": aftermath_tables(summary),
    }
    return [table for table in held.get(name, ()) if table is not None]
