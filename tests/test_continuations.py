"""Continuations of a prompt lose what they lose when each is run whole, in every family."""

import pytest
import torch
from families import VARIANTS

from workbench import continuations
from workbench.continuations import continuation_losses
from workbench.directions import fit_directions_from
from workbench.editing import intervene
from workbench.edits import ablate
from workbench.encoding import Encoded, encode
from workbench.losses import response_losses

RECURRENT = ("qwen3-next", "falcon-h1", "lfm2", "jamba", "mamba", "recurrent-gemma")
"""Families whose caches cannot be repeated."""


def items_of(model, sentence):
    """Three openers after each of four prompts of different length, opener by opener."""
    prompts = [sentence(number, words) for number, words in enumerate((9, 2, 5, 9))]
    openers = ("bako", "bako belu", "gina domi fura")
    return [encode(model, prompt, opener) for opener in openers for prompt in prompts]


def naive(model, item):
    """One sequence, no padding, no cache, by Hugging Face's logits."""
    with torch.no_grad():
        logits = model.hf(input_ids=torch.tensor([item.ids]), use_cache=False).logits[0]
    log_probs = logits.log_softmax(-1)[item.prompt_length - 1 : -1]
    said = torch.tensor(item.ids[item.prompt_length :])
    return -log_probs[torch.arange(len(said)), said].sum()


@pytest.fixture
def whole(monkeypatch):
    """How many items were run whole."""
    run = []

    def counted(model, items):
        run.extend(items)
        return response_losses(model, items)

    monkeypatch.setattr(continuations, "response_losses", counted)
    return run


@pytest.mark.parametrize("name", VARIANTS)
def test_the_prompt_is_run_once_and_every_loss_is_that_of_the_whole(
    name, make_model, sentence, whole
):
    model = make_model(name)
    items = items_of(model, sentence)
    expected = torch.stack([naive(model, item) for item in items])
    found = continuation_losses(model, items)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)
    assert expected.std() > 0.1
    assert len(whole) == (len(items) if name in RECURRENT else 0)


def test_few_tokens_in_a_batch_change_nothing(make_model, sentence, monkeypatch, whole):
    model = make_model("llama-gqa")
    items = items_of(model, sentence)
    expected = continuation_losses(model, items)
    monkeypatch.setattr(continuations, "tokens_per_batch", lambda device: 1)  # noqa: ARG005
    torch.testing.assert_close(continuation_losses(model, items), expected, atol=1e-4, rtol=1e-5)
    assert not whole


def test_prompts_that_are_all_different_are_run_whole(make_model, sentence, whole):
    model = make_model("gpt2")
    items = items_of(model, sentence)[:3]
    expected = torch.stack([naive(model, item) for item in items])
    torch.testing.assert_close(continuation_losses(model, items), expected, atol=1e-4, rtol=1e-4)
    assert sorted(item.ids for item in whole) == sorted(item.ids for item in items)


def test_one_token_each_needs_no_second_forward(make_model, monkeypatch):
    model = make_model("gpt2")
    items = [Encoded((7, 8, 9, token), 3) for token in (10, 11)]
    expected = torch.stack([naive(model, item) for item in items])
    monkeypatch.setattr(continuations, "_rest", None)
    torch.testing.assert_close(continuation_losses(model, items), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama-gqa", "gemma2"])
@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_edits_reach_prompt_and_continuation(name, strength, make_model, sentence):
    model = make_model(name)
    items = items_of(model, sentence)
    witness, aligned = torch.randn(
        2, model.cfg.n_layers, 8, 32, generator=torch.Generator().manual_seed(11)
    )
    arrows = fit_directions_from(witness + 0.5, aligned)
    plain = continuation_losses(model, items)
    with intervene(model, ablate(arrows, strength=strength, positions="all")):
        edited = continuation_losses(model, items)
        with torch.no_grad():
            expected = torch.cat([response_losses(model, [item]) for item in items])
    torch.testing.assert_close(edited, expected, atol=1e-3, rtol=1e-4)
    assert (edited - plain).abs().max() > 0.05


def test_an_empty_continuation_loses_nothing(make_model, whole):
    model = make_model("gpt2")
    items = [Encoded((7, 8, 9), 3), Encoded((7, 8, 9, 10), 3)]
    found = continuation_losses(model, items)
    assert found[0] == 0
    assert found[1] == pytest.approx(float(naive(model, items[1])), rel=1e-4)
    assert whole == items
