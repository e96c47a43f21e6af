"""Tables: our numbers beside the paper's, and all arms, as plain text and as HTML."""

import math
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np

from workbench.plots.statistic import Statistic, say, say_interval
from workbench.plots.style import counted, number
from workbench.plots.typeset import CELLS, Table, to_html, to_text
from workbench.text import printable

SEPARATE = "shared endpoint not separated"
LAST = "last"
ARM_COLUMNS = (
    ("alignment, step 1", "alignment", "1", 1, 3),
    ("alignment, step 20", "alignment", "20", 1, 3),
    ("alignment", "alignment", LAST, 1, 3),
    ("sibling", "alignment_sibling", LAST, 1, 3),
    ("along", "along", LAST, 1, 3),
    ("across", "across", LAST, 1, 3),
    ("harmful %", "harmfulness", LAST, 100, 1),
    ("broken %", "broken", LAST, 100, 1),
    ("refusal log-odds", "refusal_log_odds", LAST, 1, 2),
    ("over-refusal %", "over_refusal", LAST, 100, 1),
    ("task loss", "task_loss", LAST, 1, 3),
    ("task cost %", "task_cost", LAST, 100, 1),
    ("KL", "kl", LAST, 1, 3),
)
"""Heading, quantity, step, factor and decimals."""

SHORT = ("alignment", "harmfulness", "broken", "task_cost", "over_refusal")
"""Quantities of the table of arms in a terminal, at the last step."""


def table_text(summary: Mapping[str, Any], *, width: int = 100) -> str:
    """Return the tables for a terminal: the paper's numbers beside ours, then all arms.

    Args:
        summary: Of an experiment.
        width: Characters per line; text is wrapped within its column.
    """
    arms = arms_table(summary, short=True)
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
        if name in (summary.get("controls") or {}):
            continue
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


def arms_table(summary: Mapping[str, Any], *, short: bool = False) -> Table:
    """Return all arms: mean ± sd over runs, the intervals below where there are any.

    Args:
        summary: Of an experiment.
        short: Only what fits a terminal.
    """
    last = str(summary["steps"])
    columns = [
        (heading, quantity, last if step == LAST else step, factor, digits)
        for heading, quantity, step, factor, digits in ARM_COLUMNS
        if (not short or (quantity in SHORT and step == LAST)) and step != last
    ]
    columns = [
        column
        for column in columns
        if any(_at(arm.get(column[1]), column[2]) for arm in summary["arms"].values())
    ]
    told = [
        (name, [(_at(arm.get(quantity), step), *form) for _, quantity, step, *form in columns])
        for name, arm in summary["arms"].items()
    ]
    intervals = tuple(("", *(say_interval(*cell) for cell in cells)) for _, cells in told)
    two_lines = not short and any(map(any, intervals))
    return Table(
        f"All arms at step {last}, {CELLS if two_lines else 'mean ± sd over runs'}",
        ("arm", *(heading for heading, *_ in columns)),
        tuple((printable(name), *(say(*cell) for cell in cells)) for name, cells in told),
        intervals,
    )


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


def _at(told: Mapping[str, Any] | None, step: str) -> Statistic | None:
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
