"""Interventions inside a Trainer do what they do in our own loop."""

from dataclasses import replace

import pytest
import torch
from planted_trainer import collate, dataset_of, make_trainer
from torch import nn

from workbench.anchors import Anchor
from workbench.batches import BatchOrder
from workbench.errors import ConfigError, ProbeError, ProvenanceError
from workbench.integrations.trainer import ReversionCallback
from workbench.integrations.trainer_batches import edited_places_of, encoded_example
from workbench.integrations.trainer_interventions import ReversionTrainer
from workbench.penalties import Block, Push
from workbench.projections import ProjectGradient
from workbench.rehearsal import Rehearse
from workbench.runs import Run
from workbench.training_edits import Ablate, Cap, Steer

STEPS, BATCH = 6, 4


class InOurOrder(ReversionTrainer):
    """Takes the examples in the order of our own loop."""

    def _get_train_sampler(self, train_dataset=None):
        order = BatchOrder(len(train_dataset or self.train_dataset), BATCH, self.args.seed)
        return [index for _ in range(STEPS) for index in order.next()]


@pytest.fixture(scope="module")
def without_dropout(lineage):
    """Load the aligned model without dropout, as the two loops draw from different streams."""

    def load():
        model = lineage.load_model(lineage.aligned)
        for module in model.hf.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        return model

    return load


@pytest.fixture
def theirs(without_dropout, examples, tmp_path):
    """Train in a Trainer; return it and the trained weights."""

    def train(intervention=None, *, accumulation=1, model=None, callbacks=(), **options):
        model = model or without_dropout()
        model.close()
        trainer = make_trainer(
            model,
            examples,
            tmp_path / "trainer",
            kind=options.pop("kind", InOurOrder),
            given={"intervention": intervention},
            callbacks=callbacks,
            per_device_train_batch_size=BATCH // accumulation,
            gradient_accumulation_steps=accumulation,
            logging_steps=1,
            **options,
        )
        trainer.train(resume_from_checkpoint=options.get("resume"))
        return trainer, {name: p.detach().clone() for name, p in model.hf.named_parameters()}

    return train


@pytest.fixture
def ours(without_dropout, tune, weights_of):
    """Train in our own loop."""

    def train(intervention=None, **options):
        model = without_dropout()
        records = list(
            tune(
                model, steps=STEPS, batch_size=BATCH, warmup=0, intervention=intervention, **options
            )
        )
        return records, weights_of(model)

    return train


def furthest(one, other):
    return max((one[name] - other[name]).abs().max().item() for name in one)


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture
def interventions(directions, splits):
    """What is compared, by name; strengths at which each visibly matters here."""
    turned = directions.with_unit(-directions.unit)  # ordinary training happens to lead that way
    return {
        "ordinary": None,
        "block": Block(turned, strength=30.0, probes=splits[1], batch_size=4),
        "push": Push(directions, strength=3.0, probes=splits[1], batch_size=4),
        "steer": Steer(directions, strength=2.0, positions="response"),
        "ablate": Ablate(directions, strength=0.5, positions="prompt"),
        "ablate everywhere": Ablate(directions, strength=1.0),
        "cap": Cap(directions, strength=1.0, quantile=0.3, positions="response"),
        "anchor": Anchor(10.0, "kl", probes=splits[1], batch_size=4),
        "weights": Anchor(100.0, "weights"),
        "project": ProjectGradient(turned, probes=splits[1], batch_size=4),
        "both": (
            Block(turned, strength=30.0, probes=splits[1], batch_size=4),
            Steer(directions, strength=-1.0),
        ),
    }


