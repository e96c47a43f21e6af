"""Nulls: what alignments arise when nothing points back.

Each null says what its H0 is, because each is blind to something. None of them sees the shared
endpoint: v_rev and drift both contain −θ_S, for which there is the sibling control. How often each
rejects, in its own world and in the others', is measured by `workbench.calibration`. Nothing here
imports torch, so that a stored run can be tested again at once; tensors are taken as arrays.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from workbench.errors import ProbeError
from workbench.isotropic import isotropic_mean_quantile, isotropic_quantile, isotropic_tail
from workbench.records import cosine, mean_defined

NullName = Literal["isotropic", "matched", "sign_flip"]
CHUNK = 4096
"""Draws that are in memory at once."""


@runtime_checkable
class Directed(Protocol):
    """Whatever has a direction per layer, such as `ReversionDirections`."""

    @property
    def unit(self) -> Any:
        """Unit vectors [layer d_model]."""


@dataclass(frozen=True)
class PValues:
    """One-sided p-values of one run under one null; NaN where the alignment is undefined."""

    name: NullName
    h0: str
    """The null hypothesis in words."""

    p: Float[np.ndarray, "step layer"]
    aggregate: Float[np.ndarray, " step"]
    """Of the aggregate over the defined layers of a step."""

    draws: int | None = None
    """Number of simulated draws; None where the distribution is exact."""

    patterns: float = math.inf
    """How many different draws there can be: 2^units for the sign flip."""

    def resolves(self, tests: int, alpha: float) -> bool:
        """Return whether Holm over so many tests could reject the smallest p-value safely."""
        enough = self.draws is None or self.draws >= draws_needed(tests, alpha)
        return enough and self.patterns >= tests / alpha


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
    """Isotropic only: the other extreme, independent layers."""

    sample: Float[np.ndarray, "draw layer"] | None = None
    """Simulated alignments; None where the distribution is exact."""

    d_model: int = 0
    """Width of the residual stream, where the distribution is exact."""

    def p_value(
        self, alignment: Float[np.ndarray, "*step layer"]
    ) -> Float[np.ndarray, "*step layer"]:
        """Return the one-sided p-value of each layer's alignment; NaN where it is undefined."""
        if self.sample is None:
            return isotropic_tail(alignment, self.d_model)
        ordered = np.sort(self.sample, axis=0)
        rows = np.moveaxis(alignment, -1, 0)
        p_values = [_exceeding(draws, row) for draws, row in zip(ordered.T, rows, strict=True)]
        return np.stack(p_values, axis=-1)

    def aggregate_p_value(self, mean_alignment: float) -> float:
        """Return the one-sided p-value of a mean over layers (isotropic: layers fully shared).

        A mean that is undefined has none: NaN.
        """
        if self.sample is None:
            return float(isotropic_tail(mean_alignment, self.d_model))
        ordered = np.sort(self.sample.mean(axis=1))
        return float(_exceeding(ordered, mean_alignment))

    def p_values(self, alignment: Float[np.ndarray, "step layer"]) -> PValues:
        """Test every layer and step of a run, and its means over the layers defined at a step."""
        means, defined = mean_defined(alignment), ~np.isnan(alignment)
        aggregate = np.full(len(alignment), np.nan)
        for layers in np.unique(defined[defined.any(axis=1)], axis=0):
            steps = (defined == layers).all(axis=1)
            if self.sample is None:
                aggregate[steps] = isotropic_tail(means[steps], self.d_model)
            else:
                ordered = np.sort(self.sample[:, layers].mean(axis=1))
                aggregate[steps] = _exceeding(ordered, means[steps])
        draws = None if self.sample is None else len(self.sample)
        return PValues(self.name, self.h0, self.p_value(alignment), aggregate, draws)


@dataclass(frozen=True)
class OtherPhases:
    """How a drift aligns with the directions between other pairs of phases: a comparison."""

    names: tuple[str, ...]
    alignment: Float[np.ndarray, "direction step layer"]
    mean: Float[np.ndarray, "direction step"]
    """Mean over the layers where the drift is defined."""

    note: str
    """Why there is no p-value."""


