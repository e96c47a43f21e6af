"""A training state is whole or not there, whenever the writer dies."""

import json

import pytest

from workbench import states
from workbench.errors import RunError
from workbench.records import StepRecord
from workbench.runs import Run
from workbench.store import RunStore


@pytest.fixture
def run(tmp_path):
    """A run of 5 steps with a state after step 2 and drift files of all steps."""
    run = RunStore(tmp_path).create({}, "one")
    for step in range(1, 6):
        run.append(StepRecord(step, 1.0, 1e-3, 1.0))
        (run.folder / f"drift/{step:06d}.safetensors").write_bytes(b"")
        if step == 2:
            run.save_state(step, b"two")
    return run


def steps_of(run):
    return [line["step"] for line in Run(run.folder).lines]


def drift_steps(run):
    return sorted(int(path.stem) for path in (run.folder / "drift").iterdir())


def test_rewinding_drops_the_records_and_drift_after_the_state(run):
    assert steps_of(run) == [1, 2, 3, 4, 5]
    run.rewind()
    assert steps_of(run) == [1, 2]
    assert drift_steps(run) == [1, 2]
    assert run.load_state() == b"two"


def test_rewinding_without_a_state_drops_everything(tmp_path):
    run = RunStore(tmp_path).create({}, "one")
    run.append(StepRecord(0, 1.0, 1e-3, 1.0))
    run.rewind()
    assert run.load_state() is None
    assert steps_of(run) == []


def test_rewinding_forgets_the_records_that_were_read_before(run):
    assert len(run.lines) == 5
    run.rewind()
    assert len(run.lines) == 2


def test_a_state_is_stored_where_the_empty_folder_got_lost_on_the_way(tmp_path):
    run = RunStore(tmp_path).create({}, "one")
    (run.folder / "state").rmdir()
    assert run.load_state() is None
    run.save_state(1, b"one")
    assert run.load_state() == b"one"


def test_a_torn_line_after_the_state_is_dropped(run):
    with (run.folder / "records.jsonl").open("ab") as file:
        file.write(b'{"step": 6')
    run.rewind()
    assert (run.folder / "records.jsonl").read_bytes().endswith(b"\n")
    assert steps_of(run) == [1, 2]


def test_the_new_state_takes_the_place_of_the_one_before(run):
    run.save_state(4, b"four")
    assert run.load_state() == b"four"
    assert sorted(path.name for path in (run.folder / "state").iterdir()) == ["000004", "current"]


@pytest.mark.parametrize("dies_at", ["state.safetensors", "state.json", "current"])
def test_a_writer_that_dies_while_saving_leaves_the_state_before(run, monkeypatch, dies_at):
    write = states.write_atomic

    def dying(path, content):
        if path.name == dies_at:
            raise KeyboardInterrupt
        write(path, content)

    monkeypatch.setattr(states, "write_atomic", dying)
    write_json = states.write_json
    monkeypatch.setattr(
        states,
        "write_json",
        lambda path, data: dying(path, b"") if path.name == dies_at else write_json(path, data),
    )
    with pytest.raises(KeyboardInterrupt):
        run.save_state(4, b"four")
    assert run.load_state() == b"two"
    run.rewind()
    assert steps_of(run) == [1, 2]
    monkeypatch.undo()
    run.save_state(4, b"four again")
    assert run.load_state() == b"four again"


def test_files_that_a_crash_left_are_ignored(run):
    folder = run.folder / "state"
    (folder / "000009").mkdir()
    (folder / "000009/state.safetensors").write_bytes(b"half")
    (folder / ".current.123.tmp").write_text("000009")
    (run.folder / "drift/.000003.safetensors.123.tmp").write_bytes(b"half")
    assert run.load_state() == b"two"
    run.rewind()
    assert steps_of(run) == [1, 2]
    run.save_state(4, b"four")
    assert not (folder / "000009").exists()


def test_the_state_knows_how_much_of_the_records_belongs_to_it(run):
    told = json.loads((run.folder / "state/000002/state.json").read_text())
    content = (run.folder / "records.jsonl").read_bytes()
    assert content[: told["records_bytes"]].count(b"\n") == told["step"] == 2


@pytest.mark.parametrize("pointer", ["../../x", "", "1", "000002\n", "9" * 30, "000002/../000002"])
def test_a_pointer_that_is_no_step_is_refused(run, pointer):
    (run.folder / "state/current").write_text(pointer)
    with pytest.raises(RunError, match="current: cannot be read"):
        run.load_state()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"step": 3}, "step is 3"),
        ({"records_bytes": -1}, "records_bytes is -1, not a count"),
        ({"more": 1}, "unknown key more"),
    ],
)
def test_a_state_that_says_something_else_is_refused(run, change, told):
    path = run.folder / "state/000002/state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RunError, match=f"state.json: cannot be read .{told}"):
        run.states.reached()


def test_a_state_with_other_content_than_was_stored_is_refused(run):
    path = run.folder / "state/000002/state.safetensors"
    path.write_bytes(b"twO")
    with pytest.raises(RunError, match=r"state\.safetensors: damaged"):
        run.load_state()
    path.unlink()
    with pytest.raises(RunError, match=r"state\.safetensors: cannot be read"):
        run.load_state()
