"""A re-fit from displacements alone is the fit on the fine-tuned model itself."""

import numpy as np
import pytest
import torch

from workbench.directions import fit_directions_from
from workbench.refit import refit, shared


@pytest.fixture
def directions(readings):
    return fit_directions_from(*readings[:2])


@pytest.fixture
def moved(readings):
    return (readings[2].double() - readings[1].double()).mean(dim=1)


def test_a_refit_is_the_fit_on_the_model_after_fine_tuning(readings, directions, moved):
    after = fit_directions_from(readings[0], readings[2])
    found = refit(directions.unit, directions.gap, moved)
    cosines = (after.unit * directions.unit).sum(dim=1)
    np.testing.assert_allclose(found.cosine, cosines, atol=1e-9)
    np.testing.assert_allclose(found.gap, after.gap / directions.gap, rtol=1e-9)
    along = (moved * directions.unit).sum(dim=1)
    np.testing.assert_allclose(found.along, along / directions.gap)
    off = (moved.square().sum(dim=1) - along.square()).sqrt()
    np.testing.assert_allclose(found.off, off / directions.gap)
    assert found.along.min() > 0.2 and found.off.min() > 0.3  # neither is 0 in this readings


def test_a_refit_where_nothing_and_where_all_came_back(directions):
    still = refit(directions.unit, directions.gap, torch.zeros_like(directions.unit))
    np.testing.assert_allclose(still.cosine, 1)
    np.testing.assert_allclose(still.gap, 1)
    assert not still.along.any() and not still.off.any()
    whole = directions.gap[:, None] * directions.unit
    home = refit(directions.unit, directions.gap, whole)
    np.testing.assert_allclose(home.gap, 0, atol=1e-12)
    assert np.isnan(home.cosine).all()
    np.testing.assert_allclose(home.along, 1)


def test_shared_is_the_share_of_the_ordinary_motion_off_the_direction(directions, moved):
    unit = directions.unit
    off = moved - (moved * unit).sum(dim=1, keepdim=True) * unit
    other = torch.randn(3, 24, dtype=torch.float64)
    for axis in (unit, off / off.norm(dim=1, keepdim=True)):
        other -= (other * axis).sum(dim=1, keepdim=True) * axis
    for share in (0.0, 0.3, 1.0, 1.7, -0.5):
        blocked = share * off + 5 * other - 2 * unit
        np.testing.assert_allclose(shared(blocked, moved, unit), share, atol=1e-12)
    np.testing.assert_allclose(shared(moved, moved, unit), 1)


def test_shared_is_undefined_where_ordinary_fine_tuning_moved_only_along(directions, moved):
    assert np.isnan(shared(moved, 2 * directions.unit, directions.unit)).all()
