"""A printed figure drawn by matplotlib, where there is no browser: same places, sizes, colours.

Any figure from `for_print` can be drawn: what is translated are traces, axes, shapes and notes.
"""

import io
import math
from typing import Any, Literal

import plotly.graph_objects as go
from matplotlib import font_manager, rc_context
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Transform, blended_transform_factory
from plotly.colors import get_colorscale

from workbench.plots.paper.lettering import mathtext
from workbench.plots.paper.marks import add_trace, dashes
from workbench.plots.paper.points import POINT, colour, refusal
from workbench.plots.paper.scales import axis_of, full_name, set_ranges

PX, DPI = 96, 300
BEHIND = 0.5
"""Order of what lies below the data."""

Sheet = dict[str, Any]


def draw(figure: go.Figure, suffix: str) -> bytes:
    """Return a printed figure as `pdf`, `svg` or `png`.

    Text stays text, in embedded TrueType fonts (PDF) or by name (SVG).

    Raises:
        ConfigError: If it has a trace, mark or axis of a kind that cannot be translated.
    """
    sheet = figure.to_plotly_json()
    layout = sheet["layout"]
    names = _fonts(layout["font"]["family"])
    settings: Any = {
        "pdf.fonttype": 42,
        "svg.fonttype": "none",
        "svg.hashsalt": "workbench",
        "font.family": names,
        "text.color": layout["font"].get("color", "#222222"),
        "lines.scale_dashes": False,
        "mathtext.fontset": "custom",
        "mathtext.it": f"{names[0]}:italic",
        **{f"mathtext.{style}": names[0] for style in ("rm", "bf", "cal", "sf", "tt", "bfit")},
    }
    with rc_context(settings):
        page = Figure(figsize=(layout["width"] / PX, layout["height"] / PX), dpi=DPI)
        panels = _panels(page, layout)
        before: dict[str, Sheet] = {}
        for order, trace in enumerate(sheet["data"]):
            x, y = trace.get("xaxis", "x"), trace.get("yaxis", "y")
            if y != layout.get(full_name(x), {}).get("anchor", f"y{x[1:]}"):
                raise refusal("second y axis", "one in each panel")
            add_trace(panels[x], trace, order, before.get(x))
            if trace["type"] == "scatter":
                before[x] = trace
        set_ranges(panels, layout)
        for shape in layout.get("shapes", ()):
            _add_shape(page, panels, shape)
        for note in layout.get("annotations", ()):
            _add_note(page, panels, note)
        for name in [key for key in layout if key.startswith("coloraxis")]:
            _add_bar(page, layout[name])
        # Neither a date nor an address: equal figures are equal files.
        dated = {"pdf": ("CreationDate", "Creator", "Producer"),
                 "svg": ("Date", "Creator", "Format", "Type"), "png": ("Software",)}  # fmt: skip
        content = io.BytesIO()
        page.savefig(content, format=suffix, metadata=dict.fromkeys(dated[suffix]))
    return content.getvalue()


def _fonts(families: str) -> list[str]:
    known = set(font_manager.get_font_names())
    found = [name.strip() for name in families.split(",") if name.strip() in known]
    return [*found, "DejaVu Sans"]  # which matplotlib brings


def _panels(page: Figure, layout: Sheet) -> dict[str, Axes]:
    """Axes by the name of their x axis."""
    panels = {}
    for key in [key for key in layout if key.startswith("xaxis")]:
        name = key.replace("axis", "")
        x, y = axis_of(layout, name), axis_of(layout, layout[key].get("anchor", f"y{name[1:]}"))
        (left, right), (low, high) = x.get("domain", (0, 1)), y.get("domain", (0, 1))
        axes = page.add_axes((left, low, right - left, high - low))
        axes.patch.set_visible(False)
        if x.get("visible") is False:
            axes.set_axis_off()
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_linewidth(POINT * x.get("linewidth", 1))
        axes.set_axisbelow(True)
        _dress(axes, "x", x)
        _dress(axes, "y", y)
        panels[name] = axes
    return panels


def _dress(axes: Axes, side: Literal["x", "y"], axis: Sheet) -> None:
    """Give one side its title, grid, numbers and zero line."""
    if axis.get("type") == "log":
        axes.set(**{f"{side}scale": "log"})
    title = axis.get("title") or {}
    size = (title.get("font") or {}).get("size", 13)
    label = axes.set_xlabel if side == "x" else axes.set_ylabel
    label(mathtext(title.get("text") or ""), fontsize=POINT * size,
          labelpad=POINT * title.get("standoff", 4))  # fmt: skip
    seen = axis.get("showticklabels", True)
    axes.tick_params(
        axis=side, which="both", length=POINT * axis.get("ticklen", 4),
        width=POINT * axis.get("tickwidth", 1), pad=1.5,
        labelsize=POINT * axis.get("tickfont", {}).get("size", 11),
        **{"labelbottom" if side == "x" else "labelleft": seen},
    )  # fmt: skip
    if axis.get("showgrid", True):
        axes.grid(axis=side, color=colour(axis.get("gridcolor"), "#e4e4e4"),
                  linewidth=POINT * axis.get("gridwidth", 1))  # fmt: skip
    if axis.get("zeroline"):
        line = axes.axvline if side == "x" else axes.axhline
        line(0, color=colour(axis.get("zerolinecolor")), zorder=2,
             linewidth=POINT * axis.get("zerolinewidth", 1))  # fmt: skip


