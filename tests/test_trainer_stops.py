"""A training by a Trainer that an error or the user ends: its run says so and can be resumed."""

import gc
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from full_disks import Limited
from planted_trainer import make_trainer
from transformers import TrainerCallback

from workbench.errors import RunError, StorageError
from workbench.integrations import trainer_records
from workbench.integrations.trainer import ReversionCallback
from workbench.integrations.trainer_run import proceed
from workbench.records import StepRecord
from workbench.runs import Run
from workbench.standing import Standing
from workbench.store import RunStore

WHY = "ended before its time; resume to continue"


class Failing(TrainerCallback):
    """Ends the training in its fourth step."""

    def __init__(self, error):
        self.error = error

    def on_step_begin(self, args, state, control, **_):  # noqa: ARG002
        if self.error is not None and state.global_step == 3:
            raise self.error


@pytest.fixture
def train(lineage, examples, directions, splits, tmp_path):
    """Train six steps, with a checkpoint at every second, into a run folder."""

    def go(out, error=None, **options):
        model = lineage.load_model(lineage.aligned)
        model.close()
        saved = {"save_strategy": "steps", "save_steps": 2, "callbacks": [Failing(error)]}
        trainer = make_trainer(model, examples, tmp_path / f"{out}-trainer", **saved)
        ReversionCallback(directions, splits[2], out=tmp_path / out, every=1).attach(trainer)
        trainer.train(**options)
        return {name: value.detach().clone() for name, value in model.hf.named_parameters()}

    return go


def check_resumed(train, tmp_path):
    """The run is stopped and nobody's; resumed, it is the one that nothing ended."""
    gc.collect()
    run = Run(tmp_path / "cut")
    assert (run.status, run.info["failure"]) == ("failed", WHY)
    assert Standing.of(run).state == "stopped"
    assert not (run.folder / "lock").exists()
    resumed, whole = train("cut", resume_from_checkpoint=True), train("whole")
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())
    assert run.refresh().lines == Run(tmp_path / "whole").lines
    assert run.status == "done"
    assert "failure" not in run.info


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("planted")])
def test_a_training_that_is_interrupted_is_marked_and_resumed(train, tmp_path, error):
    with pytest.raises(type(error)):
        train("cut", error)
    error.__traceback__ = None  # it holds the Trainer
    check_resumed(train, tmp_path)


@pytest.mark.parametrize("step", [3, 0])
def test_a_finished_run_that_goes_on_is_never_done_with_steps_missing(tmp_path, monkeypatch, step):
    config = {"recipe": {"steps": 4, "measure_at": []}, "trainer": {}}
    run = RunStore(tmp_path).create(config | {"model": "x"}, "run")
    for number in range(1, 5):
        run.append(StepRecord(number, 1.0, 1e-3, 1.0))
    run.finish()
    kept = (run.folder / "records.jsonl").read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer_records, "write_atomic", killed)
    config = config | {"recipe": {"steps": 8, "measure_at": []}}
    with pytest.raises(KeyboardInterrupt if step else RunError):
        proceed(run.folder, config, step)
    assert run.status == ("running" if step else "done")
    assert ("files" in run.info) == (not step)
    assert (run.folder / "records.jsonl").read_bytes() == kept
    assert not (run.folder / "lock").exists()
    monkeypatch.undo()
    if step:
        assert [line["step"] for line in proceed(run.folder, config, step).lines] == [1, 2, 3]


@pytest.mark.parametrize("place", ["/records.jsonl", "/drift/000004.safetensors"])
def test_a_full_disk_ends_a_training_which_is_marked_and_resumed(
    train, tmp_path, monkeypatch, place
):
    call = 5 if place == "/records.jsonl" else 1
    full = Limited(tmp_path, monkeypatch).full_at(f"cut{place}", call)
    with pytest.raises(StorageError, match=f"cut{place}: cannot be writt") as caught, full:
        train("cut")
    assert str(caught.value).endswith(" (File too large); make room, then resume or repeat.")
    caught.value.__traceback__ = caught.value.__cause__ = None
    del caught
    check_resumed(train, tmp_path)


INTERRUPTED = """
import pickle, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_trainer_stops import Failing, ReversionCallback, make_trainer
from workbench.directions import ReversionDirections
from workbench.phases import Lineage

folder = Path(sys.argv[2])
given, probes, examples = pickle.loads((folder / "given").read_bytes())
lineage = Lineage.load(given)
model = lineage.load_model(lineage.aligned)
model.close()
failing = [Failing(KeyboardInterrupt())]
trainer = make_trainer(model, examples, folder / "trainer", callbacks=failing)
directions = ReversionDirections.load(folder / "directions")
ReversionCallback(directions, probes, out=folder / "cut", every=1).attach(trainer)
trainer.train()
"""


@pytest.mark.slow
def test_a_process_that_an_interrupt_ends_marks_its_run(
    lineage_file, examples, directions, splits, tmp_path
):
    directions.save(tmp_path / "directions")
    (tmp_path / "given").write_bytes(pickle.dumps((str(lineage_file), splits[2], examples)))
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(Path(__file__).parent), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}, capture_output=True,
        text=True,
    )  # fmt: skip
    assert "KeyboardInterrupt" in done.stderr
    run = Run(tmp_path / "cut")
    assert (run.status, run.info["failure"]) == ("failed", WHY), done.stderr
    assert not (run.folder / "lock").exists()
    assert [line["step"] for line in run.lines] == [0, 1, 2, 3]
