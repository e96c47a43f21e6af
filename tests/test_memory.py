"""Out of memory, diverged, or no room on the disk: one line, and the last state is kept."""

import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
import torch
from planted_inputs import SMALL, contents

from workbench.cli import main
from workbench.errors import CheckpointError, DivergedError, OutOfMemoryError, StorageError
from workbench.memory import enough_memory, lack_of_memory
from workbench.recording import failing, record_run
from workbench.runs import Run
from workbench.store import RunStore
from workbench.storing import check_writable, writing
from workbench.updates import check_state, state_from_bytes

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}


@pytest.fixture
def argv(inputs_folder):
    return ["finetune", str(inputs_folder), *SMALL, "--state-every", "2", "--save-model"]


@pytest.fixture(scope="module")
def whole(inputs_folder, tmp_path_factory):
    """The files of the fine-tuning of `argv`, which nothing stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main(["finetune", str(inputs_folder), *SMALL, "--save-model", "--out", str(out)]) == 0
    return contents(out)


def wrapped(cause):
    try:
        try:
            raise cause
        except type(cause) as error:
            raise CheckpointError("the model cannot be loaded") from error
    except CheckpointError as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't "
                     "allocate memory: you tried to allocate 3221225472 bytes. Error code 12"),
        wrapped(MemoryError()),
    ],
)  # fmt: skip
def test_lack_of_memory_is_told_in_one_line_with_what_takes_less(error):
    with pytest.raises(OutOfMemoryError) as caught, enough_memory("in step 3", "a shorter one"):
        raise error
    assert isinstance(caught.value, MemoryError)
    told = str(caught.value)
    size = {"CUDA": " (2.00 GiB more)", "[enf": " (3.00 GiB more)"}.get(str(error)[:4], "")
    assert told == (
        f"Out of memory in step 3{size}: free some (fewer --jobs) and resume, or begin anew "
        "with a shorter one; `workbench doctor LINEAGE` tells how much is needed."
    )


@pytest.mark.parametrize(
    "error",
    [RuntimeError("shapes"), CheckpointError("out of memory/model: no such folder"), KeyError(1)],
)
def test_other_errors_are_let_through(error):
    with pytest.raises(type(error)) as caught, enough_memory("in step 3", "less"):
        raise error
    assert caught.value is error
    assert lack_of_memory(error) is None


def test_an_error_for_want_of_memory_does_not_keep_it():
    class Large:
        pass

    def allocate():
        large = Large()
        kept.append(weakref.ref(large))
        raise MemoryError

    kept = []
    with pytest.raises(OutOfMemoryError) as caught, enough_memory("here", "less"):
        allocate()
    assert caught.value.__cause__ is not None
    assert kept[0]() is None


# A real limit of the address space, from some moment on.
LIMITED = """
import resource, sys
import torch
from workbench.cli import main
from workbench import {module}

place, calls = {owner}, []
plain = place.{name}

def limited(*arguments, **options):
    calls.append(1)
    if len(calls) == {call}:
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**24, used + 2**24))
        torch.empty(2**30)
    return plain(*arguments, **options)

