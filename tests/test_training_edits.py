"""Training edits act in the training forward as their formulas say, and nowhere else."""

from dataclasses import replace
from functools import partial
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from workbench import training_edits
from workbench.directions import fit_directions_from
from workbench.encoding import encode_example
from workbench.errors import ConfigError, LayerError, ProvenanceError
from workbench.interventions import Start, as_list
from workbench.losses import response_losses
from workbench.models import HookedModel
from workbench.penalties import Push
from workbench.training_edits import Ablate, Cap, Steer

pytestmark = pytest.mark.transformer_lens_3

QUANTILE = 0.88
"""Between two tokens, none of which is then at the kink of the cap, where gradients jump."""

KINDS = {
    "ablate": lambda d, **more: Ablate(d, strength=0.4, **more),
    "steer": lambda d, **more: Steer(d, strength=0.8, **more),
    "cap": lambda d, **more: Cap(d, strength=0.7, quantile=QUANTILE, **more),
}


def spans(items, positions):
    """First and last edited token of each example, by the definition of its positions."""
    for item in items:
        yield {
            "all": (0, len(item.ids)),
            "prompt": (0, item.prompt_length),
            "response": (item.prompt_length, len(item.ids)),
        }[positions]


class Reference:
    """The loss under an edit: one example at a time, no padding, plain torch hooks."""

    def __init__(self, hf, blocks, stream, directions):
        self.hf, self.blocks, self.stream, self.directions = hf, blocks, stream, directions

    def row(self, layer):
        return self.directions.layers.index(layer)

    def projections(self, items, positions, layer):
        """⟨h, v⟩ at every edited token of all examples."""
        found = []
        with torch.no_grad():
            for item, (first, last) in zip(items, spans(items, positions), strict=True):
                h = self.stream(self.hf, torch.tensor([item.ids]))[1 + layer, 0, first:last]
                found.append(h.double() @ self.directions.unit[self.row(layer)])
        return torch.cat(found)

    def changed(self, name, layer, before, statistic, clean):
        v = self.directions.unit[self.row(layer)]

        def ablated(h):
            c = (h if clean is None else clean[layer]) @ v
            return h - ((h @ v) - (statistic + 0.6 * (c - statistic)))[..., None] * v

        def steered(h):
            here, there = (
                0.0 if at is None
                else self.directions.gap[self.row(at)] * self.directions.unit[self.row(at)]
                for at in (layer, before)
            )  # fmt: skip
            return h + 0.8 * (here - there)

        def capped(h):
            return h - 0.7 * ((h @ v) - statistic).clamp(min=0)[..., None] * v

        return {"ablate": ablated, "steer": steered, "cap": capped}[name]

    def loss(self, name, items, layers, positions, statistics):
        total = 0.0
        for item, (first, last) in zip(items, spans(items, positions), strict=True):
            ids = torch.tensor([item.ids])
            clean = self.stream(self.hf, ids)[1:] if len(layers) > 1 else None
            keep = torch.zeros(1, len(item.ids), 1, dtype=torch.bool)
            keep[:, first:last] = True
            handles = []
            for place, layer in enumerate(layers):
                before = layers[place - 1] if place else None
                function = self.changed(name, layer, before, statistics[layer], clean)

                def hook(block, args, out, function=function):  # noqa: ARG001
                    h = out[0] if isinstance(out, tuple) else out
                    h = torch.where(keep, function(h), h)  # noqa: B023
                    return (h, *out[1:]) if isinstance(out, tuple) else h

                handles.append(self.blocks[layer].register_forward_hook(hook))
            logits = self.hf(ids, use_cache=False).logits[0]
            for handle in handles:
                handle.remove()
            log = torch.log_softmax(logits[item.prompt_length - 1 : -1], dim=-1)
            targets = torch.tensor(item.ids[item.prompt_length :])
            total = total - log.gather(1, targets[:, None]).sum()
        return total


@pytest.fixture(scope="module")
def arrows():
    generator = torch.Generator().manual_seed(11)
    witness, aligned = torch.randn(2, 3, 8, 32, generator=generator, dtype=torch.float64)
    return fit_directions_from(witness, aligned, layers=(2, 0, 1))


