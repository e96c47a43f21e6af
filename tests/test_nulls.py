"""Nulls reject as often as they say in their own world, and find what is planted."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from workbench.directions import fit_directions_from
from workbench.nulls import isotropic_null, matched_null
from workbench.records import cosine

LAYERS, PROMPTS, WIDTH = 2, 48, 32


@pytest.fixture(scope="module")
def anisotropic():
    """Activations in which few dimensions hold most of the variance, shared by both layers."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.logspace(1.5, -1.5, WIDTH)
    acts = torch.randn(LAYERS, PROMPTS, WIDTH, generator=generator) * spread
    acts[1] = 0.9 * acts[0] + 0.1 * acts[1]
    # The direction too has most of its length in those dimensions.
    shift = torch.randn(LAYERS, 1, WIDTH, generator=generator) * spread
    return fit_directions_from(acts + shift, acts), acts


def directions_of(d_model, n_layers=1):
    aligned = torch.randn(n_layers, 4, d_model, generator=torch.Generator().manual_seed(0))
    shift = torch.randn(n_layers, 1, d_model, generator=torch.Generator().manual_seed(1))
    return fit_directions_from(aligned + shift, aligned)


def isotropic_cosines(d_model, n_layers, draws, seed=0):
    """Cosines of uniformly random directions with the first axis, [draw layer]."""
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(draws, n_layers))
    # The other d−1 coordinates of a Gaussian vector count only by the sum of their squares.
    others = rng.chisquare(d_model - 1, size=(draws, n_layers))
    return first / np.sqrt(first**2 + others)


def quantile_error(sample, level):
    """Five standard errors of an empirical quantile, from its own neighbourhood."""
    spread = 5 * np.sqrt(level * (1 - level) / len(sample))
    low, high = np.quantile(sample, [level - spread, min(1, level + spread)])
    return max(high - low, 1e-4)


def test_the_isotropic_p99_of_a_plane_is_a_cosine_of_known_angle():
    assert isotropic_null(directions_of(2)).p99[0] == pytest.approx(np.cos(0.01 * np.pi), abs=1e-9)


@pytest.mark.parametrize("d_model", [2, 3, 16, 256])
def test_the_isotropic_p99_is_what_simulation_gives(d_model):
    sample = isotropic_cosines(d_model, 1, 200_000)[:, 0]
    p99 = isotropic_null(directions_of(d_model)).p99[0]
    assert p99 == pytest.approx(np.quantile(sample, 0.99), abs=quantile_error(sample, 0.99))


def test_the_isotropic_p99_is_about_two_and_a_third_over_the_root_of_the_width():
    assert isotropic_null(directions_of(2048)).p99[0] == pytest.approx(2.326 / 2048**0.5, rel=0.01)


@pytest.mark.parametrize(("d_model", "n_layers"), [(2, 3), (3, 5), (16, 4), (64, 12), (256, 2)])
def test_the_aggregate_of_independent_layers_is_what_simulation_gives(d_model, n_layers):
    sample = isotropic_cosines(d_model, n_layers, 100_000).mean(axis=1)
    null = isotropic_null(directions_of(d_model, n_layers))
    expected = np.quantile(sample, 0.99)
    tolerance = quantile_error(sample, 0.99)
    assert null.aggregate_p99_independent == pytest.approx(expected, abs=tolerance)
    # The other extreme: layers that share one direction average nothing out.
    assert null.aggregate_p99 == pytest.approx(null.p99[0])
    assert null.aggregate_p99 > null.aggregate_p99_independent


def test_the_aggregate_of_two_layers_in_space_is_exact():
    # In three dimensions a cosine is uniform, so that the mean of two has a triangular density.
    null = isotropic_null(directions_of(3, 2))
    assert null.aggregate_p99_independent == pytest.approx(1 - 0.02**0.5, abs=1e-4)


def test_with_one_layer_both_extremes_are_the_layers_own():
    null = isotropic_null(directions_of(16))
    assert null.aggregate_p99_independent == pytest.approx(null.aggregate_p99) == null.p99[0]


def test_isotropic_p_values_are_uniform_in_their_own_world():
    null = isotropic_null(directions_of(16, 2))
    cosines = isotropic_cosines(16, 2, 400, seed=1)
    p_values = np.array([null.p_value(row) for row in cosines])
    assert stats.kstest(p_values.ravel(), "uniform").pvalue > 0.001
    assert null.p_value(np.array([1.0, -1.0])).tolist() == pytest.approx([0.0, 1.0])
    assert np.array_equal(null.p_value(null.p99), np.full(2, null.p_value(null.p99)[0]))
    assert null.p_value(null.p99)[0] == pytest.approx(0.01)
    assert null.aggregate_p_value(null.aggregate_p99) == pytest.approx(0.01)


