"""What belongs to the caller is as it was after every public call, also after one that fails."""
# ruff: noqa: ARG005 - a call is given the world whether it needs it or not

import os
import random
import subprocess
import sys
import warnings
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from callers_state import differences, digest, kept, of_model, process
from planted_experiment import build_experiment, planted_drift, planted_scores
from planted_grid import make_grid
from planted_inputs import write_lines
from planted_trainer import make_trainer
from transformers import DynamicCache, Trainer
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

import workbench as wb
from workbench.errors import CheckpointError, ConfigError
from workbench.modes import evaluation_mode

TRAINS = {
    "Ablate", "Anchor", "Block", "Cap", "FineTuning", "LiveRun", "ProjectGradient", "Push",
    "Rehearse", "Steer",
}  # fmt: skip
"""What trains the model, and so changes its weights."""


@dataclass
class World:
    """A caller with a model in a state of their own, and everything that calls need."""

    lineage: Any
    probes: Any
    splits: Any
    directions: Any
    examples: Any
    inputs_folder: Path
    planted: Path
    finished: Path
    tmp: Path
    model: Any = None
    judge: Any = "rules"
    made: int = 0

    def __post_init__(self):
        self.model = model = self.lineage.load_model(self.lineage.aligned)
        model.hf.train()
        model.hf.transformer.h[1].eval()
        model.hf.transformer.h[2].attn.eval()
        model.hf.transformer.ln_f.requires_grad_(False)
        for number, parameter in enumerate(model.hf.parameters()):
            parameter.grad = torch.full_like(parameter, number)
        model.tokenizer.padding_side = model.tokenizer.truncation_side = "left"
        model.tokenizer.chat_template = "{{ messages[-1]['content'] }}"
        model.tokenizer.pad_token = "<unk>"
        model.hf.config.use_cache = True
        model.hf.generation_config.repetition_penalty = 1.5
        model.hook_dict["blocks.0.hook_resid_pre"].add_hook(lambda _, hook: None)
        self.fit, self.penalty, self.measure = self.splits
        self.benign = self.probes.of_kind("benign")
        self.acts = torch.randn(3, 6, 32, generator=torch.Generator().manual_seed(1))
        silent = (replace(probe, response=None) for probe in self.penalty.probes)
        self.silent = wb.ProbeSet(tuple(silent))
        self.sets = {"harmful": self.fit, "benign": self.benign}

    def new(self):
        """A place where nothing is yet."""
        self.made += 1
        return self.tmp / f"new-{self.made}"

    def tune(self, *interventions, **options):
        small = {"steps": 2, "batch_size": 4, "learning_rate": 1e-3, "accumulation": 2}
        return wb.FineTuning(
            self.model, self.examples, **small | options, probes=self.measure,
            directions=self.directions, intervention=list(interventions),
        )  # fmt: skip

    def train(self, *interventions, **options):
        return list(self.tune(*interventions, **options))

    def grid(self, **options):
        small = {"strengths": (0.0, 0.5, 1.0), "layer_sets": [(0, 1)], "max_new_tokens": 2}
        models = {"aligned": self.model}
        return wb.ablation_grid(
            models, self.directions, **self.sets, judge=self.judge, cache=self.new(),
            **small | options,
        )  # fmt: skip

    def edited(self):
        """A forward and an answer under edits that have to know what is there without them."""
        edits = [
            wb.ablate(self.directions, strength=0.5, positions="last"),
            wb.steer(self.directions, strength=0.1, positions="all"),
        ]
        with wb.intervene(self.model, *edits):
            wb.read_activations(self.model, self.measure)
            with evaluation_mode(self.model):  # in training mode it would draw dropout
                self.model.hf.generate(torch.tensor([[7, 8, 9]]), max_new_tokens=2)

    def experiment(self, **options):
        return run_small(self.inputs_folder, self.new(), "ordinary,block", **options)

    def run(self, *, done=True):
        """A run of no fine-tuning that has kept a model."""
        run = wb.RunStore(self.new()).create({"judge": "rules", "max_new_tokens": 2}, "one")
        run.folder.joinpath("model").symlink_to(self.lineage.phase("helpful").model)
        self.directions.save(run.folder / "directions.safetensors")
        if done:
            run.finish()
        return run

    def grid_of_run(self):
        inputs = wb.Inputs.beside(self.inputs_folder)
        small = {"strengths": (0.0, 1.0), "layer_sets": [(0,)], "n_prompts": 2}
        return wb.grid_of_run(self.run(), inputs, **small)

    def live(self):
        live = wb.LiveRun(self.tune(), out=self.new())
        live.wait()
        live.close()

    def significance(self):
        return wb.significance(
            np.full((2, 3), 0.5), self.acts[:, :2].double().numpy().swapaxes(0, 1),
            self.directions.unit, self.directions.gap, differences=self.acts.double(),
            acts=self.acts.double(),
        )  # fmt: skip

    def exchanged(self):
        path = self.new().with_suffix(".npz")
        wb.save_directions_as(self.directions, path)
        return wb.load_directions_from(path, like=self.directions)

    def press(self):
        with wb.Press() as press:
            return press.export(wb.plots.ablation(make_grid()), self.new().with_suffix(".html"))

    def plots(self):
        runs = [*wb.RunStore(self.finished / "runs")]
        wb.plots.heatmap(runs[0])
        for draw in (wb.plots.alignment, wb.plots.compare, wb.plots.geometry):
            draw(runs)

    def passage(self):
        folder = self.new()
        wb.read_passage(self.lineage, self.probes, folder)
        return wb.Passage(folder)

    def examples_file(self):
        return write_lines(self.new(), self.examples)

    def aftermath(self):
        return wb.Aftermath.between(self.acts, self.acts.square(), self.directions.layers, 2)

    def many(self, run):
        run.append(wb.StepRecord(1, 1.0, 1e-3, 1.0, drift=planted_drift(np.full(5, 0.5), 1)))
        return run.refresh().lines


