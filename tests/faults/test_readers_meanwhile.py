"""Who reads a run while it is written, rewound and resumed sees whole records, in order."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from nursery import environment

WRITING = Path(__file__).with_name("writing.py")


def start(*argv):
    told = environment()
    told["PYTHONPATH"] += f":{Path(__file__).parents[1]}"
    return subprocess.Popen(
        [sys.executable, str(WRITING), *map(str, argv)],
        env=told, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def read_meanwhile(folder, reads, steps, seed):
    """Two readers beside one writer; return what each reader saw, and the final steps."""
    from workbench.runs import Run

    writer = start("write", folder, steps, seed)
    readers = [start("read", folder, reads // 2) for _ in range(2)]
    seen = []
    for reader in readers:
        told, complaint = reader.communicate(timeout=1200)
        assert reader.returncode == 0, complaint
        seen.append(json.loads(told))
    assert writer.poll() is None, writer.communicate()[1]
    (folder / "enough").touch()
    assert writer.wait(60) == 0, writer.communicate()[1]
    return seen, [line["step"] for line in Run(folder / "run").lines]


def check(seen, reads, steps):
    assert sum(one["reads"] + one["excused"] for one in seen) >= reads
    for one in seen:
        assert one["rewinds"] > 0
        assert one["drifts"] > 0
        assert 0 < one["longest"] <= len(steps) + 1_000
        assert one["excused"] < 0.2 * one["reads"]
    assert steps == list(range(1, len(steps) + 1))


def test_readers_beside_a_writer_see_only_whole_records_in_order(tmp_path, tell):
    seen, steps = read_meanwhile(tmp_path, 3_000, 400, 0)
    tell(f"{len(steps)} steps written; read: {seen}")
    check(seen, 3_000, steps)


@pytest.mark.slow
def test_readers_see_only_whole_records_in_a_hundred_thousand_reads(tmp_path, tell):
    seen, steps = read_meanwhile(tmp_path, 100_000, 2_000, 1)
    tell(f"{len(steps)} steps written; read: {seen}")
    check(seen, 100_000, steps)
