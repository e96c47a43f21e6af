"""A command that is told to stop ends after its step, says how it is continued, and leaves none."""

import contextlib
import json
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from planted_inputs import SMALL, contents, read_lines

from workbench import stopping
from workbench.cli import main
from workbench.progress import Progress
from workbench.runs import Run
from workbench.standing import Standing

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
PATIENCE = 120
NAMES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}


@pytest.fixture
def argv(inputs_folder):
    intervention = ("--intervention", "push", "--strength", "0.5", "--state-every", "4")
    return ["finetune", str(inputs_folder), *SMALL, *intervention, "--save-model"]


@pytest.fixture
def signal_at(monkeypatch):
    """Let this process get a signal while a step is told."""

    def plant(step, name, times=1):
        def told(_self, _run_id, now, _alignment):
            for _ in range(times if now == step else 0):
                signal.raise_signal(signal.Signals[name])

        monkeypatch.setattr(Progress, "__call__", told)

    yield plant
    monkeypatch.undo()


@pytest.fixture(scope="module")
def whole(inputs_folder, tmp_path_factory):
    """The files of the fine-tuning of `argv`, which nothing stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    intervention = ("--intervention", "push", "--strength", "0.5", "--save-model")
    assert main(["finetune", str(inputs_folder), *SMALL, *intervention, "--out", str(out)]) == 0
    return contents(out)


def tracked_steps(monkeypatch):
    """Return a list that the steps which are made from now on are added to."""
    seen = []
    monkeypatch.setattr(Progress, "__call__", lambda _self, _run_id, step, _a: seen.append(step))
    return seen


@pytest.mark.parametrize("name", NAMES)
def test_a_signal_ends_a_fine_tuning_after_its_step_and_nothing_is_made_twice(
    argv, tmp_path, capsys, signal_at, whole, monkeypatch, name
):
    out = tmp_path / "one"
    signal_at(3, name)
    assert main([*argv, "--out", str(out)]) == NAMES[name]
    again = shlex.join(["workbench", *argv, "--out", str(out), "--resume"])
    expected = f"workbench: stopped by {name} after step 3 of 6; continue with: {again}\n"
    assert capsys.readouterr().err == expected
    run = Run(out)
    assert run.info["failure"] == f"stopped by {name} at step 3; resume to continue"
    assert Standing.of(run).state == "stopped"
    assert not (out / "lock").exists()
    assert run.states.reached()[0] == 3
    seen = tracked_steps(monkeypatch)
    assert main(shlex.split(again)[1:]) == 0
    assert seen == [4, 5, 6]
    assert contents(out) == whole


def test_the_same_stop_sent_twice_at_once_is_one(argv, tmp_path, signal_at):
    signal_at(3, "SIGTERM", times=2)
    assert main([*argv, "--out", str(tmp_path / "one")]) == 143


def test_a_stop_in_the_last_step_comes_too_late(argv, tmp_path, signal_at, whole):
    signal_at(6, "SIGTERM")
    assert main([*argv, "--out", str(tmp_path / "one")]) == 0
    assert contents(tmp_path / "one") == whole


@pytest.mark.parametrize(
    "part", ["commands.finetune.fit_directions", "phases.load_model", "finetune.Updates"]
)
def test_a_stop_before_there_is_a_run_says_that_nothing_was_stored(
    argv, tmp_path, capsys, monkeypatch, part
):
    def stop(*_, **__):
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("went on")

    monkeypatch.setattr(f"workbench.{part}", stop)
    assert main([*argv, "--out", str(tmp_path / "one")]) == 143
    assert capsys.readouterr().err == "workbench: stopped by SIGTERM; nothing was stored.\n"
    assert not any(tmp_path.iterdir())


def test_a_stop_while_the_run_is_created_leaves_one_to_continue(
    argv, tmp_path, capsys, monkeypatch, whole
):
    from workbench.store import RunStore

    create = RunStore.create

    def stopped(*arguments):
        signal.raise_signal(signal.SIGTERM)
        return create(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(RunStore, "create", stopped)
        assert main([*argv, "--out", str(tmp_path / "one")]) == 143
    assert "stopped by SIGTERM before step 1; continue with: " in capsys.readouterr().err
    assert main([*argv, "--out", str(tmp_path / "one"), "--resume"]) == 0
    assert contents(tmp_path / "one") == whole


def test_what_continues_a_command_is_quoted_and_inert(tmp_path, capsys, inputs_folder, signal_at):
    out = tmp_path / "a b'\x1b[31m\n\u202e\udcff;"
    argv = ["finetune", str(inputs_folder), *SMALL, "--out", str(out.parent / "c 'd")]
    signal_at(2, "SIGINT")
    assert main(argv) == 130
    assert f"""--out '{out.parent}/c '"'"'d' --resume\n""" in capsys.readouterr().err
    from workbench.commands.continuing import _quote

    quoted = _quote(str(out))
    assert quoted.isprintable() and quoted.isascii()
    echoed = subprocess.run(["bash", "-c", f"printf %s {quoted}"], capture_output=True, check=True)
    assert echoed.stdout == os.fsencode(out)


def test_the_handlers_of_the_caller_are_there_again_and_ignored_signals_stay_ignored():
    before = [signal.getsignal(number) for number in stopping.SIGNALS]
    with stopping.heeding():
        assert signal.getsignal(signal.SIGTERM) is not before[1]
        with pytest.raises(stopping.Stopped), stopping.heeding(), stopping.instead(None):
            signal.raise_signal(signal.SIGTERM)
        assert str(stopping.asked()) == "stopped by SIGTERM"
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == before
    assert stopping.asked() is None
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with stopping.heeding():
            signal.raise_signal(signal.SIGHUP)
            assert stopping.asked() is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, old)


def test_in_other_threads_and_without_the_command_line_nothing_is_heeded(tune, aligned_model):
    def elsewhere():
        with stopping.heeding():
            told.append(signal.getsignal(signal.SIGTERM) is before)

    told, before = [], signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert told == [True]
    tuning = tune(aligned_model)
    with pytest.raises(KeyboardInterrupt) as caught, stopping.instead(tuning.stop):
        signal.raise_signal(signal.SIGINT)
    assert not isinstance(caught.value, stopping.Stopped)
    assert not tuning.stopped


def test_a_reading_that_is_stopped_says_how_far_it_came(inputs_folder, tmp_path, capsys):
    from workbench.progress import Tally

    argv = ["read", str(inputs_folder), "--out", str(tmp_path / "p"), "--quiet"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Tally, "__call__", lambda *_: signal.raise_signal(signal.SIGTERM))
        assert main(argv) == 143
    again = shlex.join(["workbench", *argv, "--resume"])
    expected = f"stopped by SIGTERM when 1 of 4 phases were read; continue with: {again}\n"
    assert capsys.readouterr().err == f"workbench: {expected}"
    assert not (tmp_path / "p/lock").exists()
    assert main([*argv, "--resume"]) == 0
    assert main([*argv[:-2], str(tmp_path / "q"), "--quiet"]) == 0
    stored = contents(tmp_path / "p", "*.safetensors")
    assert stored == contents(tmp_path / "q", "*.safetensors")
    assert len(stored) == 4


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["evaluate"], "evaluation.ask"),
        (["directions", "--out", "v.safetensors"], "activations.read_moments"),
        (["organism", "build", "--out", "o"], "organism.recipe.measure_quality"),
    ],
)
def test_other_commands_leave_nothing(argv, part, inputs_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if argv[0] == "organism":
        from workbench.organism import recipe

        monkeypatch.setattr(recipe, "_train", lambda *_: None)
    else:
        argv.insert(1, str(inputs_folder))

    def stop(*_, **__):
        signal.raise_signal(signal.SIGHUP)

    monkeypatch.setattr(f"workbench.{part}", stop)
    if argv[0] == "directions":
        monkeypatch.setattr("workbench.directions.read_activations", stop, raising=False)
        monkeypatch.setattr("workbench.commands.directions.fit_directions", stop)
    assert main([*argv, "--quiet"]) == 129
    assert capsys.readouterr().err == "workbench: stopped by SIGHUP; nothing was stored.\n"
    assert not any(tmp_path.iterdir())


def test_a_foreign_error_is_one_line_and_a_trace_on_request(argv, tmp_path, capsys, monkeypatch):
    def fail(*_):
        raise RuntimeError("planted\x1b[31m\nfault")

    monkeypatch.setattr(Progress, "__call__", fail)
    assert main([*argv, "--out", str(tmp_path / "one")]) == 1
    expected = "workbench: unexpected RuntimeError: planted [31m fault (--debug shows the trace)\n"
    assert capsys.readouterr().err == expected
    assert Run(tmp_path / "one").info["failure"] == "RuntimeError: planted\x1b[31m\nfault"
    assert Run(tmp_path / "one").status == "failed"
    assert main([*argv, "--out", str(tmp_path / "two"), "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_stop_between_what_is_done_is_noted_and_raises_nothing():
    with stopping.heeding():
        signal.raise_signal(signal.SIGTERM)
        assert str(stopping.asked()) == "stopped by SIGTERM"
        with pytest.raises(stopping.Stopped):
            stopping.check()
    assert stopping.asked() is None


@pytest.mark.parametrize("cause", [True, False])
def test_a_stop_that_others_turned_into_an_error_of_theirs_is_one(argv, tmp_path, capsys, cause):
    def load(*_, **__):
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException as stop:
            raise RuntimeError("interrupted") from (stop if cause else None)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("workbench.phases.load_model", load)
        assert main([*argv, "--out", str(tmp_path / "one")]) == (143 if cause else 1)
    told = "stopped by SIGTERM; nothing" if cause else "unexpected RuntimeError: interrupted"
    assert capsys.readouterr().err.startswith(f"workbench: {told}")


def test_a_stop_does_not_hide_that_the_step_failed(argv, tmp_path, capsys, monkeypatch):
    from workbench.errors import DivergedError

    def told(*_):
        signal.raise_signal(signal.SIGTERM)
        raise DivergedError("The loss is nan.")

    monkeypatch.setattr(Progress, "__call__", told)
    assert main([*argv, "--out", str(tmp_path / "one")]) == 2
    assert capsys.readouterr().err == "workbench: The loss is nan.\n"
    assert Run(tmp_path / "one").info["failure"] == "The loss is nan."


def test_a_stop_while_the_model_is_kept_comes_too_late(argv, tmp_path, monkeypatch, whole):
    from workbench import recording

    save = recording.save_model

    def stopped(*arguments):
        signal.raise_signal(signal.SIGTERM)
        save(*arguments)

    monkeypatch.setattr(recording, "save_model", stopped)
    assert main([*argv, "--out", str(tmp_path / "one")]) == 0
    assert contents(tmp_path / "one") == whole


def test_a_stop_between_two_trials_leaves_one_that_is_done(
    inputs_folder, tmp_path, capsys, monkeypatch
):
    from workbench import trial

    finish = trial.finish

    def stopped(run):
        signal.raise_signal(signal.SIGTERM)
        finish(run)

    monkeypatch.setattr(trial, "finish", stopped)
    arms = ("--arms", "ordinary,block:0.5", "--seeds", "1", "--evaluate-at", "0")
    argv = ["experiment", str(inputs_folder), *SMALL, *arms, "--max-new-tokens", "2"]
    assert main([*argv, "--out", str(tmp_path / "x")]) == 143
    assert "stopped by SIGTERM when 1 runs were done; continue with: " in capsys.readouterr().err
    assert [run.name for run in (tmp_path / "x/runs").iterdir()] == ["planted-ordinary-0"]
    assert Standing.of(Run(tmp_path / "x/runs/planted-ordinary-0")).state == "done"


def test_what_continues_an_experiment_of_hostile_names_is_quoted_and_inert(
    inputs_folder, tmp_path, capsys, signal_at
):
    folder = tmp_path / "a $(touch pwned)`touch pwned`\x1b[31m\n;'\"&"
    shutil.copytree(inputs_folder, folder)
    toml = folder / "lineage.toml"
    name = r'name = "\u001b]0;x\u0007 $(touch pwned)\n<script>\u202e"'
    toml.write_text(re.sub(r'^name = ".*"', lambda _: name, toml.read_text(), count=1, flags=re.M))
    assert "pwned" in toml.read_text()
    arms = ("--arms", "ordinary", "--seeds", "1", "--evaluate-at", "0", "--max-new-tokens", "2")
    argv = ["experiment", str(folder), *SMALL, *arms, "--out", str(tmp_path / "x")]
    signal_at(2, "SIGTERM")
    assert main(argv) == 143
    told = capsys.readouterr().err
    assert told.endswith("\n") and told[:-1].isprintable()
    command = told.partition("continue with: ")[2].strip()
    echoed = subprocess.run(
        ["bash", "-c", command.replace("workbench", r"printf '%s\0'", 1)],
        capture_output=True, check=True, cwd=tmp_path,
    ).stdout  # fmt: skip
    assert echoed.decode().split("\0")[:-1] == [*argv, "--resume"]
    assert {path.name for path in tmp_path.iterdir()} == {folder.name, "x"}


# What follows is of real processes.

AT_THE_ENDS = """
import atexit, runpy, signal, sys
import workbench

