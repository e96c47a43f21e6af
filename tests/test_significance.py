"""Holm is Holm, the sign flip is a permutation test, and a run's tests say what they resolve."""

import itertools
import json
import math

import numpy as np
import pytest
import torch

from workbench.errors import ProbeError
from workbench.nulls import sign_flip
from workbench.significance import holm, significance

STEPS, LAYERS, PROMPTS, WIDTH = 3, 2, 10, 6


def naive_holm(p_values):
    """Step down: the smallest against α/m, the next against α/(m−1), stopping at the first miss."""
    adjusted, worst = [math.nan] * len(p_values), 0.0
    tested = [index for index, p in enumerate(p_values) if not math.isnan(p)]
    for rank, index in enumerate(sorted(tested, key=lambda index: p_values[index])):
        worst = max(worst, min(1.0, (len(tested) - rank) * p_values[index]))
        adjusted[index] = worst
    return adjusted


def test_holm_agrees_with_a_textbook_example():
    # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    adjusted = holm(np.array([0.01, 0.04, 0.03, 0.005]))
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])


@pytest.mark.parametrize("seed", range(5))
def test_holm_is_the_naive_step_down_with_ties_and_undefined_values(seed):
    rng = np.random.default_rng(seed)
    p_values = np.round(rng.uniform(size=(4, 5)) ** 4, 2)
    p_values[rng.uniform(size=p_values.shape) < 0.2] = np.nan
    adjusted = holm(p_values)
    assert adjusted.shape == p_values.shape
    assert adjusted.ravel() == pytest.approx(naive_holm(p_values.ravel().tolist()), nan_ok=True)


def test_what_is_undefined_is_not_counted():
    assert holm(np.array([0.01, np.nan, 0.5, np.nan]))[0] == pytest.approx(0.02)
    assert holm(np.array([0.01, 0.9, 0.5, 0.9]))[0] == pytest.approx(0.04)
    assert np.isnan(holm(np.full(3, np.nan))).all()
    assert holm(np.array([])).shape == (0,)


@pytest.fixture(scope="module")
def world():
    """Differences with a weak mean, and drifts partly along it: p-values between 0 and 1."""
    rng = np.random.default_rng(7)
    differences = rng.normal(size=(LAYERS, PROMPTS, WIDTH)) + 0.5
    drift = rng.normal(size=(STEPS, LAYERS, WIDTH)) + np.array([2.0, 0.5, -0.5])[:, None, None]
    return differences, drift, np.array([0.5, 2.0])


def naive_projections(differences, drift):
    found = np.empty((STEPS, LAYERS, PROMPTS))
    for step, layer, prompt in itertools.product(range(STEPS), range(LAYERS), range(PROMPTS)):
        unit = drift[step, layer] / np.linalg.norm(drift[step, layer])
        found[step, layer, prompt] = differences[layer, prompt] @ unit
    return found


def enumerated(values):
    """Share of all sign patterns whose mean is at least the observed one."""
    hits = 0
    for signs in itertools.product((1, -1), repeat=len(values)):
        hits += np.mean(np.array(signs) * values) >= np.mean(values) - 1e-12
    return hits / 2 ** len(values)


def standard_error(p, draws):
    return np.sqrt(p * (1 - p) / draws) + 1 / draws


def test_sign_flip_p_values_are_those_of_all_sign_patterns(world):
    differences, drift, gap = world
    found = sign_flip(differences, drift, gap, draws=20_000)
    projections = naive_projections(differences, drift)
    expected = np.array([[enumerated(values) for values in row] for row in projections])
    assert expected.min() < 0.05 < 0.3 < expected.max()
    assert (np.abs(found.p - expected) < 5 * standard_error(expected, 20_000)).all()
    total = projections[:, 0] / gap[0] + projections[:, 1] / gap[1]
    expected = np.array([enumerated(values) for values in total])
    assert (np.abs(found.aggregate - expected) < 5 * standard_error(expected, 20_000)).all()


