"""Tables of text, laid out for a terminal and as HTML that holds no markup from data."""

import html
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from workbench.text import printable

MARKUP = {
    "θ_S′": "θ<sub>S′</sub>",
    "θ_S": "θ<sub>S</sub>",
    "θ_H": "θ<sub>H</sub>",
    "v_rev": "<i>v</i><sub>rev</sub>",
    " ± ": "\u00a0±\u00a0",
    " %": "\u00a0%",
    "n = ": "n\u00a0=\u00a0",
}
"""What symbols in plain text become in HTML."""


CELLS = "mean ± sd over runs; below it: 95 % interval"
"""What a cell with two lines holds."""


@dataclass(frozen=True)
class Table:
    """Rows of text under headings."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    below: tuple[tuple[str, ...], ...] = ()
    """A second, smaller line of every cell, such as its interval; left out of plain text."""


def to_text(table: Table, width: int = 100) -> str:
    """Return a table as lines of at most `width` characters; nothing if it has no rows."""
    if not table.rows:
        return ""
    cells = [tuple(printable(cell) for cell in row) for row in (table.header, *table.rows)]
    widths = _widths(cells, width)
    lines = [printable(table.caption)]
    for index, row in enumerate(cells):
        wrapped = [textwrap.wrap(cell, room) for cell, room in zip(row, widths, strict=True)]
        for parts in zip_longest(*wrapped, fillvalue=""):
            padded = (part.ljust(room) for part, room in zip(parts, widths, strict=True))
            lines.append("  ".join(padded).rstrip())
        if index == 0:
            lines.append("  ".join("─" * room for room in widths))
    return "\n".join(lines)


def to_html(table: Table, *, css_class: str = "") -> str:
    """Return a table as HTML, all text escaped."""
    header = "".join(f'<th scope="col">{typeset(cell)}</th>' for cell in table.header)
    blank = (("",) * len(table.header),) * len(table.rows)
    body = "".join(
        f'<tr><th scope="row">{_cell(row[0], under[0])}</th>'
        + "".join(f"<td>{_cell(*pair)}</td>" for pair in zip(row[1:], under[1:], strict=True))
        + "</tr>\n"
        for row, under in zip(table.rows, table.below or blank, strict=True)
    )
    return (
        f'<table class="{html.escape(css_class)}"><caption>{typeset(table.caption)}</caption>\n'
        f"<thead><tr>{header}</tr></thead>\n<tbody>\n{body}</tbody></table>"
    )


def typeset(text: str) -> str:
    """Return text as HTML: escaped, θ and v_rev with subscripts, numbers unbroken at their ±."""
    escaped = html.escape(printable(text))
    for plain, markup in MARKUP.items():
        escaped = escaped.replace(plain, markup)
    return escaped


def _cell(text: str, below: str) -> str:
    return typeset(text) + (f"<br><small>{typeset(below)}</small>" if below else "")


def _widths(cells: Sequence[Sequence[str]], width: int) -> list[int]:
    """Column widths that fit: the widest columns give way."""
    widths = [max(len(row[index]) for row in cells) for index in range(len(cells[0]))]
    while sum(widths) + 2 * (len(widths) - 1) > width and max(widths) > 8:
        widths[widths.index(max(widths))] -= 1
    return widths
