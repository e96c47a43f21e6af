"""The room that text takes: widths of plotly's markup in a Helvetica-like face, and line breaks."""

import html
import re

LINE = 1.2
"""Height of a line, in font sizes."""

NARROW, WIDE, CAPITALS = " .,:;'|!()[]ijlftI-", "mwMW%@±→", "ABCDEGHKNOPQRSUVXYZ"
BREAKS = (" (", ": ", ", ")
"""Where an axis title may be broken, best first."""


def plain(text: str) -> str:
    """Return markup as the text that is seen, its lines apart by newlines."""
    lines = re.sub(r"<br\s*/?>", "\n", text)
    return html.unescape(re.sub(r"<[^<>]*>", "", lines))


def text_width(text: str, size: float) -> float:
    """Return about how wide the longest line is, in the unit of `size`."""
    return size * max(sum(map(_width, line)) for line in plain(text).split("\n"))


def text_height(text: str, size: float) -> float:
    """Return how tall the lines are; nothing for no text."""
    return size * LINE * len(plain(text).split("\n")) if text else 0.0


def broken(text: str, size: float, room: float) -> str:
    """Return a title in two lines if one would be wider than `room`."""
    if text_width(text, size) <= room:
        return text
    for mark in BREAKS:
        if mark in text:
            before, after = text.split(mark, 1)
            return (
                f"{before}{mark.rstrip()}<br>{after}" if mark != " (" else f"{before}<br>({after}"
            )
    return text


def _width(character: str) -> float:
    if character in NARROW:
        return 0.3
    if character in WIDE:
        return 0.9
    return 0.72 if character in CAPITALS else 0.56


def mathtext(markup: str) -> str:
    """Return markup as matplotlib's text, italics and subscripts as its mathematics."""
    text = re.sub(r"<br\s*/?>", "\n", markup)
    parts = re.split(r"(<i>.*?</i>|<su[bp]>.*?</su[bp]>)", text)
    return "".join(_as_math(part) if part[:2] in ("<i", "<s") else _literal(part) for part in parts)


def _as_math(part: str) -> str:
    """One piece of markup in mathematics of its own."""
    inside = "".join(f"\\{c}" if c in "\\$%#&_{}^~" else c for c in plain(part)).replace(" ", r"\ ")
    if part.startswith("<i>"):
        return rf"$\it{{{inside}}}$"
    return rf"$\rm{{{{}}{'_' if part.startswith('<sub>') else '^'}{{{inside}}}}}$"


def _literal(part: str) -> str:
    return plain(part).replace("\\", r"\\").replace("$", r"\$")
