"""Figures of runs and experiments: records in, `plotly.graph_objects.Figure` out.

Nothing here writes a file, except `report.write_report`, or imports torch.
"""

from workbench.plots.alignment import alignment, sibling
from workbench.plots.behaviour import behaviour
from workbench.plots.dose import dose
from workbench.plots.heatmap import heatmap
from workbench.plots.layers import layers
from workbench.plots.ordering import cost, ordering
from workbench.plots.significance import significance
from workbench.plots.style import CONFIG
from workbench.plots.tradeoff import tradeoff

__all__ = [
    "CONFIG",
    "alignment",
    "behaviour",
    "cost",
    "dose",
    "heatmap",
    "layers",
    "ordering",
    "sibling",
    "significance",
    "tradeoff",
]
