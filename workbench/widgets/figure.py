"""A figure in a notebook that Python goes on changing."""

import plotly.graph_objects as go

from workbench.plots.view import View
from workbench.plots.whole import whole_plot, whole_tables
from workbench.widgets.panel import Panel
from workbench.widgets.throttle import Throttle

NAME = "figure"


class LiveFigure(Panel):
    """A figure in a notebook whose content comes from Python, now and later.

    Unlike plotly's `FigureWidget` it offers no upload, shows the present data when its page is
    reloaded, and shares one plotly with every other view. Zoom and hidden traces are kept.

    Args:
        figure: What is shown at first. Its height stays.
    """

    def __init__(self, figure: go.Figure) -> None:
        title = str(figure["layout"]["title"]["text"] or "Figure")
        tables = whole_tables({NAME: figure})
        super().__init__(View(title, tables, (), (whole_plot(NAME, figure, title),)))
        self._push = Throttle(self._show)

    def update(self, figure: go.Figure) -> None:
        """Show another figure: at most five a second, and the last one always."""
        self.shown = self.shown.with_tables(whole_tables({NAME: figure}))
        self._push()

    def _show(self) -> None:
        self.tables = self.shown.tables_text()
