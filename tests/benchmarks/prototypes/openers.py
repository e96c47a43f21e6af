"""Probabilities of openers: the prompt once, then only the openers."""

from collections.abc import Sequence

import torch
from transformers import DynamicCache

from prototypes.bench import Bench
from prototypes.decoding import held_out, left_padded, places_of
from prototypes.setting import greatest, make_items, make_model, mixed_lengths, organism
from workbench.encoding import Encoded
from workbench.judges import find_judge
from workbench.losses import response_losses
from workbench.modes import evaluation_mode

Ids = Sequence[int]
ROWS = 64
"""Of a batch, as in an evaluation."""


def by_rows(model, prompts: Sequence[Ids], openers: Sequence[Ids]) -> torch.Tensor:
    """Log-probability of every opener after every prompt, [opener, prompt]: a row for each pair."""
    items = [Encoded((*ids, *opener), len(ids)) for opener in openers for ids in prompts]
    with evaluation_mode(model):
        parts = [response_losses(model, items[at : at + ROWS]) for at in range(0, len(items), ROWS)]
    return -torch.cat(parts).view(len(openers), len(prompts))


def by_cache(model, prompts: Sequence[Ids], openers: Sequence[Ids]) -> torch.Tensor:
    """The same; each prompt runs once, and its cache is repeated for the openers."""
    return _by_rows(_cached, model, prompts, openers)


def _by_rows(run, model, prompts: Sequence[Ids], openers: Sequence[Ids]) -> torch.Tensor:
    with evaluation_mode(model):
        starts = range(0, len(prompts), ROWS)
        found = [run(model.hf, prompts[start : start + ROWS], openers) for start in starts]
    return torch.cat(found, dim=1)


def _cached(hf, prompts: Sequence[Ids], openers: Sequence[Ids]) -> torch.Tensor:
    tokens, mask = left_padded(prompts)
    cache, count = DynamicCache(config=hf.config), len(openers)
    decoder, places = hf.get_decoder(), places_of(mask)
    stream = decoder(
        input_ids=tokens, attention_mask=mask, position_ids=places, past_key_values=cache,
        use_cache=True,
    ).last_hidden_state  # fmt: skip
    first = hf.lm_head(stream[:, -1]).float().log_softmax(dim=-1)
    total = first[:, [opener[0] for opener in openers]]
    width = max(map(len, openers)) - 1
    if not width:
        return total.T
    rest = torch.tensor([[*opener[:-1], *[0] * (width - len(opener) + 1)] for opener in openers])
    real = torch.tensor(
        [[1] * (len(opener) - 1) + [0] * (width - len(opener) + 1) for opener in openers]
    )
    cache.batch_repeat_interleave(count)
    stream = decoder(
        input_ids=rest.repeat(len(prompts), 1),
        attention_mask=torch.cat(
            [mask.repeat_interleave(count, 0), real.repeat(len(prompts), 1)], 1
        ),
        position_ids=(places[:, -1:] + 1 + torch.arange(width)).repeat_interleave(count, 0),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state.view(len(prompts), count, width, -1)
    for number, opener in enumerate(openers):
        logits = hf.lm_head(stream[:, number, : len(opener) - 1]).float()
        picks = logits.log_softmax(dim=-1)[:, torch.arange(len(opener) - 1), list(opener[1:])]
        total[:, number] += picks.sum(dim=1)
    return total.T


def by_branches(model, prompts: Sequence[Ids], openers: Sequence[Ids]) -> torch.Tensor:
    """The same; a row holds a prompt and all openers after it, which do not see each other."""
    return _by_rows(_branched, model, prompts, openers)


def _branched(hf, prompts: Sequence[Ids], openers: Sequence[Ids]) -> torch.Tensor:
    tokens, mask = left_padded(prompts)
    start, n, places = tokens.shape[1], len(prompts), places_of(mask)
    flat = [(number, place) for number, one in enumerate(openers) for place in range(len(one) - 1)]
    owner, depth = torch.tensor(flat).T if flat else torch.zeros(2, 0, dtype=torch.long)
    more = torch.tensor([openers[number][place] for number, place in flat], dtype=torch.long)
    width = start + len(flat)
    sees = torch.zeros(n, width, width, dtype=torch.bool)
    sees[:, :start, :start] = (
        torch.ones(start, start, dtype=torch.bool).tril() & mask[:, None].bool()
    )
    sees[:, start:, :start] = mask[:, None].bool()
    sees[:, start:, start:] = (owner[:, None] == owner) & (depth[:, None] >= depth)
    sees |= torch.eye(width, dtype=torch.bool)  # padding sees itself, or its softmax is empty
    stream = hf.get_decoder()(
        input_ids=torch.cat([tokens, more.expand(n, -1)], 1),
        attention_mask=sees[:, None],
        position_ids=torch.cat([places, places[:, -1:] + 1 + depth], 1),
        use_cache=False,
    ).last_hidden_state[:, start - 1 :]
    log_p = hf.lm_head(stream).float().log_softmax(dim=-1)
    total = log_p[:, 0, [opener[0] for opener in openers]]
    for column, (number, place) in enumerate(flat, 1):
        total[:, number] += log_p[:, column, openers[number][place + 1]]
    return total.T


def openers(bench: Bench) -> None:
    """Idea 11: refusal log-odds with every prompt run once."""
    model = organism("aligned")
    ends: list[Ids] = [
        model.tokenizer.encode(one, add_special_tokens=False)
        for one in find_judge("organism").refusal_openers
    ]
    cases: dict[str, tuple] = {"organism": (model, held_out(model), ends)}
    for vocab in (1000, 50_000)[: 1 if bench.quick else 2]:
        for size in bench.sizes("0.1M", "10M", "100M"):
            count = {"0.1M": 32, "10M": 8, "100M": 2}[size]
            prompts = [item.ids for item in make_items(mixed_lengths(count), vocab)]
            told: list[Ids] = [
                item.ids for item in make_items([1, 2, 2, 3, 3, 4] * 3 + [3, 3], vocab, seed=1)
            ]
            cases[f"{size}, vocabulary {vocab}"] = make_model(size, vocab), prompts, told
    for name, case in cases.items():
        expected = by_rows(*case)
        for way in (by_cache, by_branches):
            bench.pair(
                f"{way.__name__.replace('_', ' ')} for a row per opener, "
                f"{len(case[2])} openers of {len(case[1])} prompts, {name}",
                lambda way=way, case=case: way(*case), lambda case=case: by_rows(*case),
                difference=greatest(way(*case), expected),
            )  # fmt: skip
