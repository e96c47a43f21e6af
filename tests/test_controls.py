"""Control directions: like v_rev in everything but where they point."""

from collections import Counter
from dataclasses import replace
from itertools import permutations

import pytest
import torch

from workbench.aftermath import Aftermath
from workbench.controls import (
    drift_directions,
    matched_directions,
    orthogonal_to,
    random_directions,
    refusal_directions,
    shuffled_directions,
)
from workbench.directions import fit_directions_from
from workbench.errors import DegenerateDirectionError, LayerError


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


def test_the_refusal_direction_points_from_harmful_to_harmless(world):
    directions, harmful = world
    lost = 3 * torch.randn(3, 1, 32, generator=torch.Generator().manual_seed(4))
    benign = harmful[:, :4] - lost
    control = refusal_directions(directions, harmful, benign)
    means = [acts.numpy().astype(float).mean(axis=1) for acts in (benign, harmful)]
    expected = torch.from_numpy(means[0] - means[1])
    expected /= expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(control.unit, expected, atol=1e-12, rtol=0)
    # Motion along it is what loses refusal: benign prompts lie further along than harmful ones.
    for acts, sign in ((benign, 1), (harmful, -1)):
        middle = (benign.mean(dim=1) + harmful.mean(dim=1)).double() / 2
        assert (sign * ((acts.double().mean(dim=1) - middle) * control.unit).sum(dim=1) > 0).all()
    assert torch.equal(control.gap, directions.gap)
    assert control.provenance == {"control": "refusal"}


def test_prompts_that_are_not_told_apart_have_no_refusal_direction(world):
    directions, acts = world
    told_apart = acts + 1
    told_apart[1] = acts[1]
    with pytest.raises(DegenerateDirectionError, match=r"refusal direction .* at layers \[1\]"):
        refusal_directions(directions, acts, told_apart)


def deep(n_layers):
    acts = torch.randn(n_layers, 4, 8, generator=torch.Generator().manual_seed(1))
    return fit_directions_from(acts + torch.randn(n_layers, 1, 8), acts)


def test_shuffled_directions_are_those_of_other_layers_each_used_once():
    directions = deep(4)
    orders = []
    for seed in range(400):
        control = shuffled_directions(directions, seed=seed)
        order = (control.unit @ directions.unit.T).argmax(dim=1)
        torch.testing.assert_close(control.unit, directions.unit[order])
        assert torch.equal(control.gap, directions.gap)
        assert control.provenance["control_layers"] == order.tolist()
        orders.append(tuple(order.tolist()))
    deranged = {o for o in permutations(range(4)) if all(a != b for a, b in enumerate(o))}
    counts = Counter(orders)
    # All nine of them, equally often: 44 times on average.
    assert counts.keys() == deranged
    assert min(counts.values()) > 20 and max(counts.values()) < 75
    again = shuffled_directions(directions, seed=7)
    assert again.provenance["control_layers"] == [*orders[7]]


def test_one_layer_cannot_be_shuffled():
    with pytest.raises(LayerError, match=r"Only layer 0 has a direction: .* at least 2 layers"):
        shuffled_directions(deep(1))
    swapped = shuffled_directions(deep(2))
    assert swapped.provenance["control"] == "shuffled"


def test_the_drift_direction_is_the_first_component_of_ordinary_drift(world):
    directions, acts = world
    main = torch.randn(3, 1, 32, generator=torch.Generator().manual_seed(2))
    # Back and forth: the mean displacement says little about where the prompts moved most.
    weights = torch.tensor([1.0, 2, 3, -3, -2, -0.9])[:, None]
    noise = 0.05 * torch.randn(acts.shape, generator=torch.Generator().manual_seed(6))
    aftermath = Aftermath.between(acts, acts + weights * main + noise, (0, 1, 2))
    control = drift_directions(directions, aftermath)
    unit = (main / main.norm(dim=-1, keepdim=True))[:, 0].double()
    assert (control.unit * unit).sum(dim=1).min() > 0.999
    assert torch.cosine_similarity(aftermath.mean, unit, dim=1).max() < 0.9
    assert torch.equal(control.gap, directions.gap)
    assert control.provenance["control"] == "drift"
    still = Aftermath.between(acts, acts, (0, 1, 2))
    with pytest.raises(DegenerateDirectionError, match=r"drift direction .* layers \[0, 1, 2\]"):
        drift_directions(directions, still)
    with pytest.raises(LayerError, match="same layers"):
        drift_directions(directions, replace(aftermath, layers=(1, 2, 3)))


def test_an_orthogonal_control_is_the_control_without_its_part_along_v_rev(world):
    directions, acts = world
    control = matched_directions(directions, acts, seed=3)
    control = control.with_unit(control.unit + directions.unit)
    found = orthogonal_to(control, directions)
    along = (control.unit * directions.unit).sum(dim=1, keepdim=True)
    assert along.min() > 0.3
    expected = control.unit - along * directions.unit
    torch.testing.assert_close(found.unit, expected / expected.norm(dim=1, keepdim=True))
    assert (found.unit * directions.unit).sum(dim=1).abs().max() < 1e-12
    assert found.provenance == {"control": "matched, orthogonal", "control_seed": 3}
    assert torch.equal(found.gap, directions.gap)


def test_of_v_rev_itself_nothing_is_left(world):
    directions, _ = world
    for same in (directions, directions.with_unit(-3 * directions.unit)):
        with pytest.raises(DegenerateDirectionError, match=r"off v_rev .* at layers \[0, 1, 2\]"):
            orthogonal_to(same, directions)
    with pytest.raises(LayerError, match=r"control has layers \[1, 2, 3\], the directions"):
        orthogonal_to(replace(random_directions(directions), layers=(1, 2, 3)), directions)