def test_one_matched_draw_is_a_gaussian_sum_over_prompts_of_centred_activations(anisotropic):
    directions, acts = anisotropic
    null = matched_null(directions, acts, draws=50, seed=3)
    weights = torch.randn(
        50, PROMPTS, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    expected = np.empty((50, LAYERS))
    for draw in range(50):
        for layer in range(LAYERS):
            vector = torch.zeros(WIDTH, dtype=torch.float64)
            for prompt in range(PROMPTS):
                centred = acts[layer, prompt].double() - acts[layer].double().mean(dim=0)
                vector += weights[draw, prompt] * centred  # the same weight at all layers
            expected[draw, layer] = directions.unit[layer] @ vector / vector.norm()
    assert np.allclose(null.layer_draws, np.sort(expected, axis=0), atol=1e-9)
    assert np.allclose(null.aggregate_draws, np.sort(expected.mean(axis=1)), atol=1e-9)
    assert np.allclose(null.p99, np.quantile(expected, 0.99, axis=0))
    assert null.aggregate_p99 == pytest.approx(np.quantile(expected.mean(axis=1), 0.99))


def test_a_matched_null_is_the_same_for_the_same_seed_and_in_chunks(anisotropic, monkeypatch):
    once = matched_null(*anisotropic, draws=300)
    monkeypatch.setattr("workbench.nulls.CHUNK", 100)
    chunks = matched_null(*anisotropic, draws=300)
    assert np.allclose(once.layer_draws, chunks.layer_draws, atol=1e-12)
    assert not np.allclose(
        once.layer_draws, matched_null(*anisotropic, draws=300, seed=1).layer_draws
    )


def matched_world(acts, draws, seed):
    """Drifts that arise in the matched null's own world."""
    weights = np.random.default_rng(seed).normal(size=(draws, acts.shape[1]))
    centred = (acts - acts.mean(dim=1, keepdim=True)).double().numpy()
    return np.einsum("tp,lpd->tld", weights, centred)


def isotropic_world(draws, seed):
    """Drifts in uniformly random directions, another one at each layer."""
    return np.random.default_rng(seed).normal(size=(draws, LAYERS, WIDTH))


def rejections(null, drifts, directions):
    """How often each layer's alignment, and the aggregate, is above p99."""
    alignment = cosine(drifts, directions.unit.numpy())
    return (alignment > null.p99).sum(axis=0), (alignment.mean(axis=1) > null.aggregate_p99).sum()


# Of 4000 drifts 40 are expected above p99. The bounds hold 0.9999 of Binomial(4000, 0.01), a
# little wider for the matched null, whose p99 is itself an estimate from 20,000 draws.
DRIFTS, LOW, HIGH = 4000, 12, 72


def test_each_null_rejects_one_percent_in_its_own_world(anisotropic):
    directions, acts = anisotropic
    isotropic = isotropic_null(directions)
    layers, _ = rejections(isotropic, isotropic_world(DRIFTS, 1), directions)
    assert ((layers >= LOW) & (layers <= HIGH)).all()
    independent = replace(isotropic, aggregate_p99=isotropic.aggregate_p99_independent)
    assert LOW <= rejections(independent, isotropic_world(DRIFTS, 1), directions)[1] <= HIGH
    matched = matched_null(directions, acts, draws=20_000)
    layers, aggregate = rejections(matched, matched_world(acts, DRIFTS, 2), directions)
    assert ((layers >= LOW) & (layers <= HIGH)).all()
    assert LOW <= aggregate <= HIGH


def test_in_an_anisotropic_world_the_isotropic_null_rejects_far_too_often(anisotropic):
    directions, acts = anisotropic
    layers, _ = rejections(isotropic_null(directions), matched_world(acts, DRIFTS, 2), directions)
    assert (layers > 0.15 * DRIFTS).all()
    matched = matched_null(directions, acts, draws=5000)
    layers, _ = rejections(matched, isotropic_world(DRIFTS, 1), directions)
    assert (layers < 0.01 * DRIFTS).all()


def test_a_planted_drift_back_is_found_by_both(anisotropic):
    directions, acts = anisotropic
    planted = 0.98 * directions.unit.numpy()[None] * np.ones((200, 1, 1))
    noise = matched_world(acts, 200, 3)
    drifts = planted + 0.02 * noise / np.linalg.norm(noise, axis=-1, keepdims=True)
    for null in (isotropic_null(directions), matched_null(directions, acts, draws=5000)):
        layers, aggregate = rejections(null, drifts, directions)
        assert (layers == 200).all()
        assert aggregate == 200


def test_simulated_p_values_count_the_observation_itself(anisotropic):
    null = matched_null(*anisotropic, draws=99)
    assert null.p_value(np.array([2.0, 2.0])).tolist() == [0.01, 0.01]  # never 0
    assert null.p_value(np.array([-2.0, -2.0])).tolist() == [1.0, 1.0]
    for rank in (0, 40, 98):  # a tie with a draw counts that draw
        values = null.layer_draws[rank]
        assert np.allclose(null.p_value(values), (1 + 99 - rank) / 100)
        tie = float(null.aggregate_draws[rank])
        assert null.aggregate_p_value(tie) == pytest.approx((1 + 99 - rank) / 100)


def test_what_is_undefined_has_no_p_value(anisotropic):
    directions, acts = anisotropic
    for null in (isotropic_null(directions), matched_null(directions, acts, draws=99)):
        assert np.isnan(null.p_value(np.array([np.nan, 0.5]))).tolist() == [True, False]
        assert np.isnan(null.aggregate_p_value(float("nan")))


def test_a_null_says_what_it_assumes(anisotropic):
    assert "uniformly random direction" in isotropic_null(anisotropic[0]).h0
    assert "covariance of the activations" in matched_null(*anisotropic, draws=10).h0