def run_small(folder, out, names, **options):
    arms = wb.choose_arms(names, wb.standard_arms(penalty_batch=4))
    small = {"seeds": (0,), "recipe": wb.Recipe(steps=2, batch_size=4), "evaluate_at": ()}
    inputs = wb.Inputs.beside(folder)
    return wb.run_experiment(inputs, arms=arms, out=out, max_new_tokens=2, **small | options)


CALLS = {
    "AblationGrid": lambda w: wb.AblationGrid.of,
    "AblationSlider": lambda w: wb.AblationSlider(make_grid()).close(),
    "Ablate": lambda w: w.train(wb.Ablate(w.directions, 0.5, positions="response")),
    "Aftermath": lambda w: w.aftermath().save(w.new()),
    "Anchor": lambda w: w.train(wb.Anchor(1.0, probes=w.penalty, batch_size=4)),
    "Arm": lambda w: wb.Arm("ordinary").needs,
    "Block": lambda w: w.train(
        wb.Block(w.directions, 1.0, probes=w.penalty, batch_size=3),
        wb.Cap(w.directions),
        wb.ProjectGradient(w.directions, probes=w.penalty, batch_size=3),
    ),
    "Cap": lambda w: w.train(wb.Cap(w.directions)),
    "Checkpoint": lambda w: wb.Checkpoint.of(w.lineage, w.lineage.aligned)(),
    "Course": lambda w: w.passage().course(),
    "Drift": lambda w: planted_drift(np.full(5, 0.5), 1).mean_alignment,
    "Experiment": lambda w: wb.Experiment(w.planted, {}).runs,
    "FineTuning": lambda w: w.train(lora=2),
    "Geometry": lambda w: wb.Geometry(w.finished).close(),
    "HookedModel": lambda w: (
        wb.HookedModel(w.model.hf, w.model.tokenizer).close(),
        w.model.fingerprint(),
    ),
    "Inputs": lambda w: wb.Inputs.beside(w.inputs_folder).load(),
    "Judge": lambda w: wb.Judge("mine", lambda _, __: "refuse", ("no",)),
    "LayerExplorer": lambda w: wb.LayerExplorer(w.planted).close(),
    "Lineage": lambda w: w.lineage.check(every=True),
    "LiveFigure": lambda w: wb.LiveFigure(wb.plots.ablation(make_grid())).close(),
    "LiveRun": lambda w: w.live(),
    "Moments": lambda w: wb.read_moments(w.model, w.measure, position="prompt_mean").mean,
    "Passage": lambda w: w.passage().phases,
    "Phase": lambda w: w.lineage.aligned.config(),
    "Press": lambda w: w.press(),
    "ProbeSet": lambda w: w.probes.split(fit=0.5, penalty=0.2, measure=0.3, seed=3),
    "ProjectGradient": lambda w: w.train(wb.ProjectGradient(w.directions, probes=w.penalty)),
    "Push": lambda w: w.train(wb.Push(w.directions, 0.5, probes=w.penalty, batch_size=3)),
    "Reading": lambda w: wb.Reading.of(w.model, w.measure, "content_last").fingerprint(),
    "Recipe": lambda w: wb.Recipe().measured_steps,
    "Rehearse": lambda w: w.train(wb.Rehearse(0.5, probes=w.silent, max_new_tokens=2)),
    "ReversionCallback": lambda w: wb.ReversionCallback(w.directions, w.measure),
    "ReversionDirections": lambda w: (
        w.directions.save(w.new()),
        wb.ReversionDirections.load(w.tmp / f"new-{w.made}"),
    ),
    "Run": lambda w: w.many(w.run(done=False)),
    "RunComparison": lambda w: wb.RunComparison(w.planted).close(),
    "RunStore": lambda w: [*wb.RunStore(w.planted / "runs")],
    "Scores": lambda w: planted_scores("block", 0, 1),
    "Steer": lambda w: w.train(wb.Steer(w.directions, 0.1, positions="prompt")),
    "StepRecord": lambda w: wb.StepRecord(1, 1.0, 1e-3, 1.0).to_json(),
    "ablate": lambda w: wb.ablate(w.directions, strength=0.5, positions="all"),
    "ablation_grid": lambda w: w.grid(),
    "answer_now": lambda w: wb.answer_now(
        w.model, "bako belu", w.directions, strength=0.5, max_new_tokens=3
    ),
    "calibrate": lambda w: wb.calibrate(2, alpha=0.25, worlds=("unrelated",)),
    "cap": lambda w: wb.cap(
        w.directions, ceiling=torch.zeros(3, dtype=torch.float64), positions="all"
    ),
    "choose_arms": lambda w: wb.choose_arms("all", wb.standard_arms()),
    "drift_directions": lambda w: wb.drift_directions(w.directions, w.aftermath()),
    "evaluate": lambda w: wb.evaluate(
        w.model, **w.sets, judge=w.judge, max_new_tokens=3,
        reference=wb.read_reference(w.model, w.benign),
    ),
    "export": lambda w: wb.export(wb.plots.ablation(make_grid()), w.new().with_suffix(".html")),
    "fit_directions": lambda w: wb.fit_directions(w.lineage, w.fit),
    "fit_directions_from": lambda w: wb.fit_directions_from(w.acts, w.acts.square()),
    "grid_of_run": lambda w: w.grid_of_run(),
    "holm": lambda w: wb.holm(np.array([0.1, 0.2])),
    "intervene": lambda w: w.edited(),
    "isotropic_null": lambda w: wb.isotropic_null(w.directions),
    "load_directions_from": lambda w: w.exchanged(),
    "load_examples": lambda w: wb.load_examples(w.examples_file()),
    "load_model": lambda w: wb.load_model(w.lineage.aligned.model),
    "matched_directions": lambda w: wb.matched_directions(w.directions, w.acts, seed=1),
    "matched_null": lambda w: wb.matched_null(w.directions, w.acts, draws=100),
    "measure_drift": lambda w: wb.measure_drift(w.acts, w.acts.square(), w.directions),
    "off_direction": lambda w: wb.off_direction(w.aftermath(), w.directions),
    "orthogonal_to": lambda w: wb.orthogonal_to(
        wb.random_directions(w.directions, seed=1), w.directions
    ),
    "plots": lambda w: w.plots(),
    "random_directions": lambda w: wb.random_directions(w.directions, seed=1),
    "read_activations": lambda w: wb.read_activations(w.model, w.probes, position="response_mean"),
    "read_moments": lambda w: wb.read_moments(w.model, w.probes, batch_size=4),
    "read_passage": lambda w: w.passage(),
    "read_reference": lambda w: wb.read_reference(w.model, w.benign),
    "read_vocabulary": lambda w: wb.read_vocabulary(w.model, w.directions, top=3),
    "refit": lambda w: wb.refit(w.directions.unit, w.directions.gap, w.acts[:, 0]),
    "refusal_directions": lambda w: wb.refusal_directions(w.directions, w.acts, w.acts.square()),
    "run_experiment": lambda w: w.experiment(),
    "save_directions_as": lambda w: w.exchanged(),
    "save_model": lambda w: wb.save_model(w.model, w.new()),
    "shuffled_directions": lambda w: wb.shuffled_directions(w.directions, seed=1),
    "significance": lambda w: w.significance(),
    "standard_arms": lambda w: wb.standard_arms(),
    "steer": lambda w: wb.steer(w.directions, strength=0.5, positions="all"),
    "stored_grids": lambda w: wb.stored_grids(w.run()),
    "verify": lambda w: wb.verify(w.planted),
    "with_own_answers": lambda w: wb.with_own_answers(w.model, w.silent, max_new_tokens=2),
}  # fmt: skip
"""How each public name is called here."""