@pytest.fixture(scope="module", params=["gpt2", "llama-gqa"])
def world(request, make_hf, tokenizer, blocks_of, plain_stream, arrows, examples):
    """A hooked model in float64, the reference on the same weights, encoded examples."""
    model = HookedModel(make_hf(request.param).double(), tokenizer)
    hf = make_hf(request.param).double()
    encoded = [encode_example(model, example) for example in examples]
    assert len({len(item.ids) for item in encoded}) > 3
    return model, Reference(hf, blocks_of(hf), plain_stream, arrows), encoded


def begin(setting, model, encoded):
    """Start an intervention as a fine-tuning would."""
    return setting.start(Start(model, torch.Generator().manual_seed(0), encoded))


def edited_loss(active, model, items):
    """The summed loss of a micro-batch and its gradients, as the training loop takes them."""
    active.before_forward(model, items)
    with model.hooks(fwd_hooks=active.forward_hooks()):
        loss = response_losses(model, items).sum()
        weights = list(model.hf.parameters())
        return loss, torch.autograd.grad(loss, weights, allow_unused=True)


def close(found, expected):
    for one, other in zip(found, expected, strict=True):
        if other is None:
            assert one is None
            continue
        largest = float(other.abs().max())
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6 * largest)


@pytest.mark.parametrize(
    ("layers", "positions"),
    [((1,), "all"), ((0, 2), "all"), (None, "prompt"), ((2, 0), "response")],
)
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_those_of_the_formula(world, arrows, kind, layers, positions):
    model, reference, encoded = world
    active = begin(KINDS[kind](arrows, layers=layers, positions=positions), model, encoded)
    items, chosen = encoded[2:5], sorted(layers or (0, 1, 2))
    statistic = partial(torch.quantile, q=QUANTILE) if kind == "cap" else torch.mean
    read = {layer: statistic(reference.projections(encoded, positions, layer)) for layer in chosen}
    loss, gradients = edited_loss(active, model, items)
    expected = reference.loss(kind, items, chosen, positions, read)
    torch.testing.assert_close(loss.double(), expected.double(), rtol=1e-6, atol=0)
    close(
        gradients,
        torch.autograd.grad(expected, list(reference.hf.parameters()), allow_unused=True),
    )
    with torch.no_grad():
        assert abs(response_losses(model, items).sum() - loss) > 1e-5 * loss


@pytest.mark.parametrize("positions", ["all", "prompt", "response"])
def test_means_and_quantiles_are_read_at_the_edited_tokens_of_the_aligned_model(
    world, arrows, positions
):
    model, reference, encoded = world
    start = Start(model, torch.Generator(), encoded)
    model.hf.train()  # and still without dropout
    centre = Ablate(arrows, layers=(0, 2), positions=positions).edit(start).centre
    ceiling = Cap(arrows, quantile=0.9, positions=positions).edit(start).ceiling
    assert model.hf.training
    model.hf.eval()
    found = [reference.projections(encoded, positions, layer).numpy() for layer in range(3)]
    assert centre.tolist() == pytest.approx([found[0].mean(), found[2].mean()], rel=1e-6, abs=1e-6)
    assert ceiling.tolist() == pytest.approx([np.quantile(one, 0.9) for one in found], rel=1e-6)


def test_at_most_a_fixed_number_of_examples_is_read_always_the_same(world, arrows, monkeypatch):
    model, reference, encoded = world
    monkeypatch.setattr(training_edits, "EXAMPLES_READ", 4)
    read = [
        Ablate(arrows).edit(Start(model, torch.Generator().manual_seed(seed), encoded)).centre
        for seed in (0, 1)
    ]
    assert torch.equal(*read)
    each = [reference.projections([item], "all", 1) for item in encoded]
    of_any_four = [torch.cat(four).mean().item() for four in combinations(each, 4)]
    assert min(abs(mean - read[0][1].item()) for mean in of_any_four) < 1e-6


