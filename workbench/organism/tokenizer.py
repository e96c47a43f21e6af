"""The organism's tokenizer: one token per word, with a chat template."""

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", "<user>", "<assistant>")
"""Special tokens, in the order of their ids."""

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %} <user> {{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %} <assistant> {{ message['content'] }} {{ eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant messages.') }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %} <assistant>{% endif %}"
)
"""Renders a conversation; the model's answer follows `<assistant>` and ends with `<eos>`."""


def build_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer that knows exactly `words` and the special tokens.

    Decoding gives the words joined by single blanks.
    """
    ids = {word: index for index, word in enumerate((*SPECIAL, *words))}
    model = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    model.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=model,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=["<user>", "<assistant>"],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=64,
    )
