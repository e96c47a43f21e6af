"""report.html: everything about an experiment or run in one file that opens without a network."""

import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, groupby, zip_longest
from pathlib import Path
from typing import Any

from workbench.errors import RunError
from workbench.files import write_atomic
from workbench.plots import captions
from workbench.plots.evidence import Part, evidence_parts
from workbench.plots.heatmap import heatmap
from workbench.plots.page import (
    chooser_html,
    compact_json,
    figure_json,
    page,
    plot_html,
    plotly_script,
)
from workbench.plots.provenance import provenance_html
from workbench.plots.sections import Section, experiment_sections, introduction, run_sections
from workbench.plots.style import counted, number
from workbench.plots.table import arms_table, control_table, note, paper_table
from workbench.plots.trajectories import arm_name
from workbench.plots.typeset import to_html, typeset
from workbench.runs import Run
from workbench.text import printable

MAX_BYTES = 6_000_000
"""A report is no larger: heat maps that do not fit are left out."""

TEXT_BYTES, RUN_BYTES = 60_000, 400
"""Kept free for all that is not a figure: of the page, and of every run."""

HEATMAP_HEIGHT = 400


@dataclass(frozen=True)
class Material:
    """What a report is made from."""

    name: str
    runs: tuple[Run, ...]
    summary: Mapping[str, Any] | None = None
    p99: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """By lineage, the matched null's 99th percentile of every layer's alignment."""


def write_report(source: str | Path | Run | Sequence[Run], out: str | Path) -> Path:
    """Write the report of an experiment or of runs as one self-contained HTML file.

    Args:
        source: Folder of an experiment or of a run, a run, or several.
        out: The file to write.

    Returns:
        The path of the file.

    Raises:
        RunError: If there is no experiment or run, or it cannot be read.
    """
    material = _gather(source)
    summary = material.summary
    sections = run_sections(material.runs) if summary is None else experiment_sections(summary)
    parts = [] if summary is None else evidence_parts(summary)
    drawn = [*sections, *(part.section for part in parts if part.section)]
    data = {f"{section.name}-data": figure_json(section.figure) for section in drawn}
    blocks = _figures_html(sections)
    tables = [_part_html(part) for part in parts]
    if summary is not None:
        tables.append(_arms_html(summary))
    room = MAX_BYTES - TEXT_BYTES - RUN_BYTES * len(material.runs)
    room -= len(plotly_script().encode())
    room -= sum(len(text.encode()) for text in (*data.values(), *tables))
    choices, dropped = _choices(material, room)
    if choices:
        data["layers-data"] = _choices_json(choices)
        # Which layers: right after the mean over them.
        blocks.insert(min(1, len(blocks)), _layers_html(choices, dropped, bool(material.p99)))
    body = [_header(material), *blocks, *tables, provenance_html(material.runs, summary)]
    text = page(material.name, _numbered("\n".join(body)), data)
    write_atomic(Path(out), text.encode("utf-8"))
    return Path(out)


def _gather(source: str | Path | Run | Sequence[Run]) -> Material:
    if isinstance(source, Run):
        source = [source]
    if not isinstance(source, str | Path):
        runs = tuple(run.checked() for run in source)
        if not runs:
            raise RunError("No run to report on.")
        return Material(", ".join(run.id for run in runs[:3]), runs)
    folder = Path(source)
    if (folder / "summary.json").is_file():
        return _experiment(folder)
    if (folder / "run.json").is_file():
        run = Run(folder).checked()
        return Material(run.id, (run,))
    raise RunError(f"{folder}: neither an experiment (summary.json) nor a run (run.json) here.")