@pytest.mark.parametrize("kind", ["steer", "ablate", "cap"])
def test_padding_changes_nothing(world, arrows, kind):
    """A short example has the same loss beside a long one as alone."""
    model, _, encoded = world
    short, long = sorted(encoded, key=lambda item: len(item.ids))[:: len(encoded) - 1]
    active = begin(KINDS[kind](arrows, positions="all"), model, encoded)
    losses = []
    for items in ([short, long], [short]):
        active.before_forward(model, items)
        with torch.no_grad(), model.hooks(fwd_hooks=active.forward_hooks()):
            losses.append(response_losses(model, items)[0])
    torch.testing.assert_close(*losses, rtol=1e-6, atol=0)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
@pytest.mark.parametrize("whole", [False, True], ids=["forward", "hooks-too"])
def test_gradient_checkpointing_changes_no_gradient(make_model, arrows, examples, whole):
    """With dropout on; `whole` has hooks run again in backward, as some transformers do."""
    model = make_model()
    encoded = [encode_example(model, example) for example in examples]
    active = begin(Ablate(arrows, strength=0.4), model, encoded)
    model.hf.train()

    def gradients():
        torch.manual_seed(5)
        loss, found = edited_loss(active, model, encoded[:4])
        return loss, found, torch.get_rng_state()

    plain = gradients()
    model.hf.gradient_checkpointing_enable({"use_reentrant": False})
    runs = []
    with pytest.MonkeyPatch.context() as patched:
        for block in model.hf.transformer.h:
            block.register_forward_pre_hook(lambda *_: runs.append(1))
            if whole:
                patched.setattr(block, "_gradient_checkpointing_func", lambda run, *a: run(*a))
        if whole:
            patched.setattr(type(model.hf.transformer.h[0]), "__call__", _checkpointed_call)
        saved = gradients()
    assert all(block.gradient_checkpointing for block in model.hf.transformer.h)
    assert len(runs) == (9 if whole else 6)  # unedited, edited, and edited again
    assert torch.equal(saved[2], plain[2])
    torch.testing.assert_close(saved[0], plain[0])
    close(saved[1], plain[1])


def _checkpointed_call(block, *args, **kwargs):
    call = partial(nn.Module.__call__, block, **kwargs)
    if block.gradient_checkpointing and block.training:
        return checkpoint(call, *args, use_reentrant=False)
    return call(*args)


def test_the_unedited_forward_draws_the_masks_of_the_edited_one(
    make_model, plain_stream, arrows, examples
):
    model = make_model()
    items = [encode_example(model, example) for example in examples[:1]]
    active = begin(Ablate(arrows, strength=0.4), model, items)
    model.hf.train()
    torch.manual_seed(5)
    stream = plain_stream(model.hf, torch.tensor([items[0].ids]))[1:]
    after = torch.get_rng_state()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    active.before_forward(model, items)
    assert torch.equal(torch.get_rng_state(), before) and not torch.equal(after, before)
    for layer in range(3):
        clean = stream[layer] @ arrows.unit[arrows.layers.index(layer)].float()
        torch.testing.assert_close(active.hooks.coordinates[0, layer], clean)


@pytest.fixture
def train(lineage, tune, weights_of):
    """Train a fresh copy of the aligned model without dropout; return weights and state."""

    def run(intervention=None, dropout=False, **options):
        model = lineage.load_model(lineage.aligned)
        if not dropout:
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
        tuning = tune(model, intervention=intervention, **{"steps": 3, **options})
        records = list(tuning)
        return weights_of(model), tuning.state(), records

    return run


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def gradient(state):
    """AdamW's first moment after step 1, without clipping, is a tenth of the gradient."""
    return torch.cat([value.flatten() for name, value in state.items() if "exp_avg/" in name]) * 10


@pytest.mark.parametrize("kind", KINDS)
def test_micro_batches_add_up_to_the_batch(train, directions, kind):
    setting, options = KINDS[kind](directions), {"steps": 1, "clip": None, "batch_size": 5}
    whole = gradient(train(setting, **options)[1])
    parts = gradient(train(setting, accumulation=2, **options)[1])
    torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-5 * float(whole.abs().max()))
    assert (gradient(train(**options)[1]) - whole).norm() > 1e-3 * whole.norm()


