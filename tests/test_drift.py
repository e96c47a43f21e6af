"""Drift: the displacement since the aligned model, along and across the way back."""

import numpy as np
import pytest
import torch

from workbench.activations import read_activations
from workbench.directions import fit_directions_from
from workbench.drift import measure_drift
from workbench.measurement import noise_floor
from workbench.reading import Reading


@pytest.fixture
def world():
    """Readings of an aligned model and a witness on other prompts than drift is measured on."""
    generator = torch.Generator().manual_seed(1)
    fit, aligned, noise = torch.randn(3, 3, 40, 16, generator=generator)
    shift = torch.randn(3, 16, generator=generator) * torch.tensor([0.5, 2, 8])[:, None]
    directions = fit_directions_from(fit + shift[:, None], fit)
    return aligned, shift, noise, directions


def test_going_back_to_the_witness_is_one_gap_along_and_none_across(world):
    aligned, shift, _, directions = world
    drift = measure_drift(aligned, aligned + shift[:, None], directions)
    # Readings are float32: a displacement of 1 among values of 1 is good to about 1e-6.
    assert np.allclose(drift.along, 1, atol=1e-5)
    assert np.allclose(drift.across, 0, atol=1e-5)
    assert np.allclose(drift.alignment, 1, atol=1e-6)
    assert np.allclose(drift.norm, directions.gap, rtol=1e-5)
    assert np.allclose(drift.vector, shift, atol=1e-5)
    assert np.allclose(drift.projections, 1, atol=1e-4)
    assert drift.mean_alignment == pytest.approx(1, abs=1e-6)
    assert drift.stacked_alignment == pytest.approx(1, abs=1e-6)


def test_half_the_way_away_is_minus_one_half(world):
    aligned, shift, _, directions = world
    drift = measure_drift(aligned, aligned - 0.5 * shift[:, None], directions)
    assert np.allclose(drift.along, -0.5, atol=1e-5)
    assert np.allclose(drift.alignment, -1, atol=1e-6)


def test_a_drift_at_right_angles_has_no_alignment(world):
    aligned, shift, _, directions = world
    other = shift.flip(1)
    other = other - (other.double() * directions.unit).sum(1, keepdim=True) * directions.unit
    drift = measure_drift(aligned, aligned + other[:, None].float(), directions)
    assert np.allclose(drift.alignment, 0, atol=1e-5)
    assert np.allclose(drift.across, other.norm(dim=1) / directions.gap, rtol=1e-4)


def test_along_and_across_are_the_legs_of_the_norm(world):
    aligned, _, noise, directions = world
    drift = measure_drift(aligned, aligned + noise, directions)
    gap = directions.gap.numpy()
    assert np.allclose((drift.along**2 + drift.across**2) * gap**2, drift.norm**2)
    assert np.allclose(drift.alignment, drift.along * gap / drift.norm)
    assert np.allclose(drift.projections.mean(axis=1), drift.along)
    assert (np.abs(drift.alignment) < 0.9).all()


def test_the_interval_is_that_of_a_naive_bootstrap_over_prompts(world):
    aligned, shift, noise, directions = world
    current = aligned + 0.3 * shift[:, None] + noise
    drift = measure_drift(aligned, current, directions)
    picks = np.random.default_rng(0).integers(40, size=(4000, 40))
    for layer in range(3):
        rows = (current - aligned)[layer].double().numpy()
        means = rows[picks].mean(axis=1)
        cosines = means @ directions.unit[layer].numpy() / np.linalg.norm(means, axis=1)
        expected = np.quantile(cosines, [0.025, 0.975])
        # 200 resamples place a quantile to within a quarter of the interval's width.
        assert np.abs(drift.interval[layer] - expected).max() < 0.25 * np.ptp(expected)
        # Resampled noise adds to the norm, so the interval may end below the alignment itself.
        assert drift.interval[layer, 0] < drift.alignment[layer]


def test_a_displacement_below_ten_noise_floors_has_no_alignment(world):
    aligned, shift, _, directions = world
    current = aligned + shift[:, None]
    floor = shift.norm(dim=1).double() * torch.tensor([0.099, 0.101, 0.0])
    drift = measure_drift(aligned, current, directions, floor=floor)
    assert np.array_equal(np.isnan(drift.alignment), [False, True, False])
    assert np.array_equal(np.isnan(drift.interval).all(axis=1), [False, True, False])
    assert drift.undefined == 1
    assert np.isfinite(drift.along).all()
    assert np.array_equal(drift.floor, floor.numpy())
    turned = measure_drift(aligned, current * torch.tensor([1, 5, 1])[:, None, None], directions)
    assert turned.undefined == 0


def test_undefined_layers_are_left_out_of_the_mean(world):
    aligned, shift, _, directions = world
    signs = torch.tensor([1.0, 1.0, -1.0])[:, None]
    current = aligned + (shift * signs)[:, None]
    everything = measure_drift(aligned, current, directions)
    assert everything.mean_alignment == pytest.approx(1 / 3, abs=1e-5)
    floor = torch.tensor([0.0, 0.0, 1e3], dtype=torch.float64)
    partly = measure_drift(aligned, current, directions, floor=floor)
    assert partly.mean_alignment == pytest.approx(1, abs=1e-5)


def test_a_model_that_has_not_moved_has_no_alignment_at_any_layer(model, splits, directions):
    reading = Reading.of(model, splits[2])
    aligned = read_activations(model, reading)
    floor = noise_floor(model, reading, aligned, [0, 1, 2])
    still = measure_drift(aligned, read_activations(model, reading), directions, floor=floor)
    assert still.undefined == 3
    assert np.isnan(still.mean_alignment)
    assert np.isnan(still.stacked_alignment)
    other_shape = read_activations(model, reading, batch_size=3)
    noise = measure_drift(aligned, other_shape, directions, floor=floor)
    assert noise.undefined == 3  # rounding is not drift


def test_the_planted_lineage_drifts_back_when_aligned_becomes_helpful(lineage, splits, directions):
    models = [lineage.load_model(phase) for phase in (lineage.aligned, lineage.witness)]
    drift = measure_drift(*(read_activations(one, splits[2]) for one in models), directions)
    # On other prompts than the fit: exact at the layer of the plant, nearly so above.
    assert drift.along[0] == pytest.approx(1, abs=1e-5)
    assert drift.across[0] < 1e-5
    assert (drift.alignment > 0.99).all()
    assert drift.across[2] > 1e-4


def test_a_small_drift_of_large_activations_is_kept():
    # Exact in float32; a float32 mean of values near 4096 is not.
    aligned = 4096 + torch.randint(-1000, 1000, (1, 500, 4)).float() / 1024
    shift = torch.tensor([4.0, 0, -3, 0]) / 1024
    directions = fit_directions_from(aligned + shift, aligned)
    drift = measure_drift(aligned, aligned + 2 * shift, directions)
    assert drift.along[0] == pytest.approx(2, abs=1e-12)
    assert drift.vector.dtype == np.float64
    assert drift.across[0] < 1e-9


def test_prompts_that_are_not_paired_are_noticed(world):
    aligned, _, _, directions = world
    with pytest.raises(TypeError, match="prompt"):
        measure_drift(aligned, aligned[:, 1:], directions)
