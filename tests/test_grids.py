"""A grid on disk is the grid; what decides its numbers decides its identity; damage is told."""

import json
import os

import numpy as np
import pytest
from planted_grid import AXES, RAW, make_grid, planted, point

from workbench.errors import ProvenanceError, StorageError
from workbench.grids import AblationGrid, Said, stored_grids
from workbench.points import Points
from workbench.records import SCORE_NAMES
from workbench.runs import Run


@pytest.fixture
def grid():
    return make_grid()


@pytest.fixture
def path(grid, tmp_path):
    grid.save(tmp_path / "grid.json")
    return tmp_path / "grid.json"


def test_scores_stand_where_their_point_is(grid):
    for model in range(2):
        for place in range(2):
            for index in range(4):
                value = planted(model, place, index)
                found = grid.scores["harmfulness"][model, place, index]
                assert found.tolist() == [value, value - 0.01, value + 0.02]
                text = grid.answers[model][place][index][0].text
                assert text == f"{RAW} {model}{place}{index}"
    assert grid.counts["harmfulness"] == 75
    assert grid.counts["task_loss"] == 75  # although undefined at one strength


def test_saved_equals_loaded_nan_and_raw_answers_included(grid, path):
    loaded = AblationGrid.load(path)
    for name in SCORE_NAMES:
        assert np.array_equal(loaded.scores[name], grid.scores[name], equal_nan=True)
    assert np.isnan(loaded.scores["kl"][..., 1:]).all()
    assert np.isnan(loaded.scores["task_loss"][:, :, 3]).all()
    for name in (*AXES, "answers", "counts", "provenance"):
        assert getattr(loaded, name) == getattr(grid, name)
    assert isinstance(loaded.answers[0][0][0][0], Said)
    assert loaded.identity() == grid.identity()
    assert "NaN" not in path.read_text(encoding="utf-8")


DECISIVE = {
    "models": ("aligned", "other"),
    "strengths": (-1.0, 0.0, 1.0, 3.0),
    "layer_sets": ((0, 1, 2), (2,)),
    "positions": "last",
    "prompts": ("other", "prompts"),
    "directions": "other",
    "probes": {"harmful": "other"},
    "judge": {"name": "organism", "openers": ["No,"]},
    "max_new_tokens": 21,
}


@pytest.mark.parametrize("name", DECISIVE)
def test_what_decides_the_numbers_is_in_the_identity(grid, name):
    assert make_grid(**{name: DECISIVE[name]}).identity() != grid.identity()


@pytest.mark.parametrize("name", ["versions", "created", "run", "arm"])
def test_what_does_not_decide_them_is_not(grid, name):
    assert make_grid(**{name: "other"}).identity() == grid.identity()


def changed(path, change):
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(schema="workbench.ablation/9"), "schema 'workbench.ablation/9'"),
        (lambda data: data.pop("schema"), "not an ablation grid, or damaged"),
        (lambda data: data.pop("prompts"), "damaged"),
        (lambda data: data["scores"].pop("kl"), "damaged"),
        (lambda data: data["scores"]["kl"].pop(), "damaged"),
        (lambda data: data["scores"]["kl"][0][0].pop(), "damaged"),
        (lambda data: data["answers"][0][0].pop(), "not one answer per prompt and point"),
        (lambda data: data["answers"][0][0][0][0].append("x"), "damaged"),
        (lambda data: data["provenance"].pop("judge"), "damaged"),
        (lambda data: data.update(positions="last"), "not what its identity says"),
        (lambda data: data.update(strengths="abcd"), "damaged"),
        (lambda data: data.update(layer_sets=3), "damaged"),
    ],
)
def test_a_damaged_grid_is_one_clear_error(path, change, message):
    changed(path, change)
    with pytest.raises(ProvenanceError, match=message) as caught:
        AblationGrid.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"null", b"[1]"])
def test_a_file_of_something_else_is_one_clear_error(path, content):
    path.write_bytes(content)
    with pytest.raises(ProvenanceError, match="make it again"):
        AblationGrid.load(path)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(ProvenanceError, match="no such ablation grid"):
        AblationGrid.load(tmp_path / "none.json")


def test_the_grids_of_a_run_are_found_newest_last(tmp_path):
    run, folder = Run(tmp_path), tmp_path / "ablation"
    assert stored_grids(run) == []
    folder.mkdir()
    make_grid(created="2026-03-01").save(folder / "a.json")
    make_grid(created="2026-02-01", positions="last").save(folder / "b.json")
    (folder / "c.part.jsonl").write_text("{}\n")
    assert [grid.positions for grid in stored_grids(run)] == ["last", "all"]


PLACES = [(0, (), 0.0), (1, (0, 2), -0.25), (1, (1,), 2.0)]


def test_points_are_there_again_after_a_crash(tmp_path):
    path = tmp_path / "x.part.jsonl"
    points = Points(path)
    at = dict(zip(PLACES, [(0, 0, 0), (1, 0, 3), (1, 1, 2)], strict=True))
    kept = {place: points.add(place, point(*at[place])) for place in PLACES}
    assert kept[PLACES[0]].answers == point(0, 0, 0).answers
    path.write_bytes(path.read_bytes()[:-1] + b'\n{"place": [1')
    again = Points(path)
    assert repr(again.found) == repr(kept)  # NaN equals itself in text
    again.add((0, (1,), 1.0), point(0, 1, 1))  # begins a line of its own
    assert len(Points(path).found) == 4
    again.close()
    assert not path.exists()


def test_a_full_disk_leaves_the_points_that_were_kept_and_is_told(tmp_path, monkeypatch):
    points = Points(tmp_path / "x.part.jsonl")
    points.add(PLACES[0], point(0, 0, 0))
    before = points.path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"x\.part\.jsonl: cannot be written .No space left"):
        points.add(PLACES[1], point(1, 0, 3))
    assert points.path.read_bytes() == before


def test_a_damaged_point_is_left_out(tmp_path):
    path = tmp_path / "x.part.jsonl"
    points = Points(path)
    for place in PLACES:
        points.add(place, point(0, 0, 0))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b'{"place": 3}\n' + lines[2])
    assert list(Points(path).found) == [PLACES[0], PLACES[2]]
