"""A run comes back from disk as it was written, and only its writer may change it."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from planted_experiment import N_LAYERS, N_PROMPTS, planted_alignment, planted_drift, planted_scores
from planted_inputs import note_flushes

from workbench import runs
from workbench.errors import RunError, StorageError
from workbench.records import Auxiliary, Estimate, StepRecord, scores_from_json
from workbench.runs import Run
from workbench.store import RunStore

CONFIG = {"seed": 0, "recipe": {"steps": 6, "learning_rate": 1e-3, "measure_at": [1, 2]}}


def record_of(step, *, measured=True, evaluated=False):
    scores = planted_scores("ordinary", 0, step) if evaluated else None
    if scores is not None:
        scores = replace(scores, kl=Estimate(math.nan, math.nan, math.nan, 0))
    return StepRecord(
        step,
        loss=4.0 / step if step else math.nan,
        learning_rate=1e-3,
        gradient_norm=1.5,
        auxiliary={"block": Auxiliary(loss=0.5 * step, gradient_norm=2.0 + step, scale=0.25)},
        drift=planted_drift(planted_alignment("ordinary", 0)[step], step) if measured else None,
        scores=scores,
    )


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


@pytest.fixture
def run(store):
    return store.create(CONFIG, "one")


def told(record):
    return json.loads(json.dumps(record.to_json()))


def unhashed(line):
    """A stored line without the hash of its drift file."""
    drift = {key: value for key, value in line.get("drift", {}).items() if key != "sha256"}
    return line | ({"drift": drift} if drift else {})


def test_appended_records_come_back_equal(run):
    records = [record_of(step, measured=step != 2, evaluated=step == 1) for step in (1, 2, 3)]
    for record in records:
        run.append(record)
    again = Run(run.folder)
    assert [unhashed(line) for line in again.lines] == [told(record) for record in records]
    measured = [record.drift for record in records if record.drift is not None]
    assert again.measured_steps.tolist() == [1, 3]
    np.testing.assert_array_equal(
        again.drift(), np.float32(np.stack([drift.vector for drift in measured]))
    )
    np.testing.assert_array_equal(again.layer_values("along"), [drift.along for drift in measured])
    assert again.projections().shape == (2, N_LAYERS, N_PROMPTS)
    assert again.gradient_trace("block") == tuple((2.0 + step) * 0.25 for step in (1, 2, 3))


def test_a_record_is_on_disk_when_appending_returns_its_drift_before_its_line(run, monkeypatch):
    flushed = note_flushes(monkeypatch)
    run.append(record_of(1))
    run.append(record_of(2, measured=False))
    assert flushed[0].startswith(".000001.safetensors.")
    assert flushed[1:] == ["drift", "records.jsonl", "records.jsonl"]


def test_an_undefined_number_is_null_in_the_file_and_nan_when_read(run):
    run.append(record_of(1, evaluated=True))
    line = (run.folder / "records.jsonl").read_text()
    assert "NaN" not in line
    assert json.loads(line)["scores"]["kl"] == {"value": None, "low": None, "high": None, "n": 0}
    scores = scores_from_json(run.scores()[1])
    assert math.isnan(scores.kl.value)
    assert scores.harmfulness == planted_scores("ordinary", 0, 1).harmfulness
    undefined = np.isnan(planted_alignment("ordinary", 0)[1])
    assert undefined.any()  # planted so
    np.testing.assert_array_equal(np.isnan(run.layer_values("alignment")[0]), undefined)
    frame = run.records()
    assert math.isnan(frame.loc[1, "kl"])
    assert frame.loc[1, "loss"] == 4.0


def test_a_run_without_records_is_an_empty_table(run):
    assert run.records().empty


def test_a_torn_last_line_is_not_seen_but_the_next_whole_one_is(run):
    run.append(record_of(1))
    whole = json.dumps(record_of(2, measured=False).to_json()).encode() + b"\n"
    with (run.folder / "records.jsonl").open("ab") as file:
        file.write(whole[:14])
    assert [line["step"] for line in Run(run.folder).lines] == [1]
    with (run.folder / "records.jsonl").open("ab") as file:
        file.write(whole[14:])
    assert [line["step"] for line in run.refresh().lines] == [1, 2]


def test_a_damaged_file_is_named(run):
    run.append(record_of(1))
    (run.folder / "records.jsonl").write_text('{"step": 1\n')
    with pytest.raises(RunError, match=r"records\.jsonl: cannot be read"):
        _ = Run(run.folder).lines
    (run.folder / "run.json").write_text("[1]")
    with pytest.raises(RunError, match=r"run\.json: cannot be read"):
        run.checked()


def test_a_truncated_drift_file_is_named(run):
    run.append(record_of(1))
    os.truncate(run.folder / "drift/000001.safetensors", 10)
    with pytest.raises(RunError, match=r"000001\.safetensors: not the file that the record"):
        run.drift()
    (run.folder / "drift/000001.safetensors").unlink()
    with pytest.raises(RunError, match=r"000001\.safetensors: cannot be read"):
        run.drift()


def test_a_used_folder_is_refused_and_left_alone(store, run):
    run.append(record_of(1))
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match="already used"):
        store.create(CONFIG, "one")
    assert before == {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}


def test_a_run_is_there_with_its_config_or_not_at_all(store, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs, "write_json", fail)
    with pytest.raises(StorageError, match=r"one: cannot be written .No space left"):
        store.create(CONFIG, "one")
    assert list(store.root.iterdir()) == []
    monkeypatch.undo()
    store.create(CONFIG, "one")
    assert [path.name for path in store.root.iterdir()] == ["one"]


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/b", "..", ".", "", "x\n", "\x1b[2Jx", ".x"])
def test_a_hostile_run_id_reaches_no_other_folder(store, tmp_path, name):
    RunStore(tmp_path).create(CONFIG, "x")
    for use in (
        lambda: store.create(CONFIG, name),
        lambda: store.open(name),
        lambda: store.resume(name, CONFIG),
    ):
        with pytest.raises(RunError, match="is not a name for a run"):
            use()
    assert not store.root.exists()


def test_an_unknown_schema_is_refused_with_both_numbers(store, run):
    info = json.dumps(run.info | {"schema": 99})
    (run.folder / "run.json").write_text(info)
    with pytest.raises(RunError, match="schema is 99, not 1, which this version reads"):
        store.open("one")


def test_a_folder_without_run_is_said_to_hold_none(store):
    with pytest.raises(RunError, match=r"no run here"):
        store.open("none")


def test_runs_are_iterated_by_name_without_what_a_crash_left(store):
    for name in ("b", "a"):
        store.create(CONFIG, name)
    store.create(CONFIG, "left").folder.rename(store.root / ".new-left")
    assert [run.id for run in store] == ["a", "b"]


def test_a_second_writer_is_refused_until_the_first_has_finished(store, run):
    with pytest.raises(RunError, match="being written"):
        store.resume("one", CONFIG)
    run.fail("told to")
    assert store.resume("one", CONFIG).status == "running"


def test_the_lock_of_another_host_is_broken_only_on_request(store, run):
    (run.folder / "lock").write_text('{"host": "another-host", "pid": 1}')
    with pytest.raises(RunError, match="another-host"):
        store.resume("one", CONFIG)
    assert store.resume("one", CONFIG, break_lock=True).status == "running"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"recipe": CONFIG["recipe"] | {"learning_rate": 2e-3}}, "recipe.learning_rate"),
        ({"new": 1}, "new"),
    ],
)
def test_other_settings_are_refused_and_named(store, run, change, named):
    run.fail("told to")
    with pytest.raises(RunError, match=rf"other settings \({named}\)"):
        store.resume("one", CONFIG | change)
    assert run.status == "failed"
    assert store.resume("one", dict(reversed(CONFIG.items()))).status == "running"


def test_a_failure_is_told_until_the_run_is_resumed(store, run):
    run.fail("the disk is full")
    assert (run.status, run.info["failure"]) == ("failed", "the disk is full")
    store.resume("one", CONFIG).finish()
    assert run.status == "done"
    assert "failure" not in run.info


def test_a_run_stays_done_when_clearing_up_after_it_fails(store, run, monkeypatch):
    run.save_state(1, b"state")

    def refuse(path):
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr("workbench.runs.shutil.rmtree", refuse)
    with pytest.raises(OSError, match="Input/output"):
        run.finish()
    run.fail("the disk failed")
    assert (run.status, run.info.get("failure")) == ("done", None)
    monkeypatch.undo()
    assert (run.folder / "state").is_dir()
    assert store.resume("one", CONFIG).status == "done"
    assert not (run.folder / "state").exists()


def test_a_finished_run_is_left_alone_by_resuming(store, run):
    run.append(record_of(1))
    run.finish()
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    assert store.resume("one", CONFIG).status == "done"
    assert before == {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match="other settings"):
        store.resume("one", CONFIG | {"seed": 1})


OPEN_AND_PLOT = """
import sys, time
from workbench.runs import Run
run = Run(sys.argv[1]).checked()
assert len(run.records()) and run.drift().shape[0] == 5
from workbench.plots import heatmap
assert heatmap(run).data
heavy = {"torch", "transformers", "transformer_lens"} & set(sys.modules)
assert not heavy, heavy
print(time.process_time())
"""


def test_opening_a_finished_run_and_its_first_figure_take_no_torch_and_under_two_seconds(run):
    for step in range(1, 6):
        run.append(record_of(step, evaluated=step == 1))
    run.finish()
    told = subprocess.run(
        [sys.executable, "-c", OPEN_AND_PLOT, run.folder], capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    assert float(told.stdout) < 2.0


def test_a_writer_whose_run_was_taken_over_writes_nothing_more(store, run):
    run.append(record_of(1))
    successor = store.resume("one", CONFIG, break_lock=True)
    successor.append(record_of(1))
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    for write in (
        lambda: run.append(record_of(2)),
        lambda: run.amend(record_of(1)),
        lambda: run.save_state(1, b"one"),
        run.rewind,
        run.finish,
        lambda: run.write_info(run.info),
    ):
        with pytest.raises(RunError, match="another process has taken it over"):
            write()
    run.fail("told to")  # what stops it is told elsewhere: the run is not its own any more
    assert before == {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    successor.append(record_of(2))


def full(*_):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("written", [0, 1, 40])
def test_a_full_disk_leaves_whole_lines_and_names_the_file(run, monkeypatch, written):
    run.append(record_of(1))
    before = (run.folder / "records.jsonl").read_bytes()

    def flush(descriptor):
        os.ftruncate(descriptor, len(before) + written)
        full()

    monkeypatch.setattr(os, "fsync", flush)
    with pytest.raises(StorageError, match=r"records\.jsonl: cannot be written .No space left"):
        run.append(record_of(2, measured=False))
    monkeypatch.undo()
    assert (run.folder / "records.jsonl").read_bytes() == before
    run.append(record_of(2, measured=False))
    assert [line["step"] for line in run.refresh().lines] == [1, 2]


def test_a_run_that_cannot_be_marked_failed_is_given_up_all_the_same(store, run, monkeypatch):
    monkeypatch.setattr(os, "fsync", full)
    run.fail("the disk is full")
    monkeypatch.undo()
    assert run.status == "running"
    assert store.resume("one", CONFIG).status == "running"


def test_what_ended_a_run_is_told_also_where_its_lock_cannot_be_removed(run, monkeypatch):
    monkeypatch.setattr(runs, "write_json", full)
    monkeypatch.setattr(runs, "release_lock", full)
    run.fail("the disk is read-only")
    assert run.status == "running"


def test_what_a_killed_writer_left_is_removed_on_resuming(store, run):
    left = [".lock.0123456789ab.tmp", "drift/.000001.safetensors.0123456789ab.tmp"]
    for name in left:
        (run.folder / name).write_bytes(b"half")
    run.fail("told to")
    store.resume("one", CONFIG)
    assert not any((run.folder / name).exists() for name in left)


def test_what_was_left_while_a_run_was_created_is_removed_on_creating_it(store, run):
    draft = store.root / ".two.0123456789ab.tmp"
    run.folder.rename(draft)
    (draft / "lock").unlink()
    other = store.root / ".three.0123456789ab.tmp"
    other.mkdir()
    store.create(CONFIG, "two")
    assert not draft.exists() and other.exists()


def test_what_another_process_is_creating_is_left_alone(store, run):
    draft = store.root / ".two.0123456789ab.tmp"
    run.folder.rename(draft)  # still locked by this process, which lives
    store.create(CONFIG, "two")
    assert (draft / "run.json").is_file()


def test_what_a_run_of_a_similar_long_name_is_creating_is_left_alone(store, monkeypatch):
    beside, lock = "lineage-" * 12 + "block-0", runs.take_lock

    def meanwhile(path, **options):
        monkeypatch.setattr(runs, "take_lock", lock)
        store.create(CONFIG, "lineage-" * 12 + "push-0")
        return lock(path, **options)

    monkeypatch.setattr(runs, "take_lock", meanwhile)
    assert store.create(CONFIG, beside).status == "running"


def test_records_that_end_before_the_state_are_refused_not_filled_up(store, run):
    run.append(record_of(1))
    run.save_state(1, b"one")
    run.fail("told to")
    size = (run.folder / "records.jsonl").stat().st_size
    os.truncate(run.folder / "records.jsonl", size - 5)
    with pytest.raises(
        RunError, match=rf"has {size - 5} bytes, but {size} when the state of step 1"
    ):
        store.resume("one", CONFIG)
    assert (run.folder / "records.jsonl").stat().st_size == size - 5
    assert not (run.folder / "lock").exists()


def test_a_run_killed_while_it_was_finishing_is_finished_by_resuming(store, run, monkeypatch):
    run.append(record_of(1))
    run.save_state(1, b"one")

    class Killed(BaseException):
        pass

    def killed(_):
        raise Killed

    monkeypatch.setattr(runs.shutil, "rmtree", killed)
    with pytest.raises(Killed):
        run.finish()
    monkeypatch.undo()
    (run.folder / "lock").unlink()
    assert run.status == "done" and (run.folder / "state").exists()
    store.resume("one", CONFIG)
    assert not (run.folder / "state").exists() and not (run.folder / "lock").exists()


def test_a_finished_run_lists_its_files_by_content(run):
    run.append(record_of(1))
    (run.folder / "directions.safetensors").write_bytes(b"some")
    run.finish()
    (run.folder / "figures").mkdir()
    (run.folder / "figures/later.pdf").write_bytes(b"later")
    files = run.info["files"]
    assert {*files} == {"records.jsonl", "directions.safetensors", "drift/000001.safetensors"}
    assert files["directions.safetensors"]["bytes"] == 4


def test_settings_that_could_not_be_read_again_are_refused_before_anything_is_made(store):
    for config in ({"recipe": {"steps": "six"}}, {"loss": math.nan}, {"layers": [-1]}):
        with pytest.raises(RunError, match="cannot be written"):
            store.create(config, "one")
    assert not store.root.exists()


def test_a_name_too_long_for_a_file_system_is_refused(store):
    with pytest.raises(RunError, match="is not a name for a run"):
        store.create(CONFIG, "x" * 201)
    assert store.create(CONFIG, "x" * 200).status == "running"
