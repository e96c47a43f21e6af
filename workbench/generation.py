"""Greedy answers to prompts, in batches."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import GenerationConfig

from workbench.encoding import encode, fill_token
from workbench.errors import ConfigError
from workbench.models import HookedModel, evaluation_mode

PROMPTS_PER_BATCH = 128


@dataclass(frozen=True)
class Answer:
    """What a model said."""

    text: str
    finished: bool
    """Whether it ended by itself rather than at the token limit."""


def answer(
    model: HookedModel, prompts: Sequence[str], *, max_new_tokens: int = 32
) -> list[Answer]:
    """Return the greedy answer to each prompt; hooks that are open on the model act on it.

    Raises:
        ProbeError: If a prompt is longer than the model's context.
        ConfigError: If the model is a guest; TransformerLens models generate with their own method.
    """
    if not isinstance(model, HookedModel):
        raise ConfigError("Answers need a Hugging Face model; load it by folder or hub id.")
    encoded = [encode(model, prompt).ids for prompt in prompts]
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
    answers: dict[int, Answer] = {}
    for start in range(0, len(order), PROMPTS_PER_BATCH):
        indices = order[start : start + PROMPTS_PER_BATCH]
        batch = [encoded[index] for index in indices]
        for index, said in zip(indices, _answer_batch(model, batch, max_new_tokens), strict=True):
            answers[index] = said
    return [answers[index] for index in range(len(encoded))]


def _answer_batch(
    model: HookedModel, batch: Sequence[Sequence[int]], max_new_tokens: int
) -> list[Answer]:
    fill, end = fill_token(model), model.tokenizer.eos_token_id
    longest = max(map(len, batch))
    # The new tokens follow the prompt's end, so generation pads on the left, with a mask.
    tokens = torch.tensor([[*[fill] * (longest - len(ids)), *ids] for ids in batch])
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in batch])
    settings = GenerationConfig(
        max_new_tokens=min(max_new_tokens, model.cfg.n_ctx - longest) or 1,
        do_sample=False,
        pad_token_id=fill,
        eos_token_id=end,
    )
    device = model.cfg.device
    with evaluation_mode(model):
        output = model.hf.generate(
            input_ids=tokens.to(device), attention_mask=mask.to(device), generation_config=settings
        )
    answers = []
    for row in output[:, longest:].tolist():
        finished = end in row
        said = row[: row.index(end)] if finished else row
        text = model.tokenizer.decode(said, skip_special_tokens=True)
        answers.append(Answer(text.strip(), finished))
    return answers
