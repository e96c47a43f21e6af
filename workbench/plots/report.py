"""report.html: everything about an experiment or run in one file that opens without a network."""

import html
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, count, groupby, zip_longest
from pathlib import Path
from typing import Any

from workbench.files import write_atomic
from workbench.grids import AblationGrid
from workbench.plots import captions
from workbench.plots.evidence import Part, evidence_parts
from workbench.plots.explorer import explorer, known_layers
from workbench.plots.from_runs import geometry_sections, grids_of
from workbench.plots.layer_values import NOTHING
from workbench.plots.material import Material, Origin, gather
from workbench.plots.page import figure_json, page, plot_html, plotly_script, view_html
from workbench.plots.provenance import provenance_html
from workbench.plots.sections import Section, experiment_sections, introduction, run_sections
from workbench.plots.slider import slider
from workbench.plots.style import counted, number
from workbench.plots.table import arms_table, control_table, note, paper_table
from workbench.plots.trajectories import arm_name
from workbench.plots.typeset import to_html, typeset
from workbench.plots.view import View
from workbench.runs import Run
from workbench.text import printable

MAX_BYTES = 6_000_000
"""A report is no larger: heat maps that do not fit are left out."""

TEXT_BYTES, RUN_BYTES = 80_000, 400
"""Kept free for all that is not a figure: of the page, and of every run."""


def write_report(source: Origin, out: str | Path) -> Path:
    """Write the report of an experiment or of runs as one self-contained HTML file.

    Args:
        source: Folder of an experiment or of a run, a run, or several.
        out: The file to write.

    Returns:
        The path of the file.

    Raises:
        RunError: If there is no experiment or run, or it cannot be read.
    """
    material = gather(source)
    summary = material.summary
    sections = run_sections(material.runs) if summary is None else experiment_sections(summary)
    sections += geometry_sections(material.runs)
    parts = [] if summary is None else evidence_parts(summary)
    drawn = [*sections, *(part.section for part in parts if part.section)]
    data = {f"{section.name}-data": figure_json(section.figure) for section in drawn}
    blocks = _figures_html(sections)
    tables = [_part_html(part) for part in parts]
    if summary is not None:
        tables.append(_arms_html(summary))
    grids = grids_of(material.runs)
    data |= {f"{name}-data": slider(grid).text() for name, grid in grids.items()}
    tables = [*(_slider_html(name, grid) for name, grid in grids.items()), *tables]
    room = MAX_BYTES - TEXT_BYTES - RUN_BYTES * len(material.runs)
    room -= len(plotly_script().encode())
    room -= sum(len(text.encode()) for text in (*data.values(), *tables))
    views, dropped = _explorers(material, room)
    data |= {
        f"{name}-data": view.text() for name, view in zip(_explorer_names(), views, strict=False)
    }
    if views:
        # Which layers: right after the mean over them.
        blocks.insert(min(1, len(blocks)), _layers_html(views, dropped, material.has_null))
    body = [_header(material), *blocks, *tables, provenance_html(material.runs, summary)]
    text = page(material.name, _numbered("\n".join(body)), data)
    write_atomic(Path(out), text.encode("utf-8"))
    return Path(out)


def _explorers(material: Material, room: int) -> tuple[list[View], int]:
    """The layer explorer of as many runs as fit into `room` bytes; and how many did not.

    Runs measured at other layers have an explorer of their own.
    """
    groups: dict[tuple[int, ...], list[Run]] = {}
    for run in material.runs:
        if run.measured:
            layers = known_layers(run, material.surroundings.get(run.folder, NOTHING))
            groups.setdefault(layers, []).append(run)
    views, dropped = [], 0
    for runs in groups.values():
        view, left_out = _fitting(runs, material, room)
        dropped += left_out
        if view is not None:
            views.append(view)
            room -= len(view.text().encode())
    return views, dropped


def _fitting(runs: Sequence[Run], material: Material, room: int) -> tuple[View | None, int]:
    """Every arm's first run comes before any arm's second: no arm is left out for another."""
    of_arm: dict[str, list[Run]] = {}
    for run in runs:
        of_arm.setdefault(arm_name(run), []).append(run)
    rounds = [[run for run in several if run] for several in zip_longest(*of_arm.values())]
    in_order = [run for several in rounds for run in several]

    def view(n: int) -> View:
        kept = [run for several in of_arm.values() for run in several if run in in_order[:n]]
        return explorer(kept, material.surroundings)

    def too_large(n: int) -> bool:
        return len(view(n).text().encode()) > room

    fit = bisect_left(range(1, len(in_order) + 1), True, key=too_large)
    # Whole rounds, where one fits: arms and seeds can then be chosen apart.
    ends = accumulate(len(several) for several in rounds)
    fit = max((end for end in ends if end <= fit), default=fit)
    return (view(fit) if fit else None), len(in_order) - fit


