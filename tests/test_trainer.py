"""Drift is measured inside a Trainer, which trains as if nobody looked."""

import json
import random

import numpy as np
import peft
import pytest
import torch
from planted_trainer import dataset_of, make_trainer
from transformers import TrainerCallback

from workbench.activations import read_activations
from workbench.config import MEASURED_STEPS
from workbench.drift import measure_drift
from workbench.errors import ConfigError, ProbeError, ProvenanceError, RunError
from workbench.integrations.trained_model import undisturbed
from workbench.integrations.trainer import ReversionCallback
from workbench.integrations.trainer_run import default_steps
from workbench.models import HookedModel
from workbench.runs import Run
from workbench.standing import Standing


class Told(TrainerCallback):
    """Keeps everything that is logged, as a reporter gets it."""

    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs=None, **_):  # noqa: ARG002
        self.logs.append((state.global_step, dict(logs)))

    def of(self, name):
        return {step: logs[name] for step, logs in self.logs if name in logs}


class Failing(TrainerCallback):
    """Ends the training with an error at a step."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **_):  # noqa: ARG002
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.fixture
def make(lineage, examples, tmp_path):
    """Make a Trainer of a fresh aligned model; return it and the model that nobody hooks."""

    def build(*, model=None, folder="trainer", **options):
        model = model or lineage.load_model(lineage.aligned)
        model.close()
        return make_trainer(model, examples, tmp_path / folder, **options), model

    return build


@pytest.fixture
def callback(directions, splits, tmp_path):
    """Make a callback with a run folder."""

    def build(out="run", **options):
        out = None if out is None else tmp_path / "runs" / out
        return ReversionCallback(directions, splits[2], out=out, **options)

    return build


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def hooks_on(hf):
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in hf.modules()
    )


def lines_of(run):
    return [json.dumps(line) for line in run.refresh().lines]


def test_the_weights_are_those_without_the_callback(make, callback, weights_of):
    ends = []
    for measured in (True, False):
        trainer, model = make()
        before = weights_of(model)
        assert model.hf.config.resid_pdrop > 0
        if measured:
            callback(every=1).attach(trainer)
        trainer.train()
        drawn = (np.random.rand(), torch.rand(1).item())
        ends.append((weights_of(model), trainer.optimizer.state_dict()["state"], drawn))
        assert not same(before, ends[-1][0])
    (seen, moments, drawn), (blind, blind_moments, blind_drawn) = ends
    assert same(seen, blind)
    assert all(same(moments[key], blind_moments[key]) for key in moments)
    assert drawn == blind_drawn


def test_random_state_is_given_back():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    def seed():
        random.seed(1), np.random.seed(1), torch.manual_seed(1)

    seed()
    expected = draw()
    seed()
    with undisturbed():
        assert draw() == expected
    assert draw() == expected
    assert draw() != expected


def test_drift_is_that_between_the_weights(make, callback, directions, splits, lineage):
    trainer, model = make()
    callback(measure_at=[2]).attach(trainer)
    trainer.train()
    model.open()
    start = lineage.load_model(lineage.aligned)
    acts = [read_activations(one, splits[2]) for one in (start, model)]
    expected = measure_drift(*acts, directions)
    run = Run(trainer.args.output_dir.replace("trainer", "runs/run"))
    assert run.measured_steps.tolist() == [2, 6]
    assert run.drift()[-1] == pytest.approx(expected.vector, abs=1e-6)
    assert run.layer_values("alignment")[-1] == pytest.approx(expected.alignment, abs=1e-5)
    assert run.drift()[-1] != pytest.approx(run.drift()[0], abs=1e-3)


def test_nothing_is_left_on_the_model(make, callback):
    trainer, model = make()
    modes = [module.training for module in model.hf.modules()]
    padding = model.tokenizer.padding_side
    assert hooks_on(model.hf) == 0
    trainer.add_callback(between := Between(model.hf))
    joined = callback(every=1).attach(trainer)
    trainer.train()
    assert between.hooks == [0] * 6 and between.modes == [True] * 6
    assert hooks_on(model.hf) == 0
    assert model.tokenizer.padding_side == padding
    assert joined._model is None and joined._measurement is None
    assert len(modes) == len([*model.hf.modules()])


class Between(TrainerCallback):
    """Looks at the model before each step."""

    def __init__(self, hf):
        self.hf, self.hooks, self.modes = hf, [], []

    def on_substep_end(self, args, state, control, **_):  # noqa: ARG002
        raise AssertionError("no accumulation here")

    def on_pre_optimizer_step(self, args, state, control, **_):  # noqa: ARG002
        self.hooks.append(hooks_on(self.hf))
        self.modes.append(all(module.training for module in self.hf.modules()))


def test_a_second_hooked_model_fires_once_and_closes_alone(make_model, tokens):
    from workbench.models import HookedModel

    first = make_model()
    second, seen = HookedModel(first.hf, first.tokenizer), []
    hook = [("blocks.1.hook_resid_post", lambda resid, hook: seen.append(resid))]  # noqa: ARG005
    with second.hooks(fwd_hooks=hook):
        first(tokens)
    assert len(seen) == 1
    second.close()
    with second.hooks(fwd_hooks=hook):
        first(tokens)
    assert len(seen) == 1
    with first.hooks(fwd_hooks=hook):
        first(tokens)
    assert len(seen) == 2
    second.open()
    second.open()
    with second.hooks(fwd_hooks=hook):
        second(tokens)
    assert len(seen) == 3


def test_scalars_reach_the_history_and_every_reporter_at_their_step(make, callback):
    trainer, _ = make(callbacks=[told := Told()])
    callback(measure_at=[1, 3], per_layer=True).attach(trainer)
    trainer.train()
    run = Run(trainer.args.output_dir.replace("trainer", "runs/run"))
    alignment = told.of("reversion/alignment")
    assert list(alignment) == [1, 3, 6]
    assert list(told.of("reversion/along")) == [0, 1, 3, 6]
    assert told.of("reversion/along")[0] == told.of("reversion/across")[0] == 0
    assert told.of("reversion/undefined") == {0: 3, 1: 0, 3: 0, 6: 0}
    stored = run.records()["mean_alignment"].dropna()
    assert alignment == pytest.approx(stored.to_dict())
    layer = told.of("reversion/alignment/layer_02")
    assert layer[6] == pytest.approx(run.layer_values("alignment")[-1, 2])
    history = {h["step"]: h["reversion/alignment"] for h in trainer.state.log_history
               if "reversion/alignment" in h}  # fmt: skip
    assert history == alignment
    # The Trainer's own logs are none the fewer.
    assert list(told.of("loss")) == [2, 4, 6]


def test_tensorboard_files_hold_the_scalars(make, callback, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    trainer, _ = make(report_to=["tensorboard"])
    callback(measure_at=[1, 3]).attach(trainer)
    trainer.train()
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    found = {e.step: e.value for e in events.Scalars("train/reversion/alignment")}
    run = Run(tmp_path / "runs" / "run")
    assert found == pytest.approx(run.records()["mean_alignment"].dropna().to_dict(), abs=1e-6)
    assert [e.step for e in events.Scalars("train/loss")] == [2, 4, 6]


def test_a_callback_that_is_not_attached_says_so_and_keeps_its_run(make, callback, tmp_path):
    trainer, _ = make(callbacks=[callback(), told := Told()], report_to=["tensorboard"])
    with pytest.warns(UserWarning, match=r"not reported to tensorboard: .* callback.attach"):
        trainer.train()
    assert not told.of("reversion/alignment")
    assert [h["step"] for h in trainer.state.log_history if "reversion/alignment" in h]
    assert Run(tmp_path / "runs" / "run").measured_steps.tolist() == [1, 2, 3, 5, 6]


def test_the_run_opens_and_is_shown(make, callback, tmp_path, directions):
    import workbench as wb
    from workbench.cli import main
    from workbench.plots.live import live_figures

    trainer, model = make()
    fingerprint = model.fingerprint()
    callback("sevenfold").attach(trainer)
    trainer.train()
    run = Run(tmp_path / "runs" / "sevenfold")
    config = run.info["config"]
    assert run.status == "done" and not (run.folder / "lock").exists()
    assert config["model"] == fingerprint == directions.provenance["aligned_hash"]
    assert config["recipe"]["steps"] == 6 and config["recipe"]["batch_size"] == 4
    assert config["recipe"]["learning_rate"] == 1e-3
    assert config["layers"] == [0, 1, 2] and config["interventions"] == []
    standing = Standing.of(run)
    assert (standing.state, standing.step, standing.steps) == ("done", 6, 6)
    assert standing.alignment == pytest.approx(run.records()["mean_alignment"][6])
    assert {*live_figures(run)} == {"map", "curves"}
    assert {*wb.LiveRun(run).figure("map").layout.xaxis.ticktext} >= {"1", "6"}
    shown = wb.LayerExplorer(run).figure()
    assert shown.data and wb.Geometry(run).figure().data
    assert main(["report", str(run.folder), "--out", str(tmp_path / "report.html")]) == 0
    assert "sevenfold" in (tmp_path / "report.html").read_text()


def test_records_hold_what_the_trainer_logs(make, callback, tmp_path):
    trainer, _ = make(logging_steps=1, lr_scheduler_type="linear", callbacks=[told := Told()])
    callback().attach(trainer)
    trainer.train()
    frame = Run(tmp_path / "runs" / "run").records()
    assert frame.index.tolist() == [0, 1, 2, 3, 4, 5, 6]
    for column, name in {
        "loss": "loss",
        "gradient_norm": "grad_norm",
        "learning_rate": "learning_rate",
    }.items():
        expected = told.of(name)
        assert frame[column][1:].to_dict() == pytest.approx(expected, abs=1e-9)
    assert len({*frame["learning_rate"][1:]}) == 6
    assert np.isnan(frame["loss"][0])


def test_the_loss_is_unknown_where_the_trainer_does_not_log(make, callback, tmp_path):
    trainer, _ = make(logging_steps=4)
    callback().attach(trainer)
    trainer.train()
    frame = Run(tmp_path / "runs" / "run").records()
    assert frame.index.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert frame["loss"].dropna().index.tolist() == [4]
    assert frame["mean_alignment"].dropna().index.tolist() == [1, 2, 3, 5, 6]
    assert (frame["learning_rate"][1:] == 1e-3).all()


@pytest.mark.parametrize("stop", [2, 4])
def test_a_resumed_run_is_the_uninterrupted_one(make, callback, tmp_path, weights_of, stop):
    check_resumed(make, callback, tmp_path, weights_of, stop)


def test_a_resumed_run_of_an_adapter_is_the_uninterrupted_one(make, callback, tmp_path, lineage):
    def low_rank(**options):
        model = lineage.load_model(lineage.aligned)
        model.close()
        settings = peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
        torch.manual_seed(5)
        whole = peft.get_peft_model(model.hf, settings)
        trainer, _ = make(model=HookedModel(whole, model.tokenizer, chat=model.chat), **options)
        return trainer, trainer.model

    def adapter_of(hf):
        return {name: value.detach().clone() for name, value in hf.named_parameters()}

    trained = check_resumed(low_rank, callback, tmp_path, adapter_of, 4)
    assert all(value.any() for name, value in trained.items() if "lora_B" in name)


def check_resumed(make, callback, tmp_path, weights_of, stop):
    saved = {"save_strategy": "steps", "save_steps": 2}
    trainer, whole = make(folder="whole", **saved)
    callback("whole").attach(trainer)
    trainer.train()
    # Killed a step after the checkpoint: that step was measured and is made again.
    trainer, _ = make(folder="cut", callbacks=[Failing(stop + 1)], **saved)
    callback("cut").attach(trainer)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    run = Run(tmp_path / "runs" / "cut")
    assert run.status == "running" and (run.folder / "lock").exists()
    assert run.measured_steps[-1] == {2: 3, 4: 5}[stop]
    trainer, resumed = make(folder="cut", **saved)
    callback("cut").attach(trainer)
    trainer.train(resume_from_checkpoint=True)
    expected = Run(tmp_path / "runs" / "whole")
    assert lines_of(run) == lines_of(expected)
    assert np.array_equal(run.drift(), expected.drift())
    trained = weights_of(resumed)
    assert same(weights_of(whole), trained)
    assert run.status == "done" and run.info["config"] == expected.info["config"]
    return trained


def test_a_run_that_ended_goes_on_from_an_earlier_checkpoint(make, callback, tmp_path):
    saved = {"save_strategy": "steps", "save_steps": 2}
    trainer, _ = make(**saved)
    callback(measure_at=[1, 2, 3, 4, 5]).attach(trainer)
    trainer.train()
    run = Run(tmp_path / "runs" / "run")
    first = lines_of(run)
    trainer, _ = make(max_steps=8, **saved)
    callback(measure_at=[1, 2, 3, 4, 5, 7]).attach(trainer)
    trainer.train(resume_from_checkpoint=str(tmp_path / "trainer" / "checkpoint-2"))
    assert lines_of(run)[:6] == first[:6]
    assert run.measured_steps.tolist() == [1, 2, 3, 4, 5, 7, 8]
    assert run.info["config"]["recipe"]["steps"] == 8


def test_a_resumed_training_needs_its_run(make, callback, tmp_path, directions):
    saved = {"save_strategy": "steps", "save_steps": 2}
    trainer, _ = make(**saved)
    callback().attach(trainer)
    trainer.train()
    for out, error, message in (
        ("other", ProvenanceError, "other/start.safetensors: no such start file"),
        (None, RunError, "resumes after step 2, where θ_S is no more; give the callback the run"),
    ):
        trainer, _ = make(**saved)
        callback(out).attach(trainer)
        with pytest.raises(error, match=message):
            trainer.train(resume_from_checkpoint=str(tmp_path / "trainer" / "checkpoint-2"))
    turned = directions.with_unit(-directions.unit, turned=True)
    trainer, _ = make(**saved)
    other = callback()
    other.directions = turned
    other.attach(trainer)
    with pytest.raises(RunError, match=r"made with other settings \(directions.turned\)"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "trainer" / "checkpoint-2"))


@pytest.mark.parametrize("anothers", [False, True])
def test_the_lock_of_a_lost_callback_is_given_up_unless_it_is_anothers(
    make, callback, tmp_path, anothers
):
    saved = {"save_strategy": "steps", "save_steps": 2}
    trainer, _ = make(callbacks=[Failing(3)], **saved)
    joined = callback().attach(trainer)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    lock = tmp_path / "runs" / "run" / "lock"
    assert lock.exists()
    if anothers:
        lock.write_text(lock.read_text().replace('"nonce": "', '"nonce": "0'))
    joined._end()
    assert lock.exists() == anothers


def test_weights_that_are_not_the_aligned_ones_are_refused(make, callback, tmp_path):
    trainer, model = make()
    with torch.no_grad():
        model.hf.transformer.wpe.weight += 1e-3
    callback().attach(trainer)
    with pytest.raises(ProvenanceError, match="load the aligned checkpoint again"):
        trainer.train()
    assert not (tmp_path / "runs" / "run").exists()


def test_a_used_folder_and_senseless_settings_are_refused(make, callback, directions, splits):
    trainer, _ = make()
    callback().attach(trainer)
    trainer.train()
    trainer, _ = make()
    callback().attach(trainer)
    with pytest.raises(RunError, match="already used"):
        trainer.train()
    for options in ({"every": 0}, {"measure_at": [0, 1]}):
        with pytest.raises(ConfigError, match="steps count from 1"):
            callback(**options)
    with pytest.raises(ProbeError, match="fitted on are also measured"):
        ReversionCallback(directions, splits[0])
    trainer, _ = make()
    trainer.processing_class = trainer.callback_handler.processing_class = None
    callback("third").attach(trainer)
    with pytest.raises(ConfigError, match="give the Trainer processing_class"):
        trainer.train()


def test_the_default_schedule_is_dense_and_then_sparse_in_proportion():
    assert default_steps(100) == list(MEASURED_STEPS)
    assert default_steps(1000)[11:] == [130, 200, 300, 500, 750, 1000]
    assert len(default_steps(100_000)) < 35
    assert default_steps(4) == [1, 2, 3]


def test_every_step_or_every_second_and_the_last_once(make, callback, tmp_path):
    for name, options, expected in (
        ("all", {"every": 1}, [1, 2, 3, 4, 5, 6]),
        ("both", {"every": 4, "measure_at": [1]}, [1, 4, 6]),
        ("none", {"measure_at": []}, [6]),
    ):
        trainer, _ = make()
        callback(name, **options).attach(trainer)
        trainer.train()
        run = Run(tmp_path / "runs" / name)
        assert run.measured_steps.tolist() == expected
        assert [line["step"] for line in run.lines] == sorted({0, 2, 4, 6, *expected})


class Stopping(TrainerCallback):
    """Stops the training after a step, at one of its events."""

    def __init__(self, event, step):
        self.step = step
        setattr(self, event, self.stop)

    def stop(self, args, state, control, **_):  # noqa: ARG002
        control.should_training_stop = state.global_step == self.step


def test_a_training_that_is_stopped_is_measured_where_it_ends(make, callback, tmp_path):
    trainer, _ = make(callbacks=[told := Told()])
    callback(measure_at=[1]).attach(trainer)
    trainer.add_callback(Stopping("on_step_end", 4))
    trainer.train()
    run = Run(tmp_path / "runs" / "run")
    assert run.measured_steps.tolist() == [1, 4]
    assert list(told.of("reversion/alignment")) == [1, 4]
    assert Standing.of(run).step == 4


@pytest.mark.parametrize(
    ("event", "strategy", "expected"),
    [
        ("on_step_end", "steps", [2, 3]),
        ("on_evaluate", "epoch", [2, 4]),
        # Nobody is told before other weights are loaded.
        ("on_save", "epoch", [2]),
    ],
)
def test_the_last_step_is_measured_before_the_best_weights_are_loaded_or_not_at_all(
    make, callback, tmp_path, examples, lineage, event, strategy, expected
):
    model = lineage.load_model(lineage.aligned)
    rows = dataset_of(model, examples)[:4]
    trainer, _ = make(
        model=model, load_best_model_at_end=True, save_strategy=strategy, save_steps=2,
        eval_strategy=strategy, eval_steps=2, per_device_train_batch_size=5,
        metric_for_best_model="loss", greater_is_better=True, given={"eval_dataset": rows},
        learning_rate=3e-3,
    )  # fmt: skip
    callback(measure_at=[2]).attach(trainer)
    last = {"steps": 3, "epoch": 4}[strategy]
    trainer.add_callback(Stopping(event, last))
    trainer.train()
    run = Run(tmp_path / "runs" / "run")
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")
    assert trainer.state.global_step == last
    assert run.measured_steps.tolist() == expected
    start = lineage.load_model(lineage.aligned)
    model.open()
    acts = [read_activations(one, callback(None).probes) for one in (start, model)]
    loaded = (acts[1] - acts[0]).mean(dim=1).numpy()
    assert run.drift()[0] == pytest.approx(loaded, abs=1e-5)
    assert run.drift()[1:] != pytest.approx(loaded[None], abs=0.1)


def test_epochs_accumulation_and_evaluation_are_no_matter(
    make, callback, tmp_path, examples, weights_of, lineage
):
    ends = []
    for measured in (True, False):
        trainer, model = make(
            max_steps=-1, num_train_epochs=2, gradient_accumulation_steps=2,
            per_device_train_batch_size=2, eval_strategy="steps", eval_steps=1,
            logging_strategy="epoch", model=(fresh := lineage.load_model(lineage.aligned)),
            given={"eval_dataset": dataset_of(fresh, examples)[:4]},
        )  # fmt: skip
        if measured:
            callback().attach(trainer)
        trainer.train()
        ends.append(weights_of(model))
    assert same(*ends)
    run = Run(tmp_path / "runs" / "run")
    assert run.measured_steps.tolist() == [1, 2, 3, 5, 6]
    assert run.info["config"]["recipe"]["batch_size"] == 4
    # An epoch ends after its last step was stored.
    assert run.records()["loss"].dropna().index.tolist() == [3, 6]


def test_mixed_precision_and_checkpointing_are_no_matter(make, callback, weights_of, tmp_path):
    for name, options in {
        "bf16": {"bf16": True},
        "checkpointed": {"gradient_checkpointing": True},
    }.items():
        ends = []
        for measured in (True, False):
            trainer, model = make(**options)
            if measured:
                callback(name, every=1).attach(trainer)
            trainer.train()
            ends.append(weights_of(model))
        assert same(*ends), name
    # Read outside of autocast: the floor is that of float32.
    run = Run(tmp_path / "runs" / "bf16")
    assert run.lines[0]["loss"] is None and run.measured_steps[-1] == 6


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_a_compiled_forward_has_nothing_of_ours(make, callback, weights_of, backend, tmp_path):
    torch._dynamo.reset()
    ends = []
    for measured in (True, False):
        trainer, model = make(torch_compile=True, torch_compile_backend=backend, max_steps=3)
        if measured:
            callback(every=1).attach(trainer)
        torch._dynamo.utils.counters.clear()
        trainer.train()
        ends.append((weights_of(model), dict(torch._dynamo.utils.counters["stats"])))
        torch._dynamo.reset()
    assert same(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1] and ends[0][1]["unique_graphs"] > 0
    assert Run(tmp_path / "runs" / "run").measured_steps.tolist() == [1, 2, 3]
