"""Whatever stands in the files of a run, reading and drawing it works or ends in one clear line.

As test_hostile_files.py, for what a run leaves: run.json, records.jsonl, drift, and the summary and
the surroundings beside it; read by every function that reads a run, and by the report.
"""

import json
import shutil

import pytest
from hostile import (
    REFUSED,
    SPECIAL,
    TRIED,
    check_reader,
    json_files,
    put,
    safetensors_files,
    spoilt,
    take_away,
    trying,
)
from hypothesis import given
from hypothesis import strategies as st
from planted_experiment import build_experiment
from planted_surroundings import write_directions, write_phases

from workbench.plots.catalogue import figures_of
from workbench.plots.report import write_report
from workbench.standing import Standing
from workbench.store import RunStore
from workbench.surroundings import Surroundings

MORE = 20
"""How many times as many files the slow tier tries."""

FILES = {"run.json": 6, "records.jsonl": 12, "drift/000001.safetensors": 3}
READERS = {
    "checked": lambda run: run.checked().status,
    "values": lambda run: (
        *(run.measured_steps, run.layer_values("along"), run.layer_values("alignment")),
        *(run.records(), run.scores(), run.gradient_trace("block")),
    ),
    "vectors": lambda run: (run.drift(), run.projections()),
    "standing": Standing.of,
    "surroundings": lambda run: Surroundings.of(run).landmarks,
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """An experiment with two runs, and what surrounds them."""
    folder = build_experiment(
        tmp_path_factory.mktemp("planted") / "e", arms=("ordinary", "block"), seeds=(0,)
    )
    write_directions(folder / "lineages" / "l0")
    write_phases(folder / "lineages" / "l0")
    return folder


def run_files(name, content):
    """Spoilt contents of a file of a run."""
    if name == "records.jsonl":
        lines = content.splitlines()
        rows = st.integers(0, len(lines) - 1).flatmap(
            lambda at: json_files(json.loads(lines[at])).map(
                lambda row: b"\n".join([*lines[:at], row, *lines[at + 1 :]]) + b"\n"
            )
        )
        return rows | rows | spoilt(content)
    if name.endswith(".json"):
        return json_files(json.loads(content))
    return safetensors_files(content)


def spoil(path, file, count, name, read, watched, kinds):
    """Read a file of many spoilt contents, and of other kinds; return how many contents."""
    found = 0

    @trying(count)
    @given(content=run_files(file, path.read_bytes()))
    def check(content):
        nonlocal found
        found += 1
        put(path, content)
        check_reader(name, read, watched)

    check()
    for kind in kinds:
        put(path, kind)
        check_reader(name, read, watched)
    return found


def try_run(reader, file, count, planted, tmp_path):
    folder = shutil.copytree(planted, tmp_path / "e")
    run_id = sorted(path.name for path in (folder / "runs").iterdir())[0]
    path = folder / "runs" / run_id / file
    name = f"{reader} {file}"

    def read():
        READERS[reader](RunStore(folder / "runs").open(run_id))

    return spoil(path, file, count, name, read, tmp_path, SPECIAL)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("reader", READERS)
def test_a_spoilt_run_is_read_or_refused_in_one_line(
    reader, file, planted, tmp_path, record_property
):
    found = try_run(reader, file, FILES[file], planted, tmp_path)
    record_property("tried", found)
    print(f"\n{reader} {file}: {found} files tried")
    assert found >= FILES[file]


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("reader", READERS)
def test_twenty_times_as_many(reader, file, planted, tmp_path, record_property):
    found = try_run(reader, file, FILES[file] * MORE, planted, tmp_path)
    record_property("tried", found)
    assert found >= FILES[file] * MORE


DRAWN = {
    "run.json": 20,
    "records.jsonl": 40,
    "summary.json": 40,
    "nulls.json": 10,
    "directions.safetensors": 10,
    "phases.safetensors": 10,
}
"""Drawing takes a second or more: few of each, all in the slow tier."""


def try_drawing(whole, file, count, planted, tmp_path):
    """Figures and report of an experiment, or of a run that stands in it."""
    folder = shutil.copytree(planted, tmp_path / "e")
    run = sorted((folder / "runs").iterdir())[0]
    path = next(folder.rglob(file))
    if not whole:
        (folder / "summary.json").unlink()
    report, name = tmp_path / "report.html", f"{'drawn' if whole else 'run'} {file}"

    def read():
        source = folder if whole else run
        try:
            figures_of(source)
            write_report(source, report)
        finally:
            take_away(report)

    return spoil(path, file, count, name, read, folder, ("folder", "fifo", "zero", "gone"))


@pytest.mark.slow
@pytest.mark.parametrize("file", DRAWN)
@pytest.mark.parametrize("whole", [True, False], ids=["experiment", "run"])
def test_a_spoilt_run_is_drawn_or_refused_in_one_line(whole, file, planted, tmp_path):
    if file == "summary.json" and not whole:
        pytest.skip("a run has no summary")
    name = f"{'drawn' if whole else 'run'} {file}"
    assert try_drawing(whole, file, DRAWN[file], planted, tmp_path) >= DRAWN[file]
    print(f"\n{name}: {TRIED[name]} tried, {REFUSED[name]} refused")


@pytest.mark.parametrize("reader", READERS)
def test_a_good_run_is_read(reader, planted):
    runs = list(RunStore(planted / "runs"))
    assert len(runs) == 2
    for run in runs:
        READERS[reader](run)


def test_a_good_experiment_and_run_are_drawn(planted, tmp_path):
    assert figures_of(planted)
    write_report(planted, tmp_path / "a.html")
    write_report(next((planted / "runs").iterdir()), tmp_path / "b.html")
