"""What a fine-tuning left is split, re-fitted and stored as the formulas say."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file

from workbench.aftermath import Aftermath, off_direction, outside
from workbench.controls import random_directions
from workbench.directions import fit_directions_from
from workbench.errors import ConfigError, DegenerateDirectionError, LayerError, ProvenanceError
from workbench.probes import Probe, ProbeSet

LAYERS = (2, 5, 7)


@pytest.fixture
def directions(readings):
    return fit_directions_from(*readings[:2], layers=LAYERS)


@pytest.fixture
def left(readings):
    return Aftermath.between(
        readings[1], readings[2], LAYERS, provenance={"run": "one", "step": 100}
    )


def aftermath_of(mean):
    """An aftermath of that mean displacement: two prompts that moved alike."""
    start = torch.zeros(len(mean), 2, mean.shape[1])
    return Aftermath.between(start, start + mean.float()[:, None], LAYERS, rank=1)


def test_the_mean_is_that_of_the_displacements_in_float64(readings, left):
    expected = (readings[2].numpy().astype(float) - readings[1].numpy().astype(float)).mean(axis=1)
    assert left.mean.dtype == torch.float64
    np.testing.assert_allclose(left.mean.numpy(), expected, rtol=1e-12)


def test_components_and_shares_are_those_of_the_singular_values(readings, left):
    for layer in range(3):
        moved = (readings[2][layer].double() - readings[1][layer].double()).numpy()
        # Eigenvectors of the second moment about zero, largest first: another road to them.
        values, vectors = np.linalg.eigh(moved.T @ moved)
        values, vectors = values[::-1][:4], vectors[:, ::-1][:, :4]
        np.testing.assert_allclose(left.share[layer], values / (moved**2).sum(), atol=1e-12)
        cosines = np.abs((left.components[layer].numpy() * vectors.T).sum(axis=1))
        np.testing.assert_allclose(cosines, 1, atol=1e-9)
    assert left.components.shape == (3, 4, 24)
    assert (left.share[:, :-1] >= left.share[:, 1:]).all()
    assert left.share.sum(dim=1).max() < 1


def test_every_component_has_the_mean_displacement_on_its_positive_side(readings, left):
    turned = Aftermath.between(readings[2], readings[1], LAYERS)
    for one in (left, turned):
        assert (torch.einsum("lrd,ld->lr", one.components, one.mean) >= 0).all()
    torch.testing.assert_close(turned.components, -left.components)


def test_components_are_about_zero_so_that_a_common_motion_is_the_first(readings):
    common = torch.randn(3, 24, generator=torch.Generator().manual_seed(8))
    found = Aftermath.between(readings[1], readings[1] + common[:, None], LAYERS, rank=2)
    unit = common.double() / common.double().norm(dim=1, keepdim=True)
    torch.testing.assert_close(found.components[:, 0], unit, atol=1e-6, rtol=0)
    assert found.share[:, 0].min() > 1 - 1e-9
    # The other way round: motions that cancel in the mean are seen too.
    opposite = common[:, None] * torch.tensor([1.0, -1.0] * 4 + [0.0])[:, None]
    cancelled = Aftermath.between(readings[1], readings[1] + opposite, LAYERS, rank=2)
    assert cancelled.mean.norm() < 1e-5
    assert (cancelled.components[:, 0] * unit).sum(dim=1).abs().min() > 1 - 1e-9


def test_where_nothing_moved_there_is_neither_component_nor_share(readings):
    current = readings[2].clone()
    current[1] = readings[1][1]
    found = Aftermath.between(readings[1], current, LAYERS)
    assert not found.components[1].any() and not found.share[1].any()
    torch.testing.assert_close(found.components[0].norm(dim=1), torch.ones(4).double())


@pytest.mark.parametrize("rank", [0, 10])
def test_a_rank_that_cannot_be_is_refused(readings, rank):
    with pytest.raises(ConfigError, match=rf"rank is {rank}; 9 prompts in 24 .* have 1 to 9 comp"):
        Aftermath.between(readings[1], readings[2], LAYERS, rank=rank)
    assert (
        Aftermath.between(readings[1], readings[2], LAYERS, rank=9).share.sum(dim=1).min()
        > 1 - 1e-9
    )


def test_what_is_saved_is_what_is_loaded(left, tmp_path):
    left.save(tmp_path / "after.safetensors")
    loaded = Aftermath.load(tmp_path / "after.safetensors")
    for name in ("mean", "components", "share"):
        assert torch.equal(getattr(loaded, name), getattr(left, name))
    assert loaded.layers == LAYERS
    assert loaded.provenance == {"run": "one", "step": 100}
    arrays = load_file(tmp_path / "after.safetensors")
    np.testing.assert_array_equal(arrays["mean"], left.mean.numpy())
    assert arrays.keys() == {"mean", "components", "share"}


def test_another_or_a_damaged_file_is_refused(left, directions, tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(ProvenanceError, match=r"a\.safetensors: no such aftermath file"):
        Aftermath.load(path)
    directions.save(path)
    with pytest.raises(ProvenanceError, match=r"schema 'workbench\.directions/2', not workbench"):
        Aftermath.load(path)
    save_file({"mean": torch.zeros(1)}, path)
    with pytest.raises(ProvenanceError, match="not a file of aftermath, or damaged"):
        Aftermath.load(path)
    left.save(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ProvenanceError, match=r"damaged .*; make it again"):
        Aftermath.load(path)


def by_hand(vector, *basis):
    """Gram–Schmidt of one vector against vectors of any lengths and angles."""
    done = []
    for one in [*basis, vector]:
        for other in done:
            one = one - (one @ other) / (other @ other) * other
        done.append(one)
    return done[-1]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_the_off_direction_is_what_gram_schmidt_leaves_of_the_displacement(left, directions, count):
    further = [random_directions(directions, seed=seed) for seed in range(count)]
    # Oblique to v_rev, as a control may be.
    further = [one.with_unit(one.unit + directions.unit) for one in further]
    found = off_direction(left, directions, further)
    for layer in range(3):
        basis = [one.unit[layer] for one in (directions, *further)]
        expected = by_hand(left.mean[layer], *basis)
        torch.testing.assert_close(found.unit[layer], expected / expected.norm())
        for vector in basis:
            assert abs(found.unit[layer] @ vector) < 1e-12
    assert (left.mean * directions.unit).sum(dim=1).abs().min() > 0.1  # there was something
    assert torch.equal(found.gap, directions.gap)
    assert found.provenance["control"] == "off-direction"


def test_the_same_direction_given_twice_is_left_out_once(left, directions):
    once, twice = off_direction(left, directions), off_direction(left, directions, [directions])
    torch.testing.assert_close(once.unit, twice.unit)


def test_a_displacement_along_the_direction_alone_has_no_off_direction(directions):
    only_along = replace(aftermath_of(directions.unit), mean=3 * directions.unit)
    with pytest.raises(DegenerateDirectionError, match=r"off-direction .* at layers \[2, 5, 7\]"):
        off_direction(only_along, directions)
    assert not outside(only_along.mean, [directions]).any()


def test_the_off_direction_knows_the_prompts_of_both(left, directions):
    fit, more = (ProbeSet((Probe(name, "harmful"),)) for name in ("first", "second"))
    known = replace(directions, provenance={"prompts": sorted(fit.marks())})
    found = off_direction(replace(left, provenance={"prompts": sorted(more.marks())}), known)
    assert {*found.provenance["prompts"]} == fit.marks() | more.marks()


def test_other_layers_are_refused(left, directions):
    elsewhere = replace(directions, layers=(0, 1, 2))
    for call in (
        lambda: off_direction(left, elsewhere),
        lambda: off_direction(left, directions, [elsewhere]),
    ):
        with pytest.raises(LayerError, match=r"layers \[.*\], the directions \[.*same layers"):
            call()
