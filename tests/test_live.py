"""A live run shows what its folder holds; stopped and continued, it ends in the same bits."""

import json
import os
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from planted_experiment import N_LAYERS, STEPS, planted_alignment, planted_drift, planted_scores
from planted_inputs import SMALL, contents

from workbench.errors import ConfigError, DivergedError, RunError

PATIENCE = 30.0


def until(true, seconds=PATIENCE):
    """Wait for a condition; fail if it does not come."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


def shown(live, name="map", trace=0):
    return live.figure(name).data[trace]


@pytest.fixture
def aligned(lineage):
    """Make fresh copies of the aligned model."""
    return lambda: lineage.load_model(lineage.aligned)


@pytest.fixture
def measured(directions, splits):
    return {"probes": splits[2], "directions": directions, "measure_at": (1, 2, 4)}


@pytest.fixture
def show(tmp_path):
    """Make a live run, into a folder of this test."""
    from workbench.widgets import LiveRun

    return lambda source, out="live", **options: LiveRun(source, out=tmp_path / out, **options)


@pytest.fixture
def stop_at(monkeypatch):
    """Let the training that comes next stop itself after a step, as a user would."""
    from workbench import background

    recorded = background.record_run

    def arm(step):
        def recording(run, tuning, **options):
            def told(_, record):
                if record.step == step:
                    background._training[tuning.model.hf].stop()

            recorded(run, tuning, on_record=told, **options)

        monkeypatch.setattr(background, "record_run", recording)

    return arm


@pytest.fixture
def gated():
    """Let a model's forward wait for permits: by default, none is given."""

    def gate(model, permits=0):
        semaphore = threading.Semaphore(permits)
        model.hf.get_decoder().register_forward_pre_hook(lambda *_: semaphore.acquire() and None)
        return semaphore

    return gate


def test_the_view_shows_what_the_run_recorded(show, tune, aligned_model, measured):
    live = show(tune(aligned_model, **measured))
    assert live.wait(PATIENCE) == "done"
    run = live.run
    assert run.status == "done"
    assert run.measured_steps.tolist() == [1, 2, 4, 5]
    np.testing.assert_allclose(np.array(shown(live).z, float), run.layer_values("alignment").T)
    assert list(shown(live).text[0]) == [f"layer 0, step {step}" for step in (1, 2, 4, 5)]
    frame = run.records()
    mean, loss = (shown(live, "curves", place) for place in (0, 1))
    np.testing.assert_allclose(mean.y, frame["mean_alignment"].dropna())
    np.testing.assert_allclose(loss.y, frame["loss"])
    assert list(loss.x) == [1, 2, 3, 4, 5]
    stored = json.loads(live.get_state()["tables"])["map data"][0]["z"]
    np.testing.assert_allclose(np.array(stored, float), run.layer_values("alignment").T, rtol=1e-4)
    last = frame.iloc[-1]
    assert live.status["words"] == (
        f"done: step 5 of 5, loss {last['loss']:.2f}, cos {last['mean_alignment']:.2f}".replace(
            "-", "−"
        )
    )
    assert live.status["progress"] == 1
    assert live.status["busy"] is False
    assert live.status["disabled"] == ["stop", "continue"]


def test_a_fine_tuning_that_measures_nothing_shows_its_loss(show, tune, aligned_model):
    live = show(tune(aligned_model))
    live.wait(PATIENCE)
    assert [plot.name for plot in live.shown.plots] == ["curves"]
    np.testing.assert_allclose(shown(live, "curves", 1).y, live.run.records()["loss"])


def test_stop_ends_the_training_after_the_step_under_way(show, tune, aligned_model, gated):
    gate = gated(aligned_model, permits=2)
    live = show(tune(aligned_model, steps=50))
    until(lambda: len(live.run.refresh().lines) == 2)
    assert live.state == "running"
    assert live.status["busy"] is False  # or Stop might not be read aloud
    live._heard(live, {"kind": "press", "name": "stop"}, [])
    assert live.state == "stopping"
    assert live.status["busy"] is True
    assert live.status["words"].startswith("stopping after this step: step 2 of 50")
    gate.release(50)
    assert live.wait(PATIENCE) == "stopped"
    assert [line["step"] for line in live.run.lines] == [1, 2, 3]
    assert not [one for one in threading.enumerate() if "training" in one.name]
    info = live.run.info
    assert info["status"] == "failed"
    assert info["failure"] == "stopped by the user at step 3; resume to continue"
    assert not (live.run.folder / "lock").exists()
    assert live.run.states.reached()[0] == 3
    assert live.status["words"].endswith("press Continue to go on")
    assert live.status["disabled"] == ["stop"]


