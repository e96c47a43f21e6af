"""Views: figures, words and tables bound to controls, as data that a browser moves by itself.

A view holds every number that its controls can call for. The same `view.js` draws it in a notebook
and in a report; `View.figure` draws it here, from the same tables by the same rules.
"""

import copy
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import plotly.graph_objects as go

from workbench.errors import ConfigError
from workbench.plots.local import LocalFigure
from workbench.plots.page import bare_figure, compact_json
from workbench.plots.style import TEMPLATE, number

Choice = Mapping[str, Any]
"""By control, the place of the chosen option; what is none is refused by name."""

Table = Any
"""Nested lists: one level per control that its users name, then the value. Where a list is shorter
than the options, its last entry stands for the rest."""


@dataclass(frozen=True)
class Control:
    """Something to choose with: a box of options, a number box or a slider."""

    name: str
    label: str
    """Its accessible name."""

    kind: Literal["select", "number", "slider"]
    options: tuple[str, ...]
    """What can be chosen, in words; of a number box, the numbers."""

    chosen: int = 0
    """Place of the option chosen at first."""


@dataclass(frozen=True)
class Bound:
    """One part of a figure, and where its value is looked up."""

    at: tuple[str | int, ...]
    """Where in the figure: such as `("data", 0, "z")`, or `("data",)` for all traces."""

    table: str | tuple[str, ...]
    """Name of a table; several are zipped, cell by cell, in two dimensions."""

    by: tuple[str, ...]
    """Controls whose choices lead to the value, outermost first."""


@dataclass(frozen=True)
class Plot:
    """A figure of a view."""

    name: str
    figure: go.Figure
    """As it is before anything bound is put in."""

    alt: str
    """What is seen, for who cannot see it."""

    bound: tuple[Bound, ...] = ()
    click: Mapping[str, Literal["row", "column", "index"]] = field(default_factory=dict)
    """By control, which coordinate of a clicked point it takes: of a heat map's cell `row` or
    `column`, of a curve's point `index`."""

    def and_bound(self, *bound: Bound) -> "Plot":
        """Return the plot with more parts bound, put in after those that are."""
        return replace(self, bound=(*self.bound, *bound))


@dataclass(frozen=True)
class Field:
    """A number or text in a sentence."""

    table: str
    by: tuple[str, ...]
    digits: int | None = None
    """Decimals of a number."""

    significant: int | None = None
    """Or significant digits; with neither, the value is text."""


@dataclass(frozen=True)
class Words:
    """A sentence that follows the controls."""

    name: str
    text: str
    """With `{name}` for a field or for the chosen option of a control."""

    fields: Mapping[str, Field] = field(default_factory=dict)

    below: bool = False
    """Whether it stands below the figures, as a caption does."""


@dataclass(frozen=True)
class Cells:
    """A table of text that follows the controls."""

    name: str
    caption: str
    header: tuple[str, ...]
    table: str
    """Of rows of texts."""

    by: tuple[str, ...]


@dataclass(frozen=True)
class Button:
    """Something that Python does when it is pressed; needs a kernel."""

    name: str
    label: str


