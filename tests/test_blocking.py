"""After blocking: planted displacements give the cosines, gaps and shares that they must."""

import json

import numpy as np
import pytest
from planted_experiment import N_LAYERS, build_experiment
from safetensors.numpy import save_file

from workbench.archive import Archive
from workbench.blocking import _share, after_blocking

D_MODEL = 4
GAP = 2.0


def vectors(*coordinates):
    return np.tile(np.array([*coordinates, *[0.0] * (D_MODEL - len(coordinates))]), (N_LAYERS, 1))


@pytest.fixture
def archive(tmp_path):
    """v_rev is the first axis: ordinary went 1 gap along and 3 off, block 0.2 back and 2.5 off."""
    folder = build_experiment(tmp_path / "one", arms=("ordinary", "block", "push"), seeds=(0,))
    reversion = {"unit": vectors(1.0), "gap": np.full(N_LAYERS, GAP)}
    save_file(reversion, folder / "lineages/l0/directions.safetensors")
    save_file({"mean": vectors(2.0, 3.0)}, folder / "runs/l0-ordinary-0/aftermath.safetensors")
    save_file({"mean": vectors(-0.4, 1.5, 2.0)}, folder / "runs/l0-block-0/aftermath.safetensors")
    save_file({"mean": vectors(1.0)}, folder / "runs/l0-push-0/aftermath.safetensors")
    return Archive.open(folder)


def test_displacements_are_told_in_gaps_along_and_off(archive):
    found = after_blocking(archive)["block"]
    assert found["along"][0] == pytest.approx([-0.2] * N_LAYERS)
    assert found["off"][0] == pytest.approx([2.5 / GAP] * N_LAYERS)


def test_the_refitted_direction_is_the_way_that_is_left(archive):
    found = after_blocking(archive)["block"]
    left = np.array([2.0 + 0.4, -1.5, -2.0])  # witness − blocked model
    assert found["gap"][0] == pytest.approx([np.linalg.norm(left) / GAP] * N_LAYERS)
    assert found["cosine"][0] == pytest.approx([left[0] / np.linalg.norm(left)] * N_LAYERS)


def test_shared_is_the_part_of_ordinarys_off_direction_displacement(archive):
    assert after_blocking(archive)["block"]["shared"][0] == pytest.approx([0.5] * N_LAYERS)


def test_only_arms_that_block_v_rev_are_told(archive):
    assert after_blocking(archive).keys() == {"block"}


def test_returned_behaviour_is_a_share_of_ordinarys_shift(archive):
    ends = {
        name: archive.by_arm[name][0].scores()[100]["harmfulness"]["value"]
        for name in ("ordinary", "block")
    }
    start = archive.by_arm["ordinary"][0].scores()[0]["harmfulness"]["value"]
    expected = (ends["block"] - start) / (ends["ordinary"] - start)
    found = after_blocking(archive)["block"]
    assert found["harmfulness_returned"]["mean"] == pytest.approx(expected)
    assert 0 < expected < 0.5  # planted: blocking keeps most of it away


def test_a_shift_within_its_own_noise_gives_no_share():
    steady, noisy = np.array([[0.1, 0.4], [0.3, 0.5]]), np.array([[0.1, 0.4], [0.3, -0.5]])
    assert _share(steady) == pytest.approx(0.2 / 0.45)
    assert _share(noisy) is None
    assert _share(np.array([[0.1, 0.0]])) is None


def test_without_an_ordinary_arm_or_a_way_left_shares_are_undefined(archive):
    mean = vectors(GAP)  # the blocked model is the witness, and nothing went off the direction
    save_file({"mean": mean}, archive.folder / "runs/l0-block-0/aftermath.safetensors")
    save_file({"mean": mean}, archive.folder / "runs/l0-ordinary-0/aftermath.safetensors")
    found = after_blocking(archive)["block"]
    assert found["cosine"][0] == found["shared"][0] == [None] * N_LAYERS
    json.dumps(found, allow_nan=False)
    plan = {**archive.plan, "arms": [arm for arm in archive.plan["arms"] if arm["name"] == "block"]}
    plan["runs"] = [name for name in plan["runs"] if "block" in name]
    alone = after_blocking(Archive(archive.folder, plan))["block"]
    assert alone["shared"] == [None]
    assert alone["harmfulness_returned"]["mean"] is None


def test_runs_that_kept_no_aftermath_are_left_out(archive):
    (archive.folder / "runs/l0-block-0/aftermath.safetensors").unlink()
    assert after_blocking(archive) == {}
