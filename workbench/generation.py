"""Greedy answers to prompts, in batches."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import GenerationConfig

from workbench.blocks import plain_model
from workbench.chat_formats import turn_ends
from workbench.encoding import Encoded, decode, encode, fill_token, warn_of_cuts
from workbench.errors import ConfigError
from workbench.losses import response_logits
from workbench.models import GuestModel, HookedModel
from workbench.modes import evaluation_mode

PROMPTS_PER_BATCH = 128
DRAFTED_TOKENS_PER_BATCH = 512
"""All of whose logits are there at once."""

Tokens = Sequence[int]


@dataclass(frozen=True)
class Answer:
    """What a model said."""

    text: str
    finished: bool
    """Whether it ended by itself rather than at the token limit."""

    tokens: tuple[int, ...] = field(default=(), compare=False, repr=False)
    """What it wrote, with the token that ended it."""


def answer(
    model: HookedModel | GuestModel, prompts: Sequence[str], *, max_new_tokens: int = 32
) -> list[Answer]:
    """Return the greedy answer to each prompt; hooks that are open on the model act on it.

    Raises:
        ProbeError: If a prompt is longer than the model's context.
        ConfigError: If the model is a guest; TransformerLens models generate with their own method.
    """
    if not isinstance(model, HookedModel):
        raise ConfigError("Answers need a Hugging Face model; load it by folder or hub id.")
    items = encode_prompts(model, prompts, max_new_tokens=max_new_tokens)
    return answer_encoded(model, items, max_new_tokens=max_new_tokens)


def encode_prompts(
    model: HookedModel, prompts: Sequence[str], *, max_new_tokens: int
) -> tuple[Encoded, ...]:
    """Return the tokens of prompts; one that must be cut is cut so that an answer has room."""
    room = min(max_new_tokens, model.cfg.n_ctx // 2)
    items = tuple(encode(model, prompt, room=room) for prompt in prompts)
    warn_of_cuts(model, items, "Prompts")
    return items


def answer_encoded(
    model: HookedModel,
    items: Sequence[Encoded],
    *,
    max_new_tokens: int,
    drafts: Sequence[Tokens] | None = None,
) -> list[Answer]:
    """Return the greedy answer to each prompt of `encode_prompts`.

    Args:
        model: Hooks that are open on it act.
        items: The prompts.
        max_new_tokens: Length of an answer.
        drafts: What each answer might be, such as that of a similar model. One forward tells how
            far it is right; only from there on it is written token by token. Wrong drafts cost
            time and change no answer but by rounding: that forward and the cache of a generation
            can disagree where two tokens are as good as equal, in half precision now and then.
            Whatever is open on the model must act on every token alike.
    """
    encoded = [item.ids for item in items]
    rooms = [min(max_new_tokens, model.cfg.n_ctx - len(ids)) or 1 for ids in encoded]
    ends = _end_tokens(model)
    with model.lock:  # all answers are of the same weights
        written: list[tuple[int, ...]] = [() for _ in items]
        if drafts is not None and model.pads_left:
            cut = [tuple(draft[:room]) for draft, room in zip(drafts, rooms, strict=True)]
            written = _as_far_as_right(model, encoded, cut, ends)
        left = [room - len(done) for room, done in zip(rooms, written, strict=True)]
        open_ = [index for index, done in enumerate(written) if left[index] and not ends & {*done}]
        prompts = {index: (*encoded[index], *written[index]) for index in open_}
        for indices, room in _batches(prompts, left, model):
            batch = [prompts[index] for index in indices]
            added = generate(model, batch, room, ends).sequences[:, max(map(len, batch)) :]
            for index, tokens in zip(indices, added.tolist(), strict=True):
                new = tokens[: left[index]]
                written[index] += tuple(new[: _length(new, ends)])
    return [_answer(model, tokens, ends) for tokens in written]


def generate(
    model: HookedModel, batch: Sequence[Tokens], room: int, ends: set[int], **more: Any
) -> Any:
    """Return what transformers generates greedily after a batch of prompts: `.sequences` and more.

    The new tokens follow the prompt's end, so it pads on the left, with a mask.

    Args:
        model: Hooks that are open on it act.
        batch: Token ids of each prompt.
        room: Number of new tokens.
        ends: Tokens that end an answer.
        **more: Of `GenerationConfig`.
    """
    fill, device = fill_token(model), model.cfg.device
    settings = GenerationConfig(
        max_new_tokens=room,
        do_sample=False,
        pad_token_id=fill,
        eos_token_id=sorted(ends) or None,
        return_dict_in_generate=True,
        **more,
    )
    tokens, mask = pad_left(batch, fill)
    with evaluation_mode(model), _no_defaults(model):
        # PreTrainedModel declares no generate; causal language models have it by a mixin.
        return model.hf.generate(  # type: ignore[reportCallIssue]
            input_ids=tokens.to(device), attention_mask=mask.to(device), generation_config=settings
        )


def pad_left(
    batch: Sequence[Tokens], fill: int
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Return left-padded tokens and their mask."""
    longest = max(map(len, batch))
    tokens = torch.tensor([[*[fill] * (longest - len(ids)), *ids] for ids in batch])
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in batch])
    return tokens, mask