@dataclass(frozen=True)
class View:
    """Controls, and what moves with them."""

    title: str
    tables: Mapping[str, Table]
    controls: tuple[Control, ...]
    plots: tuple[Plot, ...]
    words: tuple[Words, ...] = ()
    cells: tuple[Cells, ...] = ()
    buttons: tuple[Button, ...] = ()
    ask: str = ""
    """Label of a box for a prompt that a model answers; needs a kernel. Empty: no box."""

    def first_choice(self) -> dict[str, int]:
        """Return what is chosen at first."""
        return {control.name: control.chosen for control in self.controls}

    def checked(self, choice: Choice) -> dict[str, int]:
        """Return a whole choice: the given options, and for the rest the first ones.

        Raises:
            ConfigError: If a control or option does not exist.
        """
        known = [control.name for control in self.controls]
        if unknown := sorted({*choice} - {*known}):
            raise ConfigError(f"No control {unknown[0]!r} here; there are {', '.join(known)}.")
        whole = self.first_choice() | dict(choice)
        for control in self.controls:
            offered, place = control.options, whole[control.name]
            if isinstance(place, bool) or not isinstance(place, int):
                raise ConfigError(f"{control.label}: {place!r} is not the place of an option.")
            if not 0 <= place < len(offered):
                raise ConfigError(
                    f"{control.label}: option {place} does not exist; there are {len(offered)}, "
                    f"counted from 0: {', '.join(offered[:8])}{', …' if len(offered) > 8 else ''}."
                )
        return whole

    def figure(self, name: str | None = None, choice: Choice | None = None) -> go.Figure:
        """Return a figure as it stands under a choice.

        Args:
            name: Of the plot; by default the first.
            choice: By control, the place of an option; by default what is chosen at first.

        Raises:
            ConfigError: If there is no such plot, control or option.
        """
        named = {plot.name: plot for plot in self.plots}
        if name is not None and name not in named:
            raise ConfigError(f"No figure {name!r} here; there are {', '.join(named)}.")
        plot = self.plots[0] if name is None else named[name]
        whole = self.checked(choice or {})
        drawn = copy.deepcopy(plot.figure.to_plotly_json())
        for bound in plot.bound:
            *way, last = bound.at
            place: Any = drawn
            for step in way:
                place = place[step]
            # A copy: what is bound later may be put into it.
            place[last] = copy.deepcopy(self._value(bound.table, bound.by, whole))
        figure = LocalFigure(drawn)
        return figure.update_layout(template=TEMPLATE)

    def sentence(self, name: str, choice: Choice | None = None) -> str:
        """Return a sentence as it reads under a choice.

        Raises:
            ConfigError: If there is no such sentence, control or option.
        """
        found = next((one for one in self.words if one.name == name), None)
        if found is None:
            raise ConfigError(f"No words {name!r} here.")
        whole = self.checked(choice or {})
        options = {one.name: one.options[whole[one.name]] for one in self.controls}

        def fill(match: re.Match[str]) -> str:
            if (told := found.fields.get(match[1])) is None:
                return options[match[1]]
            value = self._value(told.table, told.by, whole)
            if told.digits is None and told.significant is None:
                return str(value or "")
            return number(value, _decimals(value, told))

        return re.sub(r"\{(\w+)\}", fill, found.text)

    def rows(self, name: str, choice: Choice | None = None) -> list[list[str]]:
        """Return the rows of a table under a choice; `ConfigError` if there is no such table."""
        found = next((one for one in self.cells if one.name == name), None)
        if found is None:
            raise ConfigError(f"No table {name!r} here.")
        value = self._value(found.table, found.by, self.checked(choice or {}))
        return [list(row) for row in value or ()]

    def with_tables(self, tables: Mapping[str, Table]) -> "View":
        """Return the view with other numbers."""
        return replace(self, tables={**self.tables, **tables})

    def to_json(self) -> dict[str, Any]:
        """Return all but the tables for `view.js`, as JSON values."""
        return {
            "title": self.title,
            "controls": [vars(control) for control in self.controls],
            "plots": [_plot_json(plot) for plot in self.plots],
            "words": [
                {**vars(one), "fields": {name: vars(told) for name, told in one.fields.items()}}
                for one in self.words
            ],
            "cells": [vars(one) for one in self.cells],
            "buttons": [vars(button) for button in self.buttons],
            "ask": self.ask,
        }

    def text(self) -> str:
        """Return the whole view as JSON text for a script block of a page."""
        return compact_json(self.to_json() | {"tables": _plain(self.tables)})

    def tables_text(self) -> str:
        """Return the tables as JSON text."""
        return compact_json(_plain(self.tables))

    def _value(self, table: str | tuple[str, ...], by: Sequence[str], choice: Choice) -> Any:
        """Look a value up; where a table ends early, its last entry stands for the rest."""
        if isinstance(table, tuple):
            several = [self._value(name, by, choice) or () for name in table]
            return [
                [list(cell) for cell in zip(*rows, strict=True)]
                for rows in zip(*several, strict=True)
            ]
        found: Any = self.tables[table]
        for control in by:
            if not found:
                return None
            found = found[min(choice[control], len(found) - 1)]
        return found


def _decimals(value: float | None, told: Field) -> int:
    if told.significant is None or not value or not math.isfinite(value):
        return told.digits or 0
    return max(0, told.significant - 1 - math.floor(math.log10(abs(value))))


def _plot_json(plot: Plot) -> dict[str, Any]:
    return {
        "name": plot.name,
        "alt": plot.alt,
        "figure": bare_figure(plot.figure),
        "bound": [vars(bound) for bound in plot.bound],
        "click": dict(plot.click),
    }


def _plain(value: Any) -> Any:
    """Nested lists with None for what is undefined."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
