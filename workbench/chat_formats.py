"""The three chat formats: from turns to the tokens of the prompt and of the response."""

from contextlib import suppress
from typing import Literal

from transformers import PreTrainedTokenizerBase

from workbench.chat import Turns, closing_text, find_content, render_answer, render_prompt
from workbench.errors import ProbeError
from workbench.models import ReadableModel

BUILTIN_SYSTEM, BUILTIN_PROMPT = "System: {system}\n", "User: {prompt}\nAssistant:"
"""The built-in chat template, for models that bring none; a response begins with a blank."""


def prompt_ids(model: ReadableModel, turns: Turns) -> tuple[list[int], str]:
    """Return the tokens up to the response, and the text of the last of them: the user's turn."""
    tokenizer = model.tokenizer
    if model.chat == "tokenizer":
        text = render_prompt(tokenizer, turns)
        return plain_ids(tokenizer, text), text
    if model.chat == "none" and len(turns) > 1:
        raise ProbeError("chat = 'none' has one prompt and no turns; use 'builtin' or 'tokenizer'.")
    ids, system, text = [], "", ""
    for turn in turns:
        if turn["role"] == "system":
            system = BUILTIN_SYSTEM.format(system=turn["content"])
        elif turn["role"] == "assistant":
            ids += _builtin_answer(tokenizer, turn["content"], closed=True)
        else:
            text = turn["content"]
            if model.chat == "builtin":
                text, system = system + BUILTIN_PROMPT.format(prompt=text), ""
            ids += plain_ids(tokenizer, text)
    return begun(special_token(tokenizer, "bos"), ids), text


def response_ids(
    model: ReadableModel, turns: Turns, ids: list[int], prompt: str, response: str, *, closed: bool
) -> list[int]:
    """Return the tokens that follow `ids` and `prompt`, which are of `prompt_ids`."""
    tokenizer = model.tokenizer
    if model.chat == "builtin":
        return _builtin_answer(tokenizer, response, closed=closed)
    endless = closed
    if model.chat == "none":
        answer = plain_ids(tokenizer, response)
    else:
        text, endless = render_answer(tokenizer, turns, prompt, response, closed=closed)
        together = plain_ids(tokenizer, prompt + text)
        answer = together[len(ids) :]
        if together[: len(ids)] != ids:
            answer = _apart(tokenizer, text)
    end = special_token(tokenizer, "eos") if endless else None
    return answer if end is None else [*answer, end]


def _builtin_answer(
    tokenizer: PreTrainedTokenizerBase, response: str, *, closed: bool
) -> list[int]:
    end = special_token(tokenizer, "eos") if closed else None
    return plain_ids(tokenizer, " " + response) + ([] if end is None else [end])


def _apart(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokens of what follows a prompt whose last token it would join: as they are generated."""
    if str(tokenizer.convert_ids_to_tokens(plain_ids(tokenizer, "a"))[0]).startswith("▁"):
        raise ProbeError(
            f"The tokenizer joins the end of the prompt and the start of {text[:40]!r} in one "
            "token: strip the blanks before the response."
        )
    return plain_ids(tokenizer, text)


def content_place(model: ReadableModel, turns: Turns, text: str) -> tuple[int, int]:
    """Return where in the text of `prompt_ids` the last user's own text begins and ends."""
    if model.chat == "tokenizer":
        return find_content(model.tokenizer, turns, text)
    after = BUILTIN_PROMPT.partition("{prompt}")[2] if model.chat == "builtin" else ""
    stop = len(text) - len(after)
    return stop - len(turns[-1]["content"]), stop


def turn_ends(model: ReadableModel) -> set[int]:
    """Return the tokens that end the model's turn: end-of-sequence, and what its template writes.

    Of what stands after an answer, that is the first token that is not plain text.
    """
    ends = {special_token(model.tokenizer, "eos")}
    if model.chat == "tokenizer":
        added = model.tokenizer.added_tokens_decoder
        with suppress(ProbeError):  # of a template that writes no answers
            closing = plain_ids(model.tokenizer, closing_text(model.tokenizer))
            ends.add(next((token for token in closing if token in added), None))
    return {token for token in ends if token is not None and token < model.cfg.d_vocab}


def special_token(
    tokenizer: PreTrainedTokenizerBase, role: Literal["bos", "eos", "pad", "unk"]
) -> int | None:
    """Return the id of a special token, if there is one; transformers declares other types too."""
    return getattr(tokenizer, f"{role}_token_id")


def begun(start: int | None, ids: list[int]) -> list[int]:
    """Return `ids` after the token that begins a sequence, unless they bring it."""
    return ids if start is None or ids[:1] == [start] else [start, *ids]


def plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the tokens of `text`, none added."""
    return tokenizer.encode(text, add_special_tokens=False)
