"""What surrounds a run is found wherever it was stored, and is None where it was not."""

import json
import shutil

import numpy as np
import pytest
from planted_experiment import N_LAYERS, build_experiment, write_run
from planted_surroundings import GAP, ORDER, ROLES, SPOTS, write_directions, write_phases

from workbench.errors import RunError
from workbench.files import file_hash
from workbench.store import RunStore
from workbench.surroundings import Surroundings, home_of, surroundings_of


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = build_experiment(
        tmp_path_factory.mktemp("e") / "planted",
        arms=("ordinary",),
        seeds=(0,),
        lineages=("a", "b"),
    )
    for place in ("l0", "l1"):
        write_directions(folder / "lineages" / place)
        (folder / "lineages" / place / "readout.json").write_text(json.dumps({"layers": [place]}))
    write_phases(folder / "lineages" / "l0")
    return folder


@pytest.fixture
def folder(built, tmp_path):
    """A copy to change."""
    return shutil.copytree(built, tmp_path / "copy")


def test_a_run_of_an_experiment_finds_what_its_own_lineage_shares(built):
    store = RunStore(built / "runs")
    first, second = (store.open(f"{place}-ordinary-0") for place in ("l0", "l1"))
    around, other = surroundings_of([first, second])
    assert (around.readout, other.readout) == ({"layers": ["l0"]}, {"layers": ["l1"]})
    assert around.layers == tuple(range(N_LAYERS))
    np.testing.assert_array_equal(around.gap, GAP)
    np.testing.assert_array_equal(around.unit[:, 0], 1)
    np.testing.assert_array_equal(around.p99, 0.3)
    np.testing.assert_allclose(np.linalg.norm(around.sibling, axis=1), 1)
    assert (around.order, around.roles) == (tuple(ORDER), ROLES)
    assert list(around.landmarks) == ["pretrained", "helpful", "aligned-b"]
    assert around.landmarks["pretrained"][0, 5] == GAP * SPOTS["pretrained"][5]


def test_without_stored_phases_the_witness_is_known_from_v_rev_and_the_others_are_not(built):
    around = Surroundings.of(RunStore(built / "runs").open("l1-ordinary-0"))
    assert around.phases is None
    assert around.order == ("helpful", "aligned")
    np.testing.assert_array_equal(around.landmarks["helpful"], GAP * around.unit)
    assert len(around.landmarks) == 1


def test_a_run_under_way_is_known_by_the_hash_of_its_directions(folder):
    write_directions(folder / "lineages" / "l1", layers=range(2, 2 + N_LAYERS))
    (folder / "experiment.json").unlink()
    run = RunStore(folder / "runs").open("l1-ordinary-0")
    assert home_of(run) == run.folder  # nothing says whose it is
    own = file_hash(folder / "lineages" / "l1" / "directions.safetensors")
    run.write_info(run.info | {"config": run.info["config"] | {"directions": own}})
    assert home_of(run) == folder / "lineages" / "l1"
    assert Surroundings.of(run).layers == tuple(range(2, 2 + N_LAYERS))


def test_a_run_alone_has_its_own_folder_or_nothing(tmp_path):
    run = write_run(RunStore(tmp_path / "runs").create({"seed": 0}, "lone"), "ordinary", 0)
    assert Surroundings.of(run) == Surroundings()
    assert Surroundings.of(run).landmarks == {}
    write_directions(run.folder)
    assert list(Surroundings.of(run).landmarks) == ["helpful"]


@pytest.mark.parametrize("name", ["directions.safetensors", "phases.safetensors", "nulls.json"])
def test_a_damaged_file_is_named(folder, name):
    (folder / "lineages" / "l0" / name).write_bytes(b"damaged")
    with pytest.raises(RunError, match=f"{name}: cannot be read"):
        Surroundings.of(RunStore(folder / "runs").open("l0-ordinary-0"))
