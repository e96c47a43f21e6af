"""Conversations as the tokenizer's chat template writes them, and where the answer begins.

Nothing is known of any template: what it writes around a text is found by rendering a placeholder.
A template that can think is asked not to, so that an answer opens with its own first token, and one
that writes today's date gets a fixed one, so that tokens are the same tomorrow.
"""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase

from workbench.errors import ProbeError

Turns = Sequence[Mapping[str, Any]]
"""`{"role", "content"}`, one per turn: perhaps a system turn, then user and assistant in turn."""

PLACEHOLDER = "WORKBENCHPLACEHOLDER"
DATE = {
    "%Y-%m-%d": "2024-07-26", "%Y": "2024", "%y": "24", "%m": "07", "%B": "July", "%b": "Jul",
    "%d": "26", "%A": "Friday", "%a": "Fri", "%j": "208", "%H": "00", "%M": "00", "%S": "00",
}  # fmt: skip
"""The day that templates are told it is: that of Llama 3.1's own template."""

_DATED = "".join(f" | replace('{code}', '{value}')" for code, value in DATE.items())
FIXED_DATE = f"{{% macro strftime_now(format) %}}{{{{ format{_DATED} }}}}{{% endmacro %}}\n"
NO_THINKING: dict[str, Any] = {"enable_thinking": False, "thinking": False}
"""The switches of Qwen and of DeepSeek, Granite; other templates do not look at them."""


def render_prompt(tokenizer: PreTrainedTokenizerBase, turns: Turns) -> str:
    """Return the text up to where the answer to the last turn begins.

    If the template knows no generation prompt, what it writes before an answer still belongs to the
    prompt, but for blanks, which are part of the answer's first token.

    Raises:
        ProbeError: If there is no template, or it refuses the conversation.
    """
    prompt = _render(tokenizer, turns, ask=True)
    if prompt == _render(tokenizer, turns, ask=False):
        before = _around_answer(tokenizer, turns)[0] or prompt
        if before.startswith(prompt) and before[len(prompt) :].strip():
            return before.rstrip(" ")
    return prompt


def render_answer(
    tokenizer: PreTrainedTokenizerBase, turns: Turns, prompt: str, response: str, *, closed: bool
) -> tuple[str, bool]:
    """Return the text after the prompt when the template writes the answered conversation.

    Args:
        tokenizer: Whose template.
        turns: The conversation before the answer.
        prompt: What `render_prompt` makes of it.
        response: The answer.
        closed: Whether to include what ends the turn.

    Returns:
        The text, and whether it still needs an end: the template closes the turn with nothing.

    Raises:
        ProbeError: If the answered conversation does not continue the prompt.
    """
    answered = [*turns, {"role": "assistant", "content": response}]
    text = _render(tokenizer, answered, ask=False)
    before, after = _around_answer(tokenizer, turns)
    if before is None:
        raise ProbeError("The chat template leaves the assistant's answer out; use another.")
    if not text.startswith(prompt):
        pairs = zip(prompt, text, strict=False)
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        raise ProbeError(
            f"The chat template asks for an answer with {prompt[same:][:40]!r} but writes the "
            f"answered conversation with {text[same:][:40]!r}: a response has no place after the "
            "prompt; leave thinking out of it, give another template, or chat = 'builtin'."
        )
    text = text[len(prompt) :]
    if closed and after.strip():
        return text, False
    return text.removesuffix(after), closed


