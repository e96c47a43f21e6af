"""From prompts and responses to token ids, once, the same for every use."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from workbench.errors import ProbeError
from workbench.models import ReadableModel

BUILTIN_PROMPT = "User: {prompt}\nAssistant:"
"""The built-in chat template, for models that bring none."""


@dataclass(frozen=True)
class Encoded:
    """Token ids of a prompt and, if there is one, its response."""

    ids: tuple[int, ...]
    prompt_length: int
    """Number of tokens before the response; the last of them chooses its first token."""


def encode(model: ReadableModel, prompt: str, response: str | None = None) -> Encoded:
    """Return the token ids of a conversation turn in the model's chat format.

    The response, if given, ends with the end-of-sequence token.

    Raises:
        ProbeError: If the turn has no tokens or is longer than the model's context.
    """
    tokenizer = model.tokenizer
    ids = _prompt_ids(model, prompt)
    length = len(ids)
    if response is not None:
        blank = " " if model.chat == "builtin" else ""
        ids += tokenizer.encode(blank + response, add_special_tokens=False)
        if (end := special_token(tokenizer, "eos")) is not None:
            ids.append(end)
    return _checked(model, ids, length, prompt)


def encode_text(model: ReadableModel, text: str) -> Encoded:
    """Return the token ids of plain text, all of it to be predicted after the first token."""
    ids = model.tokenizer.encode(text, add_special_tokens=False)
    start, end = (special_token(model.tokenizer, role) for role in ("bos", "eos"))
    ids = ([] if start is None else [start]) + ids + ([] if end is None else [end])
    return _checked(model, ids, 1, text)


def encode_example(model: ReadableModel, example: Mapping[str, Any]) -> Encoded:
    """Return the token ids of a training example.

    Args:
        model: Whose tokenizer and chat format to use.
        example: `{"prompt", "response"}`, `{"messages": [user, assistant]}`, or `{"text"}` for
            plain language modelling.

    Raises:
        ProbeError: If the example is none of these, or too long.
    """
    if "messages" in example:
        return encode(model, *_user_and_assistant(example["messages"]))
    if isinstance(example.get("prompt"), str) and isinstance(example.get("response"), str):
        return encode(model, example["prompt"], example["response"])
    if isinstance(example.get("text"), str):
        return encode_text(model, example["text"])
    raise ProbeError(
        "An example needs 'prompt' and 'response', 'messages', or 'text' (strings); "
        f"this one has {sorted(example)}."
    )


def encode_examples(
    model: ReadableModel, examples: Sequence[Mapping[str, Any]], kind: str
) -> list[Encoded]:
    """Return the token ids of training examples.

    Args:
        model: As in `encode_example`.
        examples: As in `encode_example`.
        kind: What to call one of them in an error.

    Raises:
        ProbeError: If one cannot be encoded or has no response to learn from; it says which.
    """
    encoded = []
    for number, example in enumerate(examples):
        try:
            item = encode_example(model, example)
        except ProbeError as error:
            raise ProbeError(f"{kind} {number}: {error}") from error
        if response_tokens(item) == 0:
            raise ProbeError(f"{kind} {number} has no response tokens to learn from.")
        encoded.append(item)
    return encoded


def examples_hash(encoded: Sequence[Encoded]) -> str:
    """Return the SHA-256 of training examples in order, as the model reads them."""
    digest = hashlib.sha256()
    for item in encoded:
        digest.update(f"{item.prompt_length}:{item.ids};".encode())
    return digest.hexdigest()


def response_tokens(item: Encoded) -> int:
    """Return how many tokens of `item` are predicted: those of its response."""
    return len(item.ids) - item.prompt_length


def pad(
    sequences: Sequence[Sequence[int]], *, fill: int, device: torch.device
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"] | None]:
    """Return right-padded tokens and their attention mask, or no mask if nothing was padded.

    Right padding leaves every real token what it is without padding in a causal model.
    """
    longest = max(map(len, sequences))
    tokens = torch.tensor(
        [[*ids, *[fill] * (longest - len(ids))] for ids in sequences], device=device
    )
    if min(map(len, sequences)) == longest:
        return tokens, None
    lengths = torch.tensor([len(ids) for ids in sequences], device=device)
    mask = torch.arange(longest, device=device)[None] < lengths[:, None]
    return tokens, mask.long()


def fill_token(model: ReadableModel) -> int:
    """Return the token to pad with; its value is never read."""
    for role in ("pad", "eos"):
        token = special_token(model.tokenizer, role)
        if token is not None and token < model.cfg.d_vocab:
            return token
    return 0


def special_token(
    tokenizer: PreTrainedTokenizerBase, role: Literal["bos", "eos", "pad", "unk"]
) -> int | None:
    """Return the id of a special token, if there is one; transformers declares other types too."""
    return getattr(tokenizer, f"{role}_token_id")


def decode(model: ReadableModel, ids: list[int], *, skip_special_tokens: bool = False) -> str:
    """Return the text of some tokens."""
    text = model.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
    assert isinstance(text, str), "several texts come of several lists only"
    return text


def _user_and_assistant(turns: Any) -> list[str]:
    if isinstance(turns, Sequence) and all(isinstance(turn, Mapping) for turn in turns):
        contents = [turn.get("content") for turn in turns]
        roles = [turn.get("role") for turn in turns]
        if roles == ["user", "assistant"] and all(isinstance(text, str) for text in contents):
            return contents
    raise ProbeError(
        "Messages must be one user and one assistant turn, each with a string under 'content', "
        f"not {str(turns)[:80]}."
    )


def _prompt_ids(model: ReadableModel, prompt: str) -> list[int]:
    tokenizer = model.tokenizer
    if model.chat == "tokenizer":
        if not tokenizer.chat_template:
            raise ProbeError("chat = 'tokenizer', but the tokenizer has no chat template.")
        turn = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        assert isinstance(text, str), "not tokenized"
        return tokenizer.encode(text, add_special_tokens=False)
    text = prompt if model.chat == "none" else BUILTIN_PROMPT.format(prompt=prompt)
    ids = tokenizer.encode(text, add_special_tokens=False)
    start = special_token(tokenizer, "bos")
    return ids if start is None else [start, *ids]


def _checked(model: ReadableModel, ids: list[int], length: int, text: str) -> Encoded:
    if len(ids) == 0 or length == 0:
        raise ProbeError(f"No tokens in {text[:60]!r}.")
    if len(ids) > model.cfg.n_ctx:
        raise ProbeError(
            f"{len(ids)} tokens in {text[:60]!r}, but the model reads {model.cfg.n_ctx}: "
            "shorten it."
        )
    return Encoded(tuple(ids), length)
