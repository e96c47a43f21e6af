"""The head runs at the tokens that are asked for, and gives what the whole of it gives there."""

import pytest
import torch
from families import VARIANTS

from workbench.encoding import encode
from workbench.heads import logits_at
from workbench.losses import response_losses


@pytest.fixture
def batch():
    """Three padded rows, and six places in them."""
    tokens = torch.randint(6, 60, (3, 9), generator=torch.Generator().manual_seed(4))
    mask = (torch.arange(9) < torch.tensor([[9], [6], [4]])).long()
    return tokens * mask, mask, torch.tensor([0, 0, 1, 2, 2, 0]), torch.tensor([1, 8, 5, 0, 3, 4])


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_of_some_tokens_are_those_of_the_whole_head(name, make_model, batch):
    model, (tokens, mask, rows, columns) = make_model(name), batch
    seen = []
    head = model.hf.get_output_embeddings()
    handle = head.register_forward_hook(lambda _, args, __: seen.append(args[0].shape[:-1].numel()))
    with torch.no_grad():
        some = logits_at(model, tokens, mask, rows, columns)
        whole = model(tokens, mask)
    handle.remove()
    torch.testing.assert_close(some, whole[rows, columns], atol=1e-4, rtol=1e-4)
    assert seen == [6, 27]  # in places, and whole


def test_what_is_put_on_the_head_is_gone_also_after_an_error(make_model, batch, monkeypatch):
    model, (tokens, mask, rows, columns) = make_model("gpt2"), batch
    head = model.hf.get_output_embeddings()
    logits_at(model, tokens, mask, rows, columns)
    assert not head._forward_pre_hooks
    monkeypatch.setattr(model.hf, "forward", None)
    with pytest.raises(TypeError):
        logits_at(model, tokens, mask, rows, columns)
    assert not head._forward_pre_hooks


def test_a_head_that_sees_something_else_than_the_stream_is_run_whole(make_model, batch):
    model, (tokens, mask, rows, columns) = make_model("gpt2"), batch
    expected = logits_at(model, tokens, mask, rows, columns)
    head = model.hf.get_output_embeddings()
    run = head.forward
    # A head whose input is one long row; its logits come back as a batch.
    plain = model.hf.transformer.register_forward_hook(
        lambda _, __, out: out.__class__(
            last_hidden_state=out.last_hidden_state.flatten(0, 1)[None]
        )
    )
    head.forward = lambda resid: run(resid).unflatten(1, (3, 9))[0]
    assert torch.allclose(logits_at(model, tokens, mask, rows, columns), expected, atol=1e-5)
    plain.remove()


def test_gradients_flow_to_every_weight_as_through_the_whole_head(make_model, examples):
    model = make_model("llama-gqa")
    items = [encode(model, row["prompt"], row["response"]) for row in examples]
    weights = list(model.hf.parameters())
    ours = torch.autograd.grad(response_losses(model, items).sum(), weights)
    total = 0.0
    for item in items:
        logits = model(torch.tensor([item.ids]))[0].log_softmax(-1)
        for place in range(item.prompt_length, len(item.ids)):
            total = total - logits[place - 1, item.ids[place]]
    for one, other in zip(ours, torch.autograd.grad(total, weights), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_without_a_head_to_find_the_logits_are_picked_afterwards(make_model, batch, monkeypatch):
    model, (tokens, mask, rows, columns) = make_model("gpt2"), batch
    expected = logits_at(model, tokens, mask, rows, columns)
    monkeypatch.setattr(model.hf, "get_output_embeddings", lambda: None)
    assert torch.allclose(logits_at(model, tokens, mask, rows, columns), expected, atol=1e-5)
