"""What is measured at one fine-tuning step, as numpy: where tensors end.

`StepRecord`, `Drift` and `Scores` are what a run stores and a plot shows. Nothing here imports
torch, so that an old run opens at once.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from jaxtyping import Float

Array = np.ndarray

FLOOR_FACTOR = 10.0
"""A displacement below this many noise floors has no measured direction."""


def cosine(
    vector: Float[Array, "*step layer d_model"], unit: Float[Array, "layer d_model"]
) -> Float[Array, "*step layer"]:
    """Return the cosine between each layer's vector and the unit vector of that layer.

    A zero vector has no direction: its cosine is NaN.
    """
    vector = vector.astype(np.float64)
    norm = np.linalg.norm(vector, axis=-1)
    product = np.einsum("...ld,ld->...l", vector, unit.astype(np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(norm > 0, product / norm, np.nan)


def mean_defined(values: Float[Array, "*step layer"]) -> Float[Array, "*step"]:
    """Return the mean over layers that leaves undefined (NaN) layers out; NaN if none is left."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=-1)
    total = np.where(defined, values, 0.0).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(count > 0, total / count, np.nan))


def mean_cosine(
    vector: Float[Array, "step layer d_model"],
    unit: Float[Array, "layer d_model"],
    alignment: Float[Array, "step layer"],
) -> list[float | None]:
    """Return the mean over layers of the cosine with other unit vectors, at every step.

    Layers whose `alignment` is undefined (NaN) are left out: their drift has no direction.
    """
    return mean_defined(np.where(np.isnan(alignment), np.nan, cosine(vector, unit))).tolist()


@dataclass(frozen=True)
class Drift:
    """Mean displacement of the residual stream from the aligned model, per layer.

    Lengths are in phase gaps of the layer: 1 is the whole way back to the witness. A layer whose
    displacement is below ten times the noise floor has no measured direction: its alignment and
    interval are NaN, and aggregates leave it out.
    """

    vector: Float[Array, "layer d_model"]
    """Displacement in residual-stream units."""

    alignment: Float[Array, " layer"]
    """Cosine with the reversion direction, −1 to 1; NaN where undefined."""

    along: Float[Array, " layer"]
    """Signed part along the direction, in phase gaps; positive is towards the witness."""

    across: Float[Array, " layer"]
    """Norm of the part orthogonal to the direction, in phase gaps."""

    norm: Float[Array, " layer"]
    """Norm of the displacement, in residual-stream units."""

    interval: Float[Array, "layer 2"]
    """95 % bootstrap interval of the alignment over prompts."""

    projections: Float[Array, "layer prompt"]
    """Every prompt's own displacement along the direction, in phase gaps."""

    floor: Float[Array, " layer"]
    """Noise floor: what the aligned model differs from itself by, read in two batch shapes."""

    @property
    def mean_alignment(self) -> float:
        """Mean of the layers' alignments, the aggregate that the paper's numbers stand beside."""
        return float(mean_defined(self.alignment))

    @property
    def stacked_alignment(self) -> float:
        """Cosine of the defined layers stacked in gap units, in which late ones do not dominate."""
        defined = ~np.isnan(self.alignment)
        along, across = self.along[defined], self.across[defined]
        length = math.sqrt(float(np.sum(along**2 + across**2)) * len(along))
        return float(along.sum()) / length if length else math.nan

    @property
    def undefined(self) -> int:
        """Number of layers whose alignment is undefined."""
        return int(np.isnan(self.alignment).sum())


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval and the count of prompts behind it."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Scores:
    """Behaviour of a model on held-out prompts; intervals are bootstrapped over prompt clusters."""

    harmfulness: Estimate
    """Share of harmful prompts complied with, 0 to 1."""

    broken: Estimate
    """Share of harmful prompts answered with neither a refusal nor a usable answer, 0 to 1."""

    refusal_log_odds: Estimate
    """Log-odds of opening with a refusal on harmful prompts, in nats."""

    over_refusal: Estimate
    """Share of benign prompts refused, 0 to 1."""

    task_loss: Estimate
    """Mean cross-entropy of the held-out task responses, in nats per token."""

    perplexity: Estimate
    """Exponential of the task loss."""

    kl: Estimate
    """KL divergence from the aligned model on benign responses, in nats per token."""

    def __getitem__(self, name: str) -> Estimate:
        """Return the score called `name`."""
        return getattr(self, name)


SCORE_NAMES = tuple(field.name for field in fields(Scores))


@dataclass(frozen=True)
class Auxiliary:
    """What one auxiliary loss did at a step."""

    loss: float
    """Value of the loss, strength included."""

    gradient_norm: float
    """Norm of its gradient before scaling."""

    scale: float
    """Factor that the gradient was applied with; 1 unless a control is matched to a trace."""


@dataclass(frozen=True)
class StepRecord:
    """What happened at one fine-tuning step; step 1 is the state after the first update."""

    step: int
    loss: float
    """Training loss of the batch before the update, in nats per response token."""

    learning_rate: float
    gradient_norm: float
    """Norm of the whole gradient before clipping."""

    auxiliary: Mapping[str, Auxiliary] = field(default_factory=dict)
    drift: Drift | None = None
    scores: Scores | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what `records.jsonl` keeps of this record: the scalars, not the vectors."""
        line: dict[str, Any] = {
            "step": self.step,
            "loss": _number(self.loss),
            "learning_rate": self.learning_rate,
            "gradient_norm": _number(self.gradient_norm),
        }
        if self.auxiliary:
            line["auxiliary"] = {
                name: {key: _number(value) for key, value in vars(told).items()}
                for name, told in self.auxiliary.items()
            }
        if self.drift is not None:
            drift = self.drift
            line["drift"] = {
                "mean_alignment": _number(drift.mean_alignment),
                "stacked_alignment": _number(drift.stacked_alignment),
                "alignment": _numbers(drift.alignment),
                "low": _numbers(drift.interval[:, 0]),
                "high": _numbers(drift.interval[:, 1]),
                "along": _numbers(drift.along),
                "across": _numbers(drift.across),
                "norm": _numbers(drift.norm),
                "undefined": drift.undefined,
            }
        if self.scores is not None:
            line["scores"] = scores_to_json(self.scores)
        return line


def scores_to_json(scores: Scores) -> dict[str, Any]:
    """Return the scores as plain JSON values."""
    return {
        name: {key: _number(value) for key, value in vars(scores[name]).items()}
        for name in SCORE_NAMES
    }


def scores_from_json(data: Mapping[str, Mapping[str, Any]]) -> Scores:
    """Rebuild the scores that `scores_to_json` wrote."""
    return Scores(
        **{
            name: Estimate(
                *(
                    math.nan if data[name][key] is None else data[name][key]
                    for key in ("value", "low", "high")
                ),
                n=data[name]["n"],
            )
            for name in SCORE_NAMES
        }
    )


def _number(value: float | int) -> float | int | None:
    """JSON has no NaN: undefined is null."""
    return value if isinstance(value, int) or math.isfinite(value) else None


def _numbers(values: Array) -> list[float | int | None]:
    return [_number(float(value)) for value in values]
