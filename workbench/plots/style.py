"""How figures look: one template, one colour per arm, units, and text that cannot be markup."""

import html
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import plotly.graph_objects as go

from workbench.plots.local import LocalFigure
from workbench.text import printable

FONT = "Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif"
INK = "#222222"
FAINT = "#e4e4e4"
UNDEFINED = "#d0d0d0"
"""Background of cells without a value."""

NULL_COLOUR = "#6b6b6b"

STEP_TITLE = "fine-tuning step"
TITLES = {
    "alignment": "alignment: cos(drift, <i>v</i><sub>rev</sub>)",
    "stacked_alignment": "alignment, layers stacked in gap units (cosine)",
    "alignment_sibling": "cos(drift, <i>v</i><sub>rev</sub> of the sibling)",
    "along": "drift along <i>v</i><sub>rev</sub> (phase gaps)",
    "across": "drift across <i>v</i><sub>rev</sub> (phase gaps)",
    "norm": "norm of the drift (residual-stream units)",
    "loss": "training loss (nats per token)",
    "harmfulness": "harmfulness (share of harmful prompts)",
    "broken": "broken answers (share of harmful prompts)",
    "refusal_log_odds": "refusal log-odds (nats)",
    "over_refusal": "over-refusal (share of benign prompts)",
    "task_loss": "task loss (nats per token)",
    "perplexity": "task perplexity",
    "kl": "KL from the aligned model (nats per token)",
    "task_cost": "task cost (share of the task gain lost)",
}
"""Axis titles by quantity, with units."""

COSINES = ("alignment", "stacked_alignment", "alignment_sibling")
SHARES = ("harmfulness", "broken", "over_refusal", "task_cost")
"""Quantities shown in percent."""


@dataclass(frozen=True)
class ArmStyle:
    """How one arm is drawn, in every figure."""

    colour: str
    symbol: str
    dash: str = "solid"

    def faded(self, alpha: float) -> str:
        """Return the colour at this opacity."""
        red, green, blue = (int(self.colour[i : i + 2], 16) for i in (1, 3, 5))
        return f"rgba({red}, {green}, {blue}, {alpha})"


ARMS = {
    "ordinary": ArmStyle("#000000", "circle"),
    "block": ArmStyle("#0072B2", "square"),
    "push": ArmStyle("#D55E00", "triangle-up"),
    "random": ArmStyle("#E69F00", "diamond"),
    "matched": ArmStyle("#009E73", "cross"),
    "matched-unscaled": ArmStyle("#CC79A7", "x"),
}
"""Okabe–Ito colours of the arms of the main job; symbols tell them apart without colour."""

FAMILIES = ARMS | {
    "shuffled": ArmStyle("#E69F00", "diamond-tall", "dash"),
    "orthogonal": ArmStyle("#E69F00", "diamond-wide", "dot"),
    "refusal": ArmStyle("#5C4A00", "hexagon"),
    "drift": ArmStyle("#5C4A00", "star", "dash"),
    "ablate": ArmStyle("#56B4E9", "pentagon"),
    "steer": ArmStyle("#56B4E9", "star-triangle-up", "dash"),
    "cap": ArmStyle("#56B4E9", "hourglass", "dot"),
    "project": ArmStyle("#332288", "bowtie"),
    "anchor-kl": ArmStyle("#882255", "triangle-down"),
    "anchor-weights": ArmStyle("#882255", "triangle-left", "dot"),
    "anchor-penalty": ArmStyle("#882255", "triangle-right", "longdash"),
    "anchor": ArmStyle("#882255", "square", "longdashdot"),
    "rehearse": ArmStyle("#882255", "star-square", "dash"),
}
"""Styles by intervention, or for a control by its direction; a colour says which kind of thing.

Orange: directions without meaning; brown: with another meaning; sky blue: edits of the forward
pass; wine: baselines that know no direction. Members of a kind differ in symbol and dash.
"""

CONTROLS = ("random", "matched", "refusal", "drift", "shuffled", "orthogonal")
"""Directions other than v_rev."""

SYMBOLS = (
    *("circle", "square", "diamond", "cross", "x", "triangle-up", "triangle-down", "pentagon"),
    *("hexagon", "star", "hourglass", "bowtie"),
)
DASHES = ("dash", "dot", "dashdot", "longdash", "longdashdot")
OTHERS = (
    *("#56B4E9", "#882255", "#5C4A00", "#332288", "#CC79A7", "#009E73", "#E69F00", "#D55E00"),
    "#0072B2",
)
"""Colours of arms of no known family, in the order in which they are named."""


