"""Greedy decoding: a loop of one's own, with and without a cache, in batches and one by one."""

from collections.abc import Collection, Sequence

import torch
from transformers import DynamicCache, GenerationConfig

from prototypes.bench import Bench
from prototypes.setting import ORGANISM, make_hf, make_items, mixed_lengths, organism
from workbench.encoding import encode
from workbench.probes import ProbeSet

Prompts = Sequence[Sequence[int]]


def left_padded(prompts: Prompts) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and mask; the prompts end together."""
    longest = max(map(len, prompts))
    tokens = torch.tensor([[*[0] * (longest - len(ids)), *ids] for ids in prompts])
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts])
    return tokens, mask


def places_of(mask: torch.Tensor) -> torch.Tensor:
    """Positions that do not count padding."""
    return (mask.cumsum(dim=-1) - 1).clamp_min(0)


@torch.no_grad()
def generated(hf, prompts: Prompts, room: int, ends: Collection[int]) -> list[list[int]]:
    """By `generate`; an answer stops before its end."""
    tokens, mask = left_padded(prompts)
    settings = GenerationConfig(
        max_new_tokens=room, do_sample=False, pad_token_id=0, eos_token_id=sorted(ends) or None
    )
    output = hf.generate(input_ids=tokens, attention_mask=mask, generation_config=settings)
    return [_before_end(row, ends) for row in output[:, tokens.shape[1] :].tolist()]


@torch.no_grad()
def looped(
    hf, prompts: Prompts, room: int, ends: Collection[int], *, drop: bool = False
) -> list[list[int]]:
    """By a loop with a cache; with `drop`, rows that have ended leave the batch."""
    decoder, head = hf.get_decoder(), hf.lm_head
    tokens, mask = left_padded(prompts)
    cache, stop = DynamicCache(config=hf.config), torch.tensor(sorted(ends) or [-1])
    said: list[list[int]] = [[] for _ in prompts]
    rows, places = torch.arange(len(prompts)), places_of(mask)
    ended = torch.zeros(len(prompts), dtype=torch.bool)
    for _ in range(room):
        stream = decoder(
            input_ids=tokens, attention_mask=mask, position_ids=places, past_key_values=cache,
            use_cache=True,
        ).last_hidden_state  # fmt: skip
        chosen = head(stream[:, -1]).argmax(dim=-1)
        for row, token in zip(rows.tolist(), chosen.tolist(), strict=True):
            said[row].append(token)
        ended |= torch.isin(chosen, stop)
        if ended.all():
            break
        places = places[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        tokens = chosen[:, None]
        if drop and ended.any():
            left = (~ended).nonzero()[:, 0]
            cache.batch_select_indices(left)
            rows, places, mask, tokens, ended = (
                x[left] for x in (rows, places, mask, tokens, ended)
            )
    return [_before_end(row, ends) for row in said]


@torch.no_grad()
def uncached(hf, prompts: Prompts, room: int, ends: Collection[int]) -> list[list[int]]:
    """By a loop that reads all again for every token."""
    tokens, mask = left_padded(prompts)
    start, stop = tokens.shape[1], torch.tensor(sorted(ends) or [-1])
    for _ in range(room):
        stream = hf.get_decoder()(
            input_ids=tokens, attention_mask=mask, position_ids=places_of(mask), use_cache=False
        ).last_hidden_state
        chosen = hf.lm_head(stream[:, -1]).argmax(dim=-1)
        tokens = torch.cat([tokens, chosen[:, None]], dim=1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        if torch.isin(tokens[:, start:], stop).any(dim=1).all():
            break
    return [_before_end(row, ends) for row in tokens[:, start:].tolist()]


def one_by_one(hf, prompts: Prompts, room: int, ends: Collection[int]) -> list[list[int]]:
    """By `generate`, a prompt at a time."""
    return [generated(hf, [prompt], room, ends)[0] for prompt in prompts]


def dropping(hf, prompts: Prompts, room: int, ends: Collection[int]) -> list[list[int]]:
    """By a loop that lets go of what has ended."""
    return looped(hf, prompts, room, ends, drop=True)


def _before_end(row: list[int], ends: Collection[int]) -> list[int]:
    length = next((place for place, token in enumerate(row) if token in ends), len(row))
    return row[:length]


def held_out(model, name: str = "harmful") -> list[tuple[int, ...]]:
    """The organism's held-out prompts as tokens."""
    return [encode(model, one).ids for one in ProbeSet.load(ORGANISM / f"{name}.jsonl").prompts]


def decoding(bench: Bench) -> None:
    """Idea 10: ways of decoding against `generate` on the whole batch."""
    model = organism("helpful")
    cases = {"organism": (model.hf, held_out(model), 20, {2})}
    for size in bench.sizes("0.1M", "10M", "100M"):
        count = {"0.1M": 32, "10M": 12, "100M": 4}[size]
        prompts = [item.ids for item in make_items(mixed_lengths(count))]
        cases[size] = make_hf(size), prompts, 32, set()
    for name, case in cases.items():
        expected = generated(*case)
        for way in (one_by_one, uncached, looped, dropping):
            found = way(*case)
            same = sum(one == other for one, other in zip(found, expected, strict=True))
            bench.pair(
                f"{way.__name__.replace('_', ' ')} for generate, {len(case[1])} prompts, {name}",
                lambda way=way, case=case: way(*case), lambda case=case: generated(*case),
                told=f"{same} of {len(expected)} answers the same, "
                f"{sum(map(len, found)) / len(found):.0f} tokens each",
            )  # fmt: skip
