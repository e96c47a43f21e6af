"""What interventions do inside the training loop."""

from dataclasses import replace

import pytest
import torch

from workbench.activations import read_activations
from workbench.controls import matched_directions
from workbench.interventions import Active, Intervention
from workbench.penalties import Block, Push


@pytest.fixture
def train(lineage, tune, splits, directions, weights_of):
    """Train a fresh copy of the aligned model; return records, weights and state."""

    def run(intervention=None, **options):
        model = lineage.load_model(lineage.aligned)
        tuning = tune(
            model,
            probes=splits[2],
            directions=directions,
            intervention=intervention,
            **{"measure_at": [1], **options},
        )
        return list(tuning), weights_of(model), tuning.state()

    return run


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("kind", [Block, Push])
def test_strength_zero_is_ordinary_fine_tuning_bit_for_bit(train, directions, splits, kind):
    turned = directions.with_unit(-directions.unit)  # these examples happen to lead that way
    records, weights, state = train()
    off_records, off_weights, off_state = train(kind(turned, strength=0.0, probes=splits[1]))
    assert same(weights, off_weights)
    assert state.keys() == off_state.keys()
    assert [r.to_json() for r in records] == [r.to_json() for r in off_records]
    on_records, on_weights, _ = train(kind(turned, strength=1.0, probes=splits[1]))
    assert not same(weights, on_weights)
    assert set(on_records[0].auxiliary) == {kind.name}


def test_data_order_and_dropout_are_those_of_the_ordinary_run(train, directions, splits):
    ordinary, _, _ = train(steps=1)
    blocked, _, _ = train(Block(directions, strength=50.0, probes=splits[1]), steps=1)
    assert blocked[0].loss == ordinary[0].loss
    # At step 1 the model is θ_S, where Block has no gradient: the update is the ordinary one.
    assert blocked[0].auxiliary["block"].gradient_norm < 1e-3
    assert blocked[0].drift.vector == pytest.approx(ordinary[0].drift.vector, abs=1e-5)


def test_blocking_keeps_from_the_witness_and_pushing_leads_to_it(train, directions, splits):
    ends = {}
    for name, intervention in {
        "block": Block(directions, strength=30.0, probes=splits[1]),
        "ordinary": None,
        "push": Push(directions, strength=30.0, probes=splits[1]),
    }.items():
        records, _, _ = train(intervention, steps=20)
        ends[name] = records[-1].drift.along.max()
    assert ends["block"] < ends["ordinary"]
    assert ends["push"] > ends["ordinary"] + 0.1


def test_the_applied_gradient_is_task_plus_penalty(train, directions, splits):
    """AdamW's first moment after step 1, without clipping, is a tenth of the gradient."""
    plain = {"steps": 1, "clip": None}
    push = Push(directions, strength=2.0, probes=splits[1])
    moments = {}
    for name, intervention in {
        "task": None,
        "once": push,
        "twice": replace(push, strength=4.0),
    }.items():
        records, _, state = train(intervention, **plain)
        moments[name] = torch.cat([v.flatten() for k, v in state.items() if "exp_avg/" in k])
        if intervention:
            told = records[0].auxiliary["push"]
            penalty = moments[name] - moments["task"]
            assert penalty.norm() / 0.1 == pytest.approx(told.gradient_norm, rel=1e-4)
            assert told.scale == 1.0
    once, twice = (moments[name] - moments["task"] for name in ("once", "twice"))
    torch.testing.assert_close(twice, 2 * once, atol=1e-6, rtol=1e-3)


def test_a_traced_control_is_applied_with_the_norm_of_the_trace(train, directions, splits, lineage):
    push = Push(directions, strength=2.0, probes=splits[1])
    records, _, _ = train(push, steps=3, clip=None)
    trace = tuple(record.auxiliary["push"].gradient_norm for record in records)
    acts = read_activations(lineage.load_model(lineage.aligned), splits[0])
    control = replace(push, directions=matched_directions(directions, acts), trace=trace)
    traced, _, _ = train(control, steps=3, clip=None)
    for record, norm in zip(traced, trace, strict=True):
        told = record.auxiliary["push"]
        assert told.scale * told.gradient_norm == pytest.approx(norm, rel=1e-5)
        assert abs(told.scale - 1) > 1e-3
    _, _, task = train(steps=1, clip=None)
    _, _, both = train(control, steps=1, clip=None)
    applied = torch.cat(
        [(both[key] - task[key]).flatten() for key in task if "exp_avg/" in key]
    ).norm()
    assert applied / 0.1 == pytest.approx(trace[0], rel=1e-4)


def test_several_interventions_add_up_and_are_told_apart(train, directions, splits):
    block = Block(directions, strength=5.0, probes=splits[1])
    push = Push(directions, strength=5.0, probes=splits[1])
    records, both, _ = train([block, push])
    assert set(records[0].auxiliary) == {"block", "push"}
    assert not same(both, train(block)[1])
    assert not same(both, train(push)[1])


class Mixed(Intervention):
    """One that uses every way to intervene, to see when each is asked for."""

    name = "mixed"
    strength = 1.0

    def __init__(self, log):
        self.log = log

    def start(self, start):
        log = self.log
        assert len(start.examples) > 2

        class Started(Active):
            edits_update = True

            def mix_batch(self, batch):
                log.append("batch")
                return batch[:2]

            def forward_hooks(self):
                def edit(resid, hook):  # noqa: ARG001
                    log.append(("edit", len(resid), torch.is_grad_enabled()))
                    return resid + 0.0 * resid

                return [("blocks.1.hook_resid_post", edit)]

            def penalty(self, model):
                log.append(("penalty", len(model.blocks[1].hook_resid_post.fwd_hooks)))

            def before_forward(self, model, items):
                log.append(("before", len(items), len(model.blocks[1].hook_resid_post.fwd_hooks)))

            def before_update(self, model, parameters):  # noqa: ARG002
                self.at = [parameter.detach().clone() for parameter in parameters]

            def edit_update(self, weights, before):
                log.append("update")
                assert all(map(torch.equal, self.at, before))
                assert not all(map(torch.equal, weights, before))
                for weight, old in zip(weights, before, strict=True):
                    weight.copy_(old)

        return Started(self.name, start.generator)


def test_each_way_to_intervene_is_asked_for_once_a_step(train, lineage, weights_of):
    log = []
    records, weights, _ = train(Mixed(log), steps=2)
    # Edits are on in the training forward, off for penalties and for measuring drift.
    each = ["batch", ("before", 2, 0), ("edit", 2, True), ("penalty", 0), "update"]
    assert log == each * 2
    assert same(weights, weights_of(lineage.load_model(lineage.aligned)))  # the updates undone
    assert records[-1].drift.undefined == 3
    assert records[0].auxiliary == {}