def arm_styles(
    names: Iterable[str], told: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, ArmStyle]:
    """Return a style for every arm: its family's colour, and a symbol and dash of its own.

    Args:
        names: All arms of an experiment, so that an arm looks the same in all its figures.
        told: By arm, `intervention` and `direction`, where they are known.
    """
    # One sequence per colour: families that share it must not share marks.
    free: dict[str, Iterator[ArmStyle]] = {}
    styles = {}
    for name in dict.fromkeys(names):
        member = family(name, (told or {}).get(name))
        if name == member:
            styles[name] = FAMILIES[name]
        else:
            colour = FAMILIES[member].colour if member else ""
            styles[name] = next(free.setdefault(colour, _variants(colour)))
    return styles


def family(name: str, told: Mapping[str, Any] | None = None) -> str | None:
    """Return whose colour an arm has: `block` for `block:0.5@2`, `anchor-kl` for `anchor-kl:3`.

    Args:
        name: Of the arm.
        told: Its `intervention` and `direction`, where they are known.
    """
    stem = re.split("[:@]", name)[0]
    starts = (stem[:end] for end in range(len(stem), 0, -1) if stem[end : end + 1] in ("", "-"))
    named = next((start for start in starts if start in FAMILIES), None)
    direction, intervention = ((told or {}).get(key) for key in ("direction", "intervention"))
    if direction in CONTROLS and not (named or "").startswith(direction):
        return direction
    if named is None and intervention == "none":
        return None
    return named or (intervention if intervention in FAMILIES else None)


def _variants(colour: str) -> Iterator[ArmStyle]:
    """Styles of one colour, never solid; without a colour of all, always solid."""
    colours, dashes = ((colour,), DASHES) if colour else (OTHERS, ("solid",))
    for index in count():
        style = ArmStyle(*(one[index % len(one)] for one in (colours, SYMBOLS, dashes)))
        if style not in FAMILIES.values():
            yield style


def inert(text: object, *, length: int = 80) -> str:
    """Return text from data as one printable line that plotly shows as it is."""
    line = printable(text)
    escaped = html.escape(line if len(line) <= length else line[: length - 1] + "…", quote=False)
    return escaped.replace("%{", "%&#123;")  # plotly fills in placeholders in names and titles, too


def number(value: float | int | None, digits: int = 3) -> str:
    """Return a number with a true minus sign; undefined is a dash."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def counted(n: int, noun: str) -> str:
    """Return a count with its noun, such as `3 seeds`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def new_figure(title: str, subtitle: str = "", *, height: int = 420) -> LocalFigure:
    """Return an empty figure in our style.

    Args:
        title: What is shown; markup allowed, text from data through `inert`.
        subtitle: One line below it: what bands are, and n.
        height: In pixels; the width follows the page.
    """
    heading = {"text": title, "subtitle": {"text": subtitle}}
    return LocalFigure(layout={"template": TEMPLATE, "title": heading, "height": height})


_AXIS = {
    "showgrid": True,
    "gridcolor": FAINT,
    "zeroline": False,
    "showline": True,
    "linecolor": INK,
    "linewidth": 1,
    "ticks": "outside",
    "ticklen": 4,
    "tickcolor": INK,
    "automargin": True,
    "title": {"standoff": 8, "font": {"size": 13}},
}

TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": FONT, "size": 13, "color": INK},
        "title": {
            "font": {"size": 15},
            "subtitle": {"font": {"size": 12, "color": "#555555"}},
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "pad": {"l": 4, "t": 4},
            "y": 0.985,
            "yref": "container",
            "yanchor": "top",
        },
        "margin": {"l": 64, "r": 24, "t": 64, "b": 52},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "separators": ".",
        "hoverlabel": {"font": {"family": FONT, "size": 12}, "align": "left"},
        "legend": {"bgcolor": "rgba(255,255,255,0)", "tracegroupgap": 2},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    }
)
"""Applied to every figure of the package; nothing is registered globally."""

COSINE_COLOURS = {
    "colorscale": "RdBu_r",
    "cmin": -1,
    "cmax": 1,
    "colorbar": {
        "title": {"text": "cosine", "side": "top", "font": {"size": 12}},
        "thickness": 12,
        "tickvals": [-1, -0.5, 0, 0.5, 1],
        "ticktext": ["−1", "−0.5", "0", "0.5", "1"],
        "outlinewidth": 0,
    },
}
"""Colour axis of every cosine. Not in the template: plotly would fit its range to the data."""

ZERO_LINE = {"zeroline": True, "zerolinecolor": INK, "zerolinewidth": 1.5}
"""Axis settings that make the zero line plain to see."""
