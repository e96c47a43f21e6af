"""Names beside points and numbers along an axis: kept inside and off each other."""

import math
from typing import Any

from workbench.plots.paper.lettering import LINE, text_width

Sheet = dict[str, Any]
Box = tuple[float, float, float, float]


def keep_inside(layout: Sheet, page: tuple[float, float]) -> None:
    """Turn a name around that would leave its panel; one that would lie on another goes.

    Args:
        layout: With its axes in place; axes without a fixed range are left alone.
        page: Width and height in pixels.
    """
    kept: list[Sheet] = []
    boxes: list[Box] = []
    for note in layout.get("annotations", ()):
        names = [f"{axis}axis{note.get(f'{axis}ref', axis)[1:]}" for axis in "xy"]
        known = all("range" in layout.get(name, {}) for name in names)
        if not known or note.get("showarrow") is not False:
            kept.append(note)
            continue
        panel = tuple(
            layout[name]["domain"][end] * size
            for end in (0, 1)
            for name, size in zip(names, page, strict=True)
        )
        box = _turned(note, [layout[name] for name in names], page, panel)
        if not any(_overlap(box, other) for other in boxes):
            kept.append(note)
            boxes.append(box)
    layout["annotations"] = kept


def thin_out(axis: Sheet, page: float, size: float) -> None:
    """Leave out numbers of an x axis that would touch the one to their right.

    Args:
        axis: With its domain in place.
        page: Its width in pixels.
        size: Of the numbers, in pixels.
    """
    values = axis.get("tickvals")
    if values is None or "range" not in axis:
        return
    texts = [str(text) for text in axis.get("ticktext") or values]
    logarithmic = axis.get("type") == "log"
    free, shown = float("inf"), []
    for value, text in sorted(zip(values, texts, strict=True), reverse=True):
        at = _place(math.log10(value) if logarithmic else value, axis, page)
        half = text_width(text, size) / 2
        if at + half < free:
            shown.append((value, text))
            free = at - half - 0.3 * size
    axis["tickvals"], axis["ticktext"] = (list(column) for column in zip(*shown[::-1], strict=True))


def _turned(
    note: Sheet, axes: list[Sheet], page: tuple[float, float], panel: tuple[float, ...]
) -> Box:
    """The box of a name, on the other side of its point where it would leave the panel."""
    at = [
        _place(note[axis], layout, size)
        for axis, layout, size in zip("xy", axes, page, strict=True)
    ]
    size = note["font"]["size"]
    across = abs(note.get("xshift", 0))
    up = abs(note.get("yshift", 0))
    if (
        note.get("xanchor") == "right"
        and at[0] - across - text_width(note["text"], size) < panel[0]
    ):
        note |= {"xanchor": "left", "xshift": across}
    if note.get("yanchor") == "top" and at[1] - up - LINE * size < panel[1]:
        note |= {"yanchor": "bottom", "yshift": up}
    left = (
        at[0] + across
        if note.get("xanchor") == "left"
        else at[0] - across - text_width(note["text"], size)
    )
    low = at[1] + up if note.get("yanchor") == "bottom" else at[1] - up - LINE * size
    return left, low, left + text_width(note["text"], size), low + LINE * size


def _place(value: float | int, axis: Sheet, size: float) -> float:
    """Pixels from the left or bottom of the page."""
    (low, high), (start, end) = axis["range"], axis["domain"]
    return size * (start + (end - start) * (value - low) / (high - low))


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