def _experiment(folder: Path) -> Material:
    summary = _read_json(folder / "summary.json")
    by_id = {path.parent.name: Run(path.parent) for path in folder.glob("runs/*/run.json")}
    named = [run_id for arm in summary["arms"].values() for run_id in arm.get("runs", ())]
    runs = [by_id[run_id] for run_id in named or sorted(by_id) if run_id in by_id]
    p99 = {}
    for lineage in summary["lineages"]:
        nulls = folder / "lineages" / str(lineage.get("folder", lineage["name"])) / "nulls.json"
        if nulls.is_file() and "matched" in (stored := _read_json(nulls)):
            p99[lineage["name"]] = stored["matched"]["p99"]
    return Material(folder.resolve().name, tuple(runs), summary, p99)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error}); recompute it.") from error


@dataclass(frozen=True)
class Choice:
    """One run's heat map."""

    arm: str
    label: str
    figure: str
    """JSON."""


def _choices(material: Material, room: int) -> tuple[list[Choice], int]:
    """The heat maps that fit into `room` bytes, in order of arms; and how many did not.

    Every arm's first run comes before any arm's second, so that no arm is left out for another.
    """
    of_arm: dict[str, list[Run]] = {}
    for run in material.runs:
        if run.measured:
            of_arm.setdefault(arm_name(run), []).append(run)
    made: dict[str, list[Choice]] = {arm: [] for arm in of_arm}
    dropped = 0
    for several in zip_longest(*of_arm.values()):
        for arm, run in zip(of_arm, several, strict=True):
            if run is None:
                continue
            choice = _choice(run, arm, material)
            if (size := len(choice.figure.encode())) > room:
                dropped += 1
                continue
            room -= size
            made[arm].append(choice)
    return [choice for choices in made.values() for choice in choices], dropped


def _choice(run: Run, arm: str, material: Material) -> Choice:
    config = run.info.get("config", {})
    p99 = material.p99.get(str(config.get("lineage")))
    if p99 is not None and len(p99) != run.layer_values("alignment").shape[1]:
        p99 = None
    figure = heatmap(run, p99=p99)
    figure.update_layout(height=HEATMAP_HEIGHT)
    known = "lineage" in config and "seed" in config
    label = f"{config['lineage']}, seed {config['seed']}" if known else run.id
    return Choice(arm, printable(label), figure_json(figure))


def _choices_json(choices: Sequence[Choice]) -> str:
    """The choices for the page's script, arms by their place in the box."""
    arms = _arms(choices)
    return "[{}]".format(
        ",".join(
            f'{{"arm":{arms.index(choice.arm)},"label":{compact_json(choice.label)},'
            f'"figure":{choice.figure}}}'
            for choice in choices
        )
    )


def _arms(choices: Sequence[Choice]) -> list[str]:
    return list(dict.fromkeys(choice.arm for choice in choices))


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


def _layers_html(choices: Sequence[Choice], dropped: int, marked: bool) -> str:
    """Two heat maps side by side, each with its boxes: ordinary and block, where there are."""
    arms = _arms(choices)
    shown = ["ordinary" if "ordinary" in arms else arms[0]]
    shown += [arm for arm in ("block", *arms) if arm in arms and arm not in shown][:1]
    caption = captions.CAPTIONS["layers"].format(marks=captions.MARKS if marked else "")
    if dropped:
        caption += f" {counted(dropped, 'run')} left out to keep this file small."
    offered = [printable(arm) for arm in arms]
    panels = [
        chooser_html("layers", caption, offered, arms.index(arm), HEATMAP_HEIGHT) for arm in shown
    ]
    wrapped = f'<div class="pair">{"".join(panels)}</div>' if len(panels) > 1 else panels[0]
    return (
        f"{_heading('layers')}<figure>{wrapped}<figcaption>{typeset(caption)}</figcaption></figure>"
    )


def _numbered(body: str) -> str:
    """Number the figures in their order; text from data is escaped and cannot be one."""
    numbers = count(1)
    return re.sub("<figcaption>", lambda _: f"<figcaption><b>Figure {next(numbers)}.</b> ", body)


def _arms_html(summary: Mapping[str, Any]) -> str:
    table = to_html(arms_table(summary), css_class="arms")
    return f'<h2>All arms</h2>\n<div class="wide">{table}</div>\n<p>{typeset(note(summary))}</p>'
