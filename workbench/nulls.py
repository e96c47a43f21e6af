"""Nulls: what alignments arise when nothing points back.

Each null says what its H0 is, because each is blind to something. None of them sees the shared
endpoint: v_rev and drift both contain −θ_S, for which there is the sibling control.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy import fft, stats
from torch import Tensor

from workbench.directions import ReversionDirections

NullName = Literal["isotropic", "matched"]
GRID = 2**15
CHUNK = 4096


@dataclass(frozen=True)
class Null:
    """The distribution of alignments under one H0, per layer and for the mean over layers."""

    name: NullName
    h0: str
    """The null hypothesis in words."""

    p99: Float[np.ndarray, " layer"]
    """99th percentile of each layer's alignment."""

    aggregate_p99: float
    """99th percentile of the mean over layers; for the isotropic null, its larger extreme."""

    aggregate_p99_independent: float | None = None
    """Isotropic only: the other extreme, layers independent of each other."""

    layer_draws: Float[np.ndarray, "draw layer"] | None = None
    """Simulated alignments, sorted per layer; None where the distribution is exact."""

    aggregate_draws: Float[np.ndarray, " draw"] | None = None
    """Simulated means over layers, sorted."""

    d_model: int | None = None

    def p_value(self, alignment: Float[np.ndarray, " layer"]) -> Float[np.ndarray, " layer"]:
        """Return the one-sided p-value of each layer's alignment; NaN where it is undefined."""
        if self.layer_draws is None:
            assert self.d_model is not None
            p_values = _isotropic(self.d_model).sf((alignment + 1) / 2)
        else:
            p_values = np.array(
                [
                    _exceeding(draws, value)
                    for draws, value in zip(self.layer_draws.T, alignment, strict=True)
                ]
            )
        return np.where(np.isnan(alignment), np.nan, p_values)

    def aggregate_p_value(self, mean_alignment: float) -> float:
        """Return the one-sided p-value of a mean over layers (isotropic: layers fully shared).

        A mean that is undefined has none: NaN.
        """
        if np.isnan(mean_alignment):
            return float("nan")
        if self.aggregate_draws is None:
            assert self.d_model is not None
            return float(_isotropic(self.d_model).sf((mean_alignment + 1) / 2))
        return _exceeding(self.aggregate_draws, mean_alignment)


def isotropic_null(directions: ReversionDirections) -> Null:
    """Return the exact null of a uniformly random drift direction (the paper's).

    (cos + 1)/2 follows Beta((d−1)/2, (d−1)/2). The bar is low, p99 ≈ 2.33/√d: any two vectors that
    share a few outlier dimensions pass it.
    """
    n_layers, d_model = directions.unit.shape
    p99 = 2 * float(_isotropic(d_model).ppf(0.99)) - 1
    return Null(
        name="isotropic",
        h0="the drift of a layer points in a uniformly random direction",
        p99=np.full(n_layers, p99),
        aggregate_p99=p99,
        aggregate_p99_independent=_mean_quantile(d_model, n_layers, 0.99),
        d_model=d_model,
    )


def matched_null(
    directions: ReversionDirections,
    acts: Float[Tensor, "layer prompt d_model"],
    *,
    draws: int = 10_000,
    seed: int = 0,
) -> Null:
    """Return the null of a random drift with the covariance of the activations themselves.

    One draw is Σ_i w_i (h_i − μ) over prompts, with the same Gaussian weights at all layers, so
    that anisotropy and the dependence between layers are kept.

    Args:
        directions: v_rev at the layers of `acts`.
        acts: Activations of the aligned model, on the prompts that drift is measured on.
        draws: Number of simulated drifts.
        seed: Of their weights.
    """
    centred = acts.double() - acts.double().mean(dim=1, keepdim=True)
    along = torch.einsum("lpd,ld->lp", centred, directions.unit)
    gram = centred @ centred.mT
    generator = torch.Generator().manual_seed(seed)
    cosines = []
    for start in range(0, draws, CHUNK):
        size = (min(CHUNK, draws - start), acts.shape[1])
        weights = torch.randn(size, generator=generator, dtype=torch.float64)
        squared = ((weights @ gram) * weights).sum(dim=-1)
        cosines.append((weights @ along.mT / squared.sqrt().T).numpy())
    sample = np.concatenate(cosines)
    return Null(
        name="matched",
        h0="the drift is a random direction with the covariance of the activations over prompts",
        p99=np.quantile(sample, 0.99, axis=0),
        aggregate_p99=float(np.quantile(sample.mean(axis=1), 0.99)),
        layer_draws=np.sort(sample, axis=0),
        aggregate_draws=np.sort(sample.mean(axis=1)),
    )


def _isotropic(d_model: int) -> stats.distributions.rv_frozen:
    return stats.beta((d_model - 1) / 2, (d_model - 1) / 2)


def _mean_quantile(d_model: int, n_layers: int, level: float) -> float:
    """Quantile of the mean of independent isotropic cosines: their density convolved on a grid."""
    if n_layers == 1:
        return 2 * float(_isotropic(d_model).ppf(level)) - 1
    # The mean's standard deviation is 1/sqrt(d·layers): a grid over ±1 would be too coarse.
    reach = min(1.0, 12 / np.sqrt(d_model))
    grid, step = np.linspace(-reach, reach, GRID, retstep=True)
    edges = np.clip((np.append(grid - step / 2, grid[-1] + step / 2) + 1) / 2, 0, 1)
    mass = np.diff(_isotropic(d_model).cdf(edges))
    size = fft.next_fast_len(n_layers * GRID, real=True)
    total = fft.irfft(fft.rfft(mass / mass.sum(), size) ** n_layers, size)
    cumulative = np.cumsum(total[: n_layers * (GRID - 1) + 1])
    position = np.interp(level, cumulative, np.arange(len(cumulative)) + 0.5)
    return float(-reach + position * step / n_layers)


def _exceeding(draws: Float[np.ndarray, " draw"], value: float) -> float:
    """Share of draws at or above `value`, counting the observation itself."""
    at_or_above = len(draws) - np.searchsorted(draws, value, side="left")
    return float(1 + at_or_above) / (1 + len(draws))
