"""Figures of runs and experiments: records in, `plotly.graph_objects.Figure` out.

Nothing here imports torch, or writes a file, except `report` and `paper`, the figures for print.
"""

from workbench.plots.ablation import ablation
from workbench.plots.alignment import alignment, sibling
from workbench.plots.behaviour import behaviour
from workbench.plots.compare import compare, comparison_table
from workbench.plots.course import course
from workbench.plots.dose import dose
from workbench.plots.geometry import geometry
from workbench.plots.heatmap import heatmap
from workbench.plots.layers import layers
from workbench.plots.local import CONFIG
from workbench.plots.ordering import cost, ordering
from workbench.plots.significance import significance
from workbench.plots.tradeoff import tradeoff

__all__ = [
    "CONFIG",
    "ablation",
    "alignment",
    "behaviour",
    "compare",
    "comparison_table",
    "cost",
    "course",
    "dose",
    "geometry",
    "heatmap",
    "layers",
    "ordering",
    "sibling",
    "significance",
    "tradeoff",
]
