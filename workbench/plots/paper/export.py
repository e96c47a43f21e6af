"""Export: a figure as a file that a journal takes, and that says where it comes from."""

import html
import importlib.util
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from workbench.errors import ConfigError
from workbench.files import write_atomic
from workbench.plots import captions
from workbench.plots.page import figure_json, page, plot_html
from workbench.plots.paper import browser
from workbench.plots.paper.printing import for_print
from workbench.plots.paper.stamp import stamp_pdf, stamp_png, stamp_svg
from workbench.plots.paper.widths import inches
from workbench.plots.typeset import typeset
from workbench.text import printable

FORMATS = ("pdf", "svg", "png", "html")
SCREEN_HEIGHT = 450
"""Pixels of a figure in a page of HTML that says no height itself."""


def export(
    figure: go.Figure,
    path: str | Path,
    *,
    width: str = "single",
    height: float | int | None = None,
    caption: str | None = None,
    provenance: Mapping[str, str] | None = None,
) -> Path:
    """Write a figure for paper, or as a page of HTML that needs no network.

    PDF, SVG and PNG are set anew at the width: small type, no title, the legend below, text as
    text in embedded fonts, the page exactly as wide as asked. Without a browser matplotlib draws
    them, and a warning says so. For more than one figure use `Press`.

    Args:
        figure: It is not changed.
        path: The suffix says the format: .pdf, .svg, .png (300 dpi) or .html.
        width: `icml-column`, `icml-full`, `neurips`, `single` (3.5 in), `double` (7.16 in), or
            a length such as `85mm` or `3.3in`.
        height: In inches; by default what the panels need.
        caption: Written beside the figure as a .txt file; in HTML below it. By default the one that
            the figure carries, as those of views do.
        provenance: Written into the file, such as run id and config hash.

    Returns:
        The path of the file.

    Raises:
        ConfigError: If format, width or height cannot be used, or nothing can draw.
    """
    with Press() as press:
        written = press.export(
            figure, path, width=width, height=height, caption=caption, provenance=provenance
        )
    if press.remark:
        warnings.warn(press.remark, stacklevel=2)
    return written


class Press:
    """Exports figures, with one browser for all: the first that needs it starts it."""

    remark: str | None = None
    """Why a browser was wanting, if one was."""

    def __init__(self) -> None:
        self._browser: browser.Browser | None = None

    def __enter__(self) -> "Press":
        return self

    def __exit__(self, *_: object) -> None:
        if self._browser is not None:
            self._browser.close()
            self._browser = None

    def export(
        self,
        figure: go.Figure,
        path: str | Path,
        *,
        width: str = "single",
        height: float | int | None = None,
        caption: str | None = None,
        provenance: Mapping[str, str] | None = None,
    ) -> Path:
        """Write a figure; arguments and errors as of `workbench.export`."""
        path = Path(path)
        told: Any = figure.layout["meta"]
        if caption is None and isinstance(told, Mapping):
            caption = told.get("caption")
        facts = {printable(key): printable(value) for key, value in (provenance or {}).items()}
        suffix, across = format_of(path.suffix.removeprefix(".")), inches(width)
        if suffix == "html":
            content = _html(figure, path.stem, caption or "", facts)
        else:
            figure = for_print(figure, across, height)
            content = _stamped(self._draw(figure, suffix), suffix, facts, across)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
        if caption is not None and suffix != "html":
            write_atomic(path.with_suffix(".txt"), _told(figure, caption, facts).encode())
        return path

    def _draw(self, figure: go.Figure, suffix: str) -> bytes:
        if self._browser is None and self.remark is None:
            self._begin()
        if self._browser is not None:
            return self._browser.draw(figure, suffix)
        from workbench.plots.paper.drawing import draw

        return draw(figure, suffix)

    def _begin(self) -> None:
        """Start the browser; without one, see that matplotlib is there."""
        wanting = browser.missing()
        if wanting is None:
            try:
                self._browser = browser.Browser()
                return
            except browser.BrowserError as error:
                wanting = str(error)
        if importlib.util.find_spec("matplotlib") is None:
            raise ConfigError(f"Figures need a browser, or matplotlib: {wanting}.")
        else:
            told = f"{wanting[0].upper()}{wanting[1:]}. Drawn by matplotlib instead."
            self.remark = printable(told)


def format_of(name: str) -> str:
    """Return a format's name in lower case.

    Raises:
        ConfigError: If there is no such format.
    """
    if name.lower() not in FORMATS:
        raise ConfigError(f"No format {name!r}: choose from {', '.join(FORMATS)}.")
    return name.lower()


def _stamped(content: bytes, suffix: str, facts: Mapping[str, str], width: float) -> bytes:
    if suffix == "png":
        return stamp_png(content, facts)
    if suffix == "svg":
        return stamp_svg(content, facts, width)
    # Viewers show these two; the rest only on asking.
    shown = {"Title": facts.get("figure", ""), "Subject": "; ".join(_lines(facts))}
    return stamp_pdf(content, shown | dict(facts), width)


def _lines(facts: Mapping[str, str]) -> list[str]:
    return [f"{key}: {value}" for key, value in facts.items()]


def _told(figure: go.Figure, caption: str, facts: Mapping[str, str]) -> str:
    """The caption, then where the figure comes from."""
    stored: Any = figure.layout
    if stored.meta["stacked"]:
        for beside, above in captions.STACKED.items():
            caption = caption.replace(beside, above)
    return "\n".join([printable(caption), "", *_lines(facts), ""])


def _html(figure: go.Figure, name: str, caption: str, facts: Mapping[str, str]) -> bytes:
    stored: Any = figure.layout
    plot = plot_html("figure", caption or name, int(stored.height or SCREEN_HEIGHT))
    footer = "".join(f"<p>{html.escape(line)}</p>" for line in _lines(facts))
    body = (
        f"<figure>{plot}<figcaption>{typeset(caption)}</figcaption></figure>"
        f"<footer>{footer}</footer>"
    )
    title = facts.get("figure", name)
    told = page(printable(title), body, {"figure-data": figure_json(figure)})
    return told.encode("utf-8", "backslashreplace")
