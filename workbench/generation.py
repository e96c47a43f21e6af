"""Greedy answers to prompts, in batches."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby

import torch
from transformers import GenerationConfig

from workbench.blocks import plain_model
from workbench.chat_formats import turn_ends
from workbench.encoding import decode, encode, fill_token, warn_of_cuts
from workbench.errors import ConfigError
from workbench.models import GuestModel, HookedModel
from workbench.modes import evaluation_mode

PROMPTS_PER_BATCH = 128


@dataclass(frozen=True)
class Answer:
    """What a model said."""

    text: str
    finished: bool
    """Whether it ended by itself rather than at the token limit."""


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
    room = min(max_new_tokens, model.cfg.n_ctx // 2)
    items = [encode(model, prompt, room=room) for prompt in prompts]
    warn_of_cuts(model, items, "Prompts")
    encoded = [item.ids for item in items]
    rooms = [min(max_new_tokens, model.cfg.n_ctx - len(ids)) or 1 for ids in encoded]
    answers: dict[int, Answer] = {}
    with model.lock:  # all answers are of the same weights
        for indices in _batches(encoded, rooms, mixed=model.pads_left):
            batch = [encoded[index] for index in indices]
            said = _answer_batch(model, batch, rooms[indices[0]])
            answers |= dict(zip(indices, said, strict=True))
    return [answers[index] for index in range(len(encoded))]


def _batches(
    encoded: Sequence[Sequence[int]], rooms: Sequence[int], *, mixed: bool
) -> Iterator[list[int]]:
    """Indices in batches of similar length and the same room, so that none cuts another short.

    Args:
        encoded: The prompts.
        rooms: How many tokens may follow each.
        mixed: Whether a batch may hold prompts of different lengths, and so padding.
    """
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
    for _, group in groupby(order, lambda i: (rooms[i], 0 if mixed else len(encoded[i]))):
        indices = list(group)
        for start in range(0, len(indices), PROMPTS_PER_BATCH):
            yield indices[start : start + PROMPTS_PER_BATCH]


def _answer_batch(model: HookedModel, batch: Sequence[Sequence[int]], room: int) -> list[Answer]:
    fill, ends = fill_token(model), _end_tokens(model)
    longest = max(map(len, batch))
    # The new tokens follow the prompt's end, so generation pads on the left, with a mask.
    tokens = torch.tensor([[*[fill] * (longest - len(ids)), *ids] for ids in batch])
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in batch])
    settings = GenerationConfig(
        max_new_tokens=room, do_sample=False, pad_token_id=fill, eos_token_id=ends or None
    )
    device = model.cfg.device
    with evaluation_mode(model), _no_defaults(model):
        # PreTrainedModel declares no generate; causal language models have it by a mixin.
        output = model.hf.generate(  # type: ignore[reportCallIssue]
            input_ids=tokens.to(device), attention_mask=mask.to(device), generation_config=settings
        )
    answers = []
    for row in output[:, longest:].tolist():
        length = next((place for place, token in enumerate(row) if token in ends), None)
        text = decode(model, row[:length], skip_special_tokens=True)
        answers.append(Answer(text.strip(), finished=length is not None))
    return answers


def _end_tokens(model: HookedModel) -> list[int]:
    """Tokens that end an answer: those that end a turn, and those that the checkpoint names."""
    named = getattr(plain_model(model.hf).generation_config, "eos_token_id", None)
    several = named if isinstance(named, list) else [named]
    inside = {token for token in several if token is not None and token < model.cfg.d_vocab}
    return sorted(turn_ends(model) | inside)


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
