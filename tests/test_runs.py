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
from workbench.errors import RunError
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
    with pytest.raises(RunError, match="No space left"):
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
    run.write_info(run.info | {"schema": 99})
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
