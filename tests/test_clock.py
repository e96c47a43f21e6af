"""A clock that goes backwards changes no result, no name and no rate."""

import itertools
import json
import os
import time

import pytest
from planted_inputs import SMALL, contents

from workbench.cli import main
from workbench.records import StepRecord
from workbench.runs import Run
from workbench.standing import Pace, Standing, stamp
from workbench.store import RunStore


@pytest.fixture
def clock_goes_back(monkeypatch):
    """Every time that it is asked for the time, an hour earlier."""
    for name, hour in (("time", 3600), ("time_ns", 3600 * 10**9)):
        count, plain = itertools.count(), getattr(time, name)
        monkeypatch.setattr(time, name, lambda c=count, p=plain, h=hour: p() - h * next(c))


@pytest.fixture(scope="module")
def whole(inputs_folder, tmp_path_factory):
    """The files of a fine-tuning in ordinary time."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main(["finetune", str(inputs_folder), *SMALL, "--out", str(out)]) == 0
    return contents(out)


def test_a_fine_tuning_is_the_same(inputs_folder, tmp_path, whole, request):
    request.getfixturevalue("clock_goes_back")
    out = tmp_path / "one"
    assert main(["finetune", str(inputs_folder), *SMALL, "--out", str(out)]) == 0
    assert contents(out) == whole
    assert Standing.of(Run(out)).state == "done"


def test_no_name_of_a_run_comes_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda *_: "20260101-000000")
    names = {RunStore(tmp_path).create({}).id for _ in range(50)}
    assert len(names) == 50
    from workbench.background import _new_name

    assert len({_new_name() for _ in range(50)}) == 50


def test_what_is_new_in_a_run_is_seen_whatever_time_its_file_bears(tmp_path):
    run = RunStore(tmp_path).create({}, "one")
    before = stamp(run)
    assert stamp(run) == before
    run.append(StepRecord(1, 2.0, 0.1, 1.0))
    os.utime(run.folder / "records.jsonl", (1, 1))
    appended = stamp(run)
    assert appended != before
    run.fail("planted")
    os.utime(run.folder / "run.json", (1, 1))
    assert stamp(run) != appended
    assert Standing.of(run).state != "running"


def test_a_pace_is_positive_or_none():
    pace = Pace()
    for step, now in ((1, 100.0), (2, 40.0), (3, 39.0)):
        pace.note(step, now)
        assert pace.rate is None
    for step, now in ((4, 41.0), (5, 42.0), (6, 1000.0), (7, 1001.0), (8, 1002.0)):
        pace.note(step, now)
        assert pace.rate is None or pace.rate > 0
    assert pace.rate == pytest.approx(1.0, rel=0.5)


@pytest.mark.slow
@pytest.mark.usefixtures("clock_goes_back")
def test_an_experiment_took_no_negative_time(inputs_folder, tmp_path):
    options = ("--arms", "ordinary", "--seeds", "1", "--evaluate-at", "0", "--max-new-tokens", "2")
    out = tmp_path / "x"
    assert main(["experiment", str(inputs_folder), *SMALL, *options, "--out", str(out)]) == 0
    assert json.loads((out / "experiment.json").read_text())["wall_seconds"] > 0