def interrupt(*_):
    signal.raise_signal(signal.SIGINT)

if sys.argv.pop(1) == "before":
    class Finder:
        def find_spec(self, name, *_):
            if name == "workbench.cli":
                interrupt()
    sys.meta_path.insert(0, Finder())
else:
    atexit.register(interrupt)
runpy.run_module("workbench", run_name="__main__")
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupt_before_the_command_or_after_it_shows_no_trace(when):
    argv = [sys.executable, "-c", AT_THE_ENDS, when, "calibrate", "--help"]
    done = subprocess.run(argv, env=ENVIRONMENT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
    assert ("usage" in done.stdout) == (when == "after")


LONG = ("--steps", "2000", "--measure-at", "1", "--batch-size", "4", "--state-every", "1000")


@pytest.fixture
def start(tmp_path):
    """Start a command in a session of its own; whatever is left of it in the end is killed."""
    started = []

    def run(*argv):
        process = subprocess.Popen(
            [sys.executable, "-m", "workbench", *map(str, argv)],
            env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True,
            cwd=tmp_path,
        )  # fmt: skip
        started.append(process)
        return process

    yield run
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def until(condition, patience=PATIENCE):
    for _ in range(int(patience / 0.02)):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("waited in vain")


def steps_of(folder):
    """The newest step that was recorded."""
    lines = Run(folder).lines if (folder / "records.jsonl").is_file() else ()
    return lines[-1]["step"] if lines else 0


def writer_of(experiment):
    """The process that writes one of the runs."""
    lock = next(experiment.glob("runs/[!.]*/lock"))
    return json.loads(lock.read_text())["pid"]


def heeds(process):
    """Whether a process has set up what it does when it is told to terminate."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("SigCgt:")[2].split()[0], 16) >> signal.SIGTERM - 1 & 1


def is_empty(session):
    """Whether no process is left in a session, beside zombies."""
    left = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] not in "ZX":
                left.append(stat.parent.name)
    return not left


@pytest.mark.slow
def test_a_process_told_to_terminate_ends_and_says_how_to_go_on(start, inputs_folder, tmp_path):
    out = tmp_path / "one"
    process = start("finetune", inputs_folder, *LONG, "--out", out, "--quiet")
    until(lambda: steps_of(out) > 3)
    process.terminate()
    told = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 143
    step = Run(out).states.reached()[0]
    assert step == steps_of(out) >= 4
    assert told.startswith(f"workbench: stopped by SIGTERM after step {step} of 2000; continue ")
    assert told.count("\n") == 1
    assert told.endswith(" --quiet --resume\n")
    assert is_empty(process.pid)
    assert not [path for path in out.rglob("*") if path.name.endswith(".tmp")]


SLOW_STEP = """
import sys, time
from workbench.cli import main
from workbench.losses import response_losses
from workbench import finetune

def slow(*arguments):
    if "evaluate" not in sys.argv:
        print("in a step", flush=True)
        time.sleep(600)
    return response_losses(*arguments)

finetune.response_losses = slow
sys.exit(main())
"""


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once_as_a_kill_would(inputs_folder, tmp_path):
    argv = ["finetune", str(inputs_folder), *SMALL, "--out", str(tmp_path / "one")]
    with subprocess.Popen(
        [sys.executable, "-c", SLOW_STEP, *argv[:-3], *argv[-2:]],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "in a step\n"
        process.terminate()
        time.sleep(stopping.ONE_STOP_SECONDS / 3)
        process.terminate()  # the same stop
        time.sleep(stopping.ONE_STOP_SECONDS)
        assert process.poll() is None
        process.terminate()
        assert process.wait(PATIENCE) == -signal.SIGTERM
        assert process.stderr.read().endswith(f"workbench: {stopping.NOTICE}\n")
    assert Standing.of(Run(tmp_path / "one")).why == "its process is gone; resume to continue"
    assert main([*argv, "--resume"]) == 0


EXPERIMENT = (
    "--arms", "ordinary,block:0.5,push:0.5", "--seeds", "1", "--jobs", "2", "--evaluate-at", "0",
    "--max-new-tokens", "2", "--steps", "3000", "--measure-at", "1", "--batch-size", "4",
    "--state-every", "1000", "--learning-rate", "0.0001",
)  # fmt: skip


@pytest.fixture
def two_running(start, inputs_folder, tmp_path):
    out = tmp_path / "x"
    process = start("experiment", inputs_folder, *EXPERIMENT, "--out", out, "--quiet")
    until(lambda: sum(steps_of(run) > 3 for run in out.glob("runs/[!.]*")) == 2)
    return process, out


@pytest.mark.slow
@pytest.mark.parametrize("to", ["the parent", "all"])
def test_an_experiment_in_processes_stops_all_of_them_after_their_step(two_running, to):
    process, out = two_running
    if to == "all":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.terminate()
    told = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == (130 if to == "all" else 143)
    assert told.count("\n") == 1, told
    assert "when 0 runs were done, planted-" in told
    until(lambda: is_empty(process.pid), 5)
    runs = [Run(path) for path in out.glob("runs/[!.]*")]
    assert len(runs) == 2
    for run in runs:
        assert Standing.of(run).state == "stopped", run.info
        assert run.states.reached()[0] == steps_of(run.folder) > 3
        assert not (run.folder / "lock").exists()
        assert f"{run.id} after step {steps_of(run.folder)} of 3000" in told


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["the parent", "a worker"])
def test_when_one_process_is_killed_the_others_end_and_nothing_stays_locked(two_running, whom):
    process, out = two_running
    if whom == "the parent":
        process.kill()
        until(lambda: is_empty(process.pid), 5)
    else:
        os.kill(writer_of(out), signal.SIGKILL)
        told = process.communicate(timeout=PATIENCE)[1]
        assert process.returncode == 2
        assert "was killed, perhaps for memory; continue with --resume and fewer --jobs" in told
        assert told.count("\n") == 1, told
        until(lambda: is_empty(process.pid), 5)
        stopped = [run for run in out.glob("runs/[!.]*") if "failure" in Run(run).info]
        assert len(stopped) == 1
        assert Run(stopped[0]).states.reached()[0] == steps_of(stopped[0])
    for run in map(Run, out.glob("runs/[!.]*")):
        assert Standing.of(run).state == "stopped"
        run.lock()
        run.unlock()


@pytest.mark.slow
def test_when_a_trial_fails_those_beside_it_have_ended_before_that_is_told(inputs_folder, tmp_path):
    from workbench.arms import standard_arms
    from workbench.config import Recipe
    from workbench.inputs import Inputs
    from workbench.trial import Trial
    from workbench.workers import run_in_processes

    assert main(["directions", str(inputs_folder), "--out", str(tmp_path / "v")]) == 0
    whole = Trial(
        "whole", "planted", tmp_path, Inputs.beside(inputs_folder), tmp_path / "v",
        standard_arms()["ordinary"], 0, Recipe(steps=60, batch_size=4), "rules", (),
    )  # fmt: skip
    without = replace(whole, run_id="without", directions=tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match="missing"):
        run_in_processes([[without, whole]], 2)
    assert not multiprocessing.active_children()
    assert Run(tmp_path / "whole").status == "done"
    assert not (tmp_path / "without").exists()


@pytest.mark.slow
def test_an_experiment_stopped_and_resumed_is_one_that_ran_through(start, inputs_folder, tmp_path):
    options = list(EXPERIMENT)
    options[options.index("3000")] = "150"
    whole = start("experiment", inputs_folder, *options, "--out", tmp_path / "whole")
    whole.communicate(timeout=PATIENCE)
    out = tmp_path / "x"
    argv = ("experiment", inputs_folder, *options, "--out", out)
    statuses = []
    for steps in (20, 120, 300, None):
        process = start(*argv, *(["--resume"] if statuses else []))
        if steps is not None:
            until(lambda: sum(map(steps_of, out.glob("runs/[!.]*"))) >= steps)  # noqa: B023
            os.kill(writer_of(out), signal.SIGKILL) if steps == 120 else process.terminate()
        process.communicate(timeout=PATIENCE)
        statuses.append(process.returncode)
    assert statuses == [143, 2, 143, 0]
    for part in ("runs", "lineages"):
        assert contents(out / part) == contents(tmp_path / "whole" / part)
    assert read_lines(out / "runs/planted-ordinary-0/records.jsonl")[-1]["step"] == 150


COMMANDS = {
    "demo": (["demo", "--jobs", "2", "--seeds", "1", "--out", "o"], "o/runs/*/drift/000003.*",
             r"when 0 runs were done, .* after step \d+ of 100.*; continue with: .* --resume"),
    "read": (["read", "LINEAGE", "--out", "o"], "o/passage.json",
             r"when \d of 4 phases were read; continue with: .* --resume"),
    "evaluate": (["evaluate", "LINEAGE"], "", "nothing was stored[.]"),
    "organism": (["organism", "build", "--out", "o"], ".o.*.tmp/lineage.toml",
                 "nothing was stored[.]"),
    "directions": (["directions", "LINEAGE", "--out", "v"], "", "nothing was stored[.]"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_real_command_told_to_terminate_says_what_is_stored(
    command, start, inputs_folder, tmp_path
):
    argv, ready, told = COMMANDS[command]
    argv = [str(inputs_folder) if part == "LINEAGE" else part for part in argv]
    process = start(*argv, "--quiet")
    until(lambda: heeds(process) and (not ready or [*tmp_path.glob(ready)]))
    process.terminate()
    said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 143
    assert re.fullmatch(f"workbench: stopped by SIGTERM;? {told}\n", said), said
    until(lambda: is_empty(process.pid), 5)
    assert not [path for path in tmp_path.rglob("*.tmp")]
    assert not [path for path in tmp_path.rglob("lock")]
    assert {path.name for path in tmp_path.iterdir()} <= ({"o"} if "continue" in told else set())
