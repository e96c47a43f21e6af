"""Anchor is zero at θ_S and, away from it, the divergence or the distance that it names."""

import json
from dataclasses import replace

import pytest
import torch

from workbench.anchors import Anchor
from workbench.encoding import encode
from workbench.errors import ConfigError, ProbeError
from workbench.interventions import Start
from workbench.probes import ProbeSet

pytestmark = pytest.mark.transformer_lens_3


def start(setting, model, seed=0):
    """Start an intervention on a model, as a fine-tuning would."""
    return setting.start(Start(model, torch.Generator().manual_seed(seed), ()))


def move(model, size=0.03):
    """Move every weight a little, at random."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.hf.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)


def plain_probabilities(model, probe):
    """Next-token probabilities [token vocab], one unpadded forward in float64."""
    ids = encode(model, probe.prompt).ids
    first = len(ids) - 1
    if probe.response is not None:
        ids = encode(model, probe.prompt, probe.response).ids[:-1]
    logits = model.hf(input_ids=torch.tensor([ids]), use_cache=False).logits
    return logits[0, first:].double().softmax(dim=-1)


def plain_divergence(aligned, model, probes):
    """Mean over probes of the mean over tokens of Σ p log(p/q), in nats."""
    means = []
    for probe in probes.probes:
        with torch.no_grad():
            p = plain_probabilities(aligned, probe)
        q = plain_probabilities(model, probe)
        means.append((p * (p / q).log()).sum(dim=-1).mean())
    return torch.stack(means).mean()


def plain_distance(aligned, model):
    """Σ (θ − θ_S)², in float64."""
    pairs = zip(aligned.hf.parameters(), model.hf.parameters(), strict=True)
    return sum((now.double() - then.detach().double()).square().sum() for then, now in pairs)


@pytest.fixture(scope="session")
def asked(probes):
    """Six probes by what they carry: responses of different lengths, none, or some of each."""
    some = probes.probes[:6]
    bare = tuple(replace(probe, response=None) for probe in some)
    mixed = tuple(pair[index % 2] for index, pair in enumerate(zip(some, bare, strict=True)))
    sets = {"responses": some, "prompts": bare, "mixed": mixed}
    return {name: ProbeSet(members) for name, members in sets.items()}


@pytest.mark.parametrize("architecture_name", ["gpt2", "llama-tied"])
@pytest.mark.parametrize("which", ["responses", "prompts", "mixed"])
def test_divergence_and_its_gradient_are_those_of_the_formula(
    make_model, asked, which, architecture_name
):
    aligned, model = make_model(architecture_name), make_model(architecture_name)
    active = start(Anchor(7.0, probes=asked[which]), model)
    move(model)
    ours = active.penalty(model)
    expected = 7.0 * plain_divergence(aligned, model, asked[which])
    assert expected > 0.01
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)
    weights = list(model.hf.parameters())
    gradients = [torch.autograd.grad(loss, weights) for loss in (ours, expected)]
    largest = max(gradient.abs().max() for gradient in gradients[1])
    assert min(gradient.abs().max() for gradient in gradients[0]) > 0
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6 * largest.item())


def test_a_mean_over_all_tokens_would_be_another_number(make_model, asked):
    """The sanity counterpart: responses differ in length, so the order of the means matters."""
    aligned, model = make_model(), make_model()
    move(model)
    each = [plain_divergence(aligned, model, ProbeSet((p,))) for p in asked["responses"].probes]
    lengths = torch.tensor([len(p.response.split()) + 1.0 for p in asked["responses"].probes])
    by_token = (torch.stack(each) * lengths).sum() / lengths.sum()
    assert abs(by_token / torch.stack(each).mean() - 1) > 1e-3


def test_the_divergence_of_two_known_distributions_is_the_closed_form(make_model, asked):
    model = make_model()
    p, q = torch.rand(2, model.cfg.d_vocab, generator=torch.Generator().manual_seed(3)).add(0.1)
    p, q = p / p.sum(), q / q.sum()
    # Whatever the prompt, the model now predicts the softmax of this bias.
    head = torch.nn.Linear(model.cfg.d_model, model.cfg.d_vocab)
    head.weight.data.zero_()
    head.bias.data = p.log()
    model.hf.lm_head = head
    active = start(Anchor(2.5, probes=asked["mixed"]), model)
    head.bias.data = q.log() + 4.0  # a constant that softmax does not see
    loss = active.penalty(model)
    forward, reverse = ((one * (one / two).log()).sum() for one, two in ((p, q), (q, p)))
    assert abs(forward / reverse - 1) > 0.01
    assert loss.item() == pytest.approx(2.5 * forward.item(), rel=1e-5)
    gradient = torch.autograd.grad(loss, head.bias)[0]
    torch.testing.assert_close(gradient, 2.5 * (q - p), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("architecture_name", ["gpt2", "llama-tied"])
def test_distance_and_its_gradient_are_those_of_the_formula(make_model, architecture_name):
    aligned, model = make_model(architecture_name), make_model(architecture_name)
    active = start(Anchor(7.0, kind="weights"), model)
    move(model)
    loss = active.penalty(model)
    assert loss.item() == pytest.approx(7.0 * plain_distance(aligned, model).item(), rel=1e-6)
    weights = list(model.hf.parameters())
    for then, now, gradient in zip(
        aligned.hf.parameters(), weights, torch.autograd.grad(loss, weights), strict=True
    ):
        torch.testing.assert_close(gradient, 14.0 * (now - then).detach(), rtol=1e-6, atol=1e-7)


def test_the_distance_of_a_half_precision_model_is_taken_in_float32(make_model):
    aligned, model = make_model(), make_model()
    for each in (aligned, model):
        each.hf.to(torch.bfloat16)
    active = start(Anchor(1.0, kind="weights"), model)
    move(model)
    expected = plain_distance(aligned, model).item()
    assert active.penalty(model).item() == pytest.approx(expected, rel=1e-5)
    assert abs(torch.tensor(expected).bfloat16().item() / expected - 1) > 1e-4


def test_frozen_parameters_are_not_held(make_model):
    model = make_model()
    for name, parameter in model.hf.named_parameters():
        parameter.requires_grad_("mlp" in name)
    active = start(Anchor(1.0, kind="weights"), model)
    with torch.no_grad():
        model.hf.transformer.h[0].ln_1.bias += 1.0
    assert active.penalty(model).item() == 0.0
    with torch.no_grad():
        model.hf.transformer.h[0].mlp.c_fc.bias[3] += 2.0
    assert active.penalty(model).item() == pytest.approx(4.0, rel=1e-6)


@pytest.mark.parametrize("which", ["responses", "prompts"])
def test_divergence_and_its_gradient_are_zero_at_the_aligned_model(make_model, asked, which):
    model = make_model()
    active = start(Anchor(30.0, probes=asked[which], batch_size=4), model)
    loss = active.penalty(model)
    # Zero but for rounding, of which a minibatch in another shape makes 1e-7 nats.
    assert abs(loss.item()) < 1e-4
    here = torch.autograd.grad(loss, model.hf.parameters())
    move(model)
    there = torch.autograd.grad(active.penalty(model), model.hf.parameters())
    largest, larger = (max(g.abs().max().item() for g in found) for found in (here, there))
    assert largest < 1e-4 * larger


def test_distance_and_its_gradient_are_exactly_zero_at_the_aligned_model(make_model):
    model = make_model()
    loss = start(Anchor(30.0, kind="weights"), model).penalty(model)
    assert loss.item() == 0.0
    assert not any(g.any() for g in torch.autograd.grad(loss, model.hf.parameters()))


def test_a_minibatch_is_drawn_by_the_interventions_own_generator(make_model, asked):
    aligned, model = make_model(), make_model()
    setting = Anchor(1.0, probes=asked["mixed"], batch_size=2)
    one, same, other = (start(setting, model, seed) for seed in (0, 0, 1))
    move(model)
    state = torch.get_rng_state()
    losses = [[active.penalty(model).item() for _ in range(4)] for active in (one, same, other)]
    assert torch.equal(torch.get_rng_state(), state)
    assert losses[0] == losses[1] != losses[2]
    chosen = torch.randperm(6, generator=torch.Generator().manual_seed(0))[:2]
    pair = ProbeSet(tuple(asked["mixed"].probes[index] for index in chosen))
    expected = plain_divergence(aligned, model, pair).item()
    assert losses[0][0] == pytest.approx(expected, rel=1e-5)


def test_an_anchor_has_no_dropout_and_leaves_modes(make_model, asked):
    model = make_model()
    model.hf.train()
    active = start(Anchor(1.0, probes=asked["mixed"]), model)
    move(model)
    model.hf.eval()
    expected = active.penalty(model).item()
    model.hf.train()
    model.hf.transformer.h[1].eval()
    modes = [module.training for module in model.hf.modules()]
    assert active.penalty(model).item() == pytest.approx(expected, rel=1e-5)
    assert [module.training for module in model.hf.modules()] == modes
    assert start(Anchor(1.0, probes=asked["mixed"]), model).penalty(model).abs() < 1e-5


def test_the_memory_is_what_the_docstring_says(model, asked):
    active = start(Anchor(1.0, probes=asked["mixed"]), model)
    tokens = sum(
        1 if probe.response is None else len(probe.response.split()) + 1
        for probe in asked["mixed"].probes
    )
    assert active.aligned.nbytes == 4 * tokens * model.cfg.d_vocab
    assert active.aligned.device.type == "cpu"


def test_an_anchored_model_stays_nearer_to_the_aligned_one(lineage, tune, splits):
    aligned, ends = lineage.load_model(lineage.aligned), {}
    for name, setting in {
        "ordinary": None,
        "kl": Anchor(30.0, probes=splits[1]),
        "weights": Anchor(30.0, kind="weights"),
    }.items():
        model = lineage.load_model(lineage.aligned)
        records = list(tune(model, intervention=setting, steps=15))
        with torch.no_grad():
            ends[name] = (
                plain_divergence(aligned, model, splits[1]).item(),
                plain_distance(aligned, model).item(),
            )
        if setting is not None:
            assert set(records[-1].auxiliary) == {"anchor"}
            assert abs(records[0].auxiliary["anchor"].loss) < 1e-4
            assert records[-1].auxiliary["anchor"].loss > 1e-3
    assert ends["kl"][0] < 0.5 * ends["ordinary"][0]
    assert ends["weights"][1] < 0.5 * ends["ordinary"][1]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"probes": None}, ProbeError, "anchor: kind kl needs probes; give it the penalty split"),
        ({"probes": ProbeSet(())}, ProbeError, "anchor: kind kl needs probes"),
        ({"kind": "weights"}, ConfigError, "anchor: kind weights reads no probes; leave them out"),
        ({"strength": -1.0}, ConfigError, "anchor: strength is -1.0; it must not be negative"),
        ({"strength": float("inf")}, ConfigError, "anchor: strength is inf"),
        ({"batch_size": 0}, ConfigError, "anchor: batch_size is 0; it must be positive"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(asked, settings, error, message):
    good = {"strength": 1.0, "probes": asked["mixed"]}
    Anchor(**good)
    with pytest.raises(error, match=message):
        Anchor(**good | settings)


def test_an_unknown_kind_is_refused_without_type_checks_too(asked):
    anchor = Anchor(1.0, probes=asked["mixed"])
    object.__setattr__(anchor, "kind", "l1")  # as a plain interpreter would let through
    with pytest.raises(ConfigError, match=r"anchor: kind is 'l1'; it may be kl or weights"):
        anchor.__post_init__()


def test_probes_that_are_measured_too_are_refused(aligned_model, tune, splits, directions):
    measured = {"probes": splits[2], "directions": directions}
    with pytest.raises(ProbeError, match=r"anchor: .* penalty probes are also measured"):
        tune(aligned_model, intervention=Anchor(1.0, probes=splits[2]), **measured)
    tune(aligned_model, intervention=Anchor(1.0, probes=splits[1]), **measured)


def test_a_description_is_json_and_names_probes_by_hash(asked):
    told = Anchor(0.5, probes=asked["mixed"]).describe()
    assert json.loads(json.dumps(told)) == told
    assert told["probes"] == asked["mixed"].fingerprint()
    assert (told["name"], told["kind"], told["strength"]) == ("anchor", "kl", 0.5)
