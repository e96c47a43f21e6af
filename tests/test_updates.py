"""Updates are AdamW on float32 weights, warmed up and clipped."""

import math

import pytest
import torch
from torch import nn

from workbench.errors import ConfigError
from workbench.updates import Updates, UpdateSettings, gradient_norm


def small(dtype=torch.float32):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)).to(dtype)


def gradients_of(updates, step):
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(p.shape, generator=generator) for p in updates.parameters]


def advance(updates, step):
    gradients = gradients_of(updates, step)
    updates.apply(gradients, gradient_norm(gradients), 1e-2)


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_updates_are_those_of_plain_adamw_bit_for_bit(clip, weight_decay):
    ours, plain = small(), small()
    updates = Updates(ours, UpdateSettings(1e-2, clip=clip, weight_decay=weight_decay), None)
    optimiser = torch.optim.AdamW(plain.parameters(), lr=1.0, weight_decay=weight_decay, fused=True)
    for step in (1, 2, 3):
        gradients = gradients_of(updates, step)
        for parameter, gradient in zip(plain.parameters(), gradients, strict=True):
            parameter.grad = gradient.clone()
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        if clip:
            torch.nn.utils.clip_grad_norm_(plain.parameters(), clip)
        optimiser.param_groups[0]["lr"] = 1e-2 * step
        optimiser.step()
        torch.testing.assert_close(gradient_norm(gradients), norm)
        updates.apply(gradients, gradient_norm(gradients), 1e-2 * step)
    for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(ours[0].weight, small()[0].weight)


def test_the_rate_warms_up_to_its_peak_and_stays():
    settings = UpdateSettings(6e-3, warmup=3)
    assert [settings.rate(step, 10) for step in (1, 2, 3, 4, 10)] == pytest.approx(
        [2e-3, 4e-3, 6e-3, 6e-3, 6e-3]
    )
    assert UpdateSettings(6e-3, warmup=0).rate(1, 10) == 6e-3


def test_a_decaying_rate_would_be_zero_one_step_after_the_last():
    for schedule, middle in (("linear", 0.5), ("cosine", 0.5)):
        settings = UpdateSettings(1.0, warmup=1, schedule=schedule)
        rates = [settings.rate(step, 9) for step in range(1, 11)]
        assert rates == sorted(rates, reverse=True)
        assert rates[0] == 1.0
        assert rates[-1] == pytest.approx(0, abs=1e-12)
        assert rates[-2] > 0
        assert settings.rate(5, 8) == pytest.approx(middle)
    cosine = UpdateSettings(1.0, warmup=0, schedule="cosine")
    assert cosine.rate(3, 11) == pytest.approx(0.5 * (1 + math.cos(math.pi * 3 / 12)))


def test_half_precision_weights_are_trained_on_float32_masters():
    model = small(torch.bfloat16)
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    updates = Updates(model, UpdateSettings(1e-5, clip=None), None)
    for step in range(1, 101):
        signs = [gradient.sign() for gradient in gradients_of(updates, 1)]
        updates.apply(signs, gradient_norm(signs), 1e-5)
        if step == 1:
            # 1e-5 is less than half a unit in the last place of nearly every weight.
            moved = torch.cat(
                [(p != start[n]).flatten() for n, p in model.named_parameters()]
            ).float()
            assert moved.mean() < 0.3
            masters = torch.cat([m.flatten() for m in updates.masters])
            assert (masters != torch.cat([v.flatten() for v in start.values()])).float().mean() == 1
    for name, master in zip(updates.names, updates.masters, strict=True):
        # A hundred equal steps of 1e-5.
        assert torch.allclose((master - start[name]).abs(), torch.tensor(1e-3), rtol=0.05)
        assert torch.equal(model.get_parameter(name), master.bfloat16())


def test_only_the_trainable_parameters_are_trained():
    model = small()
    model[0].bias.requires_grad_(False)
    updates = Updates(model, UpdateSettings(), lambda name: name.startswith("0"))
    assert updates.names == ["0.weight"]
    assert Updates(model, UpdateSettings(), None).names == ["0.weight", "1.weight", "1.bias"]
    with pytest.raises(ConfigError, match="No parameter is trainable"):
        Updates(model, UpdateSettings(), lambda name: name.startswith("2"))


def test_a_parameter_without_gradient_stays():
    model = small()
    updates = Updates(model, UpdateSettings(1e-2), None)
    gradients = gradients_of(updates, 1)
    gradients[1] = None
    updates.apply(gradients, gradient_norm(gradients), 1e-2)
    assert torch.equal(model[0].bias, small()[0].bias)
    assert not torch.equal(model[0].weight, small()[0].weight)


def test_a_state_continues_to_the_same_bits():
    for dtype in (torch.float32, torch.bfloat16):
        whole, resumed = (Updates(small(dtype), UpdateSettings(1e-2), None) for _ in range(2))
        for step in (1, 2):
            advance(whole, step)
        resumed.load_state(whole.state())
        for updates in (whole, resumed):
            advance(updates, 3)
        for one, other in zip(whole.masters, resumed.masters, strict=True):
            assert torch.equal(one, other)
        for one, other in zip(whole.parameters, resumed.parameters, strict=True):
            assert torch.equal(one, other)


def test_a_state_is_a_copy():
    updates = Updates(small(), UpdateSettings(1e-2), None)
    state = updates.state()
    advance(updates, 1)
    assert torch.equal(state["weight/0.weight"], small()[0].weight)


def test_a_state_of_other_parameters_is_refused():
    updates = Updates(small(), UpdateSettings(), None)
    part = Updates(small(), UpdateSettings(), lambda name: "bias" in name)
    with pytest.raises(ConfigError, match="other trainable parameters"):
        updates.load_state(part.state())


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", -1.0),
        ("learning_rate", math.inf),
        ("learning_rate", math.nan),
        ("warmup", -1),
        ("clip", 0.0),
        ("clip", math.nan),
        ("weight_decay", -0.1),
        ("weight_decay", math.nan),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(setting, value):
    with pytest.raises(ConfigError, match=f"{setting} is"):
        UpdateSettings(**{setting: value})


def test_going_back_to_an_early_state_forgets_the_later_moments():
    settings = UpdateSettings(learning_rate=1e-2)
    straight, rewound = (Updates(small(), settings, None) for _ in range(2))
    start = rewound.state()
    for step in range(1, 4):
        advance(rewound, step)
    rewound.load_state(start)
    for step in range(1, 3):
        advance(straight, step)
        advance(rewound, step)
    for one, other in zip(straight.masters, rewound.masters, strict=True):
        assert torch.equal(one, other)


def test_float16_is_refused_because_its_gradients_underflow():
    with pytest.raises(ConfigError, match="load the model as float32"):
        Updates(small(torch.float16), UpdateSettings(), None)
