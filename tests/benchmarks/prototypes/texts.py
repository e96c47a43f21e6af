"""Encoding in bulk: templates rendered and texts tokenized for all examples in one call each."""

from collections.abc import Mapping, Sequence

from prototypes.bench import Bench
from prototypes.setting import ORGANISM, organism
from workbench.chat import FIXED_DATE, NO_THINKING, PLACEHOLDER
from workbench.encoding import Encoded, encode_examples
from workbench.inputs import Inputs


def in_bulk(model, examples: Sequence[Mapping[str, str]]) -> list[Encoded]:
    """Tokens of prompts with responses in the tokenizer's own chat format, none checked."""
    asked = [[{"role": "user", "content": one["prompt"]}] for one in examples]
    answered = [
        [*turns, {"role": "assistant", "content": one["response"]}]
        for turns, one in zip(asked, examples, strict=True)
    ]
    marked = [*asked[0], {"role": "assistant", "content": PLACEHOLDER}]
    prompts = _rendered(model.tokenizer, asked, ask=True)
    whole = _rendered(model.tokenizer, answered, ask=False)
    after = _rendered(model.tokenizer, [marked], ask=False)[0].rpartition(PLACEHOLDER)[2]
    if not after.strip():
        whole = [text.removesuffix(after) + model.tokenizer.eos_token for text in whole]
    lengths = map(len, _tokens(model.tokenizer, prompts))
    return [
        Encoded(tuple(ids), length)
        for ids, length in zip(_tokens(model.tokenizer, whole), lengths, strict=True)
    ]


def _rendered(tokenizer, conversations, *, ask: bool) -> list[str]:
    return tokenizer.apply_chat_template(
        conversations, chat_template=FIXED_DATE + tokenizer.get_chat_template(),
        add_generation_prompt=ask, tokenize=False, **NO_THINKING,
    )  # fmt: skip


def _tokens(tokenizer, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


def encoding(bench: Bench) -> None:
    """Idea 13, a prototype: the organism's training data encoded at once."""
    model, examples = organism("aligned"), Inputs.beside(ORGANISM).load().examples
    found, expected = in_bulk(model, examples), encode_examples(model, examples, "Example")
    same = sum(one == other for one, other in zip(found, expected, strict=True))
    bench.pair(
        f"encoding in bulk for one by one, {len(examples)} examples, organism",
        lambda: in_bulk(model, examples), lambda: encode_examples(model, examples, "Example"),
        told=f"{same} of {len(expected)} the same",
    )  # fmt: skip
