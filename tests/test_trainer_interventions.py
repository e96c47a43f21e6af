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
            tune(model, steps=STEPS, batch_size=BATCH, warmup=0, intervention=intervention, **options)
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
