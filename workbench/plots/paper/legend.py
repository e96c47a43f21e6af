"""A legend drawn as traces below the panels: it covers no data and looks alike everywhere."""

from typing import Any

from workbench.plots.paper.lettering import LINE, text_width

KEY, GAP, APART = 20, 4, 10
"""Pixels: length of a key, from it to its name, from one entry to the next."""

ROW = 1.35
"""Height of a row, in font sizes."""

LAST = 1000
"""Rank of what asks for no place in the order."""

Sheet = dict[str, Any]


class Legend:
    """Entries in as many columns as fit.

    Args:
        sheet: The figure whose traces are named.
        room: Width there is, in pixels.
        size: Of the names, in pixels.
    """

    def __init__(self, sheet: Sheet, room: float, size: float) -> None:
        self.entries = _entries(sheet)
        self.room, self.size = room, size
        self._columns = self._fit()

    @property
    def height(self) -> float:
        """In pixels; nothing without entries."""
        n_rows = -(-len(self.entries) // max(1, len(self._columns)))
        return n_rows * ROW * self.size + 4 if self.entries else 0.0

    def draw(self, sheet: Sheet, left: float, page: tuple[float, float]) -> None:
        """Add the keys and names at the bottom of a page of this width and height."""
        if not self.entries:
            return
        axis = {"visible": False, "fixedrange": True, "automargin": False}
        box = [left / page[0], (left + self.room) / page[0]], [0.0, self.height / page[1]]
        sheet["layout"]["xaxis99"] = axis | {
            "anchor": "y99",
            "domain": box[0],
            "range": [0, self.room],
        }
        sheet["layout"]["yaxis99"] = axis | {
            "anchor": "x99",
            "domain": box[1],
            "range": [0, self.height],
        }
        names = sheet["layout"].setdefault("annotations", [])
        for index, entry in enumerate(self.entries):
            row, column = divmod(index, len(self._columns))
            x = sum(self._columns[:column], 0.0)
            y = self.height - 2 - (row + 0.5) * ROW * self.size
            sheet["data"] += _keys(entry, x, y, self.size)
            names.append(
                {"text": entry["name"], "xref": "x99", "yref": "y99", "x": x + KEY + GAP, "y": y,
                 "xanchor": "left", "yanchor": "middle", "showarrow": False,
                 "font": {"size": self.size}}
            )  # fmt: skip

    def _fit(self) -> list[float]:
        """Widths of the columns: as many as fit, at least one."""
        widths = [
            KEY + GAP + text_width(entry["name"], self.size) + APART for entry in self.entries
        ]
        for n in range(len(widths), 0, -1):
            columns = [max(widths[first::n]) for first in range(n)]
            if sum(columns) - APART <= self.room:
                return columns
        return [self.room] if widths else []


def _entries(sheet: Sheet) -> list[Sheet]:
    """The traces that a legend names, each group once, by rank."""
    if sheet["layout"].get("showlegend") is False:
        return []
    named: dict[str, Sheet] = {}
    for trace in sheet["data"]:
        # Other kinds than curves and points tell their colours otherwise.
        if (
            trace.get("showlegend") is not False
            and trace.get("name")
            and trace["type"] == "scatter"
        ):
            key = f"{trace.get('legendgroup', '')}\n{trace['name']}"
            named.setdefault(key, trace)
    wanted = sheet["layout"].get("showlegend")
    if len(named) < 2 and not wanted:
        # As on the screen: one curve alone needs no name, unless another kind of trace is there.
        return list(named.values()) if len(sheet["data"]) > 1 else []
    return sorted(named.values(), key=lambda trace: trace.get("legendrank", LAST))


def _keys(entry: Sheet, x: float, y: float, size: float) -> list[Sheet]:
    """What stands before a name: a piece of the line, a mark, or a filled box."""
    bare = {"type": "scatter", "xaxis": "x99", "yaxis": "y99", "showlegend": False, "meta": "key"}
    mode, line = entry.get("mode", "lines"), entry.get("line", {})
    keys: list[Sheet] = []
    if entry.get("fill", "none") != "none":
        up = size * LINE / 3
        keys.append(
            bare | {"mode": "lines", "fill": "toself", "fillcolor": entry.get("fillcolor"),
                    "line": line, "x": [x, x + KEY, x + KEY, x, x],
                    "y": [y - up, y - up, y + up, y + up, y - up]}
        )  # fmt: skip
    elif "lines" in mode:
        plain = {key: value for key, value in line.items() if key != "shape"}
        keys.append(bare | {"mode": "lines", "line": plain, "x": [x, x + KEY], "y": [y, y]})
    if "markers" in mode:
        mark = {"mode": "markers", "marker": _fitting(entry.get("marker", {}), size)}
        keys.append(bare | mark | {"x": [x + KEY / 2], "y": [y]})
    if mode == "text":
        keys.append(
            bare | {"mode": "text", "text": ["Aa"], "textposition": "middle center",
                    "textfont": entry.get("textfont", {}), "x": [x + KEY / 2], "y": [y]}
        )  # fmt: skip
    return keys


def _fitting(marker: Sheet, size: float) -> Sheet:
    """The mark that stands for all of a trace: the first, as on the screen, in a row's height."""
    sizes = marker.get("size", 6)
    largest = sizes if isinstance(sizes, int | float) else max(sizes)
    looks = {
        key: value[0] if isinstance(value, list | tuple) and len(value) else value
        for key, value in marker.items()
        if key not in ("standoff", "angleref")
    }
    return looks | {"size": min(largest, size)}
