"""The layer explorer in a notebook."""

from workbench.plots.explorer import explorer
from workbench.plots.material import Origin, gather
from workbench.widgets.panel import Panel


class LayerExplorer(Panel):
    """Alignment of every layer and step, and what lies behind a single cell.

    Choose arm and seed; a click on the map, the number box or the slider chooses a cell. Look for
    layers that stay red beyond the dots (below the matched null): a map of dots refutes the claim.

    Args:
        source: Folder of an experiment or run, a run, or several.

    Raises:
        RunError: If there is no experiment or run, or it cannot be read.
        ConfigError: If no run was measured, or the runs differ in depth.
    """

    def __init__(self, source: Origin) -> None:
        material = gather(source)
        super().__init__(explorer(material.runs, material.surroundings))