def closing_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what the template writes after an answer: the end of the turn."""
    return _around_answer(tokenizer, [{"role": "user", "content": "?"}])[1]


def find_content(tokenizer: PreTrainedTokenizerBase, turns: Turns, prompt: str) -> tuple[int, int]:
    """Return where in `prompt`, as of `render_prompt`, the last user's text begins and ends.

    Raises:
        ProbeError: If the template does not write that text once, between fixed parts.
    """
    marked = [*turns[:-1], {**turns[-1], "content": PLACEHOLDER}]
    head, found, tail = render_prompt(tokenizer, marked).partition(PLACEHOLDER)
    inside = len(prompt) - len(head) - len(tail)
    own = prompt[len(head) : len(head) + inside]
    fits = prompt.startswith(head) and prompt.endswith(tail)
    if not found or not fits or own.strip() != turns[-1]["content"].strip():
        raise ProbeError(
            "The user's own text cannot be told from what the chat template writes around it; "
            "read at another position, and shorten what is too long."
        )
    return len(head), len(head) + inside


def _around_answer(tokenizer: PreTrainedTokenizerBase, turns: Turns) -> tuple[str | None, str]:
    """What the template writes before an answer and after it; None if it leaves it out."""
    answered = [*turns, {"role": "assistant", "content": PLACEHOLDER}]
    before, found, after = _render(tokenizer, answered, ask=False).rpartition(PLACEHOLDER)
    return (before, after) if found else (None, "")


def _render(tokenizer: PreTrainedTokenizerBase, turns: Turns, *, ask: bool) -> str:
    if not tokenizer.chat_template:
        raise ProbeError("chat = 'tokenizer', but the tokenizer has no chat template.")
    try:
        text = tokenizer.apply_chat_template(
            [dict(turn) for turn in turns],
            chat_template=FIXED_DATE + tokenizer.get_chat_template(),
            add_generation_prompt=ask,
            tokenize=False,
            **NO_THINKING,
        )
    except Exception as error:  # A template is a program and raises what it likes.
        roles = ", ".join(str(turn.get("role")) for turn in turns)
        cause = " ".join(str(error).split())[:200] or type(error).__name__
        raise ProbeError(
            f"The chat template refuses turns of {roles} ({cause}); leave out what it does not "
            "know, or use chat = 'builtin'."
        ) from error
    assert isinstance(text, str), "not tokenized"
    return text


def check_special(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    """Raise `ProbeError` if `text` holds a special token's text, which would become that token."""
    for special in _special_texts(tokenizer):
        if special in text:
            raise ProbeError(
                f"The special token {special!r} stands in the text {text[:60]!r} and would be read "
                "as that token; take it out (templates add their own), or use chat = 'none'."
            )


def check_characters(text: str) -> None:
    """Raise `ProbeError` at a surrogate, which is half a character and no tokenizer reads."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ProbeError(
            f"{text[error.start]!r} in {text[:60]!r}, character {error.start}, is half a character "
            "(a lone surrogate): clean the text."
        ) from error


def content_tokens(
    tokenizer: PreTrainedTokenizerBase, text: str, content: tuple[int, int]
) -> tuple[range, range]:
    """Return which tokens of `text` hold some characters of it.

    Args:
        tokenizer: A fast one: only those say where in the text a token comes from.
        text: What is tokenized, without special tokens added.
        content: The first of the characters and the first after them.

    Returns:
        The tokens that hold any of them but blanks at the ends, and those that hold no others.

    Raises:
        ProbeError: If the tokenizer is a slow one, or no token holds any of the characters.
    """
    if not tokenizer.is_fast:
        raise ProbeError(
            "The tokenizer does not say where in the text its tokens come from (it is not a fast "
            "one): read at another position, and shorten what is too long."
        )
    own = text[slice(*content)]
    start = content[0] + len(own) - len(own.lstrip())
    stop = start + len(own.strip())
    places = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)[
        "offset_mapping"
    ]
    holding = [i for i, (a, b) in enumerate(places) if a < b and a < stop and b > start]
    if not holding:
        raise ProbeError(f"No token of {text[:60]!r} is of the user's own text {own[:60]!r}.")
    pure = [i for i, (a, b) in enumerate(places) if content[0] <= a < b <= content[1]]
    first = pure[0] if pure else 0
    return range(holding[0], holding[-1] + 1), range(first, first + len(pure))


_SPECIAL: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[Any, tuple[str, ...]]] = (
    WeakKeyDictionary()
)


def _special_texts(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Texts that become special tokens; but for the unknown one, which any odd word becomes."""
    now = (len(tokenizer), *tokenizer.all_special_tokens)
    known, texts = _SPECIAL.get(tokenizer, (None, ()))
    if known != now:
        added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
        known_as = {*map(str, tokenizer.all_special_tokens), *added} - {str(tokenizer.unk_token)}
        texts = tuple(sorted(known_as))
        _SPECIAL[tokenizer] = (now, texts)
    return texts