def _header(material: Material) -> str:
    title = f"<h1>Fine-tuning reversion: {html.escape(printable(material.name))}</h1>"
    summary = material.summary
    if summary is None:
        status = ", ".join(f"{printable(run.id)}: {run.status}" for run in material.runs)
        lead, rest = captions.NOT_IN_ONE_RUN
        told = f"{typeset(captions.OF_RUNS)} <b>{typeset(lead)}</b> {typeset(rest)}"
        return f'{title}\n<p class="facts">{html.escape(status)}</p>\n<p>{told}</p>'
    lineages = ", ".join(printable(lineage["name"]) for lineage in summary["lineages"])
    seeds = ", ".join(str(seed) for seed in summary["seeds"])
    facts = f"lineages: {lineages} · seeds: {seeds} · {counted(summary['steps'], 'step')}"
    if (seconds := summary.get("wall_seconds")) is not None:
        facts += f" · {number(seconds / 60, 1)} minutes"
    tables = to_html(paper_table(summary), css_class="paper") + to_html(control_table(summary))
    return (
        f'{title}\n<p class="facts">{html.escape(facts)}</p>\n<div class="opening">'
        f"<div>{introduction(summary)}</div>\n<div>{tables}</div></div>"
    )


def _figures_html(sections: Sequence[Section]) -> list[str]:
    """One block per row of figures, headings where a part begins."""
    blocks: list[str] = []
    for _, row in groupby(sections, key=lambda section: section.row):
        members = list(row)
        figures = "\n".join(_figure_html(section) for section in members)
        wrapped = f'<div class="pair">{figures}</div>' if len(members) > 1 else figures
        heading = _heading(members[0].name)
        blocks.append(wrapped if any(heading in block for block in blocks) else heading + wrapped)
    return blocks


def _heading(name: str) -> str:
    told = captions.HEADINGS.get(name)
    return f"<h2>{html.escape(told)}</h2>\n" if told else ""


def _figure_html(section: Section) -> str:
    # plotly makes the attributes of a layout at run time.
    height = int(section.figure.layout.height)  # type: ignore[reportAttributeAccessIssue]
    plot = plot_html(section.name, section.caption, height)
    return f"<figure>{plot}<figcaption>{typeset(section.caption)}</figcaption></figure>"


def _part_html(part: Part) -> str:
    """A figure, then what its tables say, then the tables."""
    shown = [f"<h2>{html.escape(part.heading)}</h2>"]
    if part.section:
        shown.append(_figure_html(part.section))
    if part.told:
        shown.append(f"<p>{typeset(part.told)}</p>")
    shown += [f'<div class="wide">{to_html(t, css_class=part.name)}</div>' for t in part.tables]
    return "\n".join(shown)


def _explorer_names() -> Iterator[str]:
    """What explorers are called in the page."""
    return (f"layers-{n}" if n > 1 else "layers" for n in count(1))


def _layers_html(views: Sequence[View], dropped: int, marked: bool) -> str:
    """The layer explorers, each once more for block where there is one: to compare two runs."""
    caption = captions.CAPTIONS["layers"].format(marks=captions.MARKS if marked else "")
    if dropped:
        caption += f" {counted(dropped, 'run')} left out to keep this file small."
    places = []
    for name, view in zip(_explorer_names(), views, strict=False):
        places.append(view_html(name))
        arms = next((control for control in view.controls if control.name == "arm"), None)
        if arms is not None:
            second = "block" if "block" in arms.options else arms.options[1 - arms.chosen]
            places.append(view_html(name, {"arm": arms.options.index(second)}))
    shown = "\n".join(places)
    return (
        f"{_heading('layers')}<figure>{shown}<figcaption>{typeset(caption)}</figcaption></figure>"
    )


def _slider_html(name: str, grid: AblationGrid) -> str:
    """The ablation slider of a run that has a grid."""
    run = printable(grid.provenance.get("run", ""))
    heading = f"<h2>Does it act through v<sub>rev</sub>? {html.escape(run)}</h2>"
    caption = typeset(captions.SLIDER)
    return f"{heading}\n<figure>{view_html(name)}<figcaption>{caption}</figcaption></figure>"


def _numbered(body: str) -> str:
    """Number the figures in their order; text from data is escaped and cannot be one."""
    numbers = count(1)
    return re.sub("<figcaption>", lambda _: f"<figcaption><b>Figure {next(numbers)}.</b> ", body)


def _arms_html(summary: Mapping[str, Any]) -> str:
    table = to_html(arms_table(summary), css_class="arms")
    return f'<h2>All arms</h2>\n<div class="wide">{table}</div>\n<p>{typeset(note(summary))}</p>'
