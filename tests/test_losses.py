"""Teacher-forced losses count the tokens of the response and nothing else."""

import math

import pytest
import torch

from workbench.encoding import encode, response_tokens
from workbench.losses import response_logits, response_losses, response_targets


@pytest.fixture(scope="module")
def items(model, examples):
    return [encode(model, row["prompt"], row["response"]) for row in examples]


def naive_loss(model, item):
    """Hugging Face's own loss of one unpadded example, the prompt masked; mean over tokens."""
    ids = torch.tensor([item.ids])
    labels = ids.clone()
    labels[:, : item.prompt_length] = -100
    return model.hf(input_ids=ids, labels=labels).loss


def test_each_loss_is_hugging_faces_own_summed_over_the_response(model, items):
    with torch.no_grad():
        losses = response_losses(model, items)
        for item, loss in zip(items, losses, strict=True):
            expected = naive_loss(model, item) * response_tokens(item)
            torch.testing.assert_close(loss, expected, atol=2e-5, rtol=1e-5)
    assert losses.std() > 0.1


def test_the_end_of_the_response_is_predicted_too(model, items, examples):
    for item, row in zip(items, examples, strict=True):
        assert response_tokens(item) == len(row["response"].split()) + 1
        assert item.ids[-1] == model.tokenizer.eos_token_id


def test_logits_are_those_that_predict_each_response_token(model, items):
    with torch.no_grad():
        logits = response_logits(model, items)
        expected = [
            model(torch.tensor([item.ids]))[0, item.prompt_length - 1 : -1] for item in items
        ]
    torch.testing.assert_close(logits, torch.cat(expected), atol=2e-5, rtol=1e-5)
    targets = [token for item in items for token in item.ids[item.prompt_length :]]
    assert response_targets(items).tolist() == targets


def test_a_loss_does_not_depend_on_what_else_is_in_the_batch(model, items):
    with torch.no_grad():
        alone = torch.cat([response_losses(model, [item]) for item in items])
        torch.testing.assert_close(response_losses(model, items), alone, atol=2e-5, rtol=1e-5)


def test_gradients_are_those_of_the_naive_loss(make_model, items):
    model = make_model()
    weight = model.hf.transformer.h[1].mlp.c_fc.weight
    ours = torch.autograd.grad(response_losses(model, items).sum(), weight)[0]
    naive = sum(naive_loss(model, item) * response_tokens(item) for item in items)
    torch.testing.assert_close(ours, torch.autograd.grad(naive, weight)[0], atol=1e-4, rtol=1e-4)
    assert ours.abs().max() > 0.01


def test_a_model_that_knows_nothing_loses_the_log_of_the_vocabulary_per_token(make_model, items):
    model = make_model()
    with torch.no_grad():
        model.hf.transformer.ln_f.weight.zero_()
        model.hf.transformer.ln_f.bias.zero_()
        total = response_losses(model, items).sum().item()
    assert total == pytest.approx(math.log(64) * sum(map(response_tokens, items)), rel=1e-5)
