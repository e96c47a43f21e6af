"""Threads take turns at a model: who asks first is first, and nobody sees half a step."""

import copy
import signal
import threading
import time

import pytest
import torch

from workbench.activations import read_activations
from workbench.editing import intervene
from workbench.edits import steer
from workbench.evaluation import evaluate
from workbench.generation import answer
from workbench.modes import evaluation_mode
from workbench.turns import Turns, turns_of

PATIENCE = 20.0
"""Seconds after which a thread that waits is taken for stuck."""


@pytest.fixture
def side_by_side():
    """Start functions in threads; at the end they must have ended, and without an error."""
    threads, errors = [], []

    def start(function):
        def run():
            try:
                function()
            except BaseException as error:
                errors.append(error)

        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()
        return threads[-1]

    yield start
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "stuck"
    if errors:
        raise errors[0]


def wait_until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.0005)


def test_threads_are_served_in_the_order_in_which_they_asked(side_by_side):
    turns, served = Turns(), []

    def take(number):
        with turns:
            served.append(number)

    with turns:
        for number in range(5):
            side_by_side(lambda number=number: take(number))
            wait_until(lambda number=number: len(turns._waiting) == number + 1)
        assert served == []
    wait_until(lambda: len(served) == 5)
    assert served == [0, 1, 2, 3, 4]


def test_a_thread_that_asks_again_at_once_comes_after_one_that_waits(side_by_side):
    turns, order = Turns(), []

    def reader():
        with turns:
            order.append("reader")

    with turns:
        side_by_side(reader)
        wait_until(lambda: turns._waiting)
    for _ in range(3):
        with turns:
            order.append("trainer")
    assert order == ["reader", "trainer", "trainer", "trainer"]


def test_a_turn_within_a_turn_is_the_same_one(side_by_side):
    turns, done = Turns(), threading.Event()

    def take():
        with turns:
            done.set()

    with turns:
        with turns:
            side_by_side(take)
            wait_until(lambda: turns._waiting)
        assert not done.wait(0.05)
    assert done.wait(PATIENCE)


def test_an_interrupted_wait_gives_its_place_up(side_by_side):
    turns, held, free = Turns(), threading.Event(), threading.Event()

    def hold():
        with turns:
            held.set()
            free.wait(PATIENCE)

    def interrupt(*_):
        raise KeyboardInterrupt

    side_by_side(hold)
    held.wait(PATIENCE)
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(KeyboardInterrupt), turns:
            raise AssertionError("it had no turn")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not turns._waiting
    free.set()
    with turns:  # nobody who is gone is waited for
        pass


def test_all_that_hold_the_same_weights_share_a_lock_and_a_copy_does_not(model, make_model):
    assert turns_of(model.hf) is model.lock
    assert make_model().lock is not model.lock
    assert isinstance(copy.deepcopy(model.lock), Turns)
    assert copy.deepcopy(model.lock) is not model.lock


TOUCHES = {
    "a reading": lambda model, probes, arrows: read_activations(model, probes),  # noqa: ARG005
    "answers": lambda model, probes, arrows: answer(model, probes.prompts[:2], max_new_tokens=2),  # noqa: ARG005
    "edits": lambda model, probes, arrows: open_and_close(model, arrows),  # noqa: ARG005
    "a hash": lambda model, probes, arrows: model.fingerprint(),  # noqa: ARG005
    "an evaluation": lambda model, probes, arrows: evaluate(  # noqa: ARG005
        model, probes.of_kind("harmful"), probes.of_kind("benign"), max_new_tokens=2
    ),
}


def open_and_close(model, arrows):
    with intervene(model, steer(arrows, strength=1.0, positions="all")):
        pass


@pytest.mark.parametrize("name", TOUCHES)
def test_whoever_touches_the_model_waits_for_the_one_who_has_it(
    name, aligned_model, probes, directions, side_by_side
):
    done = threading.Event()

    def touch():
        TOUCHES[name](aligned_model, probes, directions)
        done.set()

    with aligned_model.lock:
        side_by_side(touch)
        wait_until(lambda: aligned_model.lock._waiting or done.is_set())
        assert not done.is_set()
    assert done.wait(PATIENCE)


def test_a_step_waits_until_edits_are_closed(aligned_model, tune, directions, side_by_side):
    tuning, records = tune(aligned_model, steps=2), []
    with intervene(aligned_model, steer(directions, strength=5.0, positions="all")):
        side_by_side(lambda: records.extend(tuning))
        wait_until(lambda: aligned_model.lock._waiting)
        time.sleep(0.05)
        assert tuning.step == 0
    wait_until(lambda: tuning.step == 2)


def test_a_reader_has_its_turn_within_a_few_steps(aligned_model, tune, side_by_side):
    tuning, waited = tune(aligned_model, steps=10_000), []
    thread = side_by_side(lambda: list(tuning))
    wait_until(lambda: tuning.step > 2)
    for _ in range(10):
        asked = tuning.step
        with evaluation_mode(aligned_model):
            waited.append(tuning.step - asked)
    tuning.stop()
    thread.join(PATIENCE)
    assert max(waited) <= 2
    assert tuning.step < 10_000


def test_readers_and_writers_beside_it_do_not_change_a_training(
    lineage, tune, probes, directions, weights_of, side_by_side
):
    alone, watched = (lineage.load_model(lineage.aligned) for _ in range(2))
    assert any(isinstance(m, torch.nn.Dropout) and m.p > 0 for m in watched.hf.modules())
    expected = list(tune(alone, steps=8))
    over, readings = threading.Event(), []

    def watch():
        while not over.is_set():
            readings.append(read_activations(watched, probes))
            with intervene(watched, steer(directions, strength=3.0, positions="all")):
                answer(watched, probes.prompts[:3], max_new_tokens=3)

    side_by_side(watch)
    wait_until(lambda: readings)
    seen = []
    for record in tune(watched, steps=8):
        seen.append(record)
        count = len(readings)
        wait_until(lambda count=count: len(readings) > count)  # at every step somebody looked
    over.set()
    assert [record.loss for record in seen] == [record.loss for record in expected]
    for one, other in zip(weights_of(watched).values(), weights_of(alone).values(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(readings[0], readings[-1])  # they saw it move


def test_stop_from_another_thread_ends_after_the_step_and_iterating_again_continues(
    make_model, tune, weights_of, side_by_side
):
    whole, halved = make_model(), make_model()
    expected = [record.loss for record in tune(whole, steps=6)]
    tuning, losses = tune(halved, steps=6), []
    for record in tuning:
        losses.append(record.loss)
        if record.step == 2:
            side_by_side(tuning.stop).join(PATIENCE)
    assert tuning.step == 2
    losses += [record.loss for record in tuning]
    assert losses == expected
    for one, other in zip(weights_of(whole).values(), weights_of(halved).values(), strict=True):
        assert torch.equal(one, other)


def test_a_stop_before_the_iteration_has_begun_is_not_lost_and_ends_one_iteration(make_model, tune):
    tuning = tune(make_model(), steps=3)
    tuning.stop()
    tuning.stop()
    assert list(tuning) == []
    assert [record.step for record in tuning] == [1, 2, 3]


def test_a_stop_in_the_last_step_does_not_outlive_it(make_model, tune):
    tuning = tune(make_model(), steps=3)
    state = tuning.state()
    for record in tuning:
        if record.step == 3:
            tuning.stop()
    tuning.load_state(state)
    assert [record.step for record in tuning] == [1, 2, 3]
