"""The figures that an experiment or run has, by name, each with its caption for paper."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from workbench import __version__
from workbench.passage import Passage, is_passage
from workbench.plots import captions
from workbench.plots.course import course
from workbench.plots.evidence import evidence_parts
from workbench.plots.from_runs import ablation_sections, geometry_sections
from workbench.plots.material import Material, Origin, gather
from workbench.plots.provenance import config_hash
from workbench.plots.sections import experiment_sections, run_sections
from workbench.plots.slug import distinct, slug
from workbench.plots.style import counted
from workbench.plots.trajectories import arm_name
from workbench.runs import Run
from workbench.text import printable


@dataclass(frozen=True)
class Named:
    """A figure, what it is called and what is said below it."""

    name: str
    """Of its file, less the suffix."""

    figure: go.Figure

    caption: str
    """What marks and bands are, and n; plain text."""

    provenance: Mapping[str, str]
    """Source, config hash and version."""


def figures_of(source: Origin) -> dict[str, Named]:
    """Return every figure that a source has the numbers for, in the order of the report.

    Args:
        source: Folder of an experiment, of a run or of a passage, a run, or several runs.

    Returns:
        By name: `alignment`, `ordering`, …, `geometry`, `ablation` where a run has a grid, and one
        heat map per arm (that of its first run); of a passage `course`.

    Raises:
        RunError: If there is no experiment or run, or it cannot be read.
    """
    if isinstance(source, str | Path) and is_passage(source):
        return _of_passage(Passage(source))
    material = gather(source)
    summary = material.summary
    if summary is None:
        sections = run_sections(material.runs)
    else:
        parts = (part.section for part in evidence_parts(summary))
        sections = [*experiment_sections(summary), *filter(None, parts)]
    sections += [*geometry_sections(material.runs), *ablation_sections(material.runs)]
    drawn = {section.name: (section.figure, section.caption) for section in sections}
    origin = provenance_of(material)
    return {
        name: Named(name, figure, printed(caption) + _not_drawn(figure), origin | {"figure": name})
        for name, (figure, caption) in (drawn | _heatmaps(material)).items()
    }


def _of_passage(passage: Passage) -> dict[str, Named]:
    figure = course(passage.course())
    origin = {
        "source": printable(f"passage {passage.folder.resolve().name}"),
        "phases": str(len(passage.phases)),
        "config hash": config_hash(passage.plan["settings"]),
        "made with": f"reversion workbench {__version__}",
        "figure": "course",
    }
    return {"course": Named("course", figure, str(figure.layout["meta"]["caption"]), origin)}


def provenance_of(material: Material) -> dict[str, str]:
    """Return from what a figure is made: source, hash of the configs, version."""
    # Runs of two experiments may be called alike; where they lie is not what they are.
    configs = {
        f"{place} {run.id}": run.info.get("config", {}) for place, run in enumerate(material.runs)
    }
    lone = len(configs) == 1 and material.summary is None
    hashed = config_hash(next(iter(configs.values())) if lone else configs)
    told = {
        "source": printable(f"{'experiment' if material.summary else 'run'} {material.name}"),
        "runs": str(len(configs)),
        "config hash": hashed,
        "made with": f"reversion workbench {__version__}",
    }
    if material.summary is not None:
        told["summary hash"] = config_hash(material.summary)
    return told


def printed(caption: str) -> str:
    """Return a caption without what is true on a screen only."""
    for part in captions.ON_SCREEN:
        caption = caption.replace(part, "")
    return " ".join(caption.split())


def _heatmaps(material: Material) -> dict[str, tuple[go.Figure, str]]:
    """One per arm, from its first run."""
    found: dict[str, tuple[go.Figure, str]] = {}
    marks = captions.MARKS if material.has_null else ""
    arms = material.by_arm()
    stems = ("heatmap" if material.summary is None else f"heatmap-{slug(arm)}" for arm in arms)
    for name, (run, *_) in zip(distinct(stems), arms.values(), strict=True):
        told = captions.CAPTIONS["layers"].format(marks=marks)
        found[name] = material.heatmap(run), f"{_label(run)}: {told}"
    return found


def _label(run: Run) -> str:
    config: Mapping[str, Any] = run.info.get("config", {})
    if "lineage" not in config or "seed" not in config:
        return printable(run.id)
    return printable(f"Arm {arm_name(run)}, lineage {config['lineage']}, seed {config['seed']}")


def _not_drawn(figure: go.Figure) -> str:
    """How many arms wait in the legend, where paper has no click to show them."""
    traces: Any = figure.data  # plotly makes their attributes at run time
    waiting = {trace.legendgroup for trace in traces if trace.visible == "legendonly"}
    return captions.NOT_DRAWN.format(n=counted(len(waiting), "arm")) if waiting else ""
