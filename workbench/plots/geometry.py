"""Geometry: the path from phase to phase and through fine-tuning, in the plane of v_rev."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.plots import captions
from workbench.plots.frames import Frame, Point, close_up, overview, spread_out
from workbench.plots.phases import GREY, add_phases, opening, where
from workbench.plots.readings import snapshots
from workbench.plots.scene import Scene, Track, read_scene
from workbench.plots.sources import RunSource, runs_of
from workbench.plots.style import ArmStyle, counted, inert, new_figure, number
from workbench.plots.trajectories import main_arms, source_styles

HEIGHT = 500
NAME = 0.07
"""Height of an arm's name, in parts of its panel."""


def geometry(
    source: RunSource,
    *,
    layer: int | None = None,
    arms: Sequence[str] | None = None,
    lineage: str | None = None,
) -> go.Figure:
    """Plot where the phases and the fine-tuned models lie, seen from the aligned model.

    Across is the first principal component of what drifts across v_rev in the runs shown. On the
    left are all phases, on the right the runs that stay near the aligned model, if any do. A
    point's mark is open where less than half of its squared displacement lies in the plane:
    there the picture hides most of the way.

    Args:
        source: A run, several, an experiment's result, or the folder of a run or experiment.
        layer: One layer; by default all are stacked in gap units.
        arms: Which to show; by default all.
        lineage: Whose; a plane belongs to one. By default the first that has one.

    Raises:
        ConfigError: If nothing was measured, v_rev is not stored, or a name or layer is unknown.
        RunError: If there is no run, or a file cannot be read.
    """
    runs = snapshots(runs_of(source))
    return draw_scene(
        read_scene(runs, layer=layer, arms=arms, lineage=lineage), source_styles(runs)
    )


def draw_scene(scene: Scene, styles: Mapping[str, ArmStyle]) -> go.Figure:
    """Draw a scene; `styles` has one for each of its arms."""
    shown = main_arms([track.arm for track in scene.tracks])
    visible = [track for track in scene.tracks if track.arm in shown]
    near = close_up(visible)
    frames = [overview(scene, visible), *([near.frame] if near else [])]
    figure = new_figure("The way back, drawn from data", _subtitle(scene), height=HEIGHT)
    titles = ["the phases", "fine-tuning, close up"][: len(frames)]
    figure.set_subplots(1, len(frames), horizontal_spacing=0.1, subplot_titles=titles)
    for column, frame in enumerate(frames, start=1):
        quiet = near.frame if near and column == 1 else None
        add_phases(figure, scene, frame, column, quiet=quiet)
        _add_tracks(figure, scene.tracks, styles, column, shown)
        here = near.arms if near and column == 2 else shown - (near.arms if near else set())
        _add_names(figure, [one for one in visible if one.arm in here], styles, frame, column)
        _set_axes(figure, scene, frame, column)
    if near:
        _outline(figure, near.frame)
    figure.update_annotations(font_size=13, selector={"xref": "paper"})
    figure.update_layout(
        meta={"caption": _caption(scene)},
        legend={"orientation": "h", "x": 0, "y": -0.16, "yanchor": "top"},
        margin={"t": 104},
    )
    return figure


def _add_tracks(
    figure: go.Figure,
    tracks: Sequence[Track],
    styles: Mapping[str, ArmStyle],
    column: int,
    shown: frozenset[str],
) -> None:
    firsts = {track.arm: track for track in reversed(tracks)}
    traces = [
        _track(track, styles[track.arm], track.arm in shown)
        | {"showlegend": column == 1 and track is firsts[track.arm]}
        for track in tracks
    ]
    # All at once: plotly checks every trace twice when they are added singly.
    figure.add_traces(traces, rows=[1] * len(traces), cols=[column] * len(traces))


def _track(track: Track, style: ArmStyle, shown: bool) -> dict[str, Any]:
    placed, last = track.placed, len(track.steps) - 1
    return {
        "type": "scatter",
        "x": placed.along.tolist(),
        "y": placed.across.tolist(),
        "customdata": _told(track),
        "mode": "lines+markers",
        "line": {"color": style.faded(0.75), "width": 1.4, "dash": style.dash},
        "marker": {
            "color": style.colour,
            "symbol": [style.symbol + opening(share) for share in placed.share],
            "size": [0, *(6 for _ in range(last - 1)), 9],
            "opacity": 1,
        },
        "hovertemplate": "%{customdata}<extra></extra>",
        "name": inert(track.arm),
        "legendgroup": inert(track.arm),
        "visible": True if shown else "legendonly",
        "meta": "track",
    }


