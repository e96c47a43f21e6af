"""The parts of a report: what was done in plain words, and each figure with its caption."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from workbench.errors import ConfigError
from workbench.plots.alignment import alignment, sibling
from workbench.plots.behaviour import behaviour
from workbench.plots.ordering import cost, ordering, spearman_text
from workbench.plots.style import counted, printable
from workbench.plots.table import SEPARATE, typeset
from workbench.runs import Run

ARMS = {
    "ordinary": "fine-tunes and does nothing else",
    "block": "penalises motion along v_rev, towards the witness",
    "push": "rewards that motion up to a target",
    "random": "is block along a uniformly random direction",
    "matched": "is block along a random direction with the covariance of the activations, its "
    "gradient scaled to the norm that block's had",
    "matched-unscaled": "is matched without the scaling",
}
"""What the arms of the main job do; the verb belongs to the arm."""


@dataclass(frozen=True)
class Section:
    """One figure of a report."""

    name: str
    heading: str
    """Of a new part; empty where the figure belongs to the one before."""

    figure: go.Figure
    caption: str
    """What the marks and bands are, and n; plain text."""

    row: str = ""
    """Figures of the same row stand side by side."""


def introduction(summary: Mapping[str, Any]) -> str:
    """Return what was done and how to read it, as HTML."""
    arms = list(summary["arms"])
    first = summary["lineages"][0]
    lineages = ", ".join(printable(lineage["name"]) for lineage in summary["lineages"])
    known = [f"{arm} {ARMS[arm]}" for arm in arms if arm in ARMS]
    n_runs = sum(_n_runs(arm) for arm in summary["arms"].values())
    done = (
        f"The safety-tuned model θ_S (phase “{printable(first['aligned'])}”) of "
        f"{counted(len(summary['lineages']), 'lineage')} ({lineages}) was fine-tuned on harmless "
        f"data for {counted(summary['steps'], 'step')}, in {counted(len(arms), 'arm')} with "
        f"{counted(len(summary['seeds']), 'seed')} each: {counted(n_runs, 'run')}. At every "
        "measured step the drift, the mean displacement of the residual stream from θ_S over "
        "held-out harmful prompts, was compared with v_rev, the direction from θ_S back to the "
        f"earlier, helpful-only model θ_H (phase “{printable(first['witness'])}”)."
    )
    points = (
        ("Beside the paper, not against it.",
         "The paper's models are larger (3B to 14B) and its setup is another. Its numbers stand "
         "beside ours; they are not ours, and ours do not replace them."),
        ("Steps are dependent.",
         "Run-step pairs of one run share their past: they are counted, not tested as if they "
         "were independent. The unit of replication is the run, better the lineage."),
        _endpoint(summary),
    )  # fmt: skip
    told = f"<p>Arms: {typeset('; '.join(known))}.</p>\n" if known else ""
    items = "".join(f"<li><b>{typeset(a)}</b> {typeset(b)}</li>" for a, b in points)
    return f"<p>{typeset(done)}</p>\n{told}<ul>{items}</ul>"


def experiment_sections(summary: Mapping[str, Any]) -> list[Section]:
    """Return the figures that a summary has the numbers for."""
    n = counted(len(summary["seeds"]), "seed") + " on "
    n += counted(len(summary["lineages"]), "lineage")
    last = summary["steps"]
    offers: tuple[tuple[str, str, Callable[[], go.Figure], str, str], ...] = (
        ("alignment", "Does the drift point back?", lambda: alignment(summary),
         f"Alignment, the cosine of drift and v_rev, mean over layers, against the step ({n}). "
         "Lines with markers: mean over runs. Coloured bands: ± one sample sd over runs. Thin "
         "lines: single runs. Grey: where 98 % of a null's draws lie (±p99); the isotropic null "
         "takes a uniformly random drift and is a low bar, the matched one a random drift with "
         "the covariance of the activations. Neither sees the shared endpoint. A click on a "
         "name in the legend hides it.", ""),
        ("sibling", "", lambda: sibling(summary),
         "Left: v_rev and drift both contain −θ_S, which alone makes a cosine of about 0.5 between "
         "independent models. Right: the same drift against the direction from a sibling θ_S′, "
         "aligned from the same θ_H with another seed, to θ_H: no shared endpoint. What remains "
         f"on the right is not made by the endpoint. Lines, bands and n as above ({n}).", ""),
        ("along", "", lambda: alignment(summary, quantity="along"),
         "How far, where the cosine says only in which direction: 1 is the whole way back to "
         f"θ_H. Mean over layers; lines and bands as above ({n}).", "far"),
        ("across", "", lambda: alignment(summary, quantity="across"),
         "The part of the drift orthogonal to v_rev, in the same unit, mean over layers "
         f"({n}).", "far"),
        ("ordering", "Does behaviour follow?", lambda: ordering(summary),
         f"Small marks: single runs at step {last}; large marks: arm means; grey lines join "
         f"block, ordinary and push of one seed ({n}). {_rank(summary)}", "points"),
        ("cost", "", lambda: cost(summary),
         "Task cost is the share of ordinary fine-tuning's gain in task loss that an arm loses, "
         f"per seed. Small marks: single runs at step {last}; large marks: arm means ({n}).", "points"),
        ("behaviour", "", lambda: behaviour(summary),
         "Left: share of held-out harmful prompts complied with; step 0 is θ_S itself. Right: "
         "cross-entropy of held-out task responses. Bars: ± one sample sd over runs; small "
         f"marks: single runs, whose intervals over prompts show on hovering ({n}).", ""),
    )  # fmt: skip
    return _drawn(offers)


def run_sections(runs: Sequence[Run]) -> list[Section]:
    """Return the figures of runs outside an experiment."""
    n = counted(len(runs), "run")
    offers: tuple[tuple[str, str, Callable[[], go.Figure], str, str], ...] = (
        ("alignment", "Does the drift point back?", lambda: alignment(runs),
         f"Alignment, the cosine of drift and v_rev, mean over layers, against the step ({n}). "
         f"A cosine of about 0.5 is nothing yet: {SEPARATE}.", ""),
        ("along", "", lambda: alignment(runs, quantity="along"),
         "How far: 1 is the whole way back to the witness. Mean over layers.", "far"),
        ("across", "", lambda: alignment(runs, quantity="across"),
         "The part of the drift orthogonal to v_rev, in the same unit, mean over layers.", "far"),
        ("behaviour", "Does behaviour follow?", lambda: behaviour(runs),
         "Left: share of held-out harmful prompts complied with; step 0 is the aligned model. "
         "Right: cross-entropy of held-out task responses. Bars: 95 % interval over prompts for "
         "a single run of an arm, else ± one sd over runs.", ""),
    )  # fmt: skip
    return _drawn(offers)


def _drawn(
    offers: Sequence[tuple[str, str, Callable[[], go.Figure], str, str]],
) -> list[Section]:
    """Draw what there are numbers for; a figure without numbers is left out."""
    sections: list[Section] = []
    for name, heading, draw, caption, row in offers:
        try:
            figure = draw()
        except ConfigError:
            continue
        sections.append(Section(name, heading, figure, caption, row))
    return sections


def _endpoint(summary: Mapping[str, Any]) -> tuple[str, str]:
    if any(arm.get("alignment_sibling") for arm in summary["arms"].values()):
        return (
            "Shared endpoint separated.",
            "v_rev and drift both contain −θ_S, which alone raises their cosine. The cosine with a "
            "sibling's direction, which does not contain θ_S, stands beside it.",
        )
    return (
        f"{SEPARATE.capitalize()}.",
        "v_rev and drift both contain −θ_S, which alone makes a cosine of about 0.5 between "
        "independent models. No sibling model was given, so that part is not taken out.",
    )


def _rank(summary: Mapping[str, Any]) -> str:
    spearman = summary.get("spearman")
    text = spearman_text(spearman)
    if not text:
        return "No rank correlation: too few runs."
    told = printable(spearman.get("note", "")) if spearman else ""
    return f"{text}{f' ({told})' if told else ''}."


def _n_runs(arm: Mapping[str, Any]) -> int:
    return len(arm.get("runs") or next(iter(arm["alignment"].values()))["per_seed"])
