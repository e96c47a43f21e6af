"""Teacher-forced losses on response tokens, shared by fine-tuning and evaluation."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from workbench.encoding import Encoded, fill_token, pad, response_tokens
from workbench.heads import logits_at
from workbench.models import ReadableModel


def response_logits(model: ReadableModel, items: Sequence[Encoded]) -> Float[Tensor, "token vocab"]:
    """Return the logits that predict every response token, examples one after the other."""
    tokens, mask = pad(
        [item.ids for item in items], fill=fill_token(model), device=model.cfg.device
    )
    rows, columns = _places(items)
    # The token at a position is predicted by the logits of the one before.
    return logits_at(model, tokens, mask, rows, columns - 1).float()


def response_targets(items: Sequence[Encoded]) -> Tensor:
    """Return the response tokens in the order of `response_logits`."""
    return torch.tensor([token for item in items for token in item.ids[item.prompt_length :]])


def response_losses(model: ReadableModel, items: Sequence[Encoded]) -> Float[Tensor, " batch"]:
    """Return each example's cross-entropy, summed over its response tokens, in nats."""
    logits = response_logits(model, items)
    targets = response_targets(items).to(logits.device)
    losses = functional.cross_entropy(logits, targets, reduction="none")
    rows = _places(items)[0].to(logits.device)
    return torch.zeros(len(items), device=logits.device).index_add(0, rows, losses)


def _places(items: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
    """Row and column of every response token in the padded batch."""
    rows = [row for row, item in enumerate(items) for _ in range(response_tokens(item))]
    columns = [column for item in items for column in range(item.prompt_length, len(item.ids))]
    return torch.tensor(rows), torch.tensor(columns)
