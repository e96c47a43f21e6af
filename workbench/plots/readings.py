"""Readings: what a run has of one quantity, by step, at a layer or as the mean over layers."""

import math

import numpy as np
from jaxtyping import Float

from workbench.errors import ConfigError
from workbench.records import SCORE_NAMES, cosine, mean_cosine, mean_defined
from workbench.runs import Run
from workbench.surroundings import Surroundings

BY_LAYER = ("alignment", "alignment_sibling", "along", "across", "norm")
"""Quantities that every layer has."""

STORED_AS = {"alignment": "mean_alignment", "stacked_alignment": "stacked_alignment"}
QUANTITIES = (*BY_LAYER, "stacked_alignment", "loss", *SCORE_NAMES)

Told = tuple[float | None, float | None, float | None]
"""A value and the ends of its 95 % interval over prompts, None where it has none."""


def read_values(
    run: Run, quantity: str, around: Surroundings, layer: int | None = None
) -> dict[int, Told]:
    """Return a quantity of a run at the steps that have it.

    Args:
        run: Of which.
        quantity: One of `QUANTITIES`.
        around: The run's surroundings.
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
    if not run.measured:
        return {}
    if layer is not None:
        return _at_layer(run, quantity, around, layer)
    return {step: (value, None, None) for step, value in _over_layers(run, quantity, around)}


def _over_layers(run: Run, quantity: str, around: Surroundings) -> list[tuple[int, float | None]]:
    steps = run.measured_steps.tolist()
    if quantity in STORED_AS:
        values = [line["drift"][STORED_AS[quantity]] for line in run.measured]
    elif quantity == "alignment_sibling":
        if around.sibling is None:
            return []
        values = mean_cosine(run.drift(), around.sibling, run.layer_values("alignment"))
    else:
        values = mean_defined(run.layer_values(quantity)).tolist()
    return list(zip(steps, values, strict=True))


def _at_layer(run: Run, quantity: str, around: Surroundings, layer: int) -> dict[int, Told]:
    alignment = run.layer_values("alignment")
    layers = around.layers or tuple(range(alignment.shape[1]))
    if layer not in layers or len(layers) != alignment.shape[1]:
        told = ", ".join(map(str, layers))
        raise ConfigError(f"{run.folder}: no layer {layer} here; there are {told}.")
    row = layers.index(layer)
    unknown = np.full(len(alignment), np.nan)
    low = high = unknown
    if quantity == "alignment_sibling":
        if around.sibling is None:
            return {}
        own = cosine(run.drift(), around.sibling)[:, row]
        values = np.where(np.isnan(alignment[:, row]), np.nan, own)
    else:
        values = run.layer_values(quantity)[:, row]
    if quantity == "alignment":
        low, high = (run.layer_values(end)[:, row] for end in ("low", "high"))
    steps = run.measured_steps.tolist()
    return dict(zip(steps, _triples(values, low, high), strict=True))


def _triples(*columns: Float[np.ndarray, " step"]) -> list[Told]:
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [(_known(value), _known(low), _known(high)) for value, low, high in rows]


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
