"""Out of memory or diverged: one line that says where, and the last state is kept."""

import errno
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from planted_inputs import SMALL, contents

from workbench.cli import main
from workbench.errors import CheckpointError, DivergedError, OutOfMemoryError
from workbench.memory import enough_memory, lack_of_memory
from workbench.recording import failing, record_run
from workbench.runs import Run
from workbench.store import RunStore
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
    "moment", ["training", *(pytest.param(m, marks=pytest.mark.slow) for m in [*MOMENTS][::2])]
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
        "resumed with the same settings, it would diverge again: begin anew in another folder."
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