def test_a_run_stopped_before_its_first_step_is_continued_too(show, tune, aligned_model, gated):
    gate = gated(aligned_model)
    live = show(tune(aligned_model))
    live.tuning.stop()  # as if it came before the thread had begun
    gate.release(50)
    live.wait(PATIENCE)
    live.resume()
    assert live.wait(PATIENCE) == "done"
    assert [line["step"] for line in live.run.lines] == [1, 2, 3, 4, 5]


def test_continue_goes_on_after_an_error_came_before_what_was_told_to_stop(
    show, tune, aligned_model
):
    broken = threading.Event()

    def evaluate(step):
        if not broken.is_set():
            broken.set()
            live._training.stop()
            raise OSError("the judge is gone")
        return planted_scores("ordinary", 0, step)

    ready = threading.Event()
    aligned_model.hf.get_decoder().register_forward_pre_hook(lambda *_: ready.wait() and None)
    live = show(tune(aligned_model), state_every=1, evaluate=evaluate, evaluate_at=(2,))
    ready.set()
    with pytest.raises(OSError, match="the judge is gone"):
        live.wait(PATIENCE)
    assert live.state == "failed"
    live.resume()
    assert live.wait(PATIENCE) == "done"
    assert [line["step"] for line in live.run.lines] == [1, 2, 3, 4, 5]


def test_continuing_at_once_leaves_one_watcher(show, tune, aligned_model, gated, monkeypatch):
    from workbench.widgets import live as module

    monkeypatch.setattr(module, "PUSH_SECONDS", 0.3)
    watchers, begin = [], module.LiveRun.in_thread
    monkeypatch.setattr(
        module.LiveRun,
        "in_thread",
        lambda self, target: watchers.append(begin(self, target)) or watchers[-1],
    )
    gate = gated(aligned_model, permits=1)
    live = show(tune(aligned_model, steps=50))
    for _ in range(4):
        live.stop()
        gate.release()
        assert live._training.wait(PATIENCE)
        live.resume()
        assert [one.is_alive() for one in watchers] == [False] * (len(watchers) - 1) + [True]
    assert len(watchers) == 5
    gate.release(100)
    assert live.wait(PATIENCE) == "done"
    assert live.status["words"].startswith("done: step 50 of 50")


@pytest.mark.parametrize("anew", [False, True], ids=["same kernel", "new kernel"])
def test_a_run_stopped_and_continued_ends_in_the_bits_of_one_left_in_peace(
    show, tune, aligned, measured, stop_at, weights_of, anew
):
    whole = show(tune(aligned(), **measured), "whole")
    whole.wait(PATIENCE)
    stop_at(3)
    live = show(tune(aligned(), **measured))
    assert live.wait(PATIENCE) == "stopped"
    assert live.tuning.step == 3
    stop_at(None)
    if anew:
        live = show(tune(aligned(), **measured))
    else:
        live._heard(live, {"kind": "press", "name": "continue"}, [])
    assert live.wait(PATIENCE) == "done"
    assert contents(live.run.folder) == contents(whole.run.folder)
    ends = [weights_of(one.tuning.model) for one in (live, whole)]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    np.testing.assert_allclose(
        np.array(shown(live).z, float), whole.run.layer_values("alignment").T
    )


def test_the_command_line_continues_what_a_notebook_began(
    inputs_folder, tmp_path, stop_at, show, capsys
):
    import workbench as wb
    from workbench.cli import main

    lineage = wb.Lineage.load(inputs_folder / "lineage.toml")
    probes = wb.ProbeSet.load(inputs_folder / "probes.jsonl").of_kind("harmful")
    fit, _, measure = probes.split(fit=0.4, penalty=0.2, measure=0.4, seed=0)
    tuning = wb.FineTuning(
        lineage.load_model(lineage.aligned),
        wb.load_examples(inputs_folder / "finetune.jsonl"),
        probes=measure,
        directions=wb.fit_directions(lineage, fit),
        steps=6,
        batch_size=4,
        learning_rate=1e-3,
    )
    stop_at(3)
    assert show(tuning).wait(PATIENCE) == "stopped"
    argv = ["finetune", str(inputs_folder), *SMALL]
    assert main([*argv, "--out", str(tmp_path / "live"), "--resume"]) == 0
    assert main([*argv, "--out", str(tmp_path / "whole")]) == 0
    assert contents(tmp_path / "live", "*.jsonl", "drift/*") == contents(
        tmp_path / "whole", "*.jsonl", "drift/*"
    )
    capsys.readouterr()


