"""Tables: our numbers beside the paper's, and all arms, as plain text and as HTML."""

import html
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from workbench.plots.style import counted, number, printable

SEPARATE = "shared endpoint not separated"
ARM_COLUMNS = (
    ("alignment", "alignment", 1, 3),
    ("sibling", "alignment_sibling", 1, 3),
    ("along", "along", 1, 3),
    ("harmful %", "harmfulness", 100, 1),
    ("broken %", "broken", 100, 1),
    ("over-refusal %", "over_refusal", 100, 1),
    ("task loss", "task_loss", 1, 3),
    ("KL", "kl", 1, 3),
    ("task cost %", "task_cost", 100, 1),
)
"""Heading, quantity, factor and decimals."""

MARKUP = {
    "θ_S′": "θ<sub>S′</sub>",
    "θ_S": "θ<sub>S</sub>",
    "θ_H": "θ<sub>H</sub>",
    "v_rev": "<i>v</i><sub>rev</sub>",
    " ± ": "\u00a0±\u00a0",
    " %": "\u00a0%",
    "n = ": "n\u00a0=\u00a0",
}
"""What symbols in plain text become in HTML."""


@dataclass(frozen=True)
class Table:
    """Rows of text under headings."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def table_text(summary: Mapping[str, Any], *, width: int = 100) -> str:
    """Return the tables for a terminal: the paper's numbers beside ours, then all arms.

    Args:
        summary: Of an experiment.
        width: Characters per line; text is wrapped within its column.
    """
    arms = arms_table(summary, ("alignment", "harmfulness", "task_loss", "task_cost"))
    parts = [
        to_text(paper_table(summary), width),
        to_text(control_table(summary), width),
        to_text(arms, width),
        textwrap.fill(note(summary), width),
    ]
    return "\n\n".join(part for part in parts if part)


def table_html(summary: Mapping[str, Any]) -> str:
    """Return the paper's numbers beside ours as an HTML table; all text is escaped."""
    return to_html(paper_table(summary), css_class="paper")


def paper_table(summary: Mapping[str, Any]) -> Table:
    """Return the paper's quantities with its numbers and ours."""
    source = printable(summary.get("source", "the paper"))
    return Table(
        "Beside the paper's numbers",
        ("quantity", f"paper ({source})", "here"),
        tuple(
            (row["quantity"], row["paper"], row.get("ours") or "not run")
            for row in summary.get("paper", ())
        ),
    )


def control_table(summary: Mapping[str, Any]) -> Table:
    """Return what the paper's table lacks: stronger nulls, the sibling, the spread of lineages."""
    rows: list[tuple[str, str]] = []
    for name, null in summary.get("nulls", {}).items():
        for what, above, pairs in (
            ("run-step pairs", "above_p99", "pairs"),
            ("layer-step pairs", "layer_above_p99", "layer_pairs"),
        ):
            # The paper's table has the isotropic null's run-step pairs already.
            if null.get(pairs) and (name, pairs) != ("isotropic", "pairs"):
                rows.append((f"{what} above the p99 of the {name} null",
                             f"{null[above]} of {null[pairs]}"))  # fmt: skip
    ordinary, last = summary["arms"].get("ordinary", {}), str(summary["steps"])
    if by_step := ordinary.get("alignment_sibling"):
        rows.append(
            ("cos with the sibling's direction, ordinary, last step", say(by_step.get(last)))
        )
    else:
        rows.append(("cos with a sibling's direction", SEPARATE))
    for name, factor, digits in (("alignment", 1, 3), ("harmfulness", 100, 1)):
        if spread := _spread(summary, ordinary.get(name, {}).get(last)):
            between, within = (number(factor * sd, digits) for sd in spread)
            rows.append(
                (f"sd of ordinary {name}{' (%)' if factor == 100 else ''} at the last step",
                 f"{between} between lineages, {within} between seeds")
            )  # fmt: skip
    for name, arm in summary["arms"].items():
        if matching := arm.get("matching"):
            rows.append(
                (f"{name}: share of block's gradient norm that was applied, %",
                 say(matching["applied"], 100, 0))
            )  # fmt: skip
        if cosines := arm.get("control_cosine"):
            largest = max(abs(value) for run in cosines for value in run)
            rows.append(
                (
                    f"{name}: largest |cos| of its direction with v_rev at a layer",
                    number(largest, 2),
                )
            )
    return Table("Controls that the paper's table does not have", ("control", "here"), tuple(rows))