def isotropic_null(directions: Directed) -> Null:
    """Return the exact null of a uniformly random drift direction (the paper's).

    The bar is low, p99 ≈ 2.33/√d: any two vectors that share a few outlier dimensions pass it.
    """
    n_layers, d_model = directions.unit.shape
    p99 = isotropic_quantile(d_model, 0.99)
    return Null(
        name="isotropic",
        h0="the drift of a layer points in a uniformly random direction",
        p99=np.full(n_layers, p99),
        aggregate_p99=p99,
        aggregate_p99_independent=isotropic_mean_quantile(d_model, n_layers, 0.99),
        d_model=d_model,
    )


def matched_null(
    directions: Directed,
    acts: Float[Any, "layer prompt d_model"],
    *,
    clusters: Sequence[Hashable] | None = None,
    draws: int = 10_000,
    seed: int = 0,
) -> Null:
    """Return the null of a random drift with the covariance of the activations themselves.

    One draw is Σ_i w_i (h_i − μ) over prompts, with the same Gaussian weights at all layers, so
    that anisotropy and the dependence between layers are kept. The variance along v_rev is itself
    estimated from the prompts: the part of a draw along v_rev follows Student's t with as many
    degrees of freedom as there are clusters less one. Otherwise few prompts reject too often.

    Args:
        directions: v_rev at the layers of `acts`.
        acts: Activations of the aligned model, on the prompts that drift is measured on.
        clusters: Near-duplicate cluster of each prompt; by default each prompt is its own.
        draws: Number of simulated drifts.
        seed: Of their weights.

    Raises:
        ProbeError: If there are fewer than 2 clusters.
    """
    resid, unit = (np.asarray(array, dtype=np.float64) for array in (acts, directions.unit))
    freedom = int(_units(clusters, resid.shape[1]).max())
    if freedom < 1:
        raise ProbeError("A matched null needs at least 2 clusters of prompts; there is 1.")
    centred = resid - resid.mean(axis=1, keepdims=True)
    along = np.einsum("lpd,ld->pl", centred, unit)
    gram = centred @ centred.swapaxes(1, 2)
    gaussian, chi = np.random.default_rng(seed).spawn(2)
    sample = np.empty((draws, len(unit)))
    for start in range(0, draws, CHUNK):
        weights = gaussian.normal(size=(min(CHUNK, draws - start), resid.shape[1]))
        squared = ((weights @ gram) * weights).sum(axis=-1).T
        part = weights @ along
        across = np.maximum(squared - part**2, 0)
        part = part * np.sqrt(freedom / chi.chisquare(freedom, size=(len(weights), 1)))
        sample[start : start + CHUNK] = part / np.sqrt(across + part**2)
    return Null(
        name="matched",
        h0="the drift is a random direction with the covariance of the activations over prompts",
        p99=np.quantile(sample, 0.99, axis=0),
        aggregate_p99=float(np.quantile(sample.mean(axis=1), 0.99)),
        sample=sample,
    )