def test_a_run_that_diverges_is_told(show, tune, aligned_model):
    live = show(tune(aligned_model, learning_rate=1e30, warmup=0, clip=None))
    with pytest.raises(DivergedError):
        live.wait(PATIENCE)
    assert live.state == "failed"
    assert live.run.info["failure"] in live.status["words"]
    assert "Try a lower learning rate" in live.status["words"]
    assert live.status["disabled"] == ["stop", "continue"]  # there is no state to go on from
    with pytest.raises(ConfigError, match="no training state is left"):
        live.resume()


def test_a_training_that_cannot_even_say_why_it_ended_is_told(
    show, tune, aligned_model, monkeypatch
):
    from workbench.runs import Run

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Run, "append", full)
    monkeypatch.setattr(Run, "fail", full)
    live = show(tune(aligned_model))
    with pytest.raises(OSError, match="No space left"):
        live.wait(PATIENCE)
    assert live.state == "failed"
    assert "No space left" in live.status["words"]


def test_a_run_that_cannot_be_finished_is_given_up_and_says_why(
    show, tune, aligned_model, monkeypatch
):
    from workbench import runs

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs, "manifest_of", full)
    live = show(tune(aligned_model))
    with pytest.raises(OSError, match="No space left"):
        live.wait(PATIENCE)
    assert live.run.status == "failed"
    assert "No space left" in live.run.info["failure"]
    assert not (live.run.folder / "lock").exists()


def test_a_model_is_trained_by_one_live_run_at_a_time(show, tune, aligned_model, gated):
    gate = gated(aligned_model)
    tuning = tune(aligned_model)
    live = show(tuning)
    for another in (tuning, tune(aligned_model)):
        with pytest.raises(ConfigError, match="being trained already"):
            show(another, "other")
    with pytest.raises(ConfigError, match="it is training"):
        live.resume()
    gate.release(50)
    live.wait(PATIENCE)
    with pytest.raises(ConfigError, match="has made 5 steps; load the model and make it anew"):
        show(tuning, "other")
    assert not (live.run.folder.parent / "other").exists()


def test_a_finished_or_foreign_folder_is_not_written_to(show, tune, aligned):
    show(tune(aligned())).wait(PATIENCE)
    with pytest.raises(RunError, match="finished; show it by its folder"):
        show(tune(aligned()))
    with pytest.raises(RunError, match=r"other settings \(recipe.learning_rate\)"):
        show(tune(aligned(), learning_rate=2e-3))
    with pytest.raises(RunError, match=r"other settings \(seed\)"):
        show(tune(aligned(), seed=1))


def test_other_data_is_another_run(tune, aligned, examples):
    tokens = [tune(aligned(), rows).config()["data"] for rows in (examples, examples[::-1])]
    assert tokens[0] != tokens[1]
    assert tune(aligned(), list(examples)).config()["data"] == tokens[0]


def planted_run(folder, config=None):
    from workbench.store import RunStore

    recipe = {"recipe": {"steps": 100}, "directions": "planted"}
    return RunStore(folder).create(recipe if config is None else config, "planted")


def append(run, *steps):
    from workbench.records import StepRecord

    for step in steps:
        drift = planted_drift(planted_alignment("ordinary", 0)[STEPS.index(step)], step)
        run.append(StepRecord(step, 4.0 - 0.01 * step, 1e-5, 1.0, drift=drift))