def _told(track: Track) -> list[str]:
    """What a point says: which run and step, where it lies, and how much of it is seen."""
    who = ", ".join(map(inert, dict.fromkeys((track.arm, track.name))))
    return [
        f"{who}, step {step}: {where(track.placed, index)}"
        for index, step in enumerate(track.steps)
    ]


def _add_names(
    figure: go.Figure,
    tracks: Sequence[Track],
    styles: Mapping[str, ArmStyle],
    frame: Frame,
    column: int,
) -> None:
    """Name each arm at the end of its rightmost run, the names moved apart."""
    ends: dict[str, Point] = {}
    for track in tracks:
        end = (float(track.placed.along[-1]), float(track.placed.across[-1]))
        ends[track.arm] = max(end, ends.get(track.arm, end))
    apart = NAME * frame.size
    heights = spread_out([height for _, height in ends.values()], apart)
    for (arm, (_, end)), height in zip(ends.items(), heights, strict=True):
        # Names that had to move apart stand in one column, right of all their runs.
        right = max(x for x, y in ends.values() if abs(y - end) <= 2 * apart)
        figure.add_scatter(
            x=[right + 0.02 * frame.width],
            y=[height],
            text=[inert(arm, length=18)],
            textposition="middle right",
            textfont={"size": 12, "color": styles[arm].colour},
            mode="text",
            hoverinfo="skip",
            cliponaxis=False,
            legendgroup=inert(arm),
            showlegend=False,
            meta="name",
            row=1,
            col=column,
        )


def _set_axes(figure: go.Figure, scene: Scene, frame: Frame, column: int) -> None:
    zero = {"zeroline": True, "zerolinecolor": "#bbbbbb", "zerolinewidth": 1}
    witness = inert(scene.roles["witness"], length=24)
    figure.update_xaxes(
        title_text=f"along <i>v</i><sub>rev</sub> (phase gaps; {witness} at 1)",
        range=[frame.left, frame.right],
        row=1,
        col=column,
        **zero,
    )
    figure.update_yaxes(
        title_text="across, main direction (phase gaps)" if column == 1 else None,
        range=[frame.bottom, frame.top],
        scaleanchor="x" if column == 1 else f"x{column}",
        row=1,
        col=column,
        **zero,
    )


def _outline(figure: go.Figure, frame: Frame) -> None:
    figure.add_shape(
        type="rect",
        x0=frame.left,
        x1=frame.right,
        y0=frame.bottom,
        y1=frame.top,
        line={"color": GREY, "width": 1, "dash": "dot"},
        row=1,
        col=1,
    )


def _caption(scene: Scene) -> str:
    """What stands below the figure; export and report read it there."""
    counts = Counter(track.arm for track in scene.tracks)
    runs = f"n = {' or '.join(map(str, sorted({*counts.values()})))} per arm"
    stacked = ", every layer's own, the layers stacked" if len(scene.layers) > 1 else ""
    return captions.VIEWS["geometry"].format(runs=runs, stacked=stacked)


def _subtitle(scene: Scene) -> str:
    """Which layers and runs, what the plane holds, and what it hides."""
    several = len(scene.layers) > 1
    layers = f"{len(scene.layers)} layers in gap units" if several else f"layer {scene.layers[0]}"
    parts = [layers, counted(len(scene.tracks), "run")]
    if len(scene.lineages) > 1:
        parts.append(f"lineage {inert(scene.lineage)}, 1 of {len(scene.lineages)}")
    if np.isfinite(scene.plane.explained):
        share = number(100 * scene.plane.explained, 0)
        parts.append(f"main across direction: {share} % of squared across drift")
    hidden = "open marks: less than half of the squared displacement lies in this plane"
    if not scene.complete:
        hidden += "; other phases were not stored"
    if scene.left_out:
        hidden += f"<br>left out, as no v_rev fits: {inert(', '.join(scene.left_out))}"
    return f"{', '.join(parts)}<br>{hidden}"