def _batches(
    prompts: dict[int, tuple[int, ...]], rooms: Sequence[int], model: HookedModel
) -> Iterator[tuple[list[int], int]]:
    """Numbers of prompts in batches of similar length, and how many tokens may follow them all.

    Where the context has no room for as many as some other may write, the room is their own.
    """
    most = max((rooms[index] for index in prompts), default=0)

    def kind(index: int) -> tuple[int, int]:
        length = len(prompts[index])
        room = most if length + most <= model.cfg.n_ctx else rooms[index]
        return room, 0 if model.pads_left else length

    order = sorted(prompts, key=lambda index: len(prompts[index]))
    for (room, _), group in groupby(order, kind):
        indices = list(group)
        for start in range(0, len(indices), PROMPTS_PER_BATCH):
            batch = indices[start : start + PROMPTS_PER_BATCH]
            yield batch, min(room, max(rooms[index] for index in batch))


def _as_far_as_right(
    model: HookedModel,
    prompts: Sequence[Tokens],
    drafts: Sequence[tuple[int, ...]],
    ends: set[int],
) -> list[tuple[int, ...]]:
    """What the model writes as far as that is the draft, and the first token that is not."""
    right: list[tuple[int, ...]] = [() for _ in prompts]
    drafted = [index for index, draft in enumerate(drafts) if draft]
    drafted.sort(key=lambda index: len(prompts[index]) + len(drafts[index]))
    size = max(1, DRAFTED_TOKENS_PER_BATCH // max(map(len, drafts), default=1))
    for start in range(0, len(drafted), size):
        batch = drafted[start : start + size]
        items = [Encoded((*prompts[i], *drafts[i]), len(prompts[i])) for i in batch]
        with evaluation_mode(model):
            best = response_logits(model, items).argmax(dim=-1).cpu()
        parts = best.split([len(drafts[index]) for index in batch])
        for index, tokens in zip(batch, parts, strict=True):
            own, draft = tokens.tolist(), drafts[index]
            places = range(len(draft))
            differs = next((place for place in places if own[place] != draft[place]), len(draft))
            told = own[: differs + 1]
            right[index] = tuple(told[: _length(told, ends)])
    return right


def _length(tokens: Sequence[int], ends: set[int]) -> int | None:
    """How many tokens there are up to the one that ends them, that included; None: all."""
    return next((place + 1 for place, token in enumerate(tokens) if token in ends), None)


def _answer(model: HookedModel, tokens: tuple[int, ...], ends: set[int]) -> Answer:
    finished = bool(tokens) and tokens[-1] in ends
    said = list(tokens[:-1] if finished else tokens)
    text = decode(model, said, skip_special_tokens=True)
    return Answer(text.strip(), finished, tokens)


def _end_tokens(model: HookedModel) -> set[int]:
    """Tokens that end an answer: those that end a turn, and those that the checkpoint names."""
    named = getattr(plain_model(model.hf).generation_config, "eos_token_id", None)
    several = named if isinstance(named, list) else [named]
    inside = {token for token in several if token is not None and token < model.cfg.d_vocab}
    return turn_ends(model) | inside


@contextmanager
def _no_defaults(model: HookedModel) -> Iterator[None]:
    """Keep the checkpoint's own defaults, such as a repetition penalty, out of greedy answers."""
    plain = plain_model(model.hf)  # where PEFT looks, too
    own = plain.generation_config
    plain.generation_config = GenerationConfig()
    try:
        yield
    finally:
        plain.generation_config = own