place.{name} = limited
sys.exit(main())
"""
MOMENTS = {
    "loading": ("phases", "phases", "load_model", 1),
    "training": ("finetune", "finetune", "response_losses", 4),
    "copying": ("finetune", "finetune.FineTuning", "state", 2),
}


@pytest.mark.parametrize(
    "moment", ["training", *(pytest.param(m, marks=pytest.mark.slow) for m in MOMENTS)]
)
def test_a_process_out_of_memory_ends_in_one_line_and_can_be_resumed(argv, tmp_path, whole, moment):
    module, owner, name, call = MOMENTS[moment]
    script = LIMITED.format(module=module, owner=owner, name=name, call=call)
    out = tmp_path / "one"
    done = subprocess.run(
        [sys.executable, "-c", script, *argv, "--out", str(out)],
        env=ENVIRONMENT, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    where = {
        "loading": "in finetune",
        "training": "in step 4",
        "copying": "in copying the training state of step 4",
    }[moment]
    assert done.stderr.startswith(f"workbench: Out of memory {where} (4.00 GiB more): free some")
    assert "`workbench doctor LINEAGE`" in done.stderr
    if moment == "loading":
        assert not out.exists()
        return
    assert "a higher --accumulation" in done.stderr
    run = Run(out)
    assert run.status == "failed"
    assert done.stderr == f"workbench: {run.info['failure']}\n"
    assert run.states.reached()[0] == 2
    assert main([*argv, "--out", str(out), "--resume"]) == 0
    assert contents(out) == whole


# Diverged.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_not_finite_are_never_stored(tune, make_hf, tokenizer, tmp_path, dtype):
    from workbench.models import HookedModel

    tuning = tune(HookedModel(make_hf().to(dtype), tokenizer), steps=9)
    run, seen = RunStore(tmp_path).create({}, "one"), []

    def plant(_run_id, record):
        seen.append(record.step)
        if record.step == 5:
            with torch.no_grad():  # an update that overflowed
                tuning._updates.masters[3].view(-1)[1] = float("inf")
                tuning._updates.publish()

    with pytest.raises(DivergedError) as caught, failing(run):
        record_run(run, tuning, state_every=2, on_record=plant)
    told = str(caught.value)
    assert told.endswith(
        "Try a lower learning rate or a weaker intervention. The run keeps its state after step 4; "
        "resumed with the same settings, it would diverge again."
    ), told
    assert run.info["failure"] == told
    assert seen[-1] == 5
    state = state_from_bytes(run.load_state())
    assert int(state["step"]) == 4
    assert all(t.isfinite().all() for t in state.values() if t.is_floating_point())


def test_moments_that_overflow_unseen_are_not_stored_either(tune, make_model, tmp_path):
    tuning = tune(make_model(), steps=9)
    run = RunStore(tmp_path).create({}, "one")

    def plant(_run_id, record):
        if record.step == 3:
            master = tuning._updates.masters[-1]
            tuning._updates.optimiser.state[master]["exp_avg_sq"].view(-1)[0] = float("inf")

    with pytest.raises(
        DivergedError, match=r"Squared gradients of \S+ are not finite after step 4"
    ):
        record_run(run, tuning, state_every=2, on_record=plant)
    assert run.states.reached()[0] == 2


def test_a_loss_that_diverges_before_any_state_says_so(tune, make_model, tmp_path):
    run = RunStore(tmp_path).create({}, "one")
    with pytest.raises(
        DivergedError, match=r"at step 2; .* The run has no training state yet; res"
    ):
        record_run(run, tune(make_model(), learning_rate=1e30, warmup=0))


def test_a_state_is_finite_or_named():
    state = {"weight/a": torch.ones(3), "step/a": torch.tensor(2.0), "order": torch.tensor(5)}
    check_state(state | {"weight/none": torch.empty(0)}, 1)
    for bad in (float("nan"), float("inf"), float("-inf")):
        for kind, what in (
            ("weight", "Weights"),
            ("exp_avg", "Mean g"),
            ("exp_avg_sq", "Squared g"),
        ):
            broken = state | {f"{kind}/b.c": torch.tensor([0.0, bad])}
            with pytest.raises(
                DivergedError, match=rf"{what}\w* of b\.c are not finite after step 7"
            ):
                check_state(broken, 7)


# The disk.

FULL = """
import resource, sys
from pathlib import Path
from workbench.cli import main

part, call, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
calls = []

import builtins, io
opened = io.open

def limited(file, *arguments, **options):
    mode = arguments[0] if arguments else options.get("mode", "r")
    if part in str(file) and set(mode) & set("wax"):
        calls.append(1)
        if len(calls) >= call:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    return opened(file, *arguments, **options)

def limited_model(*arguments):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    return plain(*arguments)

io.open = builtins.open = limited
if part == "model":  # written by a library that opens its files itself
    from workbench import recording
    plain, recording.save_model = recording.save_model, limited_model
