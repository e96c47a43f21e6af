"""Control directions: like v_rev in everything but where they point."""

import pytest
import torch

from workbench.controls import matched_directions, random_directions
from workbench.directions import fit_directions_from
from workbench.errors import DegenerateDirectionError


@pytest.fixture
def world():
    """Fewer prompts than dimensions, so that their span is a real restriction."""
    generator = torch.Generator().manual_seed(0)
    acts = torch.randn(3, 6, 32, generator=generator) + 5
    shift = torch.randn(3, 1, 32, generator=generator)
    return fit_directions_from(acts + shift, acts), acts


def controls(directions, acts, **options):
    return (
        random_directions(directions, **options),
        matched_directions(directions, acts, **options),
    )


def outside(unit, rows):
    """Norm of what of each layer's vector lies outside the span of that layer's rows."""
    left = []
    for vector, matrix in zip(unit, rows, strict=True):
        weights = torch.linalg.lstsq(matrix.T, vector[:, None], driver="gelsd").solution
        left.append((matrix.T @ weights - vector[:, None]).norm())
    return torch.stack(left)


def test_controls_are_unit_vectors_with_the_gaps_of_the_original(world):
    for name, control in zip(("random", "matched"), controls(*world), strict=True):
        torch.testing.assert_close(control.unit.norm(dim=1), torch.ones(3, dtype=torch.float64))
        assert torch.equal(control.gap, world[0].gap)
        assert control.layers == world[0].layers
        assert control.provenance == {"control": name, "control_seed": 0}


def test_controls_are_the_same_for_the_same_seed_only(world):
    for one, same, other in zip(
        controls(*world), controls(*world), controls(*world, seed=1), strict=True
    ):
        assert torch.equal(one.unit, same.unit)
        assert (one.unit * other.unit).sum(dim=1).abs().max() < 0.9


def test_a_matched_direction_lies_in_the_span_of_the_centred_activations(world):
    directions, acts = world
    centred = acts.double() - acts.double().mean(dim=1, keepdim=True)
    assert outside(matched_directions(directions, acts).unit, centred).max() < 1e-6
    assert outside(random_directions(directions).unit, centred).min() > 0.5


def test_a_matched_direction_has_the_same_weights_at_all_layers(world):
    directions, acts = world
    same = acts[:1].expand(3, -1, -1)
    unit = matched_directions(directions, same).unit
    torch.testing.assert_close(unit[1:], unit[:1].expand(2, -1))
    assert (
        random_directions(directions).unit[0] - random_directions(directions).unit[1]
    ).norm() > 1


def test_matched_directions_have_the_covariance_of_the_activations(world):
    directions, acts = world
    acts = acts * torch.logspace(1, -1, 32)
    # Over seeds, the mean square along an axis follows the variance of the activations there.
    units = torch.stack([matched_directions(directions, acts, seed=s).unit for s in range(300)])
    ours = units.square().mean(dim=0)
    theirs = acts.double().var(dim=1, correction=0)
    theirs = theirs / theirs.sum(dim=1, keepdim=True)
    assert torch.corrcoef(torch.stack([ours[0], theirs[0]]))[0, 1] > 0.9
    flat = torch.stack([random_directions(directions, seed=s).unit for s in range(300)])
    assert torch.corrcoef(torch.stack([flat.square().mean(dim=0)[0], theirs[0]]))[0, 1] < 0.5


def test_activations_that_do_not_vary_have_no_matched_direction(world):
    directions, acts = world
    with pytest.raises(DegenerateDirectionError, match="length 0 or not finite is no direction"):
        matched_directions(directions, acts[:, :1])
