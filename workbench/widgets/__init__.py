"""Views in notebooks: layer explorer, ablation slider, live run and others.

They read the run store; torch is imported only when a model is asked for something.
"""

from workbench.widgets.ablation import AblationSlider
from workbench.widgets.explorer import LayerExplorer
from workbench.widgets.figure import LiveFigure
from workbench.widgets.galleries import Geometry, RunComparison
from workbench.widgets.live import LiveRun
from workbench.widgets.panel import Panel

__all__ = [
    "AblationSlider",
    "Geometry",
    "LayerExplorer",
    "LiveFigure",
    "LiveRun",
    "Panel",
    "RunComparison",
]
