"""Layer values of runs at shown steps, as tables of a view."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from workbench.plots.heatmap import by_column, zero_contour
from workbench.runs import Run
from workbench.surroundings import Surroundings

NOTHING = Surroundings()


class LayerValues:
    """Values of runs at the shown steps; NaN where a run was not measured.

    Args:
        steps: That are shown.
        n_layers: Of every run.
        known: By run, what its drift is seen against.
    """

    def __init__(
        self, steps: Sequence[int], n_layers: int, known: Mapping[Path, Surroundings]
    ) -> None:
        self.steps, self.n_layers, self.known = steps, n_layers, known

    def array(self, run: Run, name: str) -> Float[np.ndarray, "layer step"]:
        """Values by layer and shown step; NaN where there is none."""
        return by_column(run, name, self.steps).T

    def values(self, run: Run, name: str) -> list[list[float]]:
        """The same as lists."""
        return self.array(run, name).tolist()

    def bound(self, run: Run) -> list[float] | None:
        """The null's p99 of every layer."""
        p99 = self.known.get(run.folder, NOTHING).p99
        return p99.tolist() if p99 is not None and len(p99) == self.n_layers else None

    def marks(self) -> dict[str, Callable[[Run], Any]]:
        """What is drawn over the heat map and behind the curve, by table."""
        return {
            "zero_x": lambda run: zero_contour(self.array(run, "alignment").T)[0],
            "zero_y": lambda run: zero_contour(self.array(run, "alignment").T)[1],
            "undefined_x": lambda run: self._where(run, "undefined")[1],
            "undefined_y": lambda run: self._where(run, "undefined")[0],
            "null_x": lambda run: self._where(run, "null")[1],
            "null_y": lambda run: self._where(run, "null")[0],
            "null_band": self._null_band,
        }

    def _where(self, run: Run, which: str) -> tuple[list[int], list[int]]:
        values = self.array(run, "alignment")
        if which == "undefined":
            measured = np.isin(self.steps, run.measured_steps)
            marked = np.isnan(values) & measured
        else:
            bound = self.bound(run)
            marked = np.zeros_like(values, bool) if bound is None else np.array(bound) >= values.T
            marked = marked if bound is None else marked.T
        layers, columns = np.nonzero(marked)
        return layers.tolist(), columns.tolist()

    def _null_band(self, run: Run) -> list[list[float]]:
        bound = self.bound(run)
        return [[p, p, -p, -p] for p in bound] if bound is not None else [[]] * self.n_layers