@pytest.mark.parametrize("kind", [Ablate, Steer, Cap])
def test_strength_zero_is_ordinary_fine_tuning_bit_for_bit(train, directions, kind):
    weights, state, records = train(dropout=True)
    off_weights, off_state, off_records = train(kind(directions, strength=0.0), dropout=True)
    assert same(weights, off_weights)
    assert state.keys() == off_state.keys()
    assert [r.to_json() for r in records] == [r.to_json() for r in off_records]
    on_weights, on_state, _ = train(kind(directions, strength=0.5), dropout=True)
    assert not same(weights, on_weights)
    assert torch.equal(on_state["dropout"], state["dropout"])  # the stream is not shifted


def test_steering_and_a_penalty_act_together_each_in_its_own_forward(train, directions, splits):
    steering = Steer(directions, strength=1.0)
    push = Push(directions, strength=2.0, probes=splits[1])
    found = {}
    for name, several in {
        "none": None,
        "steer": steering,
        "push": push,
        "both": [steering, push],
    }.items():
        _, state, records = train(several, steps=1, clip=None)
        found[name] = gradient(state)
    penalty = found["push"] - found["none"]
    # Probes are read without the edit: steering leaves the penalty's gradient as it was.
    torch.testing.assert_close(
        found["both"] - found["steer"], penalty, rtol=1e-3, atol=1e-5 * float(penalty.abs().max())
    )
    assert (found["steer"] - found["none"]).norm() > 1e-2 < penalty.norm()
    assert set(records[0].auxiliary) == {"push"}


def test_the_trained_model_is_used_without_the_edit(lineage, tune, directions, tokens, weights_of):
    model, other = (lineage.load_model(lineage.aligned) for _ in range(2))
    for _ in tune(model, intervention=Steer(directions, strength=2.0), steps=2):
        other.hf.load_state_dict(model.hf.state_dict())
        assert torch.equal(model(tokens), other(tokens))
    assert not same(weights_of(model), weights_of(lineage.load_model(lineage.aligned)))


def test_a_resumed_run_continues_to_the_same_bits(lineage, tune, directions, weights_of):
    setting = Ablate(directions, strength=0.5)
    model = lineage.load_model(lineage.aligned)
    tuning = tune(model, intervention=setting, steps=4)
    steps = iter(tuning)
    next(steps), next(steps)
    state = {name: value.clone() for name, value in tuning.state().items()}
    list(steps)
    other = lineage.load_model(lineage.aligned)
    resumed = tune(other, intervention=setting, steps=4)
    resumed.load_state(state)
    assert len(list(resumed)) == 2
    assert same(weights_of(model), weights_of(other))


def test_edits_need_the_model_that_their_directions_start_from(lineage, tune, directions):
    elsewhere = lineage.load_model(lineage.witness)
    for kind in (Ablate, Steer, Cap):
        with pytest.raises(ProvenanceError, match="start from weights"):
            tune(elsewhere, intervention=kind(directions, strength=1.0))


def test_settings_that_make_no_sense_are_refused(directions):
    for kind in (Ablate, Cap):
        with pytest.raises(ConfigError, match="must not be negative"):
            kind(directions, strength=-0.1)
    assert as_list(Steer(directions, strength=-0.1))
    for kind in (Ablate, Steer, Cap):
        for strength in (float("nan"), float("inf")):
            with pytest.raises(ConfigError, match=f"{kind.name}: strength"):
                kind(directions, strength=strength)
        with pytest.raises(ConfigError, match="positions is 'last'; it must be one of"):
            kind(directions, strength=1.0, positions="last")
        with pytest.raises(LayerError, match=r"no directions at layers \[9\]"):
            kind(directions, strength=1.0, layers=(9,))
        setting = kind(directions, strength=1.0, layers=(2, 0))
        assert setting.sources == (directions,)
        assert setting.describe()["layers"] == [2, 0]
        assert setting == replace(setting)
    with pytest.raises(ConfigError, match=r"quantile is 1\.5"):
        Cap(directions, quantile=1.5)
