"""Sections that are drawn from the runs themselves, not from a summary: geometry and ablation."""

from collections.abc import Sequence

from workbench.errors import ConfigError
from workbench.grids import AblationGrid, stored_grids
from workbench.plots.ablation import ablation, ablation_caption
from workbench.plots.geometry import draw_scene
from workbench.plots.readings import snapshots
from workbench.plots.scene import read_ground
from workbench.plots.sections import Section
from workbench.plots.slug import distinct, slug
from workbench.plots.trajectories import source_styles
from workbench.runs import Run


def geometry_sections(runs: Sequence[Run]) -> list[Section]:
    """Return the plane of v_rev with the paths of the runs, one figure per lineage that has one.

    None where nothing was measured or v_rev is not stored, as beside runs of older versions. Where
    some lineages have one, their figures say which have none.
    """
    if not runs:
        return []
    try:
        taken = snapshots(runs)
        ground, styles = read_ground(taken), source_styles(taken)
    except ConfigError:
        return []
    lineages = tuple(ground.lineages)
    drawn = [draw_scene(ground.scene(lineage=lineage), styles) for lineage in lineages]
    names = distinct(f"geometry-{slug(one)}" for one in lineages)
    names = names if len(lineages) > 1 else ["geometry"]
    return [
        Section(name, figure, str(figure.layout["meta"]["caption"]), name)
        for name, figure in zip(names, drawn, strict=True)
    ]


def grids_of(runs: Sequence[Run]) -> dict[str, AblationGrid]:
    """Return the newest ablation grid of every run that has one, by what its figure is called."""
    found = [(run.id, grids[-1]) for run in runs if (grids := stored_grids(run))]
    names = distinct(f"ablation-{slug(run_id)}" for run_id, _ in found)
    names = names if len(runs) > 1 else ["ablation"] * len(found)
    return {name: grid for name, (_, grid) in zip(names, found, strict=True)}


def ablation_sections(runs: Sequence[Run]) -> list[Section]:
    """Return the ablation of every run that has a grid, at the first of its layer sets."""
    return [
        Section(name, ablation(grid), ablation_caption(grid), name)
        for name, grid in grids_of(runs).items()
    ]
