"""Nulls reject as often as they say in their own world, and find what is planted."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from workbench.directions import fit_directions_from
from workbench.errors import ProbeError
from workbench.nulls import draws_needed, isotropic_null, matched_null, other_phases
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


def test_one_matched_draw_is_a_gaussian_sum_over_prompts_with_its_part_along_v_rev_widened(
    anisotropic,
):
    directions, acts = anisotropic
    null = matched_null(directions, acts, draws=50, seed=3)
    gaussian, chi = np.random.default_rng(3).spawn(2)
    weights, chosen = gaussian.normal(size=(50, PROMPTS)), chi.chisquare(PROMPTS - 1, size=50)
    for draw in range(50):
        for layer in range(LAYERS):
            unit = directions.unit[layer].numpy()
            resid = acts[layer].double().numpy()
            vector = np.zeros(WIDTH)
            for prompt in range(PROMPTS):
                vector += weights[draw, prompt] * (resid[prompt] - resid.mean(axis=0))
            along = (vector @ unit) * unit
            widened = vector - along + along * np.sqrt((PROMPTS - 1) / chosen[draw])
            expected = widened @ unit / np.linalg.norm(widened)
            assert null.sample[draw, layer] == pytest.approx(expected, abs=1e-9)
    assert np.allclose(null.p99, np.quantile(null.sample, 0.99, axis=0))
    assert null.aggregate_p99 == pytest.approx(np.quantile(null.sample.mean(axis=1), 0.99))


def test_a_matched_null_is_the_same_for_the_same_seed_in_chunks_and_from_arrays(
    anisotropic, monkeypatch
):
    directions, acts = anisotropic
    once = matched_null(directions, acts, draws=300)
    other = matched_null(directions, acts, draws=300, seed=1)
    assert not np.allclose(once.sample, other.sample)
    arrays = SimpleNamespace(unit=directions.unit.numpy())
    assert np.array_equal(matched_null(arrays, acts.numpy(), draws=300).sample, once.sample)
    monkeypatch.setattr("workbench.nulls.CHUNK", 101)
    assert np.allclose(matched_null(directions, acts, draws=300).sample, once.sample, atol=1e-12)


def test_clusters_leave_fewer_degrees_of_freedom_and_the_same_covariance(anisotropic):
    directions, acts = anisotropic
    clusters = [str(prompt // 8) for prompt in range(PROMPTS)]
    alone, gathered = (
        matched_null(directions, acts, clusters=each, draws=20_000) for each in (None, clusters)
    )
    gaussian, chi = np.random.default_rng(0).spawn(2)
    centred = (acts - acts.mean(dim=1, keepdim=True)).double()
    along = gaussian.normal(size=(4, PROMPTS)) @ (centred @ directions.unit[0])[0].numpy()
    factor = np.sqrt(5 / chi.chisquare(5, size=4))
    ratio = gathered.sample[:4, 0] / np.sqrt(1 - gathered.sample[:4, 0] ** 2)
    plain = alone.sample[:4, 0] / np.sqrt(1 - alone.sample[:4, 0] ** 2)
    chi = np.random.default_rng(0).spawn(2)[1]
    plain = plain / np.sqrt(47 / chi.chisquare(47, size=4))
    assert np.allclose(ratio, plain * factor)
    assert np.array_equal(np.sign(ratio), np.sign(along))
    assert (gathered.p99 > alone.p99 + 0.01).all()


def test_one_cluster_has_no_covariance_and_clusters_must_fit(anisotropic):
    with pytest.raises(ProbeError, match="at least 2 clusters"):
        matched_null(*anisotropic, clusters=["a"] * PROMPTS)
    with pytest.raises(ProbeError, match=r"3 clusters for 48 prompts: give one for each\."):
        matched_null(*anisotropic, clusters=["a"] * 3)


def population_rejections(prompts, correct, sims=800, draws=199, level=0.01):
    """How often drifts of the population are above p99 of a null matched to few prompts of it."""
    rng, spread, rejected = np.random.default_rng(1000), np.arange(1, 49) ** -0.5, 0
    for sim in range(sims):
        resid = rng.normal(size=(1, prompts, 48)) * spread
        unit, drift = rng.normal(size=(2, 1, 48)) * spread
        unit /= np.linalg.norm(unit)
        alignment = cosine(drift, unit)
        if correct:
            null = matched_null(SimpleNamespace(unit=unit), resid, draws=draws, seed=sim)
            rejected += null.p_value(alignment)[0] <= level
        else:  # Gaussian weights alone
            vectors = rng.normal(size=(draws, prompts)) @ (resid[0] - resid[0].mean(axis=0))
            cosines = vectors @ unit[0] / np.linalg.norm(vectors, axis=1)
            rejected += (1 + (cosines >= alignment[0]).sum()) / (1 + draws) <= level
    return rejected


def test_few_prompts_do_not_make_the_matched_null_reject_more_but_would_without_student():
    # Of 800, 8 are expected and 18 are 3.5 sd above; Student's t with 7 degrees gives 2.6 %.
    assert population_rejections(8, correct=True) <= 18
    assert population_rejections(8, correct=False) > 18


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
# little wider for the matched null, whose p99 is itself an estimate from 20,000 draws. Drifts
# drawn from the sample's own covariance, not the population's, are rejected a little less.
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
    ordered, means = np.sort(null.sample, axis=0), np.sort(null.sample.mean(axis=1))
    for rank in (0, 40, 98):  # a tie with a draw counts that draw
        assert np.allclose(null.p_value(ordered[rank]), (1 + 99 - rank) / 100)
        tie = float(means[rank])
        assert null.aggregate_p_value(tie) == pytest.approx((1 + 99 - rank) / 100)


def test_what_is_undefined_has_no_p_value(anisotropic):
    directions, acts = anisotropic
    for null in (isotropic_null(directions), matched_null(directions, acts, draws=99)):
        assert np.isnan(null.p_value(np.array([np.nan, 0.5]))).tolist() == [True, False]
        assert np.isnan(null.aggregate_p_value(float("nan")))


def test_a_null_says_what_it_assumes(anisotropic):
    assert "uniformly random direction" in isotropic_null(anisotropic[0]).h0
    assert "covariance of the activations" in matched_null(*anisotropic, draws=10).h0


def test_a_run_is_tested_step_by_step_and_its_means_over_the_layers_that_are_defined(anisotropic):
    directions, acts = anisotropic
    alignment = np.array([[0.4, 0.3], [np.nan, 0.3], [np.nan, np.nan], [0.1, 0.2]])
    matched = matched_null(directions, acts, draws=500)
    for null in (isotropic_null(directions), matched):
        found = null.p_values(alignment)
        for step, row in enumerate(alignment):
            assert np.array_equal(found.p[step], null.p_value(row), equal_nan=True)
        for step in (0, 3):
            mean = float(alignment[step].mean())
            assert found.aggregate[step] == pytest.approx(null.aggregate_p_value(mean))
        # One layer is left: its mean is that layer, not the mean of the null over both.
        assert found.aggregate[1] == pytest.approx(found.p[1, 1])
        assert np.isnan(found.aggregate[2])
    assert matched.aggregate_p_value(0.3) != matched.p_value(np.array([0.3, 0.3]))[1]


def test_a_cosine_rounded_above_one_is_still_the_least_likely(anisotropic):
    p_values = isotropic_null(anisotropic[0]).p_value(np.array([1 + 1e-15, 1.0]))
    assert p_values.tolist() == [0.0, 0.0]


def test_the_isotropic_tail_is_exact_where_no_simulation_reaches():
    # In three dimensions a cosine is uniform: P(cos ≥ a) = (1 − a)/2.
    alignment = 1 - 2 * np.array([1e-3, 1e-9, 1e-15])
    found = isotropic_null(directions_of(3, 3)).p_value(alignment)
    assert found == pytest.approx([1e-3, 1e-9, 1e-15], rel=0.15)


def test_other_phases_are_compared_by_cosine_and_get_no_p_value():
    rng = np.random.default_rng(0)
    drift = rng.normal(size=(3, 2, 8))
    drift[1, 0] = np.nan
    units = {name: rng.normal(size=(2, 8)) for name in ("P−H", "P−S")}
    for unit in units.values():
        unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
    found = other_phases(drift, units)
    assert found.names == ("P−H", "P−S")
    for which, unit in enumerate(units.values()):
        for step in range(3):
            cosines = [
                drift[step, layer] @ unit[layer] / np.linalg.norm(drift[step, layer])
                for layer in range(2)
            ]
            assert found.alignment[which, step] == pytest.approx(cosines, nan_ok=True)
            assert found.mean[which, step] == pytest.approx(np.nanmean(cosines))
    assert "no p-value below 100" in found.note
    assert not hasattr(found, "p")
    assert other_phases(drift, {}).alignment.shape == (0, 3, 2)


def test_holm_over_m_tests_needs_ten_m_over_alpha_draws():
    assert draws_needed(44, 0.01) == 44_000
    assert draws_needed(1, 0.05) == 200
    assert draws_needed(3, 0.007) == 4286  # rounded up
