"""Anchor, ProjectGradient and Rehearse in the training loop: what holds for all of them."""

from dataclasses import replace

import pytest
import torch

from workbench.anchors import Anchor
from workbench.penalties import Block
from workbench.probes import ProbeSet
from workbench.projections import ProjectGradient
from workbench.rehearsal import Rehearse
from workbench.updates import state_from_bytes, state_to_bytes

pytestmark = pytest.mark.transformer_lens_3


@pytest.fixture(scope="session")
def rivals(directions, splits):
    turned = directions.with_unit(-directions.unit)  # these examples happen to lead that way
    silent = ProbeSet(tuple(replace(probe, response=None) for probe in splits[1].probes))
    return {
        "kl": Anchor(5.0, probes=splits[1], batch_size=3),
        "weights": Anchor(5.0, kind="weights"),
        "project": ProjectGradient(turned, 1.0, splits[1], batch_size=3),
        "rehearse": Rehearse(0.4, probes=silent, max_new_tokens=6),
    }


@pytest.fixture(params=["kl", "weights", "project", "rehearse"])
def rival(request, rivals):
    return rivals[request.param]


@pytest.fixture
def train(lineage, tune, splits, directions, weights_of):
    """Train a fresh copy of the aligned model; return records, weights and state."""

    def run(intervention=None, *, prepare=lambda model: None, **options):  # noqa: ARG005
        model = lineage.load_model(lineage.aligned)
        prepare(model)
        measured = {"probes": splits[2], "directions": directions, "steps": 3}
        tuning = tune(model, intervention=intervention, **measured | options)
        return list(tuning), weights_of(model), tuning.state()

    return run


def same(one, other):
    return one.keys() == other.keys() and all(map(torch.equal, one.values(), other.values()))


def without_dropout(model):
    for module in model.hf.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def numbers(records):
    """Losses, gradient norms, penalties and drift: all that a record measures."""
    rows = []
    for record in records:
        told = [value for one in record.auxiliary.values() for value in (one.loss, one.scale)]
        rows.append([record.loss, record.gradient_norm, *told, *record.drift.along])
    return torch.tensor(rows, dtype=torch.float64)


def test_strength_zero_is_ordinary_fine_tuning_bit_for_bit(train, rival):
    records, weights, state = train(weight_decay=0.1)
    off_records, off_weights, off_state = train(replace(rival, strength=0.0), weight_decay=0.1)
    assert same(weights, off_weights)
    assert same(state, off_state)
    assert [r.to_json() for r in records] == [r.to_json() for r in off_records]
    _, on_weights, _ = train(rival, weight_decay=0.1)
    assert not same(weights, on_weights)


def test_micro_batches_train_alike(train, rival):
    options = {"prepare": without_dropout, "learning_rate": 3e-4}
    whole, parts = (train(rival, **options, accumulation=parts)[0] for parts in (1, 3))
    torch.testing.assert_close(numbers(parts), numbers(whole), rtol=2e-3, atol=1e-5)
    assert (numbers(train(**options)[0])[-1, -3:] - numbers(whole)[-1, -3:]).abs().max() > 1e-3


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable:FutureWarning")
def test_gradient_checkpointing_trains_alike(train, rival):
    whole, _, _ = train(rival)
    again, _, _ = train(rival, prepare=lambda model: model.hf.gradient_checkpointing_enable())
    torch.testing.assert_close(numbers(again), numbers(whole), rtol=2e-3, atol=1e-5)


def test_a_part_of_the_parameters_can_be_trained(train, rival, weights_of, lineage):
    before = weights_of(lineage.load_model(lineage.aligned))
    ends = [
        train(setting, trainable=lambda name: "h.1.mlp" in name)[1] for setting in (None, rival)
    ]
    for end in ends:
        moved = {name for name in end if not torch.equal(end[name], before[name])}
        assert moved == {name for name in end if "h.1.mlp" in name}
    assert not same(*ends)


def test_it_composes_with_block(train, rival, directions, splits):
    block = Block(directions.with_unit(-directions.unit), strength=5.0, probes=splits[1])
    both, together, _ = train([block, rival])
    alone = [train(one)[1] for one in (block, rival)]
    assert not same(together, alone[0]) and not same(together, alone[1])
    assert {"block"} <= set(both[-1].auxiliary) <= {"block", rival.name}
    assert max(record.auxiliary["block"].gradient_norm for record in both) > 0.1


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    lineage, tune, splits, directions, rivals, weights_of
):
    several = [rivals[name] for name in ("kl", "project", "rehearse")]
    ends = []
    for interrupted in (False, True):
        for setting in (several, rivals["weights"]):
            model = lineage.load_model(lineage.aligned)
            options = {"probes": splits[2], "directions": directions, "steps": 4}
            tuning = tune(model, intervention=setting, **options)
            records = []
            if interrupted:
                steps = iter(tuning)
                records = [next(steps) for _ in range(2)]
                blob = state_to_bytes(tuning.state())
                model = lineage.load_model(lineage.aligned)
                tuning = tune(model, intervention=setting, **options)
                tuning.load_state(state_from_bytes(blob))
            records += list(tuning)
            ends.append(([record.to_json() for record in records], weights_of(model)))
    for whole, resumed in zip(ends[:2], ends[2:], strict=True):
        assert whole[0] == resumed[0]
        assert same(whole[1], resumed[1])
