"""Phases in the geometry figure: marks with their names, and arrows from each to the next."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go

from workbench.plane import Placed
from workbench.plots.frames import Frame, Point
from workbench.plots.scene import Scene
from workbench.plots.style import INK, inert, number

MOSTLY = 0.5
"""A point with less of its squared displacement than this in the plane has an open mark."""

GREY = "#8a8a8a"
SYMBOLS = {
    "witness": "θ<sub>H</sub>",
    "aligned": "θ<sub>S</sub>",
    "sibling": "θ<sub>S′</sub>",
}


def add_phases(
    figure: go.Figure, scene: Scene, frame: Frame, column: int, *, quiet: Frame | None
) -> None:
    """Mark the phases, with arrows in training order.

    Args:
        figure: To add to.
        scene: What is shown.
        frame: Of this panel; a phase outside of the first panel's is named at its edge.
        column: Of the panel.
        quiet: Where phases but the aligned one are not named, as another panel does.
    """
    spots = {name: (float(p.along), float(p.across)) for name, p in scene.phases.items()}
    for earlier, later in _ways(scene):
        _add_arrow(figure, spots[earlier], spots[later], column)
    for name, placed in scene.phases.items():
        role = next((role for role, phase in scene.roles.items() if phase == name), "")
        told, spot = f"{inert(name)} {SYMBOLS.get(role, '')}".strip(), spots[name]
        inside = frame.holds(spot)
        if not inside:
            if column > 1:
                continue
            spot = frame.grown(-0.04).edge_towards(spot, _next(scene, spots, name)) or spot
            told += f" lies at<br>({', '.join(number(value, 1) for value in spots[name])})"
        elif quiet and quiet.holds(spot) and role != "aligned":
            told = ""
        if told and role == "sibling" and abs(spot[0]) < 0.15 * frame.width:
            told = f"<br>{told}"  # below the name of the aligned model, which it lies by
        figure.add_scatter(
            x=[spot[0]],
            y=[spot[1]],
            text=[told],
            textposition=_beside(role, spot, frame),
            textfont={"size": 12, "color": INK},
            mode="markers+text" if inside else "text",
            marker={
                "symbol": "diamond" + opening(float(placed.share)),
                "size": 12,
                "color": INK,
                "line": {"color": INK, "width": 1.5},
            },
            customdata=[f"{inert(name)}: {where(placed)}"],
            hovertemplate="%{customdata}<extra></extra>",
            cliponaxis=False,
            showlegend=False,
            name=inert(name),
            meta="phase",
            row=1,
            col=column,
        )


def _beside(role: str, spot: Point, frame: Frame) -> str:
    """Where a phase's name stands: inside of the frame, off the ways."""
    if role == "sibling":
        return "bottom center"
    side = (spot[0] - frame.left) / frame.width
    across = "right" if side < 0.1 else "left" if side > 0.9 else "center"
    return f"{'top' if 0 < spot[1] < frame.top else 'bottom'} {across}"


def _ways(scene: Scene) -> list[tuple[str, str]]:
    """Which phase was trained into which: in order, the sibling from the witness."""
    sibling, witness = scene.roles.get("sibling", ""), scene.roles["witness"]
    path = [name for name in scene.phases if name != sibling]
    branch = [(witness, sibling)] if sibling in scene.phases and witness in path else []
    return [*pairwise(path), *branch]


def _next(scene: Scene, spots: Mapping[str, Point], name: str) -> Point:
    """Where the way from a phase leads; to the aligned model if nowhere else."""
    return next((spots[later] for earlier, later in _ways(scene) if earlier == name), (0.0, 0.0))


def _add_arrow(figure: go.Figure, start: Point, end: Point, column: int) -> None:
    figure.add_scatter(
        x=[start[0], end[0]],
        y=[start[1], end[1]],
        mode="lines+markers",
        line={"color": GREY, "width": 1.6},
        marker={
            "symbol": "arrow",
            "size": [0, 12],
            "color": GREY,
            "opacity": 1,
            "angleref": "previous",
            "standoff": [0, 7],
        },
        hoverinfo="skip",
        showlegend=False,
        meta="way",
        row=1,
        col=column,
    )


def where(placed: Placed, index: int | tuple[()] = ()) -> str:
    """Return in words where a point lies, and how much of its displacement is seen."""
    share = placed.share[index]
    if np.isnan(share):
        return "the aligned model"
    along, across, distance = (
        number(values[index], 2) for values in (placed.along, placed.across, placed.distance)
    )
    return (
        f"along {along}, across {across} phase gaps,<br>{number(100 * share, 0)} % of the squared "
        f"displacement in this plane ({distance} phase gaps in all)"
    )


def opening(share: float) -> str:
    """Return what makes a symbol open where most of the displacement is off the plane."""
    return "-open" if share < MOSTLY else ""