NAMES = [
    "ordinary", "block", "push", "steer", "ablate", "ablate everywhere", "cap", "anchor", "weights",
    "project", "both",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_weights_are_those_of_our_own_loop(name, ours, theirs, interventions):
    records, expected = ours(interventions[name])
    trainer, found = theirs(interventions[name])
    # AdamW divides by the gradient's own size: where that is rounding, so is the update.
    assert furthest(found, expected) < 2e-6, name
    _, ordinary = ours()
    if interventions[name] is not None:
        assert furthest(found, ordinary) > 1e-3, name
    logged = [h["loss"] for h in trainer.state.log_history if "loss" in h]
    assert logged == pytest.approx([record.loss for record in records], abs=1e-4)


@pytest.mark.parametrize("name", ["block", "ablate", "cap"])
def test_accumulation_and_checkpointing_change_rounding_alone(name, ours, theirs, interventions):
    _, expected = ours(interventions[name], accumulation=2)
    _, found = theirs(interventions[name], accumulation=2)
    assert furthest(found, expected) < 2e-6
    _, checkpointed = theirs(interventions[name], accumulation=2, gradient_checkpointing=True)
    assert furthest(checkpointed, expected) < 2e-6


def test_strength_zero_is_the_trainers_own_training_to_the_bit(
    lineage, theirs, directions, splits, make_plain
):
    turned = directions.with_unit(-directions.unit)
    off = Block(turned, strength=0.0, probes=splits[1])
    plain = make_plain()
    _, found = theirs(off, model=lineage.load_model(lineage.aligned), kind=ReversionTrainer)
    assert same(found, plain)
    on = replace(off, strength=1.0)
    trainer, changed = theirs(on, model=lineage.load_model(lineage.aligned), kind=ReversionTrainer)
    assert trainer._active is not None
    assert not same(changed, plain)
    # The penalty draws from nothing that data order or dropout draw from.
    weak = replace(off, strength=1e-12)
    _, unmoved = theirs(weak, model=lineage.load_model(lineage.aligned), kind=ReversionTrainer)
    assert furthest(unmoved, plain) < 1e-6


@pytest.fixture
def make_plain(lineage, examples, tmp_path):
    """Train in transformers' own Trainer, with dropout."""

    def train(**options):
        model = lineage.load_model(lineage.aligned)
        model.close()
        trainer = make_trainer(model, examples, tmp_path / "plain", logging_steps=1, **options)
        trainer.train()
        return {name: p.detach().clone() for name, p in model.hf.named_parameters()}

    return train


def test_the_loss_is_the_tasks_and_the_penalty_stands_beside_it(theirs, ours, interventions):
    records, _ = ours(interventions["block"])
    trainer, _ = theirs(interventions["block"])
    logged = [h for h in trainer.state.log_history if "loss" in h]
    told = [record.auxiliary["block"] for record in records]
    assert [h["reversion/block"] for h in logged] == pytest.approx(
        [one.loss for one in told], rel=1e-3
    )
    assert max(one.loss for one in told) > 0.01
    clip = [h["grad_norm"] for h in logged]
    assert clip == pytest.approx([record.gradient_norm for record in records], rel=1e-3)


def test_a_callback_records_every_step_of_it(
    theirs, ours, interventions, directions, splits, tmp_path
):
    callback = ReversionCallback(directions, splits[2], out=tmp_path / "run", measure_at=[1, 3])
    theirs(interventions["both"], callbacks=[callback])
    records, _ = ours(
        interventions["both"], probes=splits[2], directions=directions, measure_at=[1, 3]
    )
    run = Run(tmp_path / "run")
    assert [line["step"] for line in run.lines] == [0, 1, 2, 3, 4, 5, 6]
    assert run.records()["loss"][1:].tolist() == pytest.approx(
        [record.loss for record in records], abs=1e-4
    )
    norms = [record.auxiliary["block"].gradient_norm for record in records]
    assert run.gradient_trace("block") == pytest.approx(norms, rel=1e-3, abs=1e-4)
    assert run.drift()[-1] == pytest.approx(records[-1].drift.vector, abs=1e-4)
    done = [one["name"] for one in run.info["config"]["interventions"]]
    assert done == ["block", "steer"]


def test_measured_probes_are_kept_apart_from_penalty_probes(
    theirs, interventions, directions, splits, tmp_path
):
    callback = ReversionCallback(directions, splits[1], out=tmp_path / "run")
    with pytest.raises(ProbeError, match="penalty probes are also measured"):
        theirs(interventions["block"], callbacks=[callback])


def test_evaluation_sees_no_edits(without_dropout, theirs, examples, interventions):
    model = without_dropout()
    batch = collate(dataset_of(model, examples)[:4])
    with torch.no_grad():
        expected = model.hf(**batch).loss.item()
    trainer, _ = theirs(interventions["steer"], model=model, max_steps=1, learning_rate=1e-12)
    trainer.eval_dataset = dataset_of(model, examples)[:4]
    trainer.args.per_device_eval_batch_size = 4
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-5)
    trained = [h["loss"] for h in trainer.state.log_history if "loss" in h]
    with torch.no_grad():
        rows = [trainer.train_dataset[index] for index in trainer._get_train_sampler()[:4]]
        plain = model.hf(**collate(rows)).loss.item()
    assert abs(trained[0] - plain) > 0.05


