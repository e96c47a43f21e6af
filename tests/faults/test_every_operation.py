"""Whatever file operation is the last one, or fails, what is left can be read and continued."""

import random
import shutil

import pytest
from counting import Counts
from crashes import RUN, Command
from operations import KILLS
from sweeps import every_case, sweep

SAMPLE = 24
TINY = ("--steps", "3", "--batch-size", "4", "--learning-rate", "0.001")


def sample(cases, count):
    """Some of the cases, the same each time."""
    return sorted(random.Random(count).sample(cases, min(count, len(cases))))


def assert_nothing_lost(counts):
    assert not counts.faults, counts.told()
    assert (counts.lost, counts.differing) == (0, 0)


def killed_in_the_middle(fine_tuning):
    """A store whose run was killed when a step was stored and its state was not yet."""
    root = fine_tuning.store("killed")
    place = [
        number
        for number, operation in enumerate(fine_tuning.operations, 1)
        if operation.endswith(f"write {RUN}/records.jsonl")
    ][3]
    assert fine_tuning.start(root, at=place, fault="half").wait().status == -9
    return root


@pytest.fixture(scope="module")
def experiment(nursery, inputs, tmp_path_factory):
    argv = (
        "experiment", inputs, "--arms", "ordinary,block", "--seeds", "1", "--jobs", "1",
        "--max-new-tokens", "4", "--evaluate-at", "3", "--state-every", "1", "--quiet", *TINY,
    )  # fmt: skip
    return Command(nursery, argv, tmp_path_factory.mktemp("experiment"))


@pytest.fixture(scope="module")
def passage(nursery, inputs, tmp_path_factory):
    argv = ("read", inputs, "--quiet")
    return Command(nursery, argv, tmp_path_factory.mktemp("passage"))


def test_a_fine_tuning_whose_operation_fails_is_continued_to_the_same_bits(subject, tell):
    fine_tuning = subject("ordinary", 2)
    counts = sweep(fine_tuning, sample(every_case(fine_tuning.operations), SAMPLE))
    tell(f"{SAMPLE} failures of {len(fine_tuning.operations)} operations: {counts}")
    assert_nothing_lost(counts)
    assert counts.kills > 5
    assert counts.refused > 3


def test_a_resuming_whose_operation_fails_is_continued_to_the_same_bits(subject, tell):
    fine_tuning = subject("ordinary", 2)
    root = killed_in_the_middle(fine_tuning)
    operations = operations_of_resuming(fine_tuning, root)
    counts = sweep(fine_tuning, sample(every_case(operations[:60]), SAMPLE // 2), begun=root)
    shutil.rmtree(root)
    tell(f"{SAMPLE // 2} failures of a resuming's {len(operations)} operations: {counts}")
    assert_nothing_lost(counts)


def operations_of_resuming(fine_tuning, root):
    from looking import listed

    copy, log = root.with_name("copy"), fine_tuning.folder / "resuming.txt"
    shutil.copytree(root, copy)
    assert fine_tuning.start(copy, log=log).wait().status == 0
    shutil.rmtree(copy)
    return listed(log)


@pytest.mark.parametrize("what", ["experiment", "passage"])
def test_an_experiment_or_passage_whose_operation_fails_is_continued_to_the_same_bits(
    what, request, tell
):
    command = request.getfixturevalue(what)
    counts = sweep(command, sample(every_case(command.operations, KILLS), 2))
    tell(f"{what}, 2 failures of {len(command.operations)} operations: {counts}")
    assert_nothing_lost(counts)


def test_the_sweep_sees_a_run_that_is_not_the_same(subject):
    fine_tuning, counts = subject("ordinary", 2), Counts()
    root = fine_tuning.store("spoilt")
    assert fine_tuning.start(root, at=90, fault="before").wait().status == -9
    with (root / RUN / "records.jsonl").open("r+b") as file:
        file.seek(12)
        file.write(b"7")
    fine_tuning.finish(root, counts, "spoilt")
    assert counts.faults


@pytest.mark.slow
@pytest.mark.parametrize(("arm", "every"), [("ordinary", 1), ("block", 3), ("lora", 2)])
def test_every_operation_of_a_fine_tuning_can_fail(subject, tell, arm, every):
    fine_tuning = subject(arm, every)
    step = 1 if arm == "ordinary" else 3
    cases = every_case(fine_tuning.operations, step=step)
    counts = sweep(fine_tuning, cases)
    tell(f"{arm}, {len(cases)} failures of {len(fine_tuning.operations)} operations: {counts}")
    assert_nothing_lost(counts)


@pytest.mark.slow
def test_every_operation_of_a_resuming_can_fail(subject, tell):
    fine_tuning = subject("ordinary", 2)
    root = killed_in_the_middle(fine_tuning)
    operations = operations_of_resuming(fine_tuning, root)
    cases = every_case(operations)
    counts = sweep(fine_tuning, cases, begun=root)
    tell(f"{len(cases)} failures of a resuming's {len(operations)} operations: {counts}")
    assert_nothing_lost(counts)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["experiment", "passage"])
def test_every_few_operations_of_an_experiment_or_passage_can_fail(what, request, tell):
    command = request.getfixturevalue(what)
    cases = every_case(command.operations, step=7 if what == "experiment" else 2)
    counts = sweep(command, cases)
    tell(f"{what}, {len(cases)} failures of {len(command.operations)} operations: {counts}")
    assert_nothing_lost(counts)
