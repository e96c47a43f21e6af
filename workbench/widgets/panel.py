"""Panels: a view in a notebook. The browser moves it; Python sees what is chosen."""

import gzip
import threading
from collections.abc import Callable, Mapping
from contextvars import copy_context
from functools import cache
from pathlib import Path
from typing import Any

import anywidget
import plotly.graph_objects as go
import traitlets
from ipywidgets import Widget
from plotly.offline import get_plotlyjs

from workbench.errors import ConfigError
from workbench.files import write_atomic
from workbench.plots.local import CONFIG
from workbench.plots.page import compact_json, page, view_html, view_script, view_style
from workbench.plots.style import TEMPLATE
from workbench.plots.view import Table, View
from workbench.text import visible

Status = Mapping[str, Any]
"""What a panel says of itself: `words`, `progress` from 0 to 1, `busy`, the names of `disabled`
buttons, and the lines of an `answer`. None of them need be there."""


class PlotlyBuild(anywidget.AnyWidget):
    """The plotly build, template and settings that all panels of a kernel share."""

    _esm = "export default {}"
    code = traitlets.Bytes().tag(sync=True)
    """The source, compressed."""

    template = traitlets.Unicode().tag(sync=True)
    config = traitlets.Unicode().tag(sync=True)


@cache
def plotly_build() -> PlotlyBuild:
    """Return the one of this kernel."""
    return PlotlyBuild(
        code=gzip.compress(get_plotlyjs().encode(), mtime=0),
        template=compact_json(TEMPLATE.to_plotly_json()),
        config=compact_json(CONFIG),
    )


class Panel(anywidget.AnyWidget):
    """A view in a notebook: show it by naming it at the end of a cell.

    What is precomputed moves in the browser, with the kernel busy or gone. A subclass says what
    its buttons and its prompt do.

    Args:
        view: What is shown.
        status: What the panel says at first.
    """

    _esm = view_script() + Path(__file__).with_name("widget.js").read_text(encoding="utf-8")
    _css = view_style()
    view = traitlets.Unicode().tag(sync=True)
    tables = traitlets.Unicode().tag(sync=True)
    choice = traitlets.Dict().tag(sync=True)
    status = traitlets.Dict().tag(sync=True)
    plotly = traitlets.Unicode().tag(sync=True)

    def __init__(self, view: View, *, status: Status | None = None) -> None:
        self.shown = view
        super().__init__(
            view=compact_json(view.to_json()),
            tables=view.tables_text(),
            choice=view.first_choice(),
            status=dict(status or {}),
            plotly=f"IPY_MODEL_{plotly_build().model_id}",
        )
        self.on_msg(self._heard)
        # ipykernel 7 would send what the browser says to the thread that last said something here,
        # also when that has ended: a button would be dead. It goes where the browser sends it.
        comm: Any = self.comm
        if hasattr(comm, "_reply_subshell_for"):
            comm._reply_subshell_for = _where_it_was_sent
        self._made_in = copy_context()

    def __repr__(self) -> str:
        """Return a short text: the traits hold megabytes."""
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.chosen.items())})"

    @traitlets.validate("status")
    def _plain_status(self, proposal: Any) -> dict[str, Any]:
        """Errors and answers quote what others wrote."""
        told = dict(proposal["value"])
        if "words" in told:
            told["words"] = visible(told["words"])
        if "answer" in told:
            told["answer"] = [visible(line) for line in told["answer"]]
        return told

    @traitlets.validate("choice")
    def _check_choice(self, proposal: Any) -> dict[str, int]:
        return self.shown.checked(proposal["value"])

    @property
    def chosen(self) -> dict[str, str]:
        """What is chosen now, in words, by control."""
        return {
            control.name: control.options[self.choice[control.name]]
            for control in self.shown.controls
        }

    def choose(self, **options: Any) -> None:
        """Choose options by what they are called: `choose(arm="block", layer=3)`.

        Raises:
            ConfigError: If there is no such control or option.
        """
        known = {control.name: control for control in self.shown.controls}
        places = {}
        for name, option in options.items():
            if name not in known:
                raise ConfigError(f"No control {name!r} here; there are {', '.join(known)}.")
            if str(option) not in known[name].options:
                offered = ", ".join(known[name].options[:12])
                raise ConfigError(f"{name}: no option {option!r}; there are {offered}.")
            places[name] = known[name].options.index(str(option))
        self.choice = {**self.choice, **places}

    def figure(self, name: str | None = None) -> go.Figure:
        """Return one of its figures as it stands now, for a paper; by default the first.

        What is chosen goes with it as its caption, in `layout.meta`.

        Raises:
            ConfigError: If there is no such figure.
        """
        figure = self.shown.figure(name, self.choice)
        if figure.layout["meta"] is None:
            told = ", ".join(f"{control} {option}" for control, option in self.chosen.items())
            said = [self.shown.sentence(one.name, self.choice) for one in self.shown.words]
            figure.update_layout(meta={"caption": ". ".join(filter(None, [told, *said]))})
        return figure

    def save(self, path: str | Path) -> Path:
        """Write the view as one HTML file that needs neither a kernel nor a network.

        The folder is made if it is not there.
        """
        place = view_html("view", self.choice)
        text = page(self.shown.title, place, {"view-data": self.shown.text()})
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(Path(path), text.encode())
        return Path(path)

    def fill(self, tables: Mapping[str, Table]) -> None:
        """Show other numbers; a page that is loaded later sees the same."""
        self.shown = self.shown.with_tables(tables)
        self.tables = self.shown.tables_text()

    def pressed(self, name: str) -> None:
        """Do what a button says."""

    def asked(self, prompt: str) -> None:
        """Answer a prompt."""

    def released(self) -> None:
        """Do what has to follow when a control is let go of."""

    def in_thread(self, target: Callable[[], object]) -> threading.Thread:
        """Start a thread that may change what is shown; its outputs go to the panel's own cell."""
        # In no context, or another's, ipykernel would take it for part of whatever ran last.
        thread = threading.Thread(target=self._made_in.copy().run, args=(target,), daemon=True)
        thread.start()
        return thread

    def _heard(self, widget: Widget, content: Any, buffers: Any) -> None:  # noqa: ARG002
        kind = content.get("kind") if isinstance(content, Mapping) else None
        try:
            if kind == "press":
                self.pressed(str(content.get("name")))
            elif kind == "ask":
                self.asked(str(content.get("prompt")))
            elif kind == "release":
                self.released()
        except Exception as error:  # the panel is all that a user sees of it
            self.status = {
                **self.status,
                "words": f"{type(error).__name__}: {error}",
                "busy": False,
            }
            raise


def _where_it_was_sent(data: Any, subshell: str | None) -> str | None:  # noqa: ARG001
    return subshell