@pytest.mark.parametrize("name", ["block", "ablate"])
def test_a_resumed_training_draws_what_it_would_have_drawn(
    name, theirs, interventions, without_dropout, examples, tmp_path
):
    saved = {"save_strategy": "steps", "save_steps": 3}
    _, whole = theirs(interventions[name], **saved)
    model = without_dropout()
    model.close()
    trainer = make_trainer(
        model, examples, tmp_path / "again", kind=InOurOrder, logging_steps=1,
        given={"intervention": interventions[name]}, per_device_train_batch_size=BATCH, **saved,
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=str(tmp_path / "trainer" / "checkpoint-3"))
    resumed = {name: p.detach().clone() for name, p in model.hf.named_parameters()}
    assert same(resumed, whole)
    fresh = without_dropout()
    other = make_trainer(
        fresh, examples, tmp_path / "other", kind=InOurOrder, logging_steps=1,
        given={"intervention": interventions["both"]}, per_device_train_batch_size=BATCH, **saved,
    )  # fmt: skip
    with pytest.raises(ConfigError, match="step 3 was saved with other interventions"):
        other.train(resume_from_checkpoint=str(tmp_path / "trainer" / "checkpoint-3"))


def test_labels_tell_prompts_from_responses():
    batch = {
        "input_ids": torch.tensor([[5, 6, 7, 8], [5, 6, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]),
        "labels": torch.tensor([[-100, -100, 7, 8], [5, 6, -100, -100]]),
    }
    cpu = torch.device("cpu")
    places = {name: edited_places_of(batch, name, cpu) for name in ("all", "prompt", "response")}
    assert places["all"] is None
    assert places["prompt"].int().tolist() == [[1, 1, 0, 0], [1, 0, 0, 0]]
    assert places["response"].int().tolist() == [[0, 0, 1, 1], [0, 1, 0, 0]]
    assert batch["labels"][1, 0] == 5
    one = {name: value[:1] for name, value in batch.items()}
    assert encoded_example(one).ids == (5, 6, 7, 8) and encoded_example(one).prompt_length == 2
    text = {name: value[1:] for name, value in batch.items()}
    assert encoded_example(text).ids == (5, 6) and encoded_example(text).prompt_length == 1
    turns = one | {"labels": torch.tensor([[-100, 6, -100, 8]])}
    with pytest.raises(ConfigError, match="several responses"):
        encoded_example(turns)
    with pytest.raises(ConfigError, match="labels to tell prompts from responses"):
        edited_places_of({"input_ids": batch["input_ids"]}, "response", cpu)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rehearse", {}, r"\(rehearse\): rehearse changes the batch; put its examples into"),
        ("block", {"fp16": True}, "float16 scales its gradients; use bf16"),
        ("steer", {"torch_compile": True}, "edits are not in a compiled forward"),
        ("anchor", {"bf16": True}, r"anchor \(kl\) reads outside of autocast"),
        ("twice", {}, r"\(steer, steer\): two of one name cannot be told apart"),
        (
            "block",
            {"restore_callback_states_from_checkpoint": True},
            "makes callbacks anew; leave it off",
        ),
    ],
)
def test_what_cannot_be_done_in_a_trainer_is_refused(
    name, options, message, theirs, interventions, directions, examples
):
    known = interventions | {
        "rehearse": Rehearse(0.5, examples=examples),
        "twice": (Steer(directions, 1.0), Steer(directions, 2.0)),
    }
    with pytest.raises(ConfigError, match=message):
        theirs(known[name], **options)


def test_a_trained_model_is_refused(theirs, interventions, without_dropout):
    model = without_dropout()
    theirs(model=model)
    with pytest.raises(ProvenanceError, match="load the aligned checkpoint again"):
        theirs(interventions["steer"], model=model)
