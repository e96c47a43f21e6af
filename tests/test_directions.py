"""Reversion directions: the planted one is found, and its uncertainty is what it says."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from workbench.bootstrap import resample_counts
from workbench.directions import (
    TENSORS,
    ReversionDirections,
    fit_between,
    fit_directions,
    fit_directions_from,
    read_phase,
)
from workbench.errors import DegenerateDirectionError, LayerError, ProbeError, ProvenanceError
from workbench.probes import ProbeSet


@pytest.fixture
def noisy():
    """Readings whose difference is a planted shift plus as much noise between prompts."""
    generator = torch.Generator().manual_seed(1)
    aligned, noise = torch.randn(2, 3, 40, 16, generator=generator)
    shift = torch.randn(3, 1, 16, generator=generator)
    return aligned + shift + noise, aligned


def naive_cosines(differences, picks):
    """Cosines between the means over `picks` of the prompts and the mean over all, one by one."""
    full = differences.mean(axis=0)
    means = differences[picks].mean(axis=1)
    return means @ full / np.linalg.norm(means, axis=1) / np.linalg.norm(full)


def test_a_planted_shift_is_found(noisy):
    aligned, shift = noisy[1], torch.randn(3, 16)
    directions = fit_directions_from(aligned + shift[:, None], aligned)
    found = directions.unit * directions.gap[:, None]
    torch.testing.assert_close(found, shift.double(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(directions.unit.norm(dim=1), torch.ones(3, dtype=torch.float64))
    assert directions.layers == (0, 1, 2)


def test_the_direction_points_from_aligned_to_witness(noisy):
    there, back = fit_directions_from(*noisy), fit_directions_from(*noisy[::-1])
    assert torch.equal(there.unit, -back.unit)
    assert torch.equal(there.gap, back.gap)


def test_a_planted_shift_between_checkpoints_is_found(directions, planted_shift, lineage, splits):
    gap = planted_shift.double().norm()
    torch.testing.assert_close(directions.gap[0], gap, atol=1e-5, rtol=0)
    assert directions.unit[0] @ planted_shift.double() / gap == pytest.approx(1, abs=1e-6)
    # The shift is the same for every prompt at layer 0; above, attention makes it differ.
    assert directions.split_half[0] == pytest.approx(1, abs=1e-6)
    assert directions.split_half[2] < 1 - 1e-5
    about = directions.provenance
    assert (about["lineage"], about["witness"], about["aligned"]) == (
        "planted", "helpful", "aligned",
    )  # fmt: skip
    assert about["aligned_hash"] == lineage.load_model(lineage.aligned).fingerprint()
    assert about["witness_hash"] == lineage.load_model(lineage.witness).fingerprint()
    assert about["probes_hash"] == splits[0].fingerprint()
    assert (about["n_prompts"], about["position"]) == (len(splits[0]), -1)


def test_fitting_reads_only_the_prompts_layers_and_position_asked_for(lineage, probes, splits):
    mixed = fit_directions(lineage, probes, layers=[2, 0], position=-2)
    assert mixed.layers == (2, 0)
    assert mixed.provenance["n_prompts"] == 24
    assert mixed.provenance["position"] == -2
    everything = fit_directions(lineage, probes, kind=None)
    assert everything.provenance["n_prompts"] == 32
    harmful = fit_directions(lineage, probes.of_kind("harmful"), layers=[2, 0], position=-2)
    assert torch.equal(mixed.unit, harmful.unit)
    with pytest.raises(ProbeError, match="at least 2 benign prompts; there are 0"):
        fit_directions(lineage, splits[0], kind="benign")
    with pytest.raises(LayerError, match=r"No layers \[7\]"):
        fit_directions(lineage, splits[0], layers=[7])


def test_the_sibling_gives_another_direction_to_the_same_witness(lineage, splits, directions):
    witness, sibling = (
        read_phase(lineage, phase, splits[0]) for phase in (lineage.witness, lineage.sibling)
    )
    other = fit_between(witness, sibling, splits[0], lineage=lineage.name)
    assert other.provenance["aligned"] == "sibling"
    assert other.provenance["witness_hash"] == directions.provenance["witness_hash"]
    cosine = (other.unit[0] * directions.unit[0]).sum()
    assert 0.9 < cosine < 0.999


def test_split_halves_agree_on_a_strong_shift_and_not_on_noise(noisy):
    aligned, noise = noisy[1], torch.randn(3, 40, 16, generator=torch.Generator().manual_seed(2))
    strong = fit_directions_from(aligned + 20 + noise, aligned)
    assert (strong.split_half > 0.99).all()
    assert (strong.interval[:, 0] > 0.99).all()
    # Halves of pure noise are anticorrelated a little around 0, since together they are the mean.
    pure = fit_directions_from(aligned + noise, aligned)
    assert pure.split_half.abs().max() < 0.3
    assert (pure.interval[:, 0] < 0.9).all()


def test_split_half_is_the_mean_over_random_halvings(noisy):
    directions = fit_directions_from(*noisy)
    rng = np.random.default_rng(0)
    for layer in range(3):
        rows = (noisy[0] - noisy[1])[layer].double().numpy()
        cosines = []
        for _ in range(2000):
            order = rng.permutation(40)
            one, other = rows[order[:20]].mean(axis=0), rows[order[20:]].mean(axis=0)
            cosines.append(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
        # Both are means of random halvings, ours of 100: four standard errors of it.
        tolerance = 4 * np.std(cosines) / math.sqrt(100)
        assert directions.split_half[layer].item() == pytest.approx(np.mean(cosines), abs=tolerance)


def test_the_interval_is_that_of_a_naive_bootstrap(noisy):
    directions = fit_directions_from(*noisy)
    picks = np.random.default_rng(0).integers(40, size=(4000, 40))
    for layer in range(3):
        rows = (noisy[0] - noisy[1])[layer].double().numpy()
        cosines = naive_cosines(rows, picks)
        expected = np.quantile(cosines, [0.025, 0.975])
        # 1000 resamples place a quantile to within a tenth of the interval's width.
        tolerance = 0.1 * (expected[1] - expected[0])
        assert np.abs(directions.interval[layer].numpy() - expected).max() < tolerance


def test_bootstrap_counts_are_those_of_drawing_prompts_with_replacement():
    counts = resample_counts(7, 2000)
    assert (counts.sum(dim=1) == 7).all()
    # A count is Binomial(7, 1/7): mean 1, variance 6/7; bounds of about five standard errors.
    assert (counts.mean(dim=0) - 1).abs().max() < 0.11
    assert (counts.var(dim=0) - 6 / 7).abs().max() < 0.2
    assert torch.equal(counts, resample_counts(7, 2000))
    assert not torch.equal(counts, resample_counts(7, 2000, seed=1))


def test_a_small_gap_between_large_means_is_kept():
    # Every value and difference is exact in float32; float32 means of 4096.0 are good to 2e-4 only.
    aligned = 4096 + torch.randint(-1000, 1000, (1, 500, 8)).float() / 1024
    shift = torch.tensor([3, 0, 0, -4, 0, 0, 0, 0]) / 1024
    directions = fit_directions_from(aligned + shift, aligned)
    assert torch.equal(directions.gap, torch.tensor([5 / 1024], dtype=torch.float64))
    assert torch.equal(directions.unit[0], shift.double() * 1024 / 5)
    float32 = (aligned + shift).mean(dim=1) - aligned.mean(dim=1)
    assert (float32 - shift).abs().max() > 1e-5


def test_coinciding_means_are_named_by_their_layers(noisy):
    witness, aligned = noisy
    witness = witness.clone()
    witness[1] = aligned[1]
    with pytest.raises(DegenerateDirectionError, match=r"coincide at layers \[1\]"):
        fit_directions_from(witness, aligned)
    with pytest.raises(DegenerateDirectionError, match=r"coincide at layers \[5\]"):
        fit_directions_from(witness, aligned, layers=(3, 5, 7))


def test_one_prompt_is_not_enough(noisy):
    with pytest.raises(ProbeError, match="at least 2 prompts"):
        fit_directions_from(noisy[0][:, :1], noisy[1][:, :1])


def test_saved_directions_load_equal(directions, tmp_path):
    directions.save(tmp_path / "d.safetensors")
    loaded = ReversionDirections.load(tmp_path / "d.safetensors")
    for name in TENSORS:
        assert torch.equal(getattr(loaded, name), getattr(directions, name))
    assert loaded.layers == directions.layers
    assert loaded.provenance == directions.provenance


def test_a_file_that_is_no_directions_file_is_refused(directions, tmp_path):
    path = tmp_path / "d.safetensors"
    with pytest.raises(ProvenanceError, match="no such directions file"):
        ReversionDirections.load(path)
    directions.save(path)
    blob = path.read_bytes()
    for damaged in (b"", b"not a file", blob[:10], blob[: len(blob) // 2], blob[:-1]):
        path.write_bytes(damaged)
        with pytest.raises(ProvenanceError, match=r"d\.safetensors: not a file of directions, or"):
            ReversionDirections.load(path)


def about(**changes):
    good = {"schema": "workbench.directions/2", "layers": [0], "provenance": {}}
    return {"workbench": json.dumps(good | changes)}


@pytest.mark.parametrize(
    ("metadata", "tensors", "message"),
    [
        (None, ["unit"], "not a file of directions"),
        ({"workbench": "{"}, ["unit"], "not a file of directions"),
        ({"workbench": "[]"}, ["unit"], "not a file of directions"),
        (about(schema="workbench.directions/9"), ["unit"], "schema 'workbench.directions/9', not"),
        (about(), ["unit"], "not a file of directions"),
        (about(), [*TENSORS, "more"], "not a file of directions"),
        (about(layers=3), TENSORS, "not a file of directions"),
    ],
)
def test_another_safetensors_file_is_refused(tmp_path, metadata, tensors, message):
    path = tmp_path / "other.safetensors"
    save_file({name: torch.ones(1, 4) for name in tensors}, path, metadata=metadata)
    with pytest.raises(ProvenanceError, match=message):
        ReversionDirections.load(path)


def test_another_model_is_refused(directions, aligned_model, make_model):
    directions.check_model(aligned_model.fingerprint())
    with pytest.raises(ProvenanceError, match="load the aligned checkpoint again or fit new"):
        directions.check_model(make_model(seed=1).fingerprint())
    anonymous = ReversionDirections(
        directions.unit,
        directions.gap,
        directions.split_half,
        directions.interval,
        directions.mean,
        (0, 1, 2),
    )
    anonymous.check_model("anything")


def test_another_unit_keeps_gaps_and_forgets_what_was_fitted(directions):
    unit = torch.randn(3, 32)
    control = directions.with_unit(unit, control="mine")
    torch.testing.assert_close(control.unit, unit.double() / unit.double().norm(dim=1)[:, None])
    assert torch.equal(control.gap, directions.gap)
    assert control.split_half.isnan().all()
    assert control.interval.isnan().all()
    assert control.provenance == {**directions.provenance, "control": "mine"}


def test_prompts_that_a_direction_was_fitted_on_are_refused_for_measuring(directions, splits):
    directions.check_probes(splits[2], "measured")
    with pytest.raises(ProbeError, match="were fitted on are also measured; split the probes"):
        directions.check_probes(ProbeSet((*splits[2].probes, splits[0].probes[0])), "measured")


def test_the_mean_is_where_the_aligned_model_is(noisy):
    directions = fit_directions_from(*noisy)
    torch.testing.assert_close(directions.mean, noisy[1].double().mean(dim=1))