def _transform(page: Figure, panels: dict[str, Axes], ref: str) -> Transform:
    """Where coordinates lie: on the page, in a panel's data, or along its sides."""
    if ref == "paper":
        return page.transFigure
    axis, _, domain = ref.partition(" ")
    axes = panels[f"x{axis[1:]}"]
    return axes.transAxes if domain else axes.transData


def _place(page: Figure, panels: dict[str, Axes], item: Sheet) -> Transform:
    """Where the x and the y of a shape or note lie."""
    x, y = (_transform(page, panels, item.get(f"{axis}ref", axis)) for axis in "xy")
    return x if x == y else blended_transform_factory(x, y)


def _add_shape(page: Figure, panels: dict[str, Axes], shape: Sheet) -> None:
    refs, place = [shape.get(f"{side}ref", side) for side in "xy"], _place(page, panels, shape)
    # Over several panels it lies on the page: on a panel it would be under the later ones.
    on = page if "paper" in refs else panels[f"x{refs[0].partition(' ')[0][1:]}"]
    behind = -1.0 if on is page else BEHIND
    line = shape.get("line", {})
    style = {"linewidth": POINT * line.get("width", 2), "linestyle": dashes(line.get("dash")),
             "transform": place, "clip_on": False,
             "zorder": behind if shape.get("layer") == "below" else 4}  # fmt: skip
    (x0, x1), (y0, y1) = ([shape[f"{side}{end}"] for end in (0, 1)] for side in "xy")
    if shape.get("type") == "line":
        on.add_artist(Line2D([x0, x1], [y0, y1], color=colour(line.get("color")), **style))
        return
    edge = colour(line.get("color")) if line.get("width", 2) else "none"
    on.add_artist(
        Rectangle((x0, y0), x1 - x0, y1 - y0, edgecolor=edge,
                  facecolor=colour(shape.get("fillcolor"), "none"), **style)
    )  # fmt: skip


def _add_note(page: Figure, panels: dict[str, Axes], note: Sheet) -> None:
    ref = note.get("xref", "x")
    place = _place(page, panels, note)
    shift = POINT * note.get("xshift", 0), POINT * note.get("yshift", 0)
    on = next(iter(panels.values())) if ref == "paper" else panels[f"x{ref.split()[0][1:]}"]
    size = note.get("font", {}).get("size", 12)
    vertical = {"middle": "center", "auto": "center"}
    on.annotate(
        mathtext(note["text"]), (note["x"], note["y"]), xycoords=place, xytext=shift,
        textcoords="offset points", fontsize=POINT * size, annotation_clip=False,
        color=colour(note.get("font", {}).get("color")),
        ha={"auto": "center"}.get(note.get("xanchor", "center"), note.get("xanchor", "center")),
        va=vertical.get(note.get("yanchor", "middle"), note.get("yanchor", "middle")),
    )  # fmt: skip


def _add_bar(page: Figure, axis: Sheet) -> None:
    """Draw a colour bar at the place that plotly was given for it."""
    bar = axis.get("colorbar", {})
    width, height = page.get_size_inches() * PX
    low = bar["y"] - bar["len"] / 2
    axes = page.add_axes((bar["x"], low, bar["thickness"] / width, bar["len"]))
    scale = axis.get("colorscale") or "Viridis"
    scale = get_colorscale(scale) if isinstance(scale, str) else scale
    colours = LinearSegmentedColormap.from_list("bar", [(at, colour(one)[:3]) for at, one in scale])
    drawn = Colorbar(axes, cmap=colours, norm=Normalize(axis["cmin"], axis["cmax"]))
    drawn.outline.set_visible(False)  # type: ignore[reportCallIssue]
    drawn.solids.set_edgecolor("face")  # type: ignore[reportOptionalMemberAccess]  # no light between its steps
    if (values := bar.get("tickvals")) is not None:
        texts = bar.get("ticktext") or [f"{value:g}" for value in values]
        drawn.set_ticks(list(values), labels=list(texts))
    else:
        drawn.locator = MaxNLocator(
            max(2, math.floor(bar["len"] * height / 30)), steps=[1, 2, 5, 10]
        )
        drawn.update_ticks()
    axes.tick_params(length=POINT * bar["ticklen"], width=0.4, pad=1.5,
                     labelsize=POINT * bar["tickfont"]["size"])  # fmt: skip
    title = bar["title"]
    drawn.set_label(mathtext(title["text"]), fontsize=POINT * title["font"]["size"], labelpad=2)
