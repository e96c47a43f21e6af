"""Significance: in how many runs each layer's alignment is beyond a null, after Holm."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from workbench.errors import ConfigError
from workbench.plots.style import STEP_TITLE, UNDEFINED, counted, inert, new_figure
from workbench.plots.typeset import Table
from workbench.text import printable

ARM = "ordinary"
TABLE_ARMS = ("ordinary", "block", "push")
NAMES = {"sign_flip": "sign flip"}
MAX_LABELS = 8
"""Of the steps under one panel."""

SHARE_COLOURS = {
    "colorscale": "Blues",
    "cmin": 0,
    "cmax": 100,
    "colorbar": {
        "title": {"text": "% of runs", "side": "top", "font": {"size": 12}},
        "thickness": 12,
        "outlinewidth": 0,
    },
}


def significance(summary: Mapping[str, Any]) -> go.Figure:
    """Plot, per null, the share of ordinary runs whose alignment is significant after Holm.

    One cell per layer and measured step. Runs whose draws cannot resolve the level are left out;
    cells that no run has a p-value for are grey.

    Args:
        summary: Of an experiment that has `significance`.

    Raises:
        ConfigError: If no ordinary run was tested with enough draws.
    """
    told = summary.get("significance") or {}
    runs = _runs_of(summary, ARM)
    names = list(dict.fromkeys(name for run in runs for name in run["nulls"]))
    if not any(_resolved(runs, name) for name in names):
        raise ConfigError("No significance here: no ordinary run was tested with enough draws.")
    resolved = " or ".join(str(n) for n in sorted({len(_resolved(runs, name)) for name in names}))
    spread = f"n = {resolved} of {counted(len(runs), 'run')}"
    figure = new_figure(
        "Ordinary fine-tuning against the nulls",
        f"share of runs that are rejected: Holm-adjusted p ≤ {told['alpha']:g}, {spread}",
        height=380,
    )
    figure.update_layout(meta={"spread": spread})
    titles = [
        f"{inert(NAMES.get(name, name))} null"
        + ("" if _resolved(runs, name) else ": resolution too low")
        for name in names
    ]
    figure.set_subplots(
        1, len(names), subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.03
    )
    n_steps = n_layers = 0
    for column, name in enumerate(names, start=1):
        tested, rejected = _counts(runs, name, told["alpha"])
        n_steps, n_layers = tested.shape
        figure.add_heatmap(**_cells(tested, rejected), row=1, col=column)
    _set_axes(figure, _steps(summary, n_steps), n_layers)
    return figure


def significance_table(summary: Mapping[str, Any]) -> Table | None:
    """Return per null its H0 in words and how many tests it rejects, arm by arm."""
    told = summary.get("significance") or {}
    by_arm = {arm: found for arm in TABLE_ARMS if (found := _runs_of(summary, arm))}
    nulls = {
        name: null["h0"]
        for found in by_arm.values()
        for run in found
        for name, null in run["nulls"].items()
    }
    if not nulls:
        return None
    rows = []
    for name, h0 in nulls.items():
        cells = [cell for runs in by_arm.values() for cell in _rejections(runs, name, told)]
        rows.append((printable(NAMES.get(name, name)), printable(h0), *cells))
    header = [f"{arm}: {what}" for arm in by_arm for what in ("layers × steps", "mean over layers")]
    caption = f"Rejected at α = {told['alpha']:g} after Holm"
    return Table(caption, ("null", "H0", *header), tuple(rows))


def family_told(summary: Mapping[str, Any]) -> str:
    """Return over which tests Holm was taken, and how many runs could not be resolved."""
    told = summary["significance"]
    runs = list(told["runs"].values())
    too_low = {
        name: len(runs) - len(_resolved(runs, name))
        for name in dict.fromkeys(name for run in runs for name in run["nulls"])
    }
    text = f"Holm is over {told['family']} ({told['tests']} tests), {told['draws']:,} draws."
    if any(too_low.values()):
        where = ", ".join(
            f"{NAMES.get(name, name)} null in {n} of {counted(len(runs), 'run')}"
            for name, n in too_low.items()
            if n
        )
        text += (
            f" Resolution too low: {where}; there are too few draws, or prompts to draw from, for "
            "so many tests, so nothing is claimed from them."
        )
    return text


def _runs_of(summary: Mapping[str, Any], arm: str) -> list[Mapping[str, Any]]:
    runs = (summary.get("significance") or {}).get("runs") or {}
    members = (summary["arms"].get(arm) or {}).get("runs") or ()
    return [runs[run_id] for run_id in members if run_id in runs]


def _resolved(runs: Sequence[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    """A null's results in the runs in which it can resolve the level."""
    held = [(run, run["nulls"][name]) for run in runs if name in run["nulls"]]
    return [null for run, null in held if null.get("resolution", run["resolution"]) == "ok"]


