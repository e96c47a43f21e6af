"""Calibration: how often each null rejects in worlds where the truth is planted.

A null is calibrated if it rejects at its nominal rate in the world of its own H0. What it does in
the other worlds says what a rejection does *not* mean.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import special

from workbench.errors import ConfigError
from workbench.nulls import PValues, isotropic_null, matched_null, sign_flip
from workbench.significance import holm
from workbench.worlds import WORLDS, Size, Trial

NULLS = ("isotropic", "matched", "sign_flip")
CLAIMS = ("layer", "mean", "any")
"""One layer, the mean over layers, any layer after Holm over the layers."""

DRAWS = 399
"""With (draws + 1)·α a whole number a simulated p-value is at most α exactly at rate α."""


@dataclass(frozen=True)
class Calibration:
    """Rejections of every null in every planted world."""

    worlds: tuple[str, ...]
    h0: tuple[str, ...]
    """H0 of each null of `NULLS`, in words."""

    simulations: int
    seed: int
    alpha: float
    size: Size
    counts: Int[np.ndarray, "world null claim"]
    """How many simulations reject at `alpha`, for each of `NULLS` and `CLAIMS`."""

    alignment: Float[np.ndarray, "world simulation"]
    """Alignment of drift and v_rev, mean over layers."""

    @property
    def rates(self) -> Float[np.ndarray, "world null claim"]:
        """Share of simulations that reject, 0 to 1."""
        return self.counts / self.simulations

    @property
    def interval(self) -> Float[np.ndarray, "world null claim 2"]:
        """95 % interval of each rate (Clopper and Pearson's, exact for a binomial count)."""
        return binomial_interval(self.counts, self.simulations)

    @property
    def mean_alignment(self) -> Float[np.ndarray, " world"]:
        """Mean alignment over simulations."""
        return self.alignment.mean(axis=1)

    @property
    def sd_alignment(self) -> Float[np.ndarray, " world"]:
        """Standard deviation of the alignment between simulations."""
        return self.alignment.std(axis=1, ddof=1)


def calibrate(
    simulations: int = 2000,
    *,
    seed: int = 0,
    alpha: float = 0.01,
    size: Size | None = None,
    worlds: tuple[str, ...] = tuple(WORLDS),
    tell: Callable[[str], None] | None = None,
) -> Calibration:
    """Simulate lineages in every planted world and count what each null rejects.

    Args:
        simulations: Independent lineages per world.
        seed: Of the lineages and of the nulls' draws; another seed gives other lineages.
        alpha: Level of a claim.
        size: Layers, prompts and width of a lineage.
        worlds: Names of the worlds to simulate; by default all.
        tell: Told the name of each world before it is simulated.

    Raises:
        ConfigError: If there are fewer than 2 simulations, a negative seed, an unknown world, or
            too many layers for that level.
    """
    _check(simulations, seed, worlds)
    size = size or Size()
    if (DRAWS + 1) * alpha < size.layers:
        raise ConfigError(
            f"{DRAWS} draws cannot resolve {size.layers} layers at a level of {alpha}; "
            "take fewer layers or a higher level."
        )
    counts, alignments, tested = [], [], ()
    for name in worlds:
        if tell is not None:
            tell(name)
        generator = np.random.default_rng([seed, list(WORLDS).index(name)])
        p_values = np.empty((simulations, len(NULLS), len(CLAIMS)))
        alignment = np.empty(simulations)
        for index in range(simulations):
            trial = WORLDS[name].make(size, generator)
            tested = _tested(trial, generator)
            p_values[index] = [_claims(null) for null in tested]
            alignment[index] = trial.alignment.mean()
        counts.append((p_values <= alpha).sum(axis=0))
        alignments.append(alignment)
    return Calibration(
        worlds=worlds,
        h0=tuple(null.h0 for null in tested),
        simulations=simulations,
        seed=seed,
        alpha=alpha,
        size=size,
        counts=np.stack(counts),
        alignment=np.stack(alignments),
    )


def binomial_interval(
    counts: Int[np.ndarray, "*shape"], trials: int, level: float = 0.95
) -> Float[np.ndarray, "*shape 2"]:
    """Return the exact two-sided interval of a rate from `counts` of `trials`."""
    beyond = (1 - level) / 2
    low = special.betaincinv(np.maximum(counts, 1), trials - counts + 1, beyond)
    high = special.betaincinv(counts + 1, np.maximum(trials - counts, 1), 1 - beyond)
    low, high = np.where(counts == 0, 0.0, low), np.where(counts == trials, 1.0, high)
    return np.stack([low, high], axis=-1)


def table_text(calibration: Calibration) -> str:
    """Return the rejection rates as a table in plain text, and what each null tests."""
    width = max(len(world) for world in calibration.worlds)
    lines = [
        f"Rejections in % of {calibration.simulations} simulated lineages per world, at "
        f"{100 * calibration.alpha:g} % (seed {calibration.seed}).",
        f"Under each null: {', '.join(CLAIMS[:-1])}, {CLAIMS[-1]} layer after Holm.",
        "",
        f"{'':{width}}  {'alignment':13}" + "".join(f"  {null:^17}" for null in NULLS),
    ]
    for world, name in enumerate(calibration.worlds):
        mean, sd = calibration.mean_alignment[world], calibration.sd_alignment[world]
        cells = f"{name:{width}}  {mean:+.2f} ± {sd:.2f} "
        for null, rates in zip(NULLS, 100 * calibration.rates[world], strict=True):
            own = "*" if null == WORLDS[name].own_of else " "
            cells += "  " + " ".join(f"{rate:5.1f}" for rate in rates) + own
        lines.append(cells.rstrip())
    low, high = 100 * binomial_interval(
        np.array(round(calibration.alpha * calibration.simulations)), calibration.simulations
    )
    lines += [
        "",
        f"* a world of the null's own H0: {100 * calibration.alpha:g} % is expected, "
        f"{low:.1f} to {high:.1f} % is chance (isotropic: a mean is tested as if layers were one)",
        *(f"H0 {null}: {h0}" for null, h0 in zip(NULLS, calibration.h0, strict=True)),
        *(f"{name}: {WORLDS[name].about}" for name in calibration.worlds),
    ]
    return "\n".join(lines)


def to_json(calibration: Calibration) -> dict[str, Any]:
    """Return a calibration as plain JSON values, by world, null and claim."""
    rates, interval = calibration.rates, calibration.interval
    worlds = {
        name: {
            "about": WORLDS[name].about,
            "own_of": WORLDS[name].own_of,
            "alignment": {
                "mean": float(calibration.mean_alignment[world]),
                "sd": float(calibration.sd_alignment[world]),
            },
            "rejects": {
                null: {
                    claim: {
                        "rate": float(rates[world, row, column]),
                        "interval": interval[world, row, column].tolist(),
                        "count": int(calibration.counts[world, row, column]),
                    }
                    for column, claim in enumerate(CLAIMS)
                }
                for row, null in enumerate(NULLS)
            },
        }
        for world, name in enumerate(calibration.worlds)
    }
    return {
        "simulations": calibration.simulations,
        "seed": calibration.seed,
        "alpha": calibration.alpha,
        "size": asdict(calibration.size),
        "h0": dict(zip(NULLS, calibration.h0, strict=True)),
        "worlds": worlds,
    }


def _check(simulations: int, seed: int, worlds: tuple[str, ...]) -> None:
    if simulations < 2 or seed < 0:
        raise ConfigError(
            f"{simulations} simulations with seed {seed}: give at least 2, and a seed from 0 on."
        )
    if unknown := [name for name in worlds if name not in WORLDS]:
        raise ConfigError(f"No worlds {unknown}; there are {', '.join(WORLDS)}.")


def _tested(trial: Trial, generator: np.random.Generator) -> tuple[PValues, ...]:
    """Test one simulated lineage under every null of `NULLS`."""
    alignment, (first, second) = trial.alignment[None], generator.integers(2**32, size=2).tolist()
    return (
        isotropic_null(trial).p_values(alignment),
        matched_null(trial, trial.acts, draws=DRAWS, seed=first).p_values(alignment),
        sign_flip(trial.differences, trial.drift[None], trial.gap, draws=DRAWS, seed=second),
    )


def _claims(null: PValues) -> Float[np.ndarray, " claim"]:
    return np.array([null.p[0, 0], null.aggregate[0], holm(null.p).min()])
