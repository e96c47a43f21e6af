"""report.html: everything about an experiment or run in one file that opens without a network."""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from workbench.errors import RunError
from workbench.files import write_atomic
from workbench.plots.heatmap import heatmap
from workbench.plots.page import chooser_html, figure_json, page, plot_html
from workbench.plots.provenance import provenance_html
from workbench.plots.sections import Section, experiment_sections, introduction, run_sections
from workbench.plots.style import counted, number, printable
from workbench.plots.table import arms_table, control_table, note, paper_table, to_html, typeset
from workbench.plots.trajectories import arm_name
from workbench.runs import Run

HEATMAP_BYTES = 900_000
"""Room for heat maps: with plotly's 4.8 MB a report stays below 6 MB."""

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
    data = {f"{section.name}-data": figure_json(section.figure) for section in sections}
    blocks = _figures_html(sections)
    choices, dropped = _choices(material)
    if choices:
        data["layers-data"] = f"[{','.join(choice.json for choice in choices)}]"
        # Which layers: right after the mean over them.
        blocks.insert(min(1, len(blocks)), _layers_html(choices, dropped, bool(material.p99)))
    body = [_header(material), *blocks]
    if summary is not None:
        body.append(_arms_html(summary))
    body.append(provenance_html(material.runs, summary))
    text = page(material.name, "\n".join(body), data)
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
    json: str


def _choices(material: Material) -> tuple[list[Choice], int]:
    """The heat maps that there is room for, seed by seed, in order of arms; and how many not."""
    arms = list(dict.fromkeys(arm_name(run) for run in material.runs))
    of_arm = {arm: [run for run in material.runs if arm_name(run) == arm] for arm in arms}
    rounds = [
        (arm, position)
        for position in range(max((len(runs) for runs in of_arm.values()), default=0))
        for arm in arms
        if position < len(of_arm[arm])
    ]
    made: dict[tuple[str, int], Choice] = {}
    used = dropped = 0
    for arm, position in rounds:
        run = of_arm[arm][position]
        if not run.measured:
            continue
        choice = _choice(run, arms.index(arm), arm, material)
        if used + len(choice.json.encode()) > HEATMAP_BYTES:
            dropped += 1
            continue
        used += len(choice.json.encode())
        made[arm, position] = choice
    return [made[key] for key in sorted(made, key=lambda key: (arms.index(key[0]), key[1]))], dropped


def _choice(run: Run, index: int, arm: str, material: Material) -> Choice:
    config = run.info.get("config", {})
    p99 = material.p99.get(str(config.get("lineage")))
    if p99 is not None and len(p99) != run.layer_values("alignment").shape[1]:
        p99 = None
    figure = heatmap(run, p99=p99)
    figure.update_layout(height=HEATMAP_HEIGHT)
    label = f"{config['lineage']}, seed {config['seed']}" if "seed" in config else run.id
    told = json.dumps(printable(label)).replace("<", "\\u003c")
    return Choice(arm, f'{{"arm":{index},"label":{told},"figure":{figure_json(figure)}}}')


def _header(material: Material) -> str:
    title = f"<h1>Fine-tuning reversion: {html.escape(printable(material.name))}</h1>"
    summary = material.summary
    if summary is None:
        status = ", ".join(f"{printable(run.id)}: {run.status}" for run in material.runs)
        return (
            f'{title}\n<p class="facts">{html.escape(status)}</p>\n<p>Drift of the residual stream '
            "during fine-tuning, relative to the aligned model it started from, and the reversion "
            "direction v_rev, which points back to an earlier phase. Shared endpoint not "
            "separated: both contain the aligned model, which alone makes a cosine of about 0.5 "
            "between independent models.</p>"
        )
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
    """One block per row of figures."""
    blocks = []
    for _, row in groupby(sections, key=lambda section: section.row or section.name):
        members = list(row)
        heading = f"<h2>{html.escape(members[0].heading)}</h2>\n" if members[0].heading else ""
        figures = "\n".join(_figure_html(section) for section in members)
        wrapped = f'<div class="pair">{figures}</div>' if len(members) > 1 else figures
        blocks.append(heading + wrapped)
    return blocks


def _figure_html(section: Section) -> str:
    plot = plot_html(section.name, section.caption, int(section.figure.layout.height))
    return f"<figure>{plot}<figcaption>{typeset(section.caption)}</figcaption></figure>"


def _layers_html(choices: Sequence[Choice], dropped: int, marked: bool) -> str:
    arms = list(dict.fromkeys(choice.arm for choice in choices))
    shown = ["ordinary" if "ordinary" in arms else arms[0]]
    shown += [arm for arm in ("block", *arms) if arm in arms and arm not in shown][:1]
    caption = (
        "Alignment at every layer and measured step of one run; choose arm and run above each map. "
        "The colours run from −1 (blue) over 0 (white) to 1 (red) in every map; a dark line "
        "separates positive from negative. Grey with a cross: undefined, the drift is below ten "
        "noise floors. Hovering tells along, across, the norm and the 95 % interval over prompts."
    )
    if marked:
        caption += " Dots: not above the p99 of the matched null at that layer."
    if dropped:
        caption += f" {counted(dropped, 'run')} left out to keep this file small."
    panels = "\n".join(
        chooser_html("layers", caption, [printable(a) for a in arms], arms.index(arm),
                     HEATMAP_HEIGHT)
        for arm in shown
    )  # fmt: skip
    wrapped = f'<div class="pair">{panels}</div>' if len(shown) > 1 else panels
    return (
        f"<h2>At which layers?</h2>\n<figure>{wrapped}"
        f"<figcaption>{typeset(caption)}</figcaption></figure>"
    )


def _arms_html(summary: Mapping[str, Any]) -> str:
    table = to_html(arms_table(summary), css_class="arms")
    return f"<h2>All arms</h2>\n{table}\n<p>{typeset(note(summary))}</p>"
