"""The plane of v_rev shows exactly what lies in it, and says what does not."""

import numpy as np
import pytest

from workbench.plane import fit_plane

N_LAYERS, D_MODEL = 3, 40
GAP = np.array([2.0, 5.0, 30.0])
ALONG, ACROSS = np.array([0.1, 0.2, 0.5]), np.array([0.05, 0.2, 0.4])


@pytest.fixture
def axes():
    """Two orthogonal unit vectors at every layer."""
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(N_LAYERS, D_MODEL, 2)))[0]
    return basis[..., 0], basis[..., 1]


def planted(axes, along=ALONG, across=ACROSS):
    """Drifts [step layer d_model] with these coordinates, in gaps, at every layer."""
    unit, sideways = axes
    in_gaps = along[:, None, None] * unit + across[:, None, None] * sideways
    return GAP[:, None] * in_gaps


def fit(axes, drifts, rows=slice(None)):
    return fit_plane(axes[0][rows], GAP[rows], drifts)


def test_a_drift_in_a_known_plane_has_its_coordinates_and_all_of_itself_in_it(axes):
    drift = planted(axes)
    plane = fit(axes, [drift])
    placed = plane.project(drift)
    np.testing.assert_allclose(placed.along, ALONG)
    np.testing.assert_allclose(placed.across, ACROSS)
    np.testing.assert_allclose(placed.share, 1)
    np.testing.assert_allclose(placed.distance, np.hypot(ALONG, ACROSS))
    assert plane.explained == pytest.approx(1)
    witness = plane.project(GAP[:, None] * axes[0])
    assert (witness.along, witness.share) == (pytest.approx(1), pytest.approx(1))
    assert witness.across == pytest.approx(0, abs=1e-12)


def test_a_point_off_the_plane_has_a_small_share_and_its_own_distance(axes):
    plane = fit(axes, [planted(axes)])
    far = np.random.default_rng(1).normal(size=(200, N_LAYERS, D_MODEL))
    placed = plane.project(far)
    assert placed.share.mean() < 0.05
    expected = np.sqrt(((far / GAP[:, None]) ** 2).sum(axis=-1).mean(axis=-1))
    np.testing.assert_allclose(placed.distance, expected)


def test_the_sign_makes_the_last_step_of_the_first_run_positive(axes):
    # An eigenvector has no sign of its own: of many sets of runs, some would come out negative.
    rng = np.random.default_rng(2)
    for _ in range(20):
        signs = rng.normal(size=(4, 3))
        drifts = [planted(axes, across=row) for row in signs]
        placed = [fit(axes, drifts).project(drift) for drift in drifts]
        assert placed[0].across[-1] > 0
        turned = np.sign(signs[0, -1]) * signs
        np.testing.assert_allclose([one.across for one in placed], turned, atol=1e-9)


def test_the_main_across_direction_is_that_of_the_largest_drift_and_not_centred(axes):
    unit, sideways = axes
    third = np.linalg.qr(np.stack([unit, sideways, np.ones_like(unit)], axis=-1))[0][..., 2]
    small = GAP[:, None] * 0.1 * third
    # A constant drift has no variance around its mean; seen from 0 it is all there is.
    drift = np.stack([GAP[:, None] * sideways] * 4)
    plane = fit(axes, [drift, small[None]])
    np.testing.assert_allclose(plane.across, sideways / np.sqrt(N_LAYERS), atol=1e-9)
    assert plane.explained == pytest.approx(4 / 4.01)
    assert plane.project(small).share == pytest.approx(0, abs=1e-12)


def test_stacked_layers_count_alike_whatever_their_gaps(axes):
    """Along is the mean over layers of what each layer alone has."""
    unit, _ = axes
    wanted = np.array([0.1, -0.3, 0.8])
    drift = (GAP * wanted)[:, None] * unit
    plane = fit(axes, [drift[None]])
    assert plane.project(drift).along == pytest.approx(wanted.mean())
    for row, value in enumerate(wanted):
        alone = drift[[row]]
        single = fit(axes, [alone[None]], slice(row, row + 1))
        assert single.project(alone).along == pytest.approx(value)


def test_nothing_across_leaves_the_across_direction_undefined_and_points_on_the_line(axes):
    # Rounding leaves some 1e-17 of across, whose direction would mean nothing.
    drift = planted(axes, across=np.zeros(3))
    plane = fit(axes, [drift])
    placed = plane.project(drift)
    np.testing.assert_allclose(placed.along, ALONG)
    np.testing.assert_array_equal(placed.across, 0)
    np.testing.assert_allclose(placed.share, 1)
    assert np.isnan(plane.explained)
    assert np.isnan(plane.project(np.zeros_like(drift[0])).share)
