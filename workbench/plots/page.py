"""The HTML page of a report: one file that needs no network and runs no script but its own."""

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from workbench.plots.style import CONFIG, TEMPLATE

DIGITS = 5
"""Significant digits of the numbers in the page."""

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 28px 24px 48px; color: #222; background: #fff;
  font: 15px/1.5 Helvetica, Arial, "Liberation Sans", "DejaVu Sans", sans-serif; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 40px 0 8px; padding-top: 12px; border-top: 1px solid #ddd; }
.facts { color: #555; margin: 0 0 18px; overflow-wrap: anywhere; }
.opening { display: grid; grid-template-columns: minmax(280px, 5fr) 8fr; gap: 32px; }
.opening p { margin: 0 0 10px; }
.opening ul { margin: 0; padding-left: 18px; font-size: 14px; }
.opening li { margin-bottom: 6px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; margin-bottom: 18px;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: bold; padding: 0 0 6px; font-size: 14.5px; }
th, td { text-align: left; vertical-align: top; padding: 4px 12px 4px 0; font-weight: normal;
  border-bottom: 1px solid #e4e4e4; overflow-wrap: anywhere; }
thead th { border-bottom: 1.5px solid #222; font-weight: bold; }
table.paper td:last-child { font-weight: bold; }
table.arms td, table.arms thead th { white-space: nowrap; }
figure { margin: 12px 0 30px; }
figcaption { font-size: 13.5px; color: #444; max-width: 860px; margin-top: 2px; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 20px; }
.pair > * { min-width: 0; }
.plot { width: 100%; }
.choose { font-size: 13.5px; display: flex; gap: 14px; flex-wrap: wrap; }
.choose select { font: inherit; max-width: 260px; margin-left: 5px; padding: 2px 4px; }
footer { font-size: 12.5px; color: #555; border-top: 1px solid #ddd; margin-top: 40px;
  padding-top: 12px; overflow-wrap: anywhere; }
footer table { font-size: 12px; }
code { font-family: "Liberation Mono", "DejaVu Sans Mono", Menlo, Consolas, monospace;
  font-size: 0.94em; }
@media screen and (max-width: 860px) { .opening, .pair { grid-template-columns: 1fr; } }
@media print {
  @page { size: A4; margin: 14mm; }
  body { padding: 0; max-width: none; font-size: 11px; }
  h1 { font-size: 19px; }
  h2 { font-size: 14px; margin-top: 20px; }
  table, figcaption, .opening ul, .choose { font-size: 10px; }
  caption { font-size: 11px; }
  .opening { gap: 18px; }
  .plot { zoom: 0.63; }
  .choose select { border: 0; appearance: none; }
  figure, table, tr { break-inside: avoid; }
  h2 { break-after: avoid; }
  .modebar { display: none !important; }
}
"""

SCRIPT = """
"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const template = read("template");
  const config = read("config");
  const draw = (plot, figure) =>
    Plotly.react(plot, figure.data, Object.assign({}, figure.layout, { template }), config);
  for (const plot of document.querySelectorAll("[data-figure]")) {
    draw(plot, read(plot.dataset.figure));
  }
  for (const panel of document.querySelectorAll("[data-choices]")) {
    const choices = read(panel.dataset.choices);
    const [arms, runs] = panel.querySelectorAll("select");
    const plot = panel.querySelector(".plot");
    const show = () => draw(plot, choices[Number(runs.value)].figure);
    const offer = () => {
      const before = runs.selectedOptions.length ? runs.selectedOptions[0].text : "";
      runs.replaceChildren();
      choices.forEach((choice, index) => {
        if (choice.arm !== arms.selectedIndex) return;
        runs.add(new Option(choice.label, index, false, choice.label === before));
      });
      show();
    };
    arms.addEventListener("change", offer);
    runs.addEventListener("change", show);
    offer();
  }
})();
"""


def page(title: str, body: str, data: Mapping[str, str]) -> str:
    """Return a whole HTML page that draws its figures.

    Args:
        title: Plain text.
        body: HTML.
        data: JSON texts, from `compact_json`, by the id under which the body refers to them.
    """
    plotly = get_plotlyjs().replace("</script", "<\\/script")
    stored = {"template": compact_json(TEMPLATE.to_plotly_json()), "config": compact_json(CONFIG)}
    blocks = "\n".join(
        f'<script type="application/json" id="{html.escape(key)}">{value}</script>'
        for key, value in (stored | dict(data)).items()
    )
    allowed = " ".join(_script_hash(script) for script in (plotly, SCRIPT))
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
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
{body}
<noscript><p>The figures are drawn by the script in this file, which is switched off here.</p>
</noscript>
{blocks}
<script>{plotly}</script>
<script>{SCRIPT}</script>
</body>
</html>
"""


def figure_json(figure: go.Figure) -> str:
    """Return a figure as JSON for a script block, without the template that all share."""
    stored = json.loads(figure.to_json())
    stored["layout"].pop("template", None)
    return compact_json({"data": stored["data"], "layout": stored["layout"]})


def compact_json(value: Any) -> str:
    """Return JSON that cannot end its script block, its numbers cut to `DIGITS` digits."""
    text = json.dumps(_rounded(value), separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "backslashreplace").decode()


def plot_html(name: str, alt: str, height: int) -> str:
    """Return the place of a figure whose JSON is in the block called `name`."""
    return (
        f'<div class="plot" id="{name}" data-figure="{name}-data" role="img" '
        f'aria-label="{html.escape(alt)}" style="height:{height}px"></div>'
    )


def chooser_html(name: str, alt: str, arms: Sequence[str], chosen: int, height: int) -> str:
    """Return the place of a figure with boxes to choose arm and run.

    Args:
        name: Of the block with the choices, less `-data`.
        alt: What is seen.
        arms: To choose from.
        chosen: Which arm is shown first.
        height: In pixels.
    """
    options = "".join(
        f"<option{' selected' if index == chosen else ''}>{html.escape(arm)}</option>"
        for index, arm in enumerate(arms)
    )
    return (
        f'<div data-choices="{name}-data"><div class="choose">'
        f"<label>arm<select>{options}</select></label><label>run<select></select></label></div>"
        f'<div class="plot" role="img" aria-label="{html.escape(alt)}" '
        f'style="height:{height}px"></div></div>'
    )


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
