"""Views in notebooks: layer explorer, ablation slider, live run and others.

They read the run store; torch is imported only when a model is asked for something.
"""

from workbench.widgets.explorer import LayerExplorer
from workbench.widgets.panel import Panel

__all__ = ["LayerExplorer", "Panel"]