def test_a_run_that_another_process_writes_is_watched_as_it_grows(tmp_path):
    from workbench.widgets import LiveRun

    run = planted_run(tmp_path)
    live = LiveRun(run.folder)
    assert live.shown.buttons == ()
    assert live.status["words"] == "step 0 of 100"
    planted = planted_alignment("ordinary", 0).T
    for count, step in enumerate(STEPS[:3], 1):
        append(run, step)
        until(lambda step=step: live.status["progress"] == step / 100)
        values = np.array(shown(live).z, float)
        assert values.shape == (N_LAYERS, len(STEPS))  # with columns for all that are to come
        np.testing.assert_allclose(values[:, :count], planted[:, :count])
        assert np.isnan(values[:, count:]).all()
        crosses = shown(live, trace=2)
        assert set(zip(crosses.x, crosses.y, strict=True)) == {(n, 0) for n in range(min(count, 2))}
    assert shown(live).zmin is None
    axis = live.figure("map").layout.coloraxis
    assert (axis.cmin, axis.cmax) == (-1, 1)
    assert live.state == "running"
    run.finish()
    assert live.wait(PATIENCE) == "done"
    assert live.status["words"].startswith("done: step 3 of 100, loss 3.97, cos")
    with pytest.raises(ConfigError, match="only watched here"):
        live.stop()


def test_while_a_run_goes_on_its_words_change_rarely_and_its_progress_often(tmp_path, monkeypatch):
    from workbench.widgets import LiveRun
    from workbench.widgets import live as module

    monkeypatch.setattr(module, "WORDS_SECONDS", 0.5)
    monkeypatch.setattr(module, "PUSH_SECONDS", 0.02)
    monkeypatch.setattr(module, "LOOK_SHARE", 1.0)
    run = planted_run(tmp_path)
    live = LiveRun(run.folder)
    heard = []
    live.observe(lambda change: heard.append((time.monotonic(), change["new"])), "status")
    for step in STEPS:
        append(run, step)
        until(lambda step=step: live.status["progress"] == step / 100)
        time.sleep(0.1)
    run.finish()
    assert live.wait(PATIENCE) == "done"
    assert live.status["words"].startswith("done: step 100 of 100")  # at once
    before = [(now, status) for now, status in heard if not status["words"].startswith("done")]
    said = [
        now for (_, last), (now, status) in pairwise(before) if status["words"] != last["words"]
    ]
    assert len({status["progress"] for _, status in before}) == len(STEPS)
    assert 1 <= len(said) < len(STEPS) - 1
    assert all(later - earlier > 0.4 for earlier, later in pairwise(said))


def test_a_run_whose_process_is_gone_is_stopped(tmp_path):
    from workbench.widgets import LiveRun

    run = planted_run(tmp_path)
    append(run, 1)
    run.unlock()
    live = LiveRun(run)
    assert live.wait(PATIENCE) == "stopped"
    assert live.status["words"].endswith("its process is gone; resume to continue")


def test_a_run_with_a_config_of_ones_own_is_shown_as_far_as_it_goes(tmp_path):
    from workbench.widgets import LiveRun

    run = planted_run(tmp_path, {})
    append(run, 1, 2, 3)
    run.fail("<b>the reason</b>")
    live = LiveRun(run)
    assert live.state == "failed"
    assert live.status["words"].startswith("failed: step 3, loss 3.97")
    assert live.status["words"].endswith(": <b>the reason</b>")  # shown by textContent
    assert np.array(shown(live).z).shape == (N_LAYERS, 3)
    assert live.status["progress"] is None


def test_a_folder_without_a_run_is_refused_and_one_that_vanishes_is_told(tmp_path):
    import shutil

    from workbench.widgets import LiveRun

    with pytest.raises(RunError, match="no run here"):
        LiveRun(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="not int"):
        LiveRun(3)
    run = planted_run(tmp_path)
    live = LiveRun(run)
    shutil.rmtree(run.folder)
    until(lambda: live.status["words"].startswith("RunError"))


def test_the_words_tell_pace_and_time_left():
    from workbench.plots.live import live_words
    from workbench.standing import Pace, Standing

    standing = Standing("running", 37, 100, 1.234, -0.412)
    assert live_words(standing, 2.34) == (
        "step 37 of 100, loss 1.23, cos −0.41; 2.3 steps/s, about 27 s left"
    )
    assert live_words(Standing("running", 5, None)) == "step 5"
    assert live_words(Standing("running", 0, 7200), 1.0).endswith("about 2.0 h left")
    pace = Pace()
    assert pace.rate is None
    for now in range(60):
        pace.note(2 * now if now < 30 else 60 + 4 * (now - 30), float(now))
    assert pace.rate == pytest.approx(4)  # of the last 20 seconds
    pace.note(7, 61.0)  # resumed from an earlier step
    assert pace.rate is None


