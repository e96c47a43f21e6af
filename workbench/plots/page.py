"""The HTML page of a report: one file that needs no network and runs no script but its own."""

import base64
import hashlib
import html
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from workbench.plots.local import CONFIG
from workbench.plots.style import TEMPLATE
from workbench.text import printable

DIGITS = 5
"""Significant digits of the numbers in the page."""


def page(title: str, body: str, data: Mapping[str, str]) -> str:
    """Return a whole HTML page that draws its figures.

    Args:
        title: Plain text.
        body: HTML.
        data: JSON texts, from `compact_json`, by the id under which the body refers to them.
    """
    style = _beside("page.css") + view_style()
    script = view_script() + _beside("page.js")
    plotly = plotly_script()
    stored = {"template": compact_json(TEMPLATE.to_plotly_json()), "config": compact_json(CONFIG)}
    blocks = "\n".join(
        f'<script type="application/json" id="{html.escape(key)}">{value}</script>'
        for key, value in (stored | dict(data)).items()
    )
    allowed = " ".join(_script_hash(script) for script in (plotly, script))
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{html.escape(printable(title))}</title>
<style>
{style}</style>
</head>
<body>
{body}
<noscript><p>The figures are drawn by the script in this file, which is switched off here.</p>
</noscript>
{blocks}
<script>{plotly}</script>
<script>{script}</script>
</body>
</html>
"""


def plotly_script() -> str:
    """Return the one plotly build that every figure of a page is drawn by."""
    return get_plotlyjs().replace("</script", "<\\/script")


def figure_json(figure: go.Figure) -> str:
    """Return a figure as JSON for a script block, without the template that all share."""
    return compact_json(bare_figure(figure))


def bare_figure(figure: go.Figure) -> dict[str, Any]:
    """Return a figure as JSON values, without the template that all share."""
    stored = json.loads(str(figure.to_json()))
    stored["layout"].pop("template", None)
    _keep_what_users_did(stored)
    return {"data": stored["data"], "layout": stored["layout"]}


def _keep_what_users_did(stored: dict[str, Any]) -> None:
    """Name traces and axes, so that what is hidden stays hidden and a zoom goes with its quantity.

    Without, plotly goes by the place of a trace, which another layer or arm may shift.
    """
    seen: Counter[str] = Counter()
    for trace in stored["data"]:
        parts = (trace.get("meta"), trace.get("legendgroup") or trace.get("name"), trace["type"])
        name = " ".join(str(part) for part in parts)
        seen[name] += 1
        # Plotly makes a class of it, and looks that up: it must have no space or dot.
        marked = hashlib.sha256(f"{name} {seen[name]}".encode("utf-8", "backslashreplace"))
        trace["uid"] = f"t{marked.hexdigest()[:12]}"
    for name, axis in stored["layout"].items():
        if name.startswith(("xaxis", "yaxis")) and isinstance(axis, dict):
            axis["uirevision"] = str((axis.get("title") or {}).get("text", ""))


def compact_json(value: Any) -> str:
    """Return JSON that cannot end its script block, its numbers cut to `DIGITS` digits."""
    text = json.dumps(_rounded(value), separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "backslashreplace").decode()


def plot_html(name: str, alt: str, height: int) -> str:
    """Return the place of a figure whose JSON is in the block called `name`."""
    return (
        f'<div class="plot" id="{name}" data-figure="{name}-data" role="group" '
        f'aria-label="{html.escape(printable(alt))}" style="height:{height}px"></div>'
    )


def view_html(name: str, choice: Mapping[str, int] | None = None) -> str:
    """Return the place of a view whose JSON is in the block called `name`, less `-data`.

    Args:
        name: Of the view; several places may show one.
        choice: By control, the place of the option chosen at first, where it is another.
    """
    chosen = html.escape(json.dumps(dict(choice or {})))
    return f'<div data-view="{name}-data" data-choice="{chosen}"></div>'


def view_script() -> str:
    """Return what draws views, for a page or a notebook's widget."""
    return _beside("view.js")


def view_style() -> str:
    """Return the style sheet of views."""
    return _beside("view.css")


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def _script_hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