sys.argv[1:] = sys.argv[4:]
sys.exit(main())
"""
PLACES = {
    "creation": (".run.json", 1, "cannot be created"),
    "drift": ("drift/.000003", 1, "cannot be written"),
    "record": ("records.jsonl", 4, "records.jsonl: cannot be written"),
    "state": (".state.safetensors", 2, "cannot be written"),
    "model": ("model", 1, "one/model: cannot be written"),
}


def run_full(place, call, size, argv):
    return subprocess.run(
        [sys.executable, "-c", FULL, place, str(call), str(size), *argv],
        env=ENVIRONMENT, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    "moment", ["state", *(pytest.param(p, marks=pytest.mark.slow) for p in PLACES if p != "state")]
)
def test_a_full_disk_ends_a_fine_tuning_in_one_line_that_names_the_file(
    argv, tmp_path, whole, moment
):
    place, call, reason = PLACES[moment]
    out = tmp_path / "one"
    size = 100 if moment in ("creation", "drift", "record") else 20_000
    done = run_full(place, call, size, [*argv, "--out", str(out)])
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert reason in done.stderr
    assert "File too large" in done.stderr
    assert str(out) in done.stderr
    if moment == "creation":
        assert not out.exists()
        return
    if size == 20_000:
        assert Run(out).info["failure"] in done.stderr
        assert Run(out).status == "failed"
    for file in out.rglob("*.json"):
        json.loads(file.read_text())
    assert not (out / "model").exists()
    assert main([*argv, "--out", str(out), "--resume"]) == 0
    assert contents(out) == whole


def test_the_error_of_marking_a_run_does_not_hide_what_failed_it(tmp_path, monkeypatch):
    run = RunStore(tmp_path).create({}, "one")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("workbench.runs.write_json", full)
    with pytest.raises(DivergedError, match="planted"), failing(run):
        raise DivergedError("planted")
    run.lock()  # it is free, and can be resumed


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "x"), "No space left on device); make room, then continue with --"),
        (OSError(errno.EROFS, "x"), "Read-only file system); make it writable, then continue wi"),
        (Exception("I/O error: File too large (os error 27)"), "File too large); make room, then"),
    ],
)
def test_what_cannot_be_written_is_named_with_the_reason(tmp_path, error, told):
    with pytest.raises(StorageError) as caught, writing(tmp_path / "file"):
        raise error
    assert str(caught.value).startswith(f"{tmp_path}/file: cannot be written ({told}")
    other = OSError(errno.ENOSPC, "x", str(tmp_path / ".records.jsonl.17.tmp"))
    with pytest.raises(StorageError, match=f"^{tmp_path}/records.jsonl: "), writing(tmp_path):
        raise other
    with pytest.raises(KeyError), writing(tmp_path):
        raise KeyError(1)
    assert isinstance(caught.value, OSError)


@pytest.fixture
def read_only():
    """Make a folder read-only, for root as well; skip where that is not permitted."""
    mounted = []

    def make(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for options in (["--bind"], ["-o", "remount,ro,bind"]):
            command = ["mount", *options, str(folder), str(folder)]
            try:
                done = subprocess.run(command, capture_output=True, text=True)
            except OSError as error:
                pytest.skip(f"mount cannot be run ({error})")
            if done.returncode:
                for one in mounted:
                    subprocess.run(["umount", str(one)], check=False)
                pytest.skip(f"mounting is not permitted ({done.stderr.strip()[:80]})")
            if folder not in mounted:
                mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=False)


@pytest.mark.parametrize("command", ["finetune", "experiment", "read", "organism"])
def test_a_read_only_folder_is_refused_before_any_model_is_read(
    command, inputs_folder, tmp_path, read_only, monkeypatch, capsys
):
    def read(*_, **__):
        raise AssertionError("a model was read")

    for place in ("phases.load_model", "loading.load_model", "organism.recipe.load_model"):
        monkeypatch.setattr(f"workbench.{place}", read)
    out = read_only(tmp_path / "ro") / "deep/out"
    source = "build" if command == "organism" else str(inputs_folder)
    assert main([command, source, "--out", str(out)]) == 2
    told = f"workbench: {out}: cannot be written; choose another output folder.\n"
    assert capsys.readouterr().err == told
    check_writable(tmp_path / "elsewhere/out")


def test_a_run_that_became_read_only_is_read_but_not_continued(
    argv, tmp_path, read_only, capsys, whole
):
    out = tmp_path / "one"
    assert main([*argv, "--out", str(out)]) == 0
    copy = shutil.copytree(out, tmp_path / "copies/one")
    read_only(copy.parent)
    with pytest.raises(OSError, match="Read-only"):
        (copy / "file").touch()
    assert contents(copy) == whole
    assert len(Run(copy).checked().records()) == 6
    assert Run(copy).drift().shape[0] == len(Run(copy).measured_steps)
    capsys.readouterr()
    assert main(["report", str(copy), "--out", str(tmp_path / "report.html")]) == 0
    assert main(["report", str(copy)]) == 2
    captured = capsys.readouterr().err
    assert captured.count("\n") == 1
    assert "Read-only file system" in captured


@pytest.fixture
def clock_goes_back(monkeypatch):
    """Every time that it is asked for the time, an hour earlier."""
    for name, hour in (("time", 3600), ("time_ns", 3600 * 10**9)):
        count, plain = itertools.count(), getattr(time, name)
        monkeypatch.setattr(time, name, lambda c=count, p=plain, h=hour: p() - h * next(c))


@pytest.mark.usefixtures("clock_goes_back")
def test_the_clock_may_go_backwards(argv, tmp_path, whole):
    assert main([*argv, "--out", str(tmp_path / "one")]) == 0
    assert contents(tmp_path / "one") == whole
    assert RunStore(tmp_path).create({}).id != RunStore(tmp_path).create({}).id


@pytest.mark.slow
@pytest.mark.usefixtures("clock_goes_back")
def test_an_experiment_took_no_negative_time(inputs_folder, tmp_path):
    options = ("--arms", "ordinary", "--seeds", "1", "--evaluate-at", "0", "--max-new-tokens", "2")
    out = tmp_path / "x"
    assert main(["experiment", str(inputs_folder), *SMALL, *options, "--out", str(out)]) == 0
    assert json.loads((out / "experiment.json").read_text())["wall_seconds"] > 0
