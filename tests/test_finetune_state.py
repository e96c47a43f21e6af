"""A fine-tuning can stop anywhere and continue to the same bits, and leaves no trace around it."""

import pytest
import torch

from workbench.errors import ConfigError
from workbench.penalties import Block, Push
from workbench.updates import state_from_bytes, state_to_bytes


def same_drift(one, other):
    return one is other is None or bool((one.vector == other.vector).all())


def same_records(ours, theirs):
    assert [record.to_json() for record in ours] == [record.to_json() for record in theirs]
    assert all(same_drift(one.drift, other.drift) for one, other in zip(ours, theirs, strict=True))


@pytest.fixture
def aligned(lineage):
    """Make fresh copies of the aligned model."""
    return lambda: lineage.load_model(lineage.aligned)


@pytest.fixture
def options(directions, splits):
    """Everything that has a state: dropout is in the model, here are penalties and schedule."""
    penalty = {"probes": splits[1], "batch_size": 3}
    turned = directions.with_unit(-directions.unit)  # these examples happen to lead that way
    return {
        "steps": 6,
        "probes": splits[2],
        "directions": directions,
        "schedule": "cosine",
        "weight_decay": 0.01,
        "intervention": [
            Block(turned, strength=5.0, **penalty),
            Push(turned, strength=0.1, **penalty),
        ],
    }


@pytest.mark.parametrize("stop_at", [0, 2, 5])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    aligned, tune, options, weights_of, stop_at
):
    whole = aligned()
    records = list(tune(whole, **options))
    first = tune(aligned(), **options)
    steps = iter(first)
    before = [next(steps) for _ in range(stop_at)]
    blob = state_to_bytes(first.state())
    del first
    second = aligned()
    resumed = tune(second, **options)
    resumed.load_state(state_from_bytes(blob))
    after = list(resumed)
    same_records([*before, *after], records)
    assert records[-1].auxiliary["block"].loss > 0
    assert [record.step for record in after] == list(range(stop_at + 1, 7))
    expected = weights_of(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights_of(second).items())


def test_a_half_precision_run_is_resumed_from_its_masters(make_model, tune, weights_of):
    models = [make_model() for _ in range(3)]
    for model in models:
        model.hf.to(torch.bfloat16)
    whole, first, second = (tune(model, learning_rate=1e-5) for model in models)
    list(whole)
    steps = iter(first)
    next(steps), next(steps)
    second.load_state(state_from_bytes(state_to_bytes(first.state())))
    assert weights_of(models[1]).keys() == weights_of(models[2]).keys()
    assert all(map(torch.equal, weights_of(models[1]).values(), weights_of(models[2]).values()))
    list(second)
    ends = [tuning.state() for tuning in (whole, second)]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_a_state_is_not_changed_by_going_on(aligned, tune, options):
    tuning = tune(aligned(), **options)
    steps = iter(tuning)
    next(steps)
    state = tuning.state()
    copy = {name: value.clone() for name, value in state.items()}
    list(steps)
    assert all(torch.equal(value, copy[name]) for name, value in state.items())
    assert not torch.equal(tuning.state()["dropout"], state["dropout"])


def test_a_state_of_another_run_is_refused(aligned, tune, options):
    tuning = tune(aligned(), **options)
    for other in ({"intervention": None}, {"intervention": options["intervention"][0]}):
        with pytest.raises(ConfigError, match="other interventions"):
            tuning.load_state(tune(aligned(), **options | other).state())
    part = tune(aligned(), **options, trainable=lambda name: "mlp" in name)
    with pytest.raises(ConfigError, match="other trainable parameters"):
        tuning.load_state(part.state())


def test_every_yield_leaves_randomness_modes_gradients_and_hooks(aligned, tune, options):
    model = aligned()
    model.hf.transformer.h[1].train()
    modes = [module.training for module in model.hf.modules()]
    torch.manual_seed(11)
    state = torch.get_rng_state()
    tuning = tune(model, **options)
    for record in tuning:
        assert torch.equal(torch.get_rng_state(), state)
        assert [module.training for module in model.hf.modules()] == modes
        assert torch.is_grad_enabled()
        assert all(not point.fwd_hooks for point in model.hook_dict.values())
        assert all(parameter.grad is None for parameter in model.hf.parameters())
        assert record.step == tuning.step


def test_a_caller_without_gradients_trains_all_the_same_and_keeps_none(
    make_model, tune, weights_of
):
    models = make_model(), make_model()
    list(tune(models[0]))
    with torch.no_grad():
        for _ in tune(models[1]):
            assert not torch.is_grad_enabled()
    assert all(map(torch.equal, weights_of(models[0]).values(), weights_of(models[1]).values()))


def test_an_error_leaves_everything_too(aligned, tune, options, blocks_of):
    model = aligned()
    model.hf.train()
    torch.manual_seed(11)
    state = torch.get_rng_state()
    tuning = tune(model, **options)
    steps = iter(tuning)
    next(steps)

    def fail(block, args):  # noqa: ARG001
        raise ZeroDivisionError

    handle = blocks_of(model.hf)[2].register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError), torch.no_grad():
        next(steps)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.hf.modules())
    assert torch.is_grad_enabled()
    assert all(not point.fwd_hooks for point in model.hook_dict.values())
    handle.remove()
    assert next(iter(tuning)).step == 2


def test_the_callers_random_numbers_do_not_matter(aligned, tune, options, weights_of):
    ends = []
    for seed in (1, 2):
        model = aligned()
        torch.manual_seed(seed)
        for _ in tune(model, **options):
            torch.randn(seed)  # the caller draws between steps, too
        ends.append(weights_of(model))
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_the_seed_decides_data_order_dropout_and_penalties(aligned, tune, options, weights_of):
    ends = {}
    for seed in (0, 1):
        model = aligned()
        records = list(tune(model, **options, seed=seed))
        ends[seed] = (weights_of(model), records[0].loss, records[0].auxiliary["block"].loss)
    assert ends[0][1] != ends[1][1]
    assert not torch.equal(*(end[0]["transformer.wte.weight"] for end in ends.values()))


def test_stopping_ends_after_the_current_step(make_model, tune):
    tuning = tune(make_model())
    seen = []
    for record in tuning:
        seen.append(record.step)
        if record.step == 2:
            tuning.stop()
    assert seen == [1, 2]
    assert tuning.step == 2
    resumed = tune(make_model())
    resumed.load_state(tuning.state())
    assert [record.step for record in resumed] == [3, 4, 5]


def test_a_finished_run_has_nothing_left(make_model, tune, weights_of):
    model = make_model()
    tuning = tune(model)
    assert len(list(tuning)) == 5
    before = weights_of(model)
    assert list(tuning) == []
    assert all(map(torch.equal, weights_of(model).values(), before.values()))
