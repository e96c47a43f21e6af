"""The panels of a printed figure: side by side or stacked, axes and legend around them."""

from itertools import zip_longest
from typing import Any

from workbench.plots.paper.labels import keep_inside, thin_out
from workbench.plots.paper.legend import Legend
from workbench.plots.paper.lettering import broken, text_height, text_width

PX = 96
"""Pixels per inch, as in SVG."""

NARROWEST = 1.75 * PX
"""Of a panel beside others: below it they are stacked."""

STEEPNESS, TALLEST, LEAST = 0.62, 2.4 * PX, 0.4 * PX
"""Height of a panel over its width, at most, and the least there must be."""

ROW = 13.0
"""Pixels per row where the axis names rows, or cells stand one on the other."""

EDGE, TOP, TICK, NUMBER = 4.0, 7.0, 5.0, 24.0
"""Pixels: around everything; above, where an axis may end in a number; from an axis to its
numbers; of numbers that plotly chooses."""

BAR, BAR_LETTERS = 7.0, 44.0
"""Pixels: of a colour bar; of its gap, numbers and title."""

Sheet = dict[str, Any]
Row = list[tuple[str, str]]


class Panels:
    """All panels of a figure in the rows of the screen or, where too narrow, stacked.

    Args:
        sheet: The figure, which is changed by `arrange`.
        width: Of the page, in pixels.
        base: Size of axis titles in pixels.
        ticks: Of numbers.
        names: Of names in the legend and above panels.
    """

    def __init__(
        self, sheet: Sheet, width: float, *, base: float, ticks: float, names: float
    ) -> None:
        self.sheet, self.layout, self.width = sheet, sheet["layout"], width
        self.base, self.ticks, self.names = base, ticks, names
        self.rows = _rows(self.layout)
        self.pairs = [pair for row in self.rows for pair in row]
        self.titles = _titles(self.layout, len(self.pairs))
        most = max(map(len, self.rows))
        self.stacked = most > 1 and width / most < NARROWEST
        self.crossed = _crossed(self.layout, self.pairs)
        if self.stacked:
            self.rows = [[pair] for pair in self.pairs]
        self.right = EDGE + (BAR + BAR_LETTERS if _bar(self.layout) else TICK)
        self.legend = Legend(sheet, width - 2 * EDGE, names)

    def arrange(self, height: float | None) -> bool:
        """Give every panel, title and the legend its place; return whether there is room."""
        self._show_axes()
        self._break_titles(self._widths())
        widths = self._widths()
        above = [self._above(row) for row in self.rows]
        below = [max(self._below(x) for x, _ in row) for row in self.rows]
        taken = TOP + sum(above) + sum(below) + self.legend.height + EDGE
        free = None if height is None else (height - taken) / len(self.rows)
        each = self._height(widths[0]) if free is None else free
        if each < LEAST:
            return False
        # Whole pixels of a 300 dpi page.
        page = self.width, -(-(taken + len(self.rows) * each) // 0.32) * 0.32
        self.layout |= {"width": page[0], "height": page[1], "autosize": False, "showlegend": False}
        self.layout["margin"] = {"l": 0, "r": 0, "t": 0, "b": 0, "pad": 0}
        self._place(widths, each, above, below, page)
        _keep_crossing(self.layout, self.crossed)
        _fill_behind(self.layout, self.pairs)
        keep_inside(self.layout, page)
        for name, _ in self.pairs:
            thin_out(self.layout[name], page[0], self.ticks)
        self.legend.draw(self.sheet, EDGE, page)
        return True

    def _show_axes(self) -> None:
        """Stacked, every panel needs numbers of its own, and only the last the common title."""
        if not self.stacked:
            return
        titles = {text for x, _ in self.pairs if (text := _text(self.layout[x]))}
        for index, (x, y) in enumerate(self.pairs):
            self.layout[x]["showticklabels"] = True
            if len(titles) == 1 and index < len(self.pairs) - 1:
                self.layout[x]["title"]["text"] = ""
            if self.layout[y].get("showticklabels") is False:
                self.layout[y]["showticklabels"] = True
                self.layout[y]["title"]["text"] = _text(self.layout[self.pairs[0][1]])

    def _gutters(self) -> list[float]:
        """Room to the left of every column."""
        rows = [[self._gutter(y) for _, y in row] for row in self.rows]
        return [max(column) for column in zip_longest(*rows, fillvalue=0.0)]

    def _widths(self) -> list[float]:
        """Of the panels, in pixels, all of a row the same."""
        gutters = self._gutters()
        free = [(self.width - sum(gutters[: len(row)]) - self.right, row) for row in self.rows]
        return [room / len(row) for room, row in free for _ in row]

    def _gutter(self, y: str) -> float:
        """Room to the left of a panel."""
        axis = self.layout[y]
        if axis.get("showticklabels") is False:
            return 2 * TICK
        written = axis.get("ticktext") or axis.get("tickvals")
        numbers = (
            NUMBER if written is None
            else max((text_width(str(text), self.ticks) for text in written), default=0)
        )  # fmt: skip
        title = text_height(_text(axis), self.base)
        return EDGE + TICK + numbers + title + (0 if axis.get("ticktext") else EDGE)

    def _below(self, x: str) -> float:
        title = text_height(_text(self.layout[x]), self.base)
        seen = self.layout[x].get("showticklabels") is not False
        return TICK + text_height("0" if seen else "", self.ticks) + (title + 5 if title else 3)

    def _above(self, row: Row) -> float:
        """Room over a row: for its titles, and for names that stand on its panels."""
        return (text_height("x", self.names) + 3 if self.titles else 0.0) + self._standing(row)

    def _standing(self, row: Row) -> float:
        """Height of the names that stand on the panels of a row."""
        domains = [f"{y.replace('axis', '')} domain" for _, y in row]
        heights = [
            text_height(note["text"], self.ticks) + abs(note.get("yshift", 0))
            for note in self.layout.get("annotations", ())
            if note.get("yref") in domains and note["y"] >= 1 and note.get("yanchor") == "bottom"
        ]
        return max(heights, default=0.0)

    def _break_titles(self, widths: list[float]) -> None:
        for (x, y), width in zip(self.pairs, widths, strict=True):
            for name, room in ((x, width), (y, self._height(width))):
                if text := _text(self.layout[name]):
                    self.layout[name]["title"]["text"] = broken(text, self.base, room)

    def _height(self, width: float) -> float:
        """Of a panel: by its rows, where it has rows, else by its width; titles must fit."""
        titles = [text_width(text, self.base) for _, y in self.pairs if (text := self._title(y))]
        least = max(LEAST, *titles, 0.0)
        usual = max(least, min(STEEPNESS * width, TALLEST))
        axis = self.layout[self.pairs[0][1]]
        if axis.get("ticktext"):
            return max(least, ROW * len(axis["ticktext"]))
        if any(trace.get("meta") == "cells" for trace in self.sheet["data"]):
            low, high = sorted(axis["range"]) if axis.get("range") else (0, 0)
            return min(max(ROW * (high - low), 0.38 * width, least), usual)
        return usual

    def _title(self, y: str) -> str:
        """A y axis' title, broken where it is too long for a panel of usual height."""
        return broken(_text(self.layout[y]), self.base, 1.3 * NARROWEST * STEEPNESS)

    def _place(
        self, widths: list[float], each: float, above: list[float], below: list[float],
        page: tuple[float, float],
    ) -> None:  # fmt: skip
        gutters, index, top = self._gutters(), 0, TOP
        for row, over, under in zip(self.rows, above, below, strict=True):
            x, bottom = 0.0, top + over + each
            for gutter, (x_name, y_name) in zip(gutters, row, strict=False):
                left, x = x + gutter, x + gutter + widths[index]
                across = [left / page[0], x / page[0]]
                up = [1 - bottom / page[1], 1 - (top + over) / page[1]]
                self.layout[x_name] |= {"domain": across, "automargin": False}
                self.layout[y_name] |= {"domain": up, "automargin": False}
                if self.titles:
                    self.titles[index] |= {
                        "x": across[0], "y": up[1], "xanchor": "left", "yanchor": "bottom",
                        "yshift": 1 + self._standing(row), "font": {"size": self.names},
                    }  # fmt: skip
                index += 1
            top = bottom + under
        self._place_bar(page)

    def _place_bar(self, page: tuple[float, float]) -> None:
        for name in _bar(self.layout):
            bar = self.layout[name].setdefault("colorbar", {})
            title = bar.get("title") or {}
            up = [self.layout[y]["domain"] for _, y in self.pairs]
            low, high = min(low for low, _ in up), max(high for _, high in up)
            bar |= {
                "x": (page[0] - self.right + TICK) / page[0], "xanchor": "left",
                "xpad": 0, "ypad": 0,
                "y": (low + high) / 2, "yanchor": "middle", "len": high - low,
                "thickness": BAR, "tickfont": {"size": self.ticks}, "ticklen": 2,
                "ticklabeloverflow": "allow",
                "title": {"text": title.get("text", ""), "side": "right",
                          "font": {"size": self.base}},
            }  # fmt: skip


def _rows(layout: Sheet) -> list[Row]:
    """The x and y axis of every panel, in rows from left to right as on the screen."""
    found = [key for key in layout if key.startswith("xaxis")] or ["xaxis"]
    rows: dict[float, list[tuple[float, tuple[str, str]]]] = {}
    for name in found:
        anchor = layout.setdefault(name, {}).get("anchor", "y" + name.removeprefix("xaxis"))
        other = f"yaxis{anchor.removeprefix('y')}" if anchor.startswith("y") else "yaxis"
        layout.setdefault(other, {})
        across, up = (layout[axis].get("domain") or [0, 1] for axis in (name, other))
        rows.setdefault(-round(float(up[1]), 6), []).append((float(across[0]), (name, other)))
    return [[pair for _, pair in sorted(row)] for _, row in sorted(rows.items())]


def _crossed(layout: Sheet, pairs: Row) -> list[tuple[Sheet, str, list[str]]]:
    """Shapes that cross a whole side of the plot: which side, over which panels' axes.

    On paper the plot's sides are the page's, where the legend stands, too.
    """
    found = []
    for shape in layout.get("shapes", ()):
        for side, other in (("x", "y"), ("y", "x")):
            if shape.get(f"{side}ref") == "paper":
                on = f"{other}axis{str(shape.get(f'{other}ref', other)).split()[0][1:]}"
                place = layout.get(on, {}).get("domain")
                axes = [pair["xy".index(side)] for pair in pairs
                        if layout[pair["xy".index(other)]].get("domain") == place]  # fmt: skip
                found.append((shape, side, axes or [pair["xy".index(side)] for pair in pairs]))
    return found


def _keep_crossing(layout: Sheet, crossed: list[tuple[Sheet, str, list[str]]]) -> None:
    """Let shapes reach as far over the panels as they did, now that these have their places."""
    for shape, side, axes in crossed:
        domains = [layout[name]["domain"] for name in axes]
        low, high = min(low for low, _ in domains), max(high for _, high in domains)
        for end in (f"{side}0", f"{side}1"):
            shape[end] = low + (high - low) * shape[end]


def _fill_behind(layout: Sheet, pairs: Row) -> None:
    """Draw the panels' background as areas: the legend below would have it too."""
    colour = layout.pop("plot_bgcolor", None)
    layout["plot_bgcolor"] = "rgba(0,0,0,0)"
    if colour is not None:
        behind = [
            {"type": "rect", "layer": "below", "fillcolor": colour, "line": {"width": 0},
             "xref": f"{x.replace('axis', '')} domain", "yref": f"{y.replace('axis', '')} domain",
             "x0": 0, "x1": 1, "y0": 0, "y1": 1}
            for x, y in pairs
        ]  # fmt: skip
        layout["shapes"] = [*behind, *layout.get("shapes", ())]


def _titles(layout: Sheet, n_panels: int) -> list[Sheet]:
    """The annotations that stand above the panels, if each has one."""
    notes = [
        note
        for note in layout.get("annotations", ())
        if note.get("xref") == note.get("yref") == "paper" and note.get("showarrow") is False
    ]
    return notes if len(notes) == n_panels > 1 else []


def _bar(layout: Sheet) -> list[str]:
    return [key for key in layout if key.startswith("coloraxis")]


def _text(axis: Sheet) -> str:
    return (axis.get("title") or {}).get("text") or ""
