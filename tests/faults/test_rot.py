"""A bit that flips on the disk is found: nothing is read or trained from it in silence."""

import shutil

import pytest
from counting import Counts
from crashes import RUN
from looking import faults_of, last_line, read_run

STATE = "state/000004/"
PLACES = {
    "first": lambda content: 0,  # noqa: ARG005
    "middle": lambda content: len(content) // 2,
    "last": lambda content: len(content) - 1,
    "length": lambda content: content.index(b",", content.index(b"records_bytes")) - 1,
}
CASES = [
    *((f"{STATE}state.safetensors", place) for place in ("first", "middle", "last")),
    *((f"{STATE}state.json", place) for place in ("first", "middle", "last", "length")),
    ("state/current", "last"),
    *(("records.jsonl", place) for place in ("first", "middle")),
    *(("drift/000002.safetensors", place) for place in ("first", "middle", "last")),
]


@pytest.fixture(scope="module")
def stopped(subject):
    """A store whose run has a state after step 4, and was killed when step 5 was stored."""
    fine_tuning = subject("ordinary", 2)
    root = fine_tuning.store("stopped")
    assert fine_tuning.start(root, at=fine_tuning.flushed(5), fault="after").wait().status == -9
    yield fine_tuning, root
    shutil.rmtree(root)


@pytest.mark.parametrize(("name", "place"), CASES)
def test_a_bit_that_flips_in_a_stopped_run_is_found_and_not_trained_from(stopped, name, place):
    fine_tuning, whole = stopped
    root = whole.with_name("rotten")
    shutil.copytree(whole, root)
    path, counts = root / RUN / name, Counts()
    content = bytearray(path.read_bytes())
    content[PLACES[place](content)] ^= 1
    path.write_bytes(content)
    assert faults_of(root / RUN)
    if name.startswith("drift"):
        with pytest.raises(RuntimeError, match=r"000002\.safetensors: not the file"):
            read_run(root / RUN)
    ended = fine_tuning.start(root).wait()
    if ended.status == 0:
        fine_tuning.compare(root, counts, name)
        assert not counts.differing or faults_of(root / RUN)
    else:
        assert ended.status == 2, ended.told
        assert last_line(ended.told).startswith(f"workbench: {root / RUN}"), ended.told
    shutil.rmtree(root)


def test_without_a_flipped_bit_the_same_run_is_sound_and_trained_to_the_end(stopped):
    fine_tuning, whole = stopped
    root, counts = whole.with_name("sound"), Counts()
    shutil.copytree(whole, root)
    fine_tuning.finish(root, counts, "sound")
    assert not counts.faults, counts.told()
    assert counts.most == 1
    shutil.rmtree(root)
