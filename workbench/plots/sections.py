"""The parts of a report: what was done in plain words, and each figure with its caption."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from workbench.errors import ConfigError
from workbench.plots import captions
from workbench.plots.alignment import alignment, sibling
from workbench.plots.behaviour import behaviour
from workbench.plots.ordering import cost, ordering, spearman_text
from workbench.plots.style import counted, family
from workbench.plots.trajectories import arm_name
from workbench.plots.typeset import typeset
from workbench.runs import Run
from workbench.text import printable

HEADING, ENTRY = 170, 21
"""Pixels: of what stands above and below a legend, and of each of its lines."""


@dataclass(frozen=True)
class Section:
    """One figure of a report."""

    name: str

    figure: go.Figure

    caption: str
    """What the marks and bands are, and n; plain text."""

    row: str
    """Figures of the same row stand side by side."""


def introduction(summary: Mapping[str, Any]) -> str:
    """Return what was done and how to read it, as HTML."""
    arms, first = list(summary["arms"]), summary["lineages"][0]
    names = ", ".join(printable(lineage["name"]) for lineage in summary["lineages"])
    n_runs = sum(_n_runs(arm) for arm in summary["arms"].values())
    done = (
        f"The safety-tuned model θ_S (phase “{printable(first['aligned'])}”) of "
        f"{counted(len(summary['lineages']), 'lineage')} ({names}) was fine-tuned on harmless "
        f"data for {counted(summary['steps'], 'step')}, in {counted(len(arms), 'arm')} with "
        f"{counted(len(summary['seeds']), 'seed')} each: {counted(n_runs, 'run')}. At every "
        "measured step the drift, the mean displacement of the residual stream from θ_S over "
        "held-out harmful prompts, was compared with v_rev, the direction from θ_S back to the "
        f"earlier, helpful-only model θ_H (phase “{printable(first['witness'])}”)."
    )
    families = dict.fromkeys(family(arm, summary["arms"][arm]) for arm in arms)
    known = [f"{arm} {captions.ARMS[arm]}" for arm in families if arm in captions.ARMS]
    variants = f" {captions.VARIANTS}" if any({":", "@"} & set(arm) for arm in arms) else ""
    told = f"<p>Arms: {typeset('; '.join(known))}.{variants}</p>\n" if known else ""
    separated = any(arm.get("alignment_sibling") for arm in summary["arms"].values())
    endpoint = captions.SEPARATED if separated else captions.NOT_SEPARATED
    points = "".join(
        f"<li><b>{typeset(lead)}</b> {typeset(rest)}</li>"
        for lead, rest in (captions.BESIDE, captions.DEPENDENT, endpoint)
    )
    return f"<p>{typeset(done)}</p>\n{told}<ul>{points}</ul>"


def experiment_sections(summary: Mapping[str, Any]) -> list[Section]:
    """Return the figures that a summary has the numbers for."""
    counts = [_n_runs(arm) for arm in summary["arms"].values()]
    told = _spread(counts) | {
        "nulls": captions.NULLS if summary.get("nulls") else "",
        "rank": _rank(summary.get("spearman") or {}),
    }
    return _drawn(
        {
            "alignment": lambda: alignment(summary),
            "sibling": lambda: sibling(summary),
            "along": lambda: alignment(summary, quantity="along"),
            "across": lambda: alignment(summary, quantity="across"),
            "ordering": lambda: ordering(summary),
            "cost": lambda: cost(summary),
            "behaviour": lambda: behaviour(summary),
        },
        told,
    )


def run_sections(runs: Sequence[Run]) -> list[Section]:
    """Return the figures of runs outside an experiment."""
    arms = [arm_name(run) for run in runs]
    told = _spread([arms.count(arm) for arm in dict.fromkeys(arms)]) | {"nulls": "", "rank": ""}
    return _drawn(
        {
            "alignment": lambda: alignment(runs),
            "along": lambda: alignment(runs, quantity="along"),
            "across": lambda: alignment(runs, quantity="across"),
            "behaviour": lambda: behaviour(runs),
        },
        told,
    )


def _drawn(draws: Mapping[str, Callable[[], go.Figure]], told: Mapping[str, str]) -> list[Section]:
    """Draw what there are numbers for; a figure without numbers is left out."""
    sections = []
    for name, draw in draws.items():
        try:
            figure = draw()
        except ConfigError:
            continue
        _make_room(figure)
        caption = " ".join(captions.CAPTIONS[name].format(**told).split())
        sections.append(Section(name, figure, caption, captions.ROWS.get(name, name)))
    return sections


def _make_room(figure: go.Figure) -> None:
    """Make a figure as tall as its legend, which would scroll otherwise."""
    traces: Any = figure.data  # plotly makes their attributes at run time
    entries = {trace.legendgroup or trace.name for trace in traces if trace.showlegend is not False}
    tall = HEADING + ENTRY * len(entries)
    set_height: Any = figure.layout["height"]
    figure.update_layout(height=max(set_height or 0, tall))


def _spread(counts: Sequence[int]) -> dict[str, str]:
    """What lines, marks and bars are, given the number of runs of every arm."""
    if max(counts, default=1) == 1:
        one = "One run per arm."
        return {"lines": one, "runs": one, "bars": f"{one} Bars: its 95 % interval over prompts."}
    n = " or ".join(str(count) for count in sorted({*counts}))
    runs = f"n = {n} runs per arm"
    return {
        "lines": f"Lines with markers: mean over {runs}; bands: ± one sample sd over them; thin "
        "lines: single runs.",
        "runs": f"{runs}.",
        "bars": f"Mean over {runs}; bars: ± one sample sd over them; small marks: single runs"
        f"{captions.HOVER_RUNS}.",
    }


def _rank(spearman: Mapping[str, Any]) -> str:
    text, note = spearman_text(spearman), printable(spearman.get("note", ""))
    if not text:
        return "No rank correlation: too few runs, or one of the two never varies."
    return f"{text} ({note})." if note else f"{text}."


def _n_runs(arm: Mapping[str, Any]) -> int:
    return len(arm.get("runs") or next(iter(arm["alignment"].values()))["per_seed"])