def sign_flip(
    differences: Float[Any, "layer prompt d_model"],
    drift: Float[np.ndarray, "step layer d_model"],
    gap: Float[Any, " layer"],
    *,
    clusters: Sequence[Hashable] | None = None,
    draws: int = 10_000,
    seed: int = 0,
) -> PValues:
    """Test whether witness and aligned model differ along the drift, by flipping prompts' signs.

    The statistic of a layer is T = mean_x ⟨h(θ_H;x) − h(θ_S;x), D̂⟩ with the unit drift D̂; of the
    aggregate, Σ_l T_l/g_l. A draw gives each cluster one sign, shared by all layers and steps, and
    p = (1 + #{T* ≥ T})/(1 + draws). With many prompts the sign of any component is certain, so that
    a drift that has nothing to do with v_rev passes nearly half of the time.

    Args:
        differences: Witness less aligned model, on the prompts of the fit.
        drift: Measured on other prompts; NaN where it is undefined.
        gap: Phase gaps: the layers' scales in the aggregate, held fixed while signs flip.
        clusters: Near-duplicate cluster of each prompt; by default each prompt is its own.
        draws: Number of sign patterns.
        seed: Of the signs.
    """
    resid = np.asarray(differences, dtype=np.float64)
    units = _units(clusters, resid.shape[1])
    norm = np.linalg.norm(drift, axis=-1, keepdims=True)
    unit = np.divide(drift, norm, out=np.full(drift.shape, np.nan), where=norm > 0)
    projections = np.einsum("lpd,sld->psl", resid, unit)
    shares = np.zeros((int(units.max()) + 1, *projections.shape[1:]))
    np.add.at(shares, units, projections)
    defined = ~np.isnan(shares)
    total = np.where(defined, shares / np.asarray(gap, dtype=np.float64), 0.0).sum(axis=-1)
    total[:, ~defined.all(axis=0).any(axis=-1)] = np.nan
    columns = np.concatenate([shares.reshape(len(shares), -1), total], axis=1)
    p_values = _flipped(columns, draws, seed)
    cells = shares[0].size
    return PValues(
        name="sign_flip",
        h0="no mean difference between witness and aligned model along the drift",
        p=p_values[:cells].reshape(shares.shape[1:]),
        aggregate=p_values[cells:],
        draws=draws,
        patterns=2.0 ** min(len(shares), 1000),
    )


def other_phases(
    drift: Float[np.ndarray, "step layer d_model"],
    units: Mapping[str, Float[Any, "layer d_model"]],
) -> OtherPhases:
    """Compare the drift with directions between other pairs of phases of the lineage.

    Never a p-value: that would need 100 independent directions, and the few that the phases of a
    lineage give (`units`, by name) share their endpoints.
    """
    found = [cosine(drift, np.asarray(unit, dtype=np.float64)) for unit in units.values()]
    alignment = np.stack(found) if found else np.empty((0, *drift.shape[:2]))
    return OtherPhases(
        names=tuple(units),
        alignment=alignment,
        mean=mean_defined(alignment),
        note=f"a comparison: {len(units)} directions; no p-value below 100 independent ones",
    )


def draws_needed(m: int, alpha: float) -> int:
    """Return how many draws Holm over `m` tests at level `alpha` needs: 10·m/α."""
    return math.ceil(10 * m / alpha)


def _units(clusters: Sequence[Hashable] | None, prompts: int) -> Int[np.ndarray, " prompt"]:
    """Number the exchangeable units, from 0, and say which each prompt is in."""
    if clusters is None:
        return np.arange(prompts)
    if len(clusters) != prompts:
        raise ProbeError(f"{len(clusters)} clusters for {prompts} prompts: give one for each.")
    number = {cluster: index for index, cluster in enumerate(dict.fromkeys(clusters))}
    return np.array([number[cluster] for cluster in clusters])


def _flipped(
    shares: Float[np.ndarray, "unit column"], draws: int, seed: int
) -> Float[np.ndarray, " column"]:
    """Return the p-value of each column's sum when units flip their signs.

    Flipping a set of units takes twice their sum away: T* ≥ T where that sum is not positive.
    """
    tolerance = 1e-12 * np.abs(shares).sum(axis=0)
    generator, hits = np.random.default_rng(seed), np.zeros(shares.shape[1])
    for start in range(0, draws, CHUNK):
        size = (min(CHUNK, draws - start), len(shares))
        taken = generator.integers(0, 2, size=size, dtype=np.int8).astype(np.float64) @ shares
        hits += (taken <= tolerance).sum(axis=0)
    return np.where(np.isnan(tolerance), np.nan, (1 + hits) / (1 + draws))


def _exceeding(
    ordered: Float[np.ndarray, " draw"], values: Float[np.ndarray, "*any"] | float
) -> Float[np.ndarray, "*any"]:
    """Share of draws at or above each value, counting the observation itself; NaN for NaN."""
    at_or_above = len(ordered) - np.searchsorted(ordered, values, side="left")
    return np.where(np.isnan(values), np.nan, (1 + at_or_above) / (1 + len(ordered)))
