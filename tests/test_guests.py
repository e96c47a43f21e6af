"""A user's own TransformerLens model can be read and edited, but not trained.

These run last, see `conftest.py`. They hold for TransformerLens 3.9, which still has
`HookedTransformer`, and for 4.x, which has the bridge alone.
"""

import pytest
import torch

from workbench.activations import read_activations, read_moments
from workbench.directions import fit_directions_from
from workbench.editing import intervene
from workbench.edits import ablate, cap, steer
from workbench.encoding import encode
from workbench.errors import CheckpointError, ConfigError
from workbench.finetune import FineTuning
from workbench.judges import Judge
from workbench.loading import load_model
from workbench.models import GuestModel, resid_post
from workbench.modes import evaluation_mode
from workbench.readout import read_vocabulary

pytestmark = pytest.mark.transformer_lens_3


@pytest.fixture(scope="module", params=["gpt2", "gpt-neox", "llama-gqa", "qwen2"])
def pair(request, make_model):
    """A hooked model and a bridge around a copy of its weights."""
    model = make_model(request.param)
    return model, load_model(model.to_bridge())


def close(ours, theirs):
    # The bridge computes attention eagerly and the projections of fused QKV apart.
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)


def test_a_bridge_is_taken_as_a_guest(pair):
    model, guest = pair
    assert isinstance(guest, GuestModel)
    assert load_model(guest) is guest
    sizes = [(m.cfg.n_layers, m.cfg.d_model, m.cfg.d_vocab, m.cfg.n_ctx) for m in pair]
    assert sizes[0] == sizes[1]
    assert guest.tokenizer.get_vocab() == model.tokenizer.get_vocab()


@pytest.mark.parametrize("position", [-1, "prompt_mean"])
def test_a_bridge_is_read_as_the_model_itself(pair, probes, position):
    model, guest = pair
    close(
        read_activations(guest, probes, position=position),
        read_activations(model, probes, position=position),
    )
    moments = read_moments(guest, probes, position=position)
    close(moments.mean, read_moments(model, probes, position=position).mean)


def test_an_edit_changes_the_logits_of_a_bridge_as_of_the_model_itself(pair, tokens):
    shift = torch.linspace(-1, 1, 32)
    edit = [(resid_post(1), lambda resid, hook: resid + shift)]  # noqa: ARG005
    logits, plain = [], []
    for one in pair:
        with torch.no_grad():
            plain.append(one(tokens))
            with one.hooks(fwd_hooks=edit):
                logits.append(one(tokens))
    close(logits[1], logits[0])
    close(plain[1], plain[0])
    assert (logits[0] - plain[0]).abs().max() > 0.01


def test_the_vocabulary_readout_of_a_bridge_is_that_of_the_model_itself(pair, probes):
    judge = Judge("mine", lambda prompt, answer: "comply", ("bako",), ("delu",))  # noqa: ARG005
    acts = read_activations(pair[0], probes)
    directions = fit_directions_from(acts + torch.linspace(-1, 1, 32), acts)
    ours, theirs = (read_vocabulary(one, directions, judge=judge, top=64) for one in pair)
    close(torch.tensor(ours.preference), torch.tensor(theirs.preference))
    for one, other in zip(ours.top, theirs.top, strict=True):
        changes = [{token.id: token.change for token in tokens} for tokens in (one, other)]
        assert changes[1] == pytest.approx(changes[0], abs=1e-3)
    assert abs(ours.preference).max() > 0.01


@pytest.mark.parametrize("positions", ["all", "last"])
def test_a_bridge_is_ablated_steered_and_capped_as_the_model_itself(pair, tokens, positions):
    witness, aligned = torch.randn(2, 3, 6, 32, dtype=torch.float64)
    arrows = fit_directions_from(witness + 1, aligned)
    mask = torch.ones_like(tokens)
    mask[0, 5:] = 0
    real = mask.bool()
    for edit in (
        ablate(arrows, strength=0.4, positions=positions),
        steer(arrows, strength=0.5, positions=positions),
        cap(arrows, positions=positions, ceiling=torch.zeros(3)),
    ):
        logits = []
        for one in pair:
            with torch.no_grad(), intervene(one, edit):
                logits.append(one(tokens, mask)[real])
        close(logits[1], logits[0])
        with torch.no_grad():
            assert (logits[1] - pair[1](tokens, mask)[real]).abs().max() > 1e-2


