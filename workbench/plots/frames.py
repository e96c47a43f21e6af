"""Frames: which part of a plane a panel shows, and what of it stays apart and in sight."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from workbench.plots.scene import Scene, Track

NEAR = 0.45
"""An arm that reaches less far than this part of the whole picture is shown close up as well."""

FAR = 1.5
"""A phase further outside than this many times the rest of the picture is named at its edge."""

NAMES = 0.12
"""Room for names at the right of a close-up, in parts of its size."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Frame:
    """A rectangle of the plane, in phase gaps."""

    left: float
    right: float
    bottom: float
    top: float

    @classmethod
    def around(cls, points: Iterable[Point]) -> "Frame":
        """Return the smallest frame that holds the points."""
        x, y = zip(*points, strict=True)
        return cls(min(x), max(x), min(y), max(y))

    @property
    def width(self) -> float:
        """From left to right."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """From bottom to top."""
        return self.top - self.bottom

    @property
    def size(self) -> float:
        """Of the longer side."""
        return max(self.width, self.height)

    def grown(self, by: float) -> "Frame":
        """Return the frame with a margin on every side, in parts of its size."""
        margin = by * self.size
        return Frame(
            self.left - margin, self.right + margin, self.bottom - margin, self.top + margin
        )

    def holds(self, point: Point) -> bool:
        """Return whether a point lies in it."""
        return self.left <= point[0] <= self.right and self.bottom <= point[1] <= self.top

    def edge_towards(self, point: Point, other: Point) -> Point | None:
        """Return the point of the way from `point` to `other` that lies in the frame first."""
        start, way = np.array(point), np.subtract(other, point)
        low, high = np.array([self.left, self.bottom]), np.array([self.right, self.top])
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = np.sort(np.stack([(low - start) / way, (high - start) / way]), axis=0)
        within = (start >= low) & (start <= high)
        enter = np.where(way == 0, np.where(within, -np.inf, np.inf), ends[0]).max()
        leave = np.where(way == 0, np.where(within, np.inf, -np.inf), ends[1]).min()
        if max(enter, 0) > min(leave, 1):
            return None
        x, y = start + max(enter, 0) * way
        return float(x), float(y)


@dataclass(frozen=True)
class CloseUp:
    """The part of the plane near the aligned model."""

    frame: Frame
    arms: frozenset[str]
    """Those whose runs all stay in it."""


def overview(scene: Scene, tracks: Sequence[Track]) -> Frame:
    """Return a frame that holds the tracks and all phases, but for those that are far away."""
    points = [*_points(tracks), (0.0, 0.0), (1.0, 0.0)]
    near = Frame.around(points)
    spots = [(float(one.along), float(one.across)) for one in scene.phases.values()]
    points += [spot for spot in spots if near.grown(FAR).holds(spot)]
    return Frame.around(points).grown(0.14)


def close_up(tracks: Sequence[Track]) -> CloseUp | None:
    """Return a frame of the arms that stay near the aligned model; None if there are none."""
    whole = Frame.around([*_points(tracks), (0.0, 0.0), (1.0, 0.0)]).size
    reach: dict[str, float] = {}
    for track in tracks:
        here = np.hypot(track.placed.along, track.placed.across).max()
        reach[track.arm] = max(reach.get(track.arm, 0.0), float(here))
    arms = frozenset(arm for arm, far in reach.items() if far < NEAR * whole)
    if not arms:
        return None
    inner = Frame.around(_points(track for track in tracks if track.arm in arms))
    framed = inner.grown(0.16)
    return CloseUp(replace(framed, right=framed.right + NAMES * inner.size), arms)


def spread_out(values: Sequence[float], apart: float) -> list[float]:
    """Return the values moved so that any two are at least `apart` from each other."""
    order = np.argsort(values, kind="stable")
    moved = np.array(values, dtype=float)
    for _ in range(50):
        for low, high in pairwise(order):
            if (lack := apart - (moved[high] - moved[low])) > 1e-9:
                moved[low] -= lack / 2
                moved[high] += lack / 2
    return moved.tolist()


def _points(tracks: Iterable[Track]) -> list[Point]:
    return [
        (float(x), float(y))
        for track in tracks
        for x, y in zip(track.placed.along, track.placed.across, strict=True)
    ]
