"""Figures that stay on this machine, however they are shown: the settings, and the class."""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

CONFIG = {
    "displaylogo": False,
    "showSendToCloud": False,
    "plotlyServerURL": "",
    "typesetMath": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
    "toImageButtonOptions": {"format": "svg"},
}
"""What every plot is shown with: no upload button, no server, no mathematics loader."""


class LocalFigure(go.Figure):
    """A figure that shows no upload button in a notebook, a browser or a page of its own.

    A plain `go.Figure` would: plotly keeps settings with the renderer, not with the figure.
    """

    def show(self, *args: Any, config: Mapping[str, Any] | None = None, **options: Any) -> None:
        """Show the figure; arguments as of `go.Figure.show`, `config` beside `CONFIG`."""
        super().show(*args, config=_settings(config), **options)

    def _ipython_display_(self) -> None:
        """Show the figure at the end of a cell."""
        self.show()

    def _repr_mimebundle_(
        self, *args: Any, config: Mapping[str, Any] | None = None, **options: Any
    ) -> dict[str, Any]:
        return super()._repr_mimebundle_(*args, config=_settings(config), **options)

    def to_html(self, config: Mapping[str, Any] | None = None, **options: Any) -> str:
        """Return a page or part of one; arguments as of `go.Figure.to_html`."""
        return super().to_html(config=_settings(config), **options)

    def write_html(
        self, file: Any, config: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        """Write a page; arguments as of `go.Figure.write_html`."""
        super().write_html(file, config=_settings(config), **options)


def _settings(config: Mapping[str, Any] | None) -> dict[str, Any]:
    return CONFIG | dict(config or {})