def arms_table(summary: Mapping[str, Any], quantities: Sequence[str] | None = None) -> Table:
    """Return all arms at the last step: mean ± sd over runs.

    Args:
        summary: Of an experiment.
        quantities: Columns, by name in the summary; by default all that there are.
    """
    last = str(summary["steps"])
    columns = [
        column
        for column in ARM_COLUMNS
        if (quantities is None or column[1] in quantities)
        and any(arm.get(column[1]) for arm in summary["arms"].values())
    ]
    rows = []
    for name, arm in summary["arms"].items():
        cells = [
            say(_at(arm.get(quantity), last), factor, digits)
            for _, quantity, factor, digits in columns
        ]
        rows.append((printable(name), *cells))
    header = ("arm", *(heading for heading, *_ in columns))
    return Table(f"All arms at step {last}, mean ± sd over runs", header, tuple(rows))


def note(summary: Mapping[str, Any]) -> str:
    """Return how to read the tables, in plain words."""
    lineages, seeds = len(summary["lineages"]), len(summary["seeds"])
    spread = f"± is the sample sd over {counted(seeds, 'seed')} on {counted(lineages, 'lineage')}"
    return (
        "The paper's models are larger (3B to 14B) and its setup is another: its numbers stand "
        "beside ours, they are not ours. "
        f"{spread if lineages * seeds > 1 else 'Here is one run per arm, so no spread'}; run-step "
        "pairs of one run are dependent."
    )


def say(value: Mapping[str, Any] | None, factor: int = 1, digits: int = 3) -> str:
    """Return a statistic as `mean ± sd`; a dash where it is undefined."""
    if value is None or not _known(value.get("mean")):
        return "–"
    mean = number(value["mean"] * factor, digits)
    sd = value.get("sd")
    return mean if sd is None or not _known(sd) else f"{mean} ± {number(sd * factor, digits)}"


def to_text(table: Table, width: int = 100) -> str:
    """Return a table as lines of at most `width` characters; nothing if it has no rows."""
    if not table.rows:
        return ""
    cells = [tuple(printable(cell) for cell in row) for row in (table.header, *table.rows)]
    widths = _widths(cells, width)
    lines = [printable(table.caption)]
    for index, row in enumerate(cells):
        wrapped = [textwrap.wrap(cell, room) for cell, room in zip(row, widths, strict=True)]
        for parts in zip_longest(*wrapped, fillvalue=""):
            padded = (part.ljust(room) for part, room in zip(parts, widths, strict=True))
            lines.append("  ".join(padded).rstrip())
        if index == 0:
            lines.append("  ".join("─" * room for room in widths))
    return "\n".join(lines)


def to_html(table: Table, *, css_class: str = "") -> str:
    """Return a table as HTML, all text escaped."""
    header = "".join(f'<th scope="col">{typeset(cell)}</th>' for cell in table.header)
    body = "".join(
        f'<tr><th scope="row">{typeset(row[0])}</th>'
        + "".join(f"<td>{typeset(cell)}</td>" for cell in row[1:])
        + "</tr>\n"
        for row in table.rows
    )
    return (
        f'<table class="{html.escape(css_class)}"><caption>{typeset(table.caption)}</caption>\n'
        f"<thead><tr>{header}</tr></thead>\n<tbody>\n{body}</tbody></table>"
    )


def typeset(text: str) -> str:
    """Return text as HTML: escaped, θ and v_rev with subscripts, numbers unbroken at their ±."""
    escaped = html.escape(printable(text))
    for plain, markup in MARKUP.items():
        escaped = escaped.replace(plain, markup)
    return escaped


def _known(value: float | int | None) -> bool:
    return value is not None and math.isfinite(value)


def _at(told: Mapping[str, Any] | None, step: str) -> Mapping[str, Any] | None:
    """A statistic itself, or the one of this step."""
    if not told or "mean" in told:
        return told or None
    return told.get(step)


def _spread(
    summary: Mapping[str, Any], value: Mapping[str, Any] | None
) -> tuple[float, float] | None:
    """Sd between lineage means, and the root mean square of the sds between seeds."""
    lineages, seeds = len(summary["lineages"]), len(summary["seeds"])
    if value is None or lineages < 2 or len(value["per_seed"]) != lineages * seeds:
        return None
    grid = np.array(value["per_seed"], dtype=float).reshape(lineages, seeds)
    between = float(grid.mean(axis=1).std(ddof=1))
    within = math.nan if seeds < 2 else float(np.sqrt(grid.var(axis=1, ddof=1).mean()))
    return between, within


def _widths(cells: Sequence[Sequence[str]], width: int) -> list[int]:
    """Column widths that fit: the widest columns give way."""
    widths = [max(len(row[index]) for row in cells) for index in range(len(cells[0]))]
    while sum(widths) + 2 * (len(widths) - 1) > width and max(widths) > 8:
        widths[widths.index(max(widths))] -= 1
    return widths