def test_sign_flip_agrees_with_transformer_lens(world):
    peer = pytest.importorskip("transformer_lens.utilities.statistics", reason="from 4.0 on")
    differences, drift, gap = world
    effects = torch.from_numpy(naive_projections(differences, drift))
    exact = peer.sign_flip_permutation_pvalue(effects, alternative="greater").numpy()
    found = sign_flip(differences, drift, gap, draws=20_000)
    assert (np.abs(found.p - exact) < 5 * standard_error(exact, 20_000)).all()
    two_sided = peer.sign_flip_permutation_pvalue(effects).numpy()
    assert (np.abs(found.p - two_sided) > 0.05).any()


def test_the_formula_counts_the_observation_and_one_sign_serves_all_layers_and_steps(world):
    differences, drift, gap = world
    found = sign_flip(differences, drift, gap, draws=200, seed=4)
    taken = np.random.default_rng(4).integers(0, 2, size=(200, PROMPTS), dtype=np.int8)
    projections = naive_projections(differences, drift)
    for step in range(STEPS):
        total = projections[step, 0] / gap[0] + projections[step, 1] / gap[1]
        columns = [projections[step, 0], projections[step, 1], total]
        for values, p in zip(columns, [*found.p[step], found.aggregate[step]], strict=True):
            flipped = ((1 - 2 * taken) * values).mean(axis=1)
            assert p == (1 + (flipped >= values.mean() - 1e-12).sum()) / 201


def test_a_certain_sign_has_the_smallest_p_value_and_its_opposite_the_largest(world):
    _, drift, gap = world
    toward = np.repeat(drift[0][:, None], PROMPTS, axis=1)
    found = sign_flip(toward, np.stack([drift[0], -drift[0]]), gap, draws=999)
    # Only the pattern that flips nothing reaches the observed mean: about one draw in 2^10.
    assert (found.p[0] <= 6 / 1000).all()
    assert found.p[1].tolist() == [1.0, 1.0]
    assert sign_flip(-toward, drift[:1], gap, draws=999).p[0].tolist() == [1.0, 1.0]


def test_no_difference_at_all_is_a_tie_in_every_draw(world):
    _, drift, gap = world
    found = sign_flip(np.zeros((LAYERS, PROMPTS, WIDTH)), drift, gap, draws=99)
    assert (found.p == 1.0).all()
    assert (found.aggregate == 1.0).all()


def test_an_undefined_drift_has_no_p_value_and_is_left_out_of_the_aggregate(world):
    differences, drift, gap = world
    holed = drift.copy()
    holed[0, 1] = np.nan
    holed[1] = np.nan
    holed[2, 0] = 0.0
    whole, found = (sign_flip(differences, each, gap, draws=300) for each in (drift, holed))
    assert np.isnan(found.p).tolist() == [[False, True], [True, True], [True, False]]
    assert np.isnan(found.aggregate).tolist() == [False, True, False]
    assert found.p[0, 0] == whole.p[0, 0] == found.aggregate[0]
    assert found.p[2, 1] == whole.p[2, 1] == found.aggregate[2]


def test_prompts_of_one_cluster_share_a_sign(world):
    differences, drift, gap = world
    clusters = ["a", "b", "a", "c", "d", "d", "d", "e", "f", "b"]
    found = sign_flip(differences, drift, gap, clusters=clusters, draws=20_000)
    projections = naive_projections(differences, drift)
    sums = np.stack(
        [
            projections[..., [at for at, each in enumerate(clusters) if each == name]].sum(axis=-1)
            for name in "abcdef"
        ],
        axis=-1,
    )
    expected = np.array([[enumerated(values) for values in row] for row in sums])
    assert (np.abs(found.p - expected) < 5 * standard_error(expected, 20_000)).all()
    alone = sign_flip(differences, drift, gap, draws=20_000)
    assert (np.abs(found.p - alone.p) > 0.02).any()
    assert (found.patterns, alone.patterns) == (2**6, 2**10)


def test_clusters_that_do_not_fit_the_prompts_are_refused(world):
    with pytest.raises(ProbeError, match=r"1 clusters for 10 prompts: give one for each\."):
        sign_flip(*world, clusters=["a"])


def test_chunks_change_no_p_value_beyond_chance(world, monkeypatch):
    once = sign_flip(*world, draws=20_000)
    monkeypatch.setattr("workbench.nulls.CHUNK", 999)
    again = sign_flip(*world, draws=20_000)
    assert again.draws == 20_000
    assert np.abs(once.p - again.p).max() < 0.02


