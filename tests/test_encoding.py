"""Text becomes token ids once, the same for every use."""

import copy

import pytest
import torch

from workbench.encoding import (
    encode,
    encode_example,
    encode_examples,
    encode_text,
    fill_token,
    pad,
)
from workbench.errors import ProbeError

TEMPLATE = (
    "<s> {% for m in messages %}{{ 'User' if m.role == 'user' else 'Assistant' }} : "
    "{{ m.content }} {% endfor %}{% if add_generation_prompt %}Assistant :{% endif %}"
)


@pytest.fixture(params=["builtin", "tokenizer", "none"])
def chatting(request, make_model, tokenizer):
    """A model in each chat format."""
    model = make_model(chat=request.param)
    model.tokenizer = copy.deepcopy(tokenizer)
    model.tokenizer.chat_template = TEMPLATE
    return model


def words(model, ids):
    return model.tokenizer.convert_ids_to_tokens(list(ids))


def test_the_prompt_alone_is_a_prefix_of_prompt_and_response(chatting, probes):
    for probe in probes.probes:
        alone = encode(chatting, probe.prompt)
        both = encode(chatting, probe.prompt, probe.response)
        assert alone.ids == both.ids[: both.prompt_length]
        assert alone.prompt_length == len(alone.ids) == both.prompt_length
        assert words(chatting, both.ids[both.prompt_length :]) == [*probe.response.split(), "</s>"]


def test_the_beginning_token_stands_once_and_first(chatting):
    ids = encode(chatting, "bako delu", "fina").ids
    assert words(chatting, ids).count("<s>") == 1
    assert ids[0] == 1


@pytest.mark.parametrize(
    ("chat", "expected"),
    [
        ("builtin", "<s> User : bako {delu} Assistant : fina </s>"),
        ("tokenizer", "<s> User : bako {delu} Assistant : fina </s>"),
        ("none", "<s> bako {delu} fina </s>"),
    ],
)
def test_each_chat_format_is_what_it_says(make_model, tokenizer, chat, expected):
    model = make_model(chat=chat)
    model.tokenizer = copy.deepcopy(tokenizer)
    model.tokenizer.chat_template = TEMPLATE
    told = " ".join(words(model, encode(model, "bako {delu}", "fina").ids))
    assert told == expected.replace("{delu}", "<unk> delu <unk>")


def test_a_chat_template_that_is_not_there_is_asked_for(make_model):
    with pytest.raises(ProbeError, match="no chat template"):
        encode(make_model(chat="tokenizer"), "bako")


def test_a_tokenizer_without_special_tokens_gets_none(make_model, tokenizer):
    model = make_model(chat="none")
    model.tokenizer = copy.deepcopy(tokenizer)
    model.tokenizer.bos_token = model.tokenizer.eos_token = None
    assert words(model, encode(model, "bako", "fina").ids) == ["bako", "fina"]
    with pytest.raises(ProbeError, match="No tokens in ''"):
        encode(model, "")


def test_plain_text_is_predicted_after_its_first_token(model):
    item = encode_text(model, "bako delu")
    assert words(model, item.ids) == ["<s>", "bako", "delu", "</s>"]
    assert item.prompt_length == 1


def test_what_is_longer_than_the_context_is_refused_and_what_fits_is_not(model):
    frame = len(encode(model, "bako").ids) - 1
    assert len(encode(model, "bako " * (64 - frame)).ids) == 64
    with pytest.raises(ProbeError, match=r"65 tokens in 'bako bako.*reads 64.*shorten it"):
        encode(model, "bako " * (65 - frame))
    with pytest.raises(ProbeError, match="65 tokens"):
        encode(model, "bako " * (63 - frame), "fina")
    with pytest.raises(ProbeError, match="66 tokens"):
        encode_text(model, "bako " * 64)


def test_an_example_is_a_pair_or_two_messages_or_a_text(model):
    pair = encode_example(model, {"prompt": "bako", "response": "fina"})
    turns = [{"role": "user", "content": "bako"}, {"role": "assistant", "content": "fina"}]
    assert encode_example(model, {"messages": turns}) == pair == encode(model, "bako", "fina")
    assert encode_example(model, {"text": "bako"}) == encode_text(model, "bako")


