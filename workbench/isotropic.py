"""The exact distribution of the cosine between a uniformly random direction and a fixed one.

(cos + 1)/2 follows Beta((d−1)/2, (d−1)/2).
"""

from functools import cache
from typing import cast

import numpy as np
from jaxtyping import Float
from scipy import fft, special

GRID = 2**15


def isotropic_tail(
    alignment: Float[np.ndarray, "*any"] | float, d_model: int
) -> Float[np.ndarray, "*any"]:
    """Return the probability of a cosine at or above `alignment`; NaN for NaN."""
    half = (d_model - 1) / 2
    # A cosine may round to a little over 1.
    return np.asarray(special.betainc(half, half, np.clip((1 - np.asarray(alignment)) / 2, 0, 1)))


def isotropic_quantile(d_model: int, level: float) -> float:
    """Return the cosine that a share `level` of random directions stays below."""
    half = (d_model - 1) / 2
    return 2 * float(special.betaincinv(half, half, level)) - 1


@cache
def isotropic_mean_quantile(d_model: int, n_layers: int, level: float) -> float:
    """Return that quantile for the mean over layers whose directions are independent.

    The density of one layer is convolved with itself on a grid.
    """
    if n_layers == 1:
        return isotropic_quantile(d_model, level)
    # The mean's standard deviation is 1/sqrt(d·layers): a grid over ±1 would be too coarse.
    reach = min(1.0, 12 / np.sqrt(d_model))
    grid, step = np.linspace(-reach, reach, GRID, retstep=True)
    edges = np.append(grid - step / 2, grid[-1] + step / 2)
    mass = -np.diff(isotropic_tail(edges, d_model))
    size = fft.next_fast_len(n_layers * GRID, real=True)
    # scipy.fft declares no types; what a checker infers is how it dispatches.
    spectrum = cast(np.ndarray, fft.rfft(mass / mass.sum(), size))
    total = cast(np.ndarray, fft.irfft(spectrum**n_layers, size))
    cumulative = np.cumsum(total[: n_layers * (GRID - 1) + 1])
    position = np.interp(level, cumulative, np.arange(len(cumulative)) + 0.5)
    return float(-reach + position * step / n_layers)