def test_a_bridge_with_a_cache_or_text_is_not_edited_by_guess(pair, tokens):
    _, guest = pair
    arrows = fit_directions_from(*torch.randn(2, 3, 6, 32, dtype=torch.float64))
    partly = ablate(arrows, strength=0.4, positions="all")
    with intervene(guest, partly):
        with pytest.raises(ConfigError, match="or run without a cache"):
            guest.lens.generate(tokens, max_new_tokens=2, verbose=False, use_past_kv_cache=True)
        guest.lens.generate(tokens, max_new_tokens=2, verbose=False, use_past_kv_cache=False)
    last = steer(arrows, strength=0.4, positions="last")
    with intervene(guest, last), pytest.raises(ConfigError, match="padded out of sight"):
        guest.lens(["bako", "bako delu"])


def test_a_guest_gets_its_mode_back(pair):
    _, guest = pair
    guest.lens.train()
    modes = [module.training for module in guest.lens.modules()]
    with evaluation_mode(guest):
        assert not any(module.training for module in guest.lens.modules())
    assert [module.training for module in guest.lens.modules()] == modes
    guest.lens.eval()


def test_a_bridge_is_not_trained(pair, examples):
    _, guest = pair
    with pytest.raises(
        ConfigError, match=r"read and edited but not trained.*load the Hugging Face"
    ):
        FineTuning(guest, examples)
    with pytest.raises(ConfigError, match="not trained"):
        FineTuning(guest.lens, examples)


def test_the_bridge_is_a_copy(make_model, tokens):
    model = make_model("gpt-neox")
    bridge = model.to_bridge()
    before = model(tokens)
    with torch.no_grad():
        for parameter in bridge.parameters():
            parameter.zero_()
    assert torch.equal(model(tokens), before)


def test_a_guest_keeps_its_own_fingerprint(pair):
    model, guest = pair
    before = guest.fingerprint()
    assert guest.fingerprint() == before != model.fingerprint()
    name, weight = next(iter(guest.lens.named_parameters()))
    with torch.no_grad():
        weight[0] += 1e-3
    assert guest.fingerprint() != before, name
    with torch.no_grad():
        weight[0] -= 1e-3


def test_a_guest_without_tokenizer_is_refused(pair, monkeypatch):
    _, guest = pair
    monkeypatch.setattr(guest.lens, "tokenizer", None)
    with pytest.raises(CheckpointError, match="has no tokenizer: give it one first"):
        load_model(guest.lens)


def hooked_transformer(tokenizer):
    """A tiny `HookedTransformer`, where this TransformerLens has it."""
    try:
        from transformer_lens import HookedTransformer, HookedTransformerConfig
    except ImportError:
        pytest.skip("this TransformerLens has no HookedTransformer any more")
    torch.manual_seed(0)
    config = HookedTransformerConfig(
        n_layers=3, d_model=32, n_ctx=64, d_head=8, d_vocab=64, act_fn="gelu", device="cpu"
    )
    return HookedTransformer(config, tokenizer=tokenizer, move_to_device=False)


@pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning")
def test_a_hooked_transformer_is_read_and_edited(tokenizer, splits, tokens):
    lens = hooked_transformer(tokenizer)
    guest = load_model(lens)
    acts = read_activations(guest, splits[0])
    for prompt, reading in zip(splits[0].prompts, acts.unbind(dim=1), strict=True):
        ids = torch.tensor([encode(guest, prompt).ids])
        _, cache = lens.run_with_cache(ids, prepend_bos=False)
        expected = torch.stack([cache["resid_post", layer][0, -1] for layer in range(3)])
        torch.testing.assert_close(reading, expected, atol=1e-5, rtol=1e-5)
    edit = [(resid_post(1), lambda resid, hook: 0 * resid)]  # noqa: ARG005
    with torch.no_grad(), guest.hooks(fwd_hooks=edit):
        blank = guest(tokens)
    # Layer 2 sees zeros everywhere: all positions of all prompts predict the same.
    torch.testing.assert_close(blank, blank[:1, :1].expand_as(blank))
    assert guest(tokens).std(dim=1).max() > 1e-3
    with pytest.raises(ConfigError, match="not trained"):
        FineTuning(guest, [{"prompt": "bako", "response": "delu"}])


def test_guests_of_one_model_take_turns(pair):
    _, guest = pair
    assert GuestModel(guest.lens).lock is guest.lock
    with evaluation_mode(guest):
        assert guest.lock._owner is not None
    assert guest.lock._owner is None
