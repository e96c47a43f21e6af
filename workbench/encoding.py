"""From prompts and responses to token ids, once, the same for every use."""

import hashlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from workbench.chat import Turns, check_characters, check_special, content_tokens
from workbench.chat_formats import (
    begun,
    content_place,
    plain_ids,
    prompt_ids,
    response_ids,
    special_token,
)
from workbench.errors import ProbeError
from workbench.models import ReadableModel


@dataclass(frozen=True)
class Encoded:
    """Token ids of a prompt and, if there is one, its response."""

    ids: tuple[int, ...]
    prompt_length: int
    """Number of tokens before the response; the last of them chooses its first token."""

    content: tuple[int, int] | None = field(default=None, compare=False)
    """First token of the user's own text, and the first after it; only where asked for."""

    cut: int = field(default=0, compare=False)
    """Number of tokens left out because the context has no room for them."""


def encode(
    model: ReadableModel,
    prompt: str | Turns,
    response: str | None = None,
    *,
    closed: bool = True,
    locate: bool = False,
    room: int = 0,
) -> Encoded:
    """Return the token ids of a conversation turn in the model's chat format.

    With chat `"tokenizer"` they are what the template writes of the conversation with its answer,
    beginning-of-sequence token and end of turn included; where it ends a turn with nothing, the
    end-of-sequence token does. In the other formats those two tokens stand first and last.

    Args:
        model: Whose tokenizer, chat format and context to use.
        prompt: The user's text, or several turns of which the last is the user's.
        response: The answer.
        closed: Whether what ends a turn follows the response.
        locate: Whether to find the tokens of the user's own text (the last of several).
        room: Tokens to leave free for what follows a prompt, should it have to be cut.

    Raises:
        ProbeError: If there are no tokens, or one is beyond the embedding; if there are more than
            the context holds and `model.overflow` is not `"truncate"`; if a text holds that of a
            special token, but with chat `"none"`, where it becomes that token; or if the template
            refuses the conversation.
    """
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    for text in (*(turn["content"] for turn in turns), response or ""):
        check_characters(text)
        if model.chat != "none":
            check_special(model.tokenizer, text)
    ids, written = prompt_ids(model, turns)
    asked = turns[-1]["content"]
    if not ids or (model.chat != "none" and not asked.strip()):
        raise ProbeError(f"No tokens in {asked[:60]!r}.")
    item = Encoded(tuple(ids), len(ids))
    if response is not None:
        answer = response_ids(model, turns, ids, written, response, closed=closed)
        item = replace(item, ids=(*ids, *answer))
    _check_known(model, item.ids)
    if len(item.ids) <= model.cfg.n_ctx and not locate:
        return item
    if len(item.ids) > model.cfg.n_ctx and model.overflow != "truncate":
        raise _too_long(model, item.ids, asked)
    return _located(model, item, turns, written, room)


def encode_text(model: ReadableModel, text: str) -> Encoded:
    """Return the token ids of plain text, all of it to be predicted after the first token."""
    check_characters(text)
    ids = plain_ids(model.tokenizer, text)
    start, end = (special_token(model.tokenizer, role) for role in ("bos", "eos"))
    ids = begun(start, ids)
    if end is not None and ids[-1:] != [end]:
        ids.append(end)
    if not ids:
        raise ProbeError(f"No tokens in {text[:60]!r}.")
    _check_known(model, ids)
    if (cut := max(0, len(ids) - model.cfg.n_ctx)) and model.overflow != "truncate":
        raise _too_long(model, ids, text)
    return Encoded(tuple(ids[: len(ids) - cut]), 1, cut=cut)


def encode_example(model: ReadableModel, example: Mapping[str, Any]) -> Encoded:
    """Return the token ids of a training example.

    Args:
        model: Whose tokenizer and chat format to use.
        example: `{"prompt", "response"}`; `{"messages"}`: perhaps a system turn, then user and
            assistant in turn, of which the last answer is the response and all before it prompt;
            or `{"text"}` for plain language modelling.

    Raises:
        ProbeError: If the example is none of these, or too long.
    """
    if "messages" in example:
        *turns, answer = _conversation(example["messages"])
        return encode(model, turns, answer["content"])
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
    warn_of_cuts(model, encoded, f"{kind}s")
    return encoded


def warn_of_cuts(model: ReadableModel, encoded: Iterable[Encoded], what: str) -> None:
    """Say how many of some encoded texts were cut to the model's context, if any was."""
    cuts = [item.cut for item in encoded]
    if cut := sum(map(bool, cuts)):
        warnings.warn(
            f"{what}: {cut} of {len(cuts)} are longer than the {model.cfg.n_ctx} tokens that the "
            f"model reads and were cut, the longest by {max(cuts)} tokens.",
            stacklevel=3,
        )


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


def decode(model: ReadableModel, ids: list[int], *, skip_special_tokens: bool = False) -> str:
    """Return the text of some tokens."""
    text = model.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
    assert isinstance(text, str), "several texts come of several lists only"
    return text


def _conversation(turns: Any) -> Turns:
    if isinstance(turns, Sequence) and all(isinstance(turn, Mapping) for turn in turns):
        roles = [turn.get("role") for turn in turns]
        talk = roles[roles[:1] == ["system"] :]
        alternating = talk == ["user", "assistant"] * (len(talk) // 2) and talk
        if alternating and all(isinstance(turn.get("content"), str) for turn in turns):
            return turns
    raise ProbeError(
        "Messages must be one user and one assistant turn, or several such pairs, after a system "
        f"turn or none, each with a string under 'content'; not {str(turns)[:80]}."
    )


def _located(model: ReadableModel, item: Encoded, turns: Turns, text: str, room: int) -> Encoded:
    """Return `item` with the place of the user's own text, cut so that it fits the context.

    Off go the last tokens of that text, then those of the response; the template's stay.
    """
    tokenizer, asked = model.tokenizer, turns[-1]["content"]
    place = content_place(model, turns, text)
    whole, pure = content_tokens(tokenizer, text, place)
    shift = item.prompt_length - len(plain_ids(tokenizer, text))
    limit, ids, drop = model.cfg.n_ctx, item.ids, 0
    if len(ids) > limit:
        answered = len(ids) > item.prompt_length
        drop = max(0, item.prompt_length - (limit - max(room, int(answered))))
        if drop >= len(pure):
            raise ProbeError(
                f"{len(ids)} tokens around {asked[:60]!r}, but the model reads {limit}, and of the "
                f"{drop} too many only {len(pure)} are the user's own: shorten what is before them."
            )
        ids = (*ids[: pure.stop + shift - drop], *ids[pure.stop + shift :])[:limit]
    return Encoded(
        ids,
        item.prompt_length - drop,
        content=(whole.start + shift, min(whole.stop, max(whole.stop, pure.stop) - drop) + shift),
        cut=len(item.ids) - len(ids),
    )


def _check_known(model: ReadableModel, ids: Sequence[int]) -> None:
    if (last := max(ids)) >= model.cfg.d_vocab:
        raise ProbeError(
            f"The tokenizer writes {decode(model, [last])!r} as token {last}, but the model has an "
            f"embedding of {model.cfg.d_vocab}: give it its own tokenizer, or the embedding more "
            "rows."
        )


def _too_long(model: ReadableModel, ids: Sequence[int], text: str) -> ProbeError:
    return ProbeError(
        f"{len(ids)} tokens in {text[:60]!r}, but the model reads {model.cfg.n_ctx}: shorten it, "
        'or have it cut with overflow = "truncate".'
    )
