"""Readings: what a run has of one quantity, by step, at a layer or as the mean over layers."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from workbench.errors import ConfigError
from workbench.records import SCORE_NAMES, cosine, mean_defined
from workbench.runs import Run
from workbench.surroundings import Surroundings, surroundings_of

BY_LAYER = ("alignment", "alignment_sibling", "along", "across", "norm")
"""Quantities that every layer has."""

STORED_AS = {"alignment": "mean_alignment", "stacked_alignment": "stacked_alignment"}
QUANTITIES = (*BY_LAYER, "stacked_alignment", "loss", *SCORE_NAMES)

Told = tuple[float | None, float | None, float | None]
"""A value and the ends of its 95 % interval over prompts, None where it has none."""


class Snapshot(Run):
    """A run as it was when first read: however many figures show it, each file is read once.

    Args:
        run: Which.
        around: What its drift is seen against.
    """

    def __init__(self, run: Run, around: Surroundings) -> None:
        super().__init__(run.folder)
        self.around = around
        self.lines = run.lines
        self._info = run.info
        self._measured = [line for line in self.lines if "drift" in line]
        self._by_layer: dict[str, Float[np.ndarray, "step layer"]] = {}

    @property
    def info(self) -> dict[str, Any]:
        """What run.json said."""
        return self._info

    @property
    def measured(self) -> list[dict[str, Any]]:
        """The records with a drift."""
        return self._measured

    def layer_values(self, name: str) -> Float[np.ndarray, "step layer"]:
        """Return what a run has at layers, or `alignment_sibling` where there is a sibling."""
        if name not in self._by_layer:
            own = super().layer_values
            self._by_layer[name] = self._sibling() if name == "alignment_sibling" else own(name)
        return self._by_layer[name]

    @property
    def layers(self) -> tuple[int, ...] | None:
        """The layers of the model that the rows of its drift belong to; None if nothing fits.

        As v_rev beside the run says, or its config; all from 0 on where neither says anything.
        """
        n_rows = self.layer_values("alignment").shape[1]
        every = (self.around.layers, self.info.get("config", {}).get("layers"))
        told = [tuple(layers) for layers in every if layers is not None] or [tuple(range(n_rows))]
        return next((layers for layers in told if len(layers) == n_rows), None)

    def row(self, layer: int) -> int:
        """Return which row of its drift is of a layer of the model.

        Raises:
            ConfigError: If none is.
        """
        layers = self.layers
        if layers is None:
            raise ConfigError(
                f"{self.folder}: v_rev beside this run has other layers than its drift; which "
                "ones those are is not known."
            )
        if layer not in layers:
            told = ", ".join(map(str, layers))
            raise ConfigError(f"{self.folder}: no layer {layer} here; there are {told}.")
        return layers.index(layer)

    def _sibling(self) -> Float[np.ndarray, "step layer"]:
        """The cosine with the sibling's direction, where the alignment itself is defined."""
        alignment = self.layer_values("alignment")
        if self.around.sibling is None:
            return np.full_like(alignment, np.nan)
        own = cosine(self.drift(), self.around.sibling)
        return np.where(np.isnan(alignment), np.nan, own)


def snapshots(runs: Sequence[Run]) -> tuple[Snapshot, ...]:
    """Return runs as they are now; those that are snapshots already stay what they are."""
    fresh = [run for run in runs if not isinstance(run, Snapshot)]
    taken = iter([Snapshot(*each) for each in zip(fresh, surroundings_of(fresh), strict=True)])
    return tuple(run if isinstance(run, Snapshot) else next(taken) for run in runs)


def common_layers(runs: Sequence[Snapshot]) -> list[int]:
    """Return the layers of the model at which all runs that were measured were; in order."""
    told = [{*(run.layers or ())} for run in runs if run.measured]
    return sorted(set.intersection(*told)) if told else []


def read_values(run: Snapshot, quantity: str, layer: int | None = None) -> dict[int, Told]:
    """Return a quantity of a run at the steps that have it.

    Args:
        run: Of which.
        quantity: One of `QUANTITIES`.
        layer: Of the model; by default the mean over layers.

    Raises:
        ConfigError: If a run cannot have the quantity, or has no such layer.
    """
    if quantity not in QUANTITIES:
        raise ConfigError(f"A run has no {quantity!r}; it has {', '.join(QUANTITIES)}.")
    if layer is not None and quantity not in BY_LAYER:
        raise ConfigError(f"{quantity} has no layers; {', '.join(BY_LAYER)} have.")
    if quantity in SCORE_NAMES:
        told = {step: scores[quantity] for step, scores in run.scores().items()}
        return {step: (one["value"], one["low"], one["high"]) for step, one in told.items()}
    if quantity == "loss":
        losses = {line["step"]: line["loss"] for line in run.lines}
        return {step: (loss, None, None) for step, loss in losses.items() if loss is not None}
    if not run.measured or (quantity == "alignment_sibling" and run.around.sibling is None):
        return {}
    steps = run.measured_steps
    if layer is not None:
        return _at_layer(run, quantity, run.row(layer), steps)
    if quantity in STORED_AS:
        values = [line["drift"][STORED_AS[quantity]] for line in run.measured]
    else:
        values = mean_defined(run.layer_values(quantity)).tolist()
    return {step: (value, None, None) for step, value in zip(steps.tolist(), values, strict=True)}


def _at_layer(
    run: Snapshot, quantity: str, row: int, steps: Int[np.ndarray, " step"]
) -> dict[int, Told]:
    values = run.layer_values(quantity)[:, row]
    low = high = np.full(len(values), np.nan)
    if quantity == "alignment":
        low, high = (run.layer_values(end)[:, row] for end in ("low", "high"))
    return dict(zip(steps.tolist(), _triples(values, low, high), strict=True))


def _triples(*columns: Float[np.ndarray, " step"]) -> list[Told]:
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [(_known(value), _known(low), _known(high)) for value, low, high in rows]


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