ELSEWHERE = {
    "ReversionTrainer": "test_a_trainer_leaves_what_it_would_leave_without_us",
    "WorkbenchError": "an error class",
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return build_experiment(tmp_path_factory.mktemp("experiments") / "planted", seeds=(0,))


@pytest.fixture(scope="module")
def finished(inputs_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("experiments") / "finished"
    return run_small(inputs_folder, out, "ordinary").folder


@pytest.fixture(scope="module", autouse=True)
def _imported():
    """What libraries do when they are imported is theirs."""
    wb.AblationSlider(make_grid()).close()
    for name in wb.__all__:
        getattr(wb, name)


@pytest.fixture(scope="module")
def make_world(lineage, probes, splits, directions, examples, inputs_folder, planted, finished):
    given = (lineage, probes, splits, directions, examples, inputs_folder, planted, finished)
    return lambda folder: World(*given, folder)


@pytest.fixture
def world(make_world, tmp_path):
    return make_world(tmp_path)


@pytest.fixture(scope="module")
def shared(make_world, tmp_path_factory):
    """A world for calls that train nothing."""
    return make_world(tmp_path_factory.mktemp("shared"))


@contextmanager
def no_gradients():
    """Switch gradients off, and on again only if they still are."""
    torch.set_grad_enabled(False)
    yield
    still = not torch.is_grad_enabled()
    torch.set_grad_enabled(True)
    assert still, "gradients were switched on"


@pytest.fixture
def fail_at(monkeypatch):
    """Let the forward of a block fail when it runs for the n-th time; runs are counted."""
    whole, seen = GPT2Block.forward, SimpleNamespace(count=0, at=None, error=None)

    def forward(self, *args, **kwargs):
        seen.count += 1
        if seen.count == seen.at:
            raise seen.error("planted")
        return whole(self, *args, **kwargs)

    def arm(at, error):
        seen.count, seen.at, seen.error = 0, at, error

    monkeypatch.setattr(GPT2Block, "forward", forward)
    seen.arm = arm
    return seen


def test_every_public_name_is_called_here():
    assert {*CALLS, *ELSEWHERE} == {*wb.__all__}
    assert all(getattr(wb, name) is getattr(wb, name) for name in wb.__all__)
    assert [name for name in wb.__all__ if isinstance(getattr(wb, name), ModuleType)] == ["plots"]


def test_what_is_changed_is_seen(world):
    def changes():
        yield lambda: torch.rand(1)
        yield lambda: np.random.rand()
        yield lambda: random.random()
        yield lambda: torch.set_num_threads(2)
        yield lambda: os.environ.update(PLANTED="1")
        yield lambda: warnings.simplefilter("ignore")
        yield lambda: setattr(world.model.hf.transformer.h[1], "training", True)
        yield lambda: world.model.hf.lm_head.register_forward_hook(lambda *_: None)
        yield lambda: setattr(world.model.tokenizer, "padding_side", "right")
        yield lambda: setattr(world.model.hf.config, "use_cache", False)
        yield lambda: world.model.hf.zero_grad()
        yield lambda: world.model.hf.lm_head.weight.data.mul_(2)

    with warnings.catch_warnings():
        for change in changes():
            with pytest.raises(AssertionError, match="state has changed"), kept(world.model):
                change()
    torch.set_num_threads(1)
    del os.environ["PLANTED"]


RUNNING = (
    "Ablate", "Anchor", "Block", "Cap", "FineTuning", "HookedModel", "ProjectGradient", "Push",
    "Rehearse", "Steer", "ablation_grid", "answer_now", "evaluate", "fit_directions",
    "grid_of_run", "intervene", "read_activations", "read_moments", "read_passage",
    "read_vocabulary", "run_experiment", "save_model", "with_own_answers",
)  # fmt: skip
"""What runs a model."""

READERS = (
    "Checkpoint", "Course", "LiveRun", "Moments", "Passage", "load_model", "read_reference",
)  # fmt: skip
"""What runs a model by way of what is among `RUNNING`."""


@pytest.mark.parametrize("name", CALLS)
def test_a_call_leaves_the_callers_state(name, request, fail_at):
    world = request.getfixturevalue("world" if name in TRAINS else "shared")
    fail_at.arm(None, None)
    with kept(world.model, trains=name in TRAINS, adapts=name == "FineTuning"):
        CALLS[name](world)
    assert (fail_at.count > 0) == (name in {*RUNNING, *READERS})


QUICK = ("Block", "FineTuning", "HookedModel", "intervene", "save_model")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in RUNNING]
)
def test_a_call_that_fails_in_a_forward_leaves_the_callers_state(
    name, make_world, tmp_path, fail_at
):
    world = make_world(tmp_path / "whole")
    fail_at.arm(None, None)
    CALLS[name](world)
    forwards = fail_at.count
    assert forwards > 2
    errors = [ZeroDivisionError, KeyboardInterrupt]
    for number, at in enumerate(sorted({1, forwards // 3, forwards // 2 + 1, forwards})):
        world, error = make_world(tmp_path / str(at)), errors[number % 2]
        fail_at.arm(at, error)
        # As a caller without gradients: whoever switches them on must switch them off again.
        with kept(world.model, trains=name in TRAINS, adapts=name == "FineTuning"), no_gradients():
            with suppress(error):
                CALLS[name](world)
            assert fail_at.count == at


@pytest.mark.parametrize(
    "name", ["evaluate", "ablation_grid", pytest.param("run_experiment", marks=pytest.mark.slow)]
)
def test_a_judge_that_raises_leaves_the_callers_state(world, name, monkeypatch):
    seen = []

    def raising(prompt, answer):  # noqa: ARG001
        seen.append(prompt)
        if len(seen) == 4:
            raise ZeroDivisionError
        return "refuse"

    world.judge = wb.Judge("mine", raising, ("bako",))
    monkeypatch.setattr("workbench.questions.find_judge", lambda _: world.judge)
    with kept(world.model), pytest.raises(ZeroDivisionError):
        CALLS[name](world)


@pytest.mark.slow
def test_a_caller_who_raises_when_told_of_progress_finds_their_state(world):
    def raising(*_):
        raise KeyboardInterrupt

    for call in (world.grid, world.experiment):
        with kept(world.model), pytest.raises(KeyboardInterrupt):
            call(on_progress=raising)


def test_a_generator_that_is_left_leaves_the_callers_state(world):
    tuning = world.tune(*each_kind(world), steps=4)
    with kept(world.model, trains=True):
        for _ in tuning:
            break
        steps = iter(tuning)
        next(steps)
        steps.close()
        with pytest.raises(ZeroDivisionError):
            for _ in tuning:
                raise ZeroDivisionError
    assert tuning.step == 3


def each_kind(world):
    """One of each kind of intervention."""
    on_probes = {"probes": world.penalty, "batch_size": 3}
    return [
        wb.Block(world.directions, 1.0, **on_probes),
        wb.Push(world.directions, 0.1, **on_probes),
        wb.Anchor(1.0, **on_probes),
        wb.ProjectGradient(world.directions, **on_probes),
        wb.Ablate(world.directions, 0.5),
        wb.Steer(world.directions, 0.1, positions="response"),
        wb.Cap(world.directions),
        wb.Rehearse(0.5, examples=world.examples[:3]),
    ]


ONE_OR_ALL = [*(pytest.param(one, marks=pytest.mark.slow) for one in range(8)), "all"]


@pytest.mark.parametrize("which", ONE_OR_ALL)
def test_each_yield_of_every_intervention_finds_the_callers_state(make_world, tmp_path, which):
    """And what the consumer draws, or changes, between yields changes no bit."""
    ends = []
    for disturbing in (False, True):
        world = make_world(tmp_path)
        chosen = each_kind(world) if which == "all" else [each_kind(world)[which]]
        tuning = world.tune(*chosen, steps=3)
        steps, records = iter(tuning), []
        for number in range(3):
            with kept(world.model, trains=True):
                records.append(next(steps))
            if disturbing:
                torch.manual_seed(number), np.random.seed(number), random.seed(number)
                torch.rand(5), torch.set_grad_enabled(number % 2 == 0)
                world.model.hf.train(number % 2 == 0)
                world.model.hf.zero_grad(set_to_none=True)
        torch.set_grad_enabled(True)
        ends.append((of_state(tuning), [(one.to_json(), one.drift) for one in records]))
    assert ends[0][0] == ends[1][0]
    same = [one == other for (one, _), (other, _) in zip(ends[0][1], ends[1][1], strict=True)]
    assert all(same)


def of_state(tuning):
    return {name: digest(tensor) for name, tensor in tuning.state().items()}


def test_a_step_that_is_interrupted_is_made_again_as_it_was(make_world, tmp_path, fail_at):
    whole = make_world(tmp_path)
    tuning = whole.tune(*each_kind(whole), steps=3)
    fail_at.arm(None, None)
    records = [one.to_json() for one in tuning]
    forwards = fail_at.count
    expected = of_state(tuning)
    for at in (5, forwards - 20):
        world = make_world(tmp_path)
        broken, told = world.tune(*each_kind(world), steps=3), []
        fail_at.arm(at, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            told += [one.to_json() for one in broken]
        state = broken.state()  # what is stored now continues as well
        told += [one.to_json() for one in broken]
        assert of_state(broken) == expected
        assert told[-1] == records[-1]
        again = make_world(tmp_path)
        resumed = again.tune(*each_kind(again), steps=3)
        resumed.load_state(state)
        list(resumed)
        assert of_state(resumed) == expected


def test_no_record_is_lost_when_measuring_is_interrupted(world, fail_at):
    tuning = world.tune(steps=2)
    fail_at.arm(None, None)
    steps = iter(tuning)
    next(steps)
    fail_at.arm(2 * 3 + 2, KeyboardInterrupt)  # two micro-batches through three blocks
    with pytest.raises(KeyboardInterrupt):
        next(steps)
    assert tuning.step == 2
    (record,) = tuning
    assert (record.step, record.drift is None) == (2, False)
    assert list(tuning) == []


def test_an_update_that_is_interrupted_half_way_is_not_trained_on(world, monkeypatch):
    tuning = world.tune(steps=3)
    next(iter(tuning))
    before = tuning.state()

    def interrupted(self, *_):
        self.masters[0].data.mul_(2)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("workbench.updates.Updates.apply", interrupted)
        next(iter(tuning))
    for go_on in (lambda: next(iter(tuning)), tuning.state):
        with pytest.raises(ConfigError, match="update of step 2 was interrupted half-way"):
            go_on()
    tuning.load_state(before)
    assert [record.step for record in tuning] == [2, 3]


def test_a_fine_tuning_that_is_refused_leaves_no_adapter(world, fail_at):
    with kept(world.model), pytest.raises(ConfigError, match="No parameter is trainable"):
        world.tune(lora=2, trainable=lambda _: False)
    fail_at.arm(2, KeyboardInterrupt)
    with kept(world.model), pytest.raises(KeyboardInterrupt):
        world.tune(lora=2)
    fail_at.arm(None, None)
    assert len(world.train(lora=2)) == 2


def test_a_model_that_cannot_be_hooked_has_no_hooks(world):
    world.model.hf.lm_head.weight.data[0, 0] = torch.nan
    with kept(world.model), pytest.raises(CheckpointError, match="not finite"):
        wb.HookedModel(world.model.hf, world.model.tokenizer)


def test_a_cache_that_was_generated_with_has_its_own_methods_back(world):
    model, cache = world.model, DynamicCache()
    edit = wb.ablate(world.directions, strength=0.5, positions="all")
    with evaluation_mode(model), wb.intervene(model, edit):
        model.hf(torch.tensor([[7, 8, 9]]), past_key_values=cache, use_cache=True)
        assert "crop" in vars(cache)
    assert not {"crop", "reorder_cache"} & {*vars(cache)}
    cache.crop(-1)
    assert cache.get_seq_length() == 2


@pytest.mark.parametrize("transformers_on", [False, True])
@pytest.mark.parametrize("hub_off", [False, True])
def test_progress_bars_are_as_they_were(world, transformers_on, hub_off):
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
    from transformers.utils import logging

    try:
        (logging.enable_progress_bar if transformers_on else logging.disable_progress_bar)()
        (disable_progress_bars if hub_off else enable_progress_bars)()
        with kept(world.model):
            wb.load_model(world.lineage.aligned.model)
    finally:
        logging.enable_progress_bar()


def test_what_needs_gradients_has_them_in_a_callers_inference_mode(make_world, tmp_path):
    ends = []
    for inside in (False, True):
        world = make_world(tmp_path)
        tuning = world.tune(*each_kind(world))
        with torch.inference_mode(inside):
            read = wb.read_vocabulary(world.model, world.directions, top=3).to_json()
            records = [one.to_json() for one in tuning]
            assert torch.is_inference_mode_enabled() == inside
        ends.append((records, of_state(tuning), read))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("intervened", [False, True])
def test_a_trainer_leaves_what_it_would_leave_without_us(make_world, tmp_path, intervened):
    ends = []
    for ours in (False, True):
        world = make_world(tmp_path)
        world.model.close()
        kind, given, callbacks = Trainer, {}, []
        if ours:
            callbacks = [wb.ReversionCallback(world.directions, world.measure, every=1)]
            kind = wb.ReversionTrainer
            if intervened:
                given = {"intervention": wb.Block(world.directions, 1.0, probes=world.penalty)}
        trainer = make_trainer(
            world.model, world.examples, tmp_path, kind=kind, given=given, callbacks=callbacks,
            max_steps=2,
        )  # fmt: skip
        trainer.train()
        state = of_model(world.model, trains=intervened)
        for changing in ("gradients", "lock", "config of generation"):
            state.pop(changing)
        ends.append((process(), state))
    lines = [line for one, other in zip(*ends, strict=True) for line in differences(one, other)]
    assert lines == []


@pytest.mark.slow
def test_processes_side_by_side_leave_the_parents_threads_alone(world):
    resource_tracker.ensure_running()  # Python's own, one for the life of a process
    with kept(world.model):
        world.experiment(jobs=2)


BRIDGED = """
import json, sys, torch
from pathlib import Path
import workbench as wb, transformer_lens, huggingface_hub
from callers_state import differences, digest, kept, of_model, process
lineage = wb.Lineage.load(Path(sys.argv[1]))
model = lineage.load_model(lineage.aligned)
import workbench.probes, transformers.modeling_utils
probes = wb.ProbeSet.from_prompts(["bako belu", "fina"])
with kept(model):
    bridge = model.to_bridge()
guest = wb.load_model(bridge)
guest.tokenizer.padding_side = "left"
wb.read_moments(guest, probes)  # at its first forward a bridge puts hooks of its own on its norms
def fail(*_):
    raise KeyboardInterrupt
with kept(model, guest):
    wb.read_activations(guest, probes)
    with wb.intervene(guest, wb.ablate(wb.fit_directions(lineage, probes), strength=0.5,
                                       positions="all")):
        wb.read_moments(guest, probes)
handle = bridge.blocks[1].register_forward_pre_hook(fail)
with kept(model, guest):
    try:
        wb.read_activations(guest, probes)
    except KeyboardInterrupt:
        print("kept")
"""


@pytest.mark.slow
def test_a_bridge_and_a_guest_leave_the_callers_state(lineage_file):
    """In a process of their own: building a bridge patches attention classes of a whole one."""
    done = in_a_fresh_process(BRIDGED, str(lineage_file))
    assert done.stdout.split()[-1:] == ["kept"], done.stderr[-3000:]


IMPORTED = """
import plotly.tools, scipy.stats, transformers.modeling_utils, transformer_lens.model_bridge
from callers_state import differences, digest, kept, of_model, process
with kept():
    import workbench as wb
    for name in wb.__all__:
        getattr(wb, name)
print("kept")
"""


def test_importing_all_of_it_changes_nothing():
    done = in_a_fresh_process(IMPORTED)
    assert done.stdout.split()[-1:] == ["kept"], done.stderr[-3000:]


def in_a_fresh_process(program, *arguments):
    paths = os.pathsep.join([str(Path(wb.__file__).parents[1]), str(Path(__file__).parent)])
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
