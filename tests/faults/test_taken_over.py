"""A writer that sleeps while another takes its run over writes nothing more when it wakes."""

import shutil

import pytest
from counting import Counts
from operations import PAUSE

LATER = 45
"""An operation of the second writer by which it has rewound the run, and trains."""


@pytest.fixture
def asleep(subject):
    """A store with a fine-tuning that has stopped itself once its third step was flushed."""
    fine_tuning = subject("ordinary", 2)
    root = fine_tuning.store("taken")
    job = fine_tuning.start(root, at=fine_tuning.flushed(3), fault=PAUSE)
    job.wait_for_pause()
    yield fine_tuning, root, job
    if job.alive():
        job.kill()
    shutil.rmtree(root)


def assert_sound(fine_tuning, root):
    counts = Counts()
    fine_tuning.verify(root, counts, "afterwards")
    fine_tuning.compare(root, counts, "afterwards")
    assert not counts.faults, counts.told()


@pytest.mark.parametrize("second_ends", ["first", "last"])
def test_a_writer_that_was_taken_over_ends_and_leaves_the_run_to_the_other(asleep, second_ends):
    fine_tuning, root, first = asleep
    second = fine_tuning.take_over(root, at=LATER, fault=PAUSE)
    second.wait_for_pause()
    jobs = [second, first] if second_ends == "first" else [first, second]
    told = {}
    for job in jobs:
        job.go_on()
        told[job] = job.wait()
    assert told[first].status == 2, told[first]
    assert "another process has taken it over" in told[first].told
    assert told[second].status == 0, told[second]
    assert_sound(fine_tuning, root)


def test_a_writer_that_only_sleeps_is_not_resumed_beside_and_goes_on(asleep):
    fine_tuning, root, job = asleep
    refused = fine_tuning.start(root).wait()
    assert refused.status == 2
    assert "being written by process" in refused.told
    job.go_on()
    assert job.wait().status == 0
    assert_sound(fine_tuning, root)