@pytest.fixture(scope="module")
def run():
    """A run that goes back, with an undefined layer at its first step."""
    rng = np.random.default_rng(3)
    shift = rng.normal(size=(2, 1, 32))
    differences = shift + 0.5 * rng.normal(size=(2, 30, 32))
    mean = differences.mean(axis=1)
    gap = np.linalg.norm(mean, axis=-1)
    unit = mean / gap[:, None]
    drift = 0.8 * unit + 0.1 * rng.normal(size=(4, 2, 32))
    alignment = np.einsum("sld,ld->sl", drift, unit) / np.linalg.norm(drift, axis=-1)
    alignment[0, 1] = np.nan
    acts = rng.normal(size=(2, 25, 32))
    return (alignment, drift, unit, gap), {"acts": acts, "differences": differences}


def test_a_run_that_goes_back_is_found_by_every_null(run):
    told = significance(*run[0], **run[1])
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["family"] == "2 layers × 4 measured steps of one run"
    assert (told["alpha"], told["tests"], told["draws"]) == (0.01, 7, 7000)
    assert told["resolution"] == "ok"
    assert [*told["nulls"]] == ["isotropic", "matched", "sign_flip"]
    for null in told["nulls"].values():
        assert (null["resolution"], null["rejected"], null["of"]) == ("ok", 7, 7)
        assert null["p"][0][1] is None is null["holm"][0][1]
        p_values = [math.nan if p is None else p for row in null["p"] for p in row]
        adjusted = [math.nan if p is None else p for row in null["holm"] for p in row]
        assert adjusted == pytest.approx(naive_holm(p_values), nan_ok=True)
        assert null["holm_aggregate"] == pytest.approx(naive_holm(null["p_aggregate"]))
        assert len(null["p_aggregate"]) == 4


def test_a_run_that_goes_nowhere_is_found_by_none(run):
    (_, _, unit, gap), given = run
    rng = np.random.default_rng(5)
    drift = rng.normal(size=(4, 2, 32))
    drift -= np.einsum("sld,ld->sl", drift, unit)[..., None] * unit
    told = significance(np.zeros((4, 2)), drift, unit, gap, **given)
    assert [null["rejected"] for null in told["nulls"].values()] == [0, 0, 0]


def test_too_few_draws_claim_nothing(run):
    told = significance(*run[0], **run[1], draws=6999)
    assert told["resolution"] == "too low"
    nulls = told["nulls"]
    assert [nulls[name]["rejected"] for name in nulls] == [7, None, None]  # the first is exact
    assert [nulls[name]["resolution"] for name in nulls] == ["ok", "too low", "too low"]


def test_too_few_clusters_to_flip_claim_nothing_however_many_draws(run):
    clusters = [f"cluster {prompt % 9}" for prompt in range(30)]
    told = significance(*run[0], **run[1], fitted_clusters=clusters)
    assert told["nulls"]["sign_flip"]["resolution"] == "too low"  # 2^9 < 7/0.01
    assert told["nulls"]["matched"]["resolution"] == "ok"
    ten = [f"cluster {prompt % 10}" for prompt in range(30)]
    told = significance(*run[0], **run[1], fitted_clusters=ten)
    assert told["resolution"] == "ok"


def test_measured_clusters_widen_the_matched_null_alone(run):
    (alignment, *rest), given = run
    clusters = [prompt // 5 for prompt in range(25)]
    alone = significance(alignment / 3, *rest, **given)["nulls"]
    gathered = significance(alignment / 3, *rest, **given, measured_clusters=clusters)["nulls"]
    assert gathered["sign_flip"] == alone["sign_flip"]
    assert gathered["matched"]["p"][1][0] > alone["matched"]["p"][1][0]


def test_a_run_without_any_defined_alignment_has_no_tests(run):
    (alignment, *rest), given = run
    told = significance(np.full_like(alignment, np.nan), *rest, **given)
    assert told["tests"] == 0
    assert all(null["rejected"] == 0 for null in told["nulls"].values())
    assert told["nulls"]["isotropic"]["p_aggregate"] == [None] * 4
    json.dumps(told, allow_nan=False)