LEAVING = """
import sys, time
from pathlib import Path
import torch
import workbench as wb

torch.set_num_threads(1)
folder, out = map(Path, sys.argv[1:])
lineage = wb.Lineage.load(folder / "lineage.toml")
tuning = wb.FineTuning(
    lineage.load_model(lineage.aligned), wb.load_examples(folder / "finetune.jsonl"),
    steps=300, batch_size=4, learning_rate=1e-4, measure_at=(),
)
live = wb.LiveRun(tuning, out=out, state_every=1000)
if len(sys.argv) == 3:
    while len(live.run.refresh().lines) < 3:
        time.sleep(0.005)
"""


def test_a_kernel_that_is_shut_down_leaves_a_run_that_can_be_continued(
    inputs_folder, tmp_path, tune, show
):
    import workbench as wb

    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    left = subprocess.run(
        [sys.executable, "-c", LEAVING, str(inputs_folder), str(tmp_path / "live")],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert (left.returncode, left.stderr) == (0, "")
    run = wb.Run(tmp_path / "live")
    last = run.lines[-1]["step"]
    assert 3 <= last < 300
    assert run.info["failure"] == f"stopped with its process at step {last}; resume to continue"
    assert not (run.folder / "lock").exists()
    assert run.states.reached()[0] == last

    def anew():
        lineage = wb.Lineage.load(inputs_folder / "lineage.toml")
        examples = wb.load_examples(inputs_folder / "finetune.jsonl")
        options = {"steps": 300, "learning_rate": 1e-4, "measure_at": ()}
        return tune(lineage.load_model(lineage.aligned), examples, **options)

    live, whole = show(anew()), show(anew(), "whole")
    assert live.wait(PATIENCE) == whole.wait(PATIENCE) == "done"
    assert contents(live.run.folder) == contents(whole.run.folder)


LONG_STEP = """
model = tuning.model
began = []
model.hf.get_decoder().register_forward_pre_hook(lambda *_: began.append(1) or time.sleep(600))
live = wb.LiveRun(tuning, out=out)
while not began:
    time.sleep(0.005)
"""


def test_a_kernel_killed_within_a_long_step_does_not_leave_a_run_that_claims_to_run(
    inputs_folder, tmp_path
):
    import workbench as wb
    from workbench.standing import Standing

    begin = LEAVING[: LEAVING.index("live =")]
    left = subprocess.Popen(
        [sys.executable, "-c", begin + LONG_STEP, str(inputs_folder), str(tmp_path / "live")],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    try:
        until(lambda: (tmp_path / "live" / "run.json").exists())
        run = wb.Run(tmp_path / "live")
        until(lambda: run.status != "running")
        assert left.poll() is None  # it waits for the step
        with pytest.raises(RunError, match="being written"):
            run.lock()
    finally:
        left.kill()
        left.wait()
    assert run.info["failure"] == "stopped with its process at step 0; resume to continue"
    assert Standing.of(run).state == "stopped"
    run.lock()  # who held it is gone


@pytest.mark.parametrize(("steps", "state"), [(1, "done"), (2, "stopped")])
def test_a_run_marked_stopped_at_exit_tells_in_the_end_how_far_it_came(
    show, tune, aligned_model, gated, steps, state
):
    gate = gated(aligned_model)
    live = show(tune(aligned_model, steps=steps))
    until(lambda: "machine" in live.run.info)
    live._training.leave()
    assert live.run.info["failure"] == "stopped with its process at step 0; resume to continue"
    assert live.state == "stopping"
    gate.release(50)
    assert live.wait(PATIENCE) == state
    told = {"stopped": "stopped with its process at step 1; resume to continue", "done": None}
    assert live.run.info.get("failure") == told[state]
    live._training.leave()  # nothing is left to mark
    assert live.state == state


def test_watching_a_run_takes_no_torch(tmp_path):
    run = planted_run(tmp_path)
    append(run, 1)
    run.finish()
    code = (
        f"import sys; import workbench as wb; live = wb.LiveRun({str(run.folder)!r}); live.wait(); "
        "print(live.state, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["done", "False"]