def _counts(
    runs: Sequence[Mapping[str, Any]], name: str, alpha: float
) -> tuple[Float[np.ndarray, "step layer"], Float[np.ndarray, "step layer"]]:
    """In how many runs a cell has a p-value, and in how many it is rejected at alpha after Holm."""
    resolved = _resolved(runs, name)
    if not resolved:
        every = np.array([run["nulls"][name]["holm"] for run in runs[:1]], dtype=float)
        return np.zeros(every.shape[1:]), np.zeros(every.shape[1:])
    adjusted = np.array([null["holm"] for null in resolved], dtype=float)
    tested = np.isfinite(adjusted).sum(axis=0).astype(float)
    return tested, (adjusted <= alpha).sum(axis=0).astype(float)


def _cells(
    tested: Float[np.ndarray, "step layer"], rejected: Float[np.ndarray, "step layer"]
) -> dict[str, Any]:
    share = np.where(tested > 0, 100 * rejected / np.maximum(tested, 1), np.nan)
    return {
        "z": [[None if np.isnan(value) else float(value) for value in row] for row in share.T],
        "customdata": np.stack([rejected.T, tested.T], axis=-1).astype(int).tolist(),
        "coloraxis": "coloraxis",
        "hoverongaps": False,
        "xgap": 1,
        "ygap": 1,
        "hovertemplate": "layer %{y}, step %{x}: rejected in %{customdata[0]} of %{customdata[1]} "
        "runs<extra></extra>",
        "meta": "share",
    }


def _steps(summary: Mapping[str, Any], n_steps: int) -> list[str]:
    """The measured steps; their places if the summary tells another number of them."""
    steps: list[str] = sorted(summary["arms"][ARM].get("alignment") or (), key=int)
    return steps if len(steps) == n_steps else [f"#{index + 1}" for index in range(n_steps)]


def _set_axes(figure: go.Figure, steps: Sequence[str], n_layers: int) -> None:
    n_labels = min(len(steps), MAX_LABELS)
    labelled = np.unique(np.linspace(0, len(steps) - 1, n_labels).round().astype(int)).tolist()
    figure.update_xaxes(
        title_text=f"{STEP_TITLE} (measured ones)",
        tickvals=labelled,
        ticktext=[steps[index] for index in labelled],
        range=[-0.5, len(steps) - 0.5],
        showgrid=False,
        tickangle=0,
    )
    every = max(1, -(-n_layers // 16))
    figure.update_yaxes(
        tickvals=list(range(0, n_layers, every)), range=[-0.5, n_layers - 0.5], showgrid=False
    )
    figure.update_yaxes(title_text="layer", col=1)
    figure.update_annotations(font_size=13)
    figure.update_layout(coloraxis=SHARE_COLOURS, plot_bgcolor=UNDEFINED, margin_t=92)


def _rejections(
    runs: Sequence[Mapping[str, Any]], name: str, told: Mapping[str, Any]
) -> tuple[str, str]:
    """Rejected layer × step tests, and rejected tests of the mean over layers."""
    resolved = _resolved(runs, name)
    if not resolved:
        return "resolution too low", "resolution too low"
    aggregate = np.array([null["holm_aggregate"] for null in resolved], dtype=float)
    rejected, of = (sum(null[key] for null in resolved) for key in ("rejected", "of"))
    means = f"{int((aggregate <= told['alpha']).sum())} of {int(np.isfinite(aggregate).sum())}"
    return f"{rejected} of {of}", means
