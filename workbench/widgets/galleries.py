"""The comparison of runs and their geometry, in a notebook."""

from workbench.plots.galleries import comparison, plane
from workbench.plots.sources import RunSource
from workbench.widgets.panel import Panel


class RunComparison(Panel):
    """Arms and seeds over the steps: choose the quantity, and a layer or the mean over layers.

    Look at single runs, not only at means: that an arm matters is refuted by runs of its own that
    lie among those of ordinary fine-tuning.

    Args:
        source: A run, several, an experiment's result, or the folder of a run or experiment.

    Raises:
        ConfigError: If no run was measured.
        RunError: If there is no run, or a file cannot be read.
    """

    def __init__(self, source: RunSource) -> None:
        super().__init__(comparison(source))


class Geometry(Panel):
    """The path pretrained → helpful → aligned → fine-tuned, in the plane of v_rev and across it.

    The claim is refuted by runs of ordinary fine-tuning that end left of the aligned model, or go
    off at a right angle to v_rev.

    Args:
        source: A run, several, an experiment's result, or the folder of a run or experiment.

    Raises:
        ConfigError: If nothing was measured, or v_rev is not stored.
        RunError: If there is no run, or a file cannot be read.
    """

    def __init__(self, source: RunSource) -> None:
        super().__init__(plane(source))
