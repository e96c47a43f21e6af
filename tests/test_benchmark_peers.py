"""The side-by-side benchmark says what it measured, and of whom it could not."""

import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "peers")]

from entries import JOBS, TOOLS, Entry, entries_of, find_entry  # noqa: E402
from environments import names  # noqa: E402
from growth import exponent  # noqa: E402
from intervals import median_interval  # noqa: E402
from measuring import Row, difference  # noqa: E402
from peer_worlds import Size, World, build  # noqa: E402
from protocol import Process, Task, ToolError  # noqa: E402
from run import per_size, told_rows  # noqa: E402
from table import render  # noqa: E402

TRIVIAL = """
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message["do"] == "load" and message["job"] == "impossible":
        print(json.dumps({"error": "ValueError: it cannot"}), flush=True)
    elif message["do"] == "memory":
        sys.exit(3)
    else:
        print(json.dumps({"wall": 2.0, "cpu": 1.0, "result": message.get("out")}), flush=True)
"""


def planted_row(tool, times, **told):
    row = Row.of(tool, Entry("means", f"{tool}'s way", lambda _: None, **told))
    row.wall, row.cpu = list(times), list(times)
    return row


@pytest.fixture
def planted():
    """A peer twice as slow as ours in rounds that all drift alike, a limit, and one that failed."""
    pace = np.array([1.0, 1.5, 3.0, 1.1, 2.0])
    slow = planted_row("slow", 2 * pace)
    slow.difference = {"absolute": 1.0, "relative": 0.5}
    failed = planted_row("failing", [])
    failed.failure = "Not installable: ERROR: no such version"
    limit = planted_row("limit", 0.5 * pace, limit=True)
    machine = {"cpu": "C", "cores": 2, "memory_gb": 1, "system": "S", "python": "3"}
    return {
        "date": "2026-01-01", "commit": "abc", "threads": 1, "machine": machine,
        "environments": [{"name": "failing", "versions": {}, "failure": "no such version"}],
        "blocks": [
            {"job": "means", "size": "tiny", "rounds": 5, "prompts": 3,
             "rows": told_rows([planted_row("workbench", pace), slow, failed, limit])}
        ],
    }  # fmt: skip


def line_of(table, tool):
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {tool} |")]
    return line


def test_a_planted_ratio_is_recovered_although_rounds_drift(planted):
    line = line_of(render(planted), "slow")
    assert "| 2.00x [2.00, 2.00] | 2.00x [2.00, 2.00] | 4.00x [4.00, 4.00] |" in line


def test_a_tool_that_failed_stands_in_the_table_with_its_reason(planted):
    table = render(planted)
    assert "ERROR: no such version" in line_of(table, "failing")
    assert "- failing: no such version" in table


def test_a_result_that_differs_is_marked_and_an_equal_one_is_not(planted):
    assert "not the same" in line_of(render(planted), "slow")
    planted["blocks"][0]["rows"][1]["difference"] = {"relative": 1e-6, "same": True}
    assert "not the same" not in render(planted)


def test_an_interval_holds_its_median_and_grows_with_the_spread():
    rng = np.random.default_rng(0)
    wide, narrow = (median_interval(5 + spread * rng.standard_normal(40)) for spread in (1, 0.1))
    assert wide[1] < wide[0] < wide[2]
    assert wide[2] - wide[1] > 4 * (narrow[2] - narrow[1])


def test_differences_leave_out_only_the_layer_that_is_another_quantity():
    ours = np.ones((3, 4))
    other = ours.copy()
    other[-1] += 1
    assert difference(other, ours, "but last")["relative"] == 0
    assert difference(other, ours, "all")["absolute"] == 1
    with pytest.raises(ToolError, match=r"shape \(2, 4\), ours \(3, 4\)"):
        difference(ours[:2], ours, "all")


def test_a_process_answers_and_its_failures_are_the_tools_own_words(tmp_path):
    server, log = tmp_path / "server.py", tmp_path / "log"
    server.write_text(TRIVIAL)
    with Process(sys.executable, Task("t", "e", "job", "w", 1), log, server) as process:
        assert process.run(tmp_path / "r.npy")["result"] == str(tmp_path / "r.npy")
        with pytest.raises(ToolError, match="status 3"):
            process.memory()
    with pytest.raises(ToolError, match="ValueError: it cannot"):
        Process(sys.executable, Task("t", "e", "impossible", "w", 1), log, server)


def test_every_job_has_ours_and_every_tool_an_environment_and_a_job():
    assert {*names()} == {*TOOLS}
    for job in JOBS:
        assert entries_of("workbench", job)
        assert entries_of("hf", job)
    for tool in TOOLS:
        found = [entry for job in JOBS for entry in entries_of(tool, job)]
        assert found
        assert all(find_entry(tool, entry.job, entry.name) is entry for entry in found)


def test_sizes_take_one_number_or_their_own():
    defaults = {"10M": 1, "100M": 2}
    assert per_size("100M=7", defaults) == {"10M": 1, "100M": 7}
    assert {*per_size("4", defaults).values()} == {4}


def test_a_planted_exponent_is_recovered():
    sizes = np.array([1, 2, 4, 8])
    assert exponent(sizes, 3 * sizes**1.5) == pytest.approx(1.5)
    assert exponent(sizes, [0, 0, 0, 0]) is None


def test_ours_and_transformers_read_the_same_means_of_the_same_tokens(tmp_path):
    import workbench as wb
    from workbench.reading import tokens_per_batch

    world = build(tmp_path, Size(2, 16, 32, vocabulary=50), prompts=60)
    loaded = World.load(tmp_path)
    assert (loaded.ids, loaded.train, loaded.size) == (world.ids, world.train, world.size)
    model = wb.load_model(world.aligned, chat="none")
    reading = wb.Reading.of(model, wb.ProbeSet.from_prompts(world.texts))
    assert [list(item.ids) for item in reading.encoded] == world.ids
    assert [*reading.batches(tokens=tokens_per_batch(model.cfg.device))] == world.batches()
    ours = find_entry("workbench", "means", "read_moments").start(world)(world)()
    for name, compared in (("torch forward hooks", "all"), ("output_hidden_states", "but last")):
        theirs = find_entry("hf", "means", name).start(world)(world)()
        assert difference(theirs, ours, compared)["relative"] < 1e-6
    # After the final norm the last layer is something else: that is why it is left out.
    assert difference(theirs, ours, "all")["relative"] > 1e-2
