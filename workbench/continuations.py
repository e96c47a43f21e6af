"""What a model loses on several continuations of a prompt, with the prompt run once."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from workbench.caches import is_plain
from workbench.conventions import positions_of
from workbench.encoding import Encoded, fill_token, pad, response_tokens
from workbench.generation import generate, pad_left
from workbench.heads import head_at
from workbench.losses import response_losses
from workbench.models import HookedModel
from workbench.modes import evaluation_mode
from workbench.reading import tokens_per_batch

Continuations = tuple[tuple[int, ...], list[int]]
"""A prompt, and which of the items continue it."""


def continuation_losses(
    model: HookedModel, items: Sequence[Encoded]
) -> Float[Tensor, " continuation"]:
    """Return each item's cross-entropy, summed over its response tokens, in nats, on the CPU.

    The prompt of several items is run once, with a cache; their responses follow it. Where a
    model's cache cannot be repeated (recurrences), the items are run whole. An edit that is open at
    the last token of each forward acts on the prompt's end and on that of the response.

    Args:
        model: Hooks that are open on it act.
        items: Prompts with their continuations, in any order.
    """
    losses = torch.zeros(len(items))
    with evaluation_mode(model):
        for batch in _batches(model, items):
            numbers = [number for _, own in batch for number in own]
            chosen = [items[number] for number in numbers]
            several = len(numbers) > len(batch) and all(map(response_tokens, chosen))
            found = _continued(model, batch, chosen) if several else None
            losses[numbers] = (response_losses(model, chosen) if found is None else found).cpu()
    return losses


def _batches(model: HookedModel, items: Sequence[Encoded]) -> Iterator[list[Continuations]]:
    """Prompts of similar length with their items, so that their caches fit a number of tokens."""
    most = tokens_per_batch(model.cfg.device)
    prompts: dict[tuple[int, ...], list[int]] = {}
    for number, item in enumerate(items):
        prompts.setdefault(item.ids[: item.prompt_length], []).append(number)
    ordered = sorted(prompts.items(), key=lambda one: len(one[0]))
    for _, group in groupby(ordered, lambda one: 0 if model.pads_left else len(one[0])):
        batch, rows = [], 0
        for prompt, numbers in group:
            widest = max(len(items[number].ids) for number in numbers)
            if batch and (rows + len(numbers)) * widest > most:
                yield batch
                batch, rows = [], 0
            batch.append((prompt, numbers))
            rows += len(numbers)
        yield batch


def _continued(
    model: HookedModel, batch: Sequence[Continuations], items: Sequence[Encoded]
) -> Float[Tensor, " continuation"] | None:
    """The losses of the items, prompt by prompt; None if the cache cannot be repeated."""
    said = [item.ids[item.prompt_length :] for item in items]
    prompts = [prompt for prompt, _ in batch]
    first = generate(model, prompts, 1, set(), output_logits=True)
    if not is_plain(first.past_key_values):
        return None
    repeats = torch.tensor([len(numbers) for _, numbers in batch])
    owners = torch.arange(len(batch)).repeat_interleave(repeats)
    begins = torch.tensor([tokens[0] for tokens in said])
    logits = first.logits[0].float().cpu()
    losses = functional.cross_entropy(logits[owners], begins, reduction="none")
    if max(map(len, said)) > 1:
        cache = first.past_key_values
        cache.batch_select_indices(owners)  # of the CPU: the cache may be on several devices
        mask = pad_left(prompts, fill_token(model))[1][owners].to(model.cfg.device)
        losses = losses + _rest(model, said, mask, cache).cpu()
    return losses


def _rest(
    model: HookedModel, said: Sequence[tuple[int, ...]], mask: Tensor, cache: Any
) -> Float[Tensor, " continuation"]:
    """The losses of all tokens but the first, after prompts that are in the cache."""
    device = mask.device
    tokens, own = pad([ids[:-1] or ids for ids in said], fill=fill_token(model), device=device)
    mask = torch.cat([mask, torch.ones_like(tokens) if own is None else own], dim=1)
    inputs: dict[str, Any] = {"input_ids": tokens, "attention_mask": mask, "use_cache": True}
    if model.places_tokens:
        inputs["position_ids"] = positions_of(mask)[:, -tokens.shape[1] :]
    rows = torch.tensor([row for row, ids in enumerate(said) for _ in ids[1:]])
    columns = torch.tensor([column for ids in said for column in range(len(ids) - 1)])
    targets = torch.tensor([token for ids in said for token in ids[1:]])
    with head_at(model, tokens, rows, columns) as pick:
        logits = pick(model.hf(**inputs, past_key_values=cache).logits).float()
    losses = functional.cross_entropy(logits, targets.to(logits.device), reduction="none")
    return torch.zeros(len(said)).index_add(0, rows, losses.cpu())
