"""Two processes on the CPU: none waits for ever, and the numbers are those of one."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from planted_trainer import dataset_of
from safetensors.torch import load_file

from workbench.activations import read_activations
from workbench.directions import ReversionDirections, fit_directions_from
from workbench.drift import measure_drift
from workbench.loading import load_model
from workbench.probes import ProbeSet
from workbench.runs import Run

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parent / "trainer_scripts" / "train.py"
SECONDS = 240
"""A training takes a quarter of it; who waits for another that does not come is stopped."""


@pytest.fixture(scope="module")
def world(tmp_path_factory, make_hf, tokenizer, splits, examples):
    """An aligned Llama with dropout, directions that start from it, and its data, in a folder."""
    folder = tmp_path_factory.mktemp("world")
    hf = make_hf("llama-untied", attention_dropout=0.1)
    hf.save_pretrained(folder / "aligned")
    tokenizer.save_pretrained(folder / "aligned")
    model = load_model(folder / "aligned")
    acts = read_activations(model, splits[0])
    shift = torch.randn(3, 1, 32, generator=torch.Generator().manual_seed(4))
    fit_directions_from(
        acts + shift, acts, provenance={"aligned_hash": model.fingerprint(), "position": -1}
    ).save(folder / "directions.safetensors")
    for name, probes in zip(("penalty", "measure"), splits[1:], strict=True):
        rows = [json.dumps({"prompt": prompt}) for prompt in probes.prompts]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    (folder / "dataset.json").write_text(json.dumps(dataset_of(model, examples)))
    return folder


@pytest.fixture(scope="module")
def launch(world, tmp_path_factory):
    """Train with `accelerate launch` in two processes, and return the folder of what they wrote."""

    def run(kind, what, *, out=None, resume="", code=0):
        out = out or tmp_path_factory.mktemp(f"{kind}-{what}")
        command = [
            sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes",
            "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
            "--main_process_port", str(free_port()), str(SCRIPT), str(world), str(out), kind, what,
        ]  # fmt: skip
        root = str(SCRIPT.parents[2])
        job = subprocess.Popen(
            [*command, *([resume] if resume else [])],
            env=os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            told, _ = job.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(job.pid, signal.SIGKILL)
            pytest.fail(f"{kind} with {what} did not end: {job.communicate()[0][-2000:]}")
        assert (job.returncode == 0) == (code == 0), told[-3000:]
        return (out, told) if code else out

    return run


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def weights(out, rank=0):
    return load_file(out / f"weights-{rank}.safetensors")


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def alone(world, out):
    """Drift of the weights that were trained, as one process reads it."""
    start, model = load_model(world / "aligned"), load_model(world / "aligned")
    model.hf.load_state_dict(weights(out))
    probes = ProbeSet.load(world / "measure.jsonl")
    acts = [read_activations(one, probes) for one in (start, model)]
    return measure_drift(*acts, ReversionDirections.load(world / "directions.safetensors"))


@pytest.fixture(scope="module")
def plain(launch):
    return {kind: launch(kind, "nothing") for kind in ("ddp", "fsdp")}


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_the_weights_are_those_without_the_callback_and_the_drift_is_theirs(
    kind, launch, world, plain
):
    out = launch(kind, "drift")
    assert same(weights(out), weights(plain[kind]))
    assert same(weights(out, rank=1), weights(out))
    run, expected = Run(out / "run"), alone(world, out)
    assert run.status == "done" and run.measured_steps.tolist() == [1, 2, 3, 4]
    assert run.drift()[-1] == pytest.approx(expected.vector, abs=2e-6)
    assert run.layer_values("alignment")[-1] == pytest.approx(expected.alignment, abs=1e-4)
    assert expected.norm.min() > 1e-2
    assert run.info["config"]["recipe"]["batch_size"] == 4
    assert run.info["config"]["trainer"]["processes"] == 2
    assert run.records()["loss"][1:].notna().all()


def test_a_resumed_run_of_two_processes_is_the_uninterrupted_one(launch):
    whole = launch("ddp", "drift")
    expected = [json.dumps(line) for line in Run(whole / "run").lines]
    drift, ends = Run(whole / "run").drift(), weights(whole)
    launch("ddp", "drift", out=whole, resume=str(whole / "trainer" / "checkpoint-2"))
    run = Run(whole / "run")
    assert [json.dumps(line) for line in run.lines] == expected
    assert np.array_equal(run.drift(), drift) and same(weights(whole), ends)


def test_a_penalty_is_the_same_in_both_processes(launch, plain):
    out = launch("ddp", "block")
    assert same(weights(out), weights(out, rank=1))
    assert not same(weights(out), weights(plain["ddp"]))
    traced = Run(out / "run").gradient_trace("block")
    assert len(traced) == 4 and max(traced) > 0


def test_what_is_refused_ends_both_processes(launch, tmp_path):
    (tmp_path / "run").mkdir()
    _, told = launch("ddp", "drift", out=tmp_path, code=1)
    assert "already used" in told
    _, told = launch("fsdp", "block", out=tmp_path, code=1)
    assert "FSDP and DeepSpeed share out the gradients; use DDP" in told