def test_several_turns_of_the_builtin_format_are_exchanges_that_each_end(model):
    said = [("system", "sura"), *[("user", "bako"), ("assistant", "fina")] * 2]
    turns = [{"role": role, "content": content} for role, content in said]
    item = encode_example(model, {"messages": turns})
    exchange = "User : bako Assistant : fina </s>"
    expected = f"<s> System : sura {exchange} {exchange}".replace("System", "<unk>")
    assert " ".join(words(model, item.ids)) == expected
    assert words(model, item.ids[item.prompt_length :]) == ["fina", "</s>"]


def test_without_a_chat_format_there_are_no_turns(make_model):
    turns = [{"role": role, "content": "bako"} for role in ("system", "user", "assistant")]
    with pytest.raises(ProbeError, match="'none' has one prompt and no turns; use 'builtin'"):
        encode_example(make_model(chat="none"), {"messages": turns})


def test_an_example_that_is_too_long_is_cut_and_told(make_model):
    model = make_model()
    model.overflow = "truncate"
    rows = [{"text": "bako " * 70}, {"prompt": "bako", "response": "fina"}]
    with pytest.warns(UserWarning, match=r"Examples: 1 of 2 are longer than the 64 .* by 8 tokens"):
        long, short = encode_examples(model, rows, "Example")
    assert (len(long.ids), long.cut, short.cut) == (64, 8, 0)
    with pytest.raises(ProbeError, match="Example 0: 72 tokens"):
        encode_examples(make_model(), rows, "Example")


def test_a_token_beyond_the_embedding_is_named(make_model, tokenizer):
    model = make_model()
    model.tokenizer = copy.deepcopy(tokenizer)
    model.tokenizer.add_tokens(["novel"])
    for given in ({"text": "novel"}, *({"prompt": a, "response": b} for a, b in PAIRS)):
        with pytest.raises(ProbeError, match=r"'novel' as token 64, .* an embedding of 64"):
            encode_example(model, given)
    assert encode_example(model, {"prompt": "bako", "response": "fina"})


PAIRS = [("novel", "bako"), ("bako", "novel")]
USER, ASSISTANT = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    "example",
    [
        {},
        {"prompt": "bako"},
        {"prompt": "bako", "response": 3},
        {"prompt": "bako", "response": None},
        {"text": None},
        {"messages": []},
        {"messages": None},
        {"messages": "user"},
        {"messages": [USER]},
        {"messages": [ASSISTANT, USER]},
        {"messages": [USER, ASSISTANT, USER]},
        {"messages": ["x", USER, ASSISTANT]},
        {"messages": [{"role": "user"}, ASSISTANT]},
        {"messages": [USER, {"role": "assistant", "content": None}]},
    ],
    ids=repr,
)
def test_what_is_no_example_is_refused(model, example):
    with pytest.raises(ProbeError, match=r"needs 'prompt' and|one user and one"):
        encode_example(model, example)


def test_padding_is_on_the_right_and_masked():
    tokens, mask = pad([[5, 6, 7], [8]], fill=3, device=torch.device("cpu"))
    assert tokens.tolist() == [[5, 6, 7], [8, 3, 3]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert pad([[5], [8]], fill=3, device=torch.device("cpu"))[1] is None


def test_padding_does_not_change_the_logits_of_real_tokens(architecture, make_model):
    model = make_model(architecture)
    short, long = [1, 9, 11], [1, 20, 30, 40, 50, 12]
    tokens, mask = pad([short, long], fill=fill_token(model), device=model.cfg.device)
    with torch.no_grad():
        padded = model(tokens, mask)[0, :3]
        alone = model(torch.tensor([short]))[0]
        torch.testing.assert_close(padded, alone)
        # Not even what the padding is matters.
        assert torch.equal(model(tokens.where(mask.bool(), 33), mask)[0, :3], padded)


def test_the_padding_token_is_one_that_the_embedding_has(make_model, tokenizer):
    model = make_model()
    assert fill_token(model) == 0
    model.tokenizer = copy.deepcopy(tokenizer)
    model.tokenizer.add_special_tokens({"pad_token": "<new>"})
    assert model.tokenizer.pad_token_id == 64
    assert fill_token(model) == 2
    model.tokenizer.eos_token = None
    assert fill_token(model) == 0
