"""Chat templates in the style of the well-known families: the tokens are what the template says.

The templates are of our own writing; each has what is peculiar to its family.
"""

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from workbench.activations import read_activations
from workbench.chat_formats import turn_ends
from workbench.encoding import encode, encode_example
from workbench.errors import ProbeError
from workbench.probes import ProbeSet
from workbench.reading import Reading

TURNS = "{% for m in messages %}"
LLAMA3 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set said = messages[0].content %}"
    "{% set messages = messages[1:] %}{% else %}{% set said = '' %}{% endif %}"
    "<|start|>system<|stop|>\n\nToday: {{ strftime_now('%d %b %Y') }}\n\n{{ said }}<|eot|>"
    + TURNS
    + "<|start|>{{ m.role }}<|stop|>\n\n{{ m.content | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|stop|>\n\n{% endif %}"
)
CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    + TURNS
    + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{{ raise_exception('No system role') }}{% endif %}"
    + TURNS
    + "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set first = messages[0].content ~ "
    "'\n\n' %}{% set messages = messages[1:] %}{% else %}{% set first = '' %}{% endif %}"
    + TURNS
    + "{% if m.role == 'user' %}[INST] {{ first if loop.last or loop.index == 1 }}{{ m.content }} "
    "[/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
PHI3 = (
    TURNS + "<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
TULU = (
    TURNS + "{% if m.role == 'assistant' %}<|assistant|>\n{{ m.content }}{{ eos_token }}"
    "{{ '' if loop.last else '\n' }}{% else %}<|{{ m.role }}|>\n{{ m.content }}\n{% endif %}"
    "{% if loop.last and add_generation_prompt %}<|assistant|>\n{% endif %}{% endfor %}"
)
QWEN3 = (
    TURNS + "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last and "
    "'</think>' not in m.content %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)
NO_GENERATION_PROMPT = TURNS + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
ENDLESS = (
    TURNS + "{{ 'Q: ' if m.role == 'user' else 'A: ' }}{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}A:{% endif %}"
)
HEADED = (
    TURNS + "{{ 'Q' if m.role == 'user' else 'A' }}: {{ m.content }}{{ eos_token }}{% endfor %}"
)
R1 = (
    "{{ bos_token }}" + TURNS + "{% if m.role == 'user' %}<|user|>{{ m.content }}{% else %}"
    "<|assistant|>{{ m.content.split('</think>')[-1] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)
HEADER = "<s><|start|>system<|stop|>\n\nToday: 26 Jul 2024\n\n"
"""The date is a fixed one: today's would make other tokens of the same prompts tomorrow."""

FAMILIES = {
    # template, prompt of "how now", and what follows it for the answer "a cow", end of turn
    "llama3": (
        LLAMA3,
        HEADER + "<|eot|><|start|>user<|stop|>\n\nhow now<|eot|><|start|>assistant<|stop|>\n\n",
        "a cow<|eot|>",
        "<|eot|>",
    ),
    "chatml": (
        CHATML,
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhow now<|im_end|>\n"
        "<|im_start|>assistant\n",
        "a cow<|im_end|>\n",
        "<|im_end|>",
    ),
    "gemma": (
        GEMMA,
        "<s><start_of_turn>user\nhow now<end_of_turn>\n<start_of_turn>model\n",
        "a cow<end_of_turn>\n",
        "<end_of_turn>",
    ),
    "mistral": (MISTRAL, "<s>[INST] how now [/INST]", " a cow</s>", "</s>"),
    "phi3": (
        PHI3, "<|user|>\nhow now<|end|>\n<|assistant|>\n", "a cow<|end|>\n</s>", "<|end|>"
    ),
    "tulu": (TULU, "<|user|>\nhow now\n<|assistant|>\n", "a cow</s>", "</s>"),
    "qwen3": (
        QWEN3,
        "<|im_start|>user\nhow now<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        "a cow<|im_end|>\n",
        "<|im_end|>",
    ),
    "no-generation-prompt": (
        NO_GENERATION_PROMPT,
        "<|im_start|>user\nhow now<|im_end|>\n<|im_start|>assistant\n",
        "a cow<|im_end|>\n",
        "<|im_end|>",
    ),
    "header-with-blank": (HEADED, "Q: how now</s>A:", " a cow</s>", "</s>"),
    "endless": (ENDLESS, "Q: how now\nA:", " a cow</s>", "</s>"),
}  # fmt: skip
SPECIAL = [
    "<|start|>", "<|stop|>", "<|eot|>", "<|im_start|>", "<|im_end|>", "<start_of_turn>",
    "<end_of_turn>", "[INST]", "[/INST]", "<|end|>",
]  # fmt: skip


@pytest.fixture(scope="module", params=["bytes", "metaspace"])
def base(request):
    """A byte-level or a SentencePiece-like tokenizer; both add BOS to any text by themselves."""
    corpus = [
        "how now brown cow\n",
        "assistant\n\n",
        "user\nhow now.\n",
        "Today: 26 Jul 2024 a A:",
        "\n\n",
    ]
    kept = ["<unk>", "<s>", "</s>", *SPECIAL]
    words = Tokenizer(models.BPE(unk_token="<unk>"))
    if request.param == "bytes":
        words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        words.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        words.decoder = decoders.Metaspace()
        alphabet = [chr(code) for code in range(32, 127)] + ["\n", "▁"]
    trainer = trainers.BpeTrainer(
        vocab_size=380, special_tokens=kept, initial_alphabet=alphabet, show_progress=False
    )
    words.train_from_iterator(corpus * 9, trainer)
    words.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])

    def make(template):
        fast = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(words.to_str()),
            bos_token="<s>", eos_token="</s>", unk_token="<unk>",
            clean_up_tokenization_spaces=False,
        )  # fmt: skip
        fast.chat_template = template
        fast.add_tokens([AddedToken("<think>", special=False), AddedToken("</think>")])
        assert fast.encode("how")[0] == 1
        return fast

    return make


@pytest.fixture(scope="module")
def wide(make_model):
    """A model with room for the tokens of these tokenizers."""
    return make_model("llama-gqa", vocab_size=400, max_position_embeddings=128, chat="tokenizer")


@pytest.fixture
def speaking(wide, base):
    def make(template, *, chat="tokenizer", overflow="refuse"):
        wide.tokenizer, wide.chat, wide.overflow = base(template), chat, overflow
        return wide

    return make


def written(model, ids):
    """The text that tokens stand for, to the last blank: decoding would drop some."""
    text = "".join(model.tokenizer.convert_ids_to_tokens(list(ids)))
    return text.translate({ord("Ġ"): " ", ord("▁"): " ", ord("Ċ"): "\n"})


def plain(model, text):
    return tuple(model.tokenizer.encode(text, add_special_tokens=False))


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_those_of_what_the_template_writes(speaking, family):
    template, prompt, answer, _ = FAMILIES[family]
    model = speaking(template)
    both = encode(model, "how now", "a cow")
    whole = answer if family != "endless" else answer.removesuffix("</s>")
    ended = plain(model, prompt + whole) + (() if family != "endless" else (2,))
    assert both.ids == ended
    assert both.ids[: both.prompt_length] == plain(model, prompt) == encode(model, "how now").ids
    assert both.ids.count(1) == prompt.count("<s>")


@pytest.mark.parametrize("family", sorted({*FAMILIES} - {"llama3", "qwen3", "endless"}))
def test_tokens_are_those_of_transformers(speaking, family):
    model = speaking(FAMILIES[family][0])
    talk = [{"role": "user", "content": "how now"}, {"role": "assistant", "content": "a cow"}]
    theirs = model.tokenizer.apply_chat_template(talk, tokenize=True, return_dict=False)
    assert list(encode(model, "how now", "a cow").ids) == theirs


@pytest.mark.parametrize("family", FAMILIES)
def test_what_ends_a_turn_is_known_and_can_be_left_out(speaking, family):
    template, _, answer, end = FAMILIES[family]
    model = speaking(template)
    token = model.tokenizer.convert_tokens_to_ids(end)
    assert turn_ends(model) == {2, token}
    both, bare = (encode(model, "how now", "a cow", closed=closed) for closed in (True, False))
    assert bare.prompt_length == both.prompt_length
    assert both.ids[: len(bare.ids)] == bare.ids
    assert both.ids[len(bare.ids)] == token
    assert answer.endswith(model.tokenizer.decode(both.ids[len(bare.ids) :]))


def test_a_template_without_answers_leaves_the_end_token(speaking):
    model = speaking("{% if messages|length > 1 %}{{ raise_exception('no') }}{% endif %}how?")
    assert turn_ends(model) == {2}
    with pytest.raises(ProbeError, match=r"refuses turns of user, assistant \(no\); leave out"):
        encode(model, "how", "a cow")
    with pytest.raises(ProbeError, match="leaves the assistant's answer out"):
        encode(speaking("how?"), "how", "a cow")


TALK = [
    {"role": "user", "content": "how"},
    {"role": "assistant", "content": "now"},
    {"role": "user", "content": "brown"},
    {"role": "assistant", "content": "cow"},
]
SYSTEM = {"role": "system", "content": "Be a cow."}


@pytest.mark.parametrize("family", sorted({*FAMILIES} - {"endless"}))
def test_only_the_last_answer_of_a_conversation_is_learnt(speaking, family):
    template, *_ = FAMILIES[family]
    model = speaking(template)
    item = encode_example(model, {"messages": TALK})
    before = item.ids[: item.prompt_length]
    expected = encode(model, "brown", "cow")
    assert item.ids[item.prompt_length :] == expected.ids[expected.prompt_length :]
    said = model.tokenizer.decode(before)
    assert said.index("how") < said.index("now") < said.index("brown")
    assert item.ids.count(1) == expected.ids.count(1)


@pytest.mark.parametrize("family", ["llama3", "chatml", "mistral", "phi3", "tulu"])
def test_a_system_turn_stands_before_the_prompt(speaking, family):
    model = speaking(FAMILIES[family][0])
    item = encode_example(model, {"messages": [SYSTEM, *TALK[:2]]})
    said = model.tokenizer.decode(item.ids[: item.prompt_length])
    assert "Be a cow." in said
    assert "Be kind." not in said
    assert said.index("Be a cow.") < said.index("how")


def test_a_template_that_knows_no_system_turn_refuses_it(speaking):
    model = speaking(GEMMA)
    with pytest.raises(ProbeError, match=r"turns of system, user.*\(No system role\)"):
        encode_example(model, {"messages": [SYSTEM, *TALK[:2]]})


def test_an_answer_with_no_place_after_its_prompt_is_refused(speaking):
    model = speaking(R1)
    assert model.tokenizer.decode(encode(model, "how").ids).endswith("<think>\n")
    with pytest.raises(ProbeError, match=r"with '<think>\\n' but .* with 'a cow</s>'"):
        encode(model, "how", "a cow")
    with pytest.raises(ProbeError, match="leave thinking out of it"):
        encode(speaking(QWEN3), "how", "<think>\nwhy\n</think>\n\na cow")


def test_a_response_that_would_join_the_prompt_is_as_generated_or_refused(speaking):
    model = speaking("{% for m in messages %}{{ m.content }}\n{% endfor %}")
    prompt = encode(model, "how now")
    if model.tokenizer.convert_ids_to_tokens(plain(model, "a"))[0].startswith("▁"):
        with pytest.raises(ProbeError, match=r"joins the end of the prompt.*strip the blanks"):
            encode(model, "how now", "\n a cow")
    else:
        assert plain(model, "\n\n") != plain(model, "\n") * 2  # it would
        both = encode(model, "how now", "\n a cow")
        assert both.ids[: both.prompt_length] == prompt.ids
        assert both.ids[both.prompt_length :] == (*plain(model, "\n a cow"), 2)


@pytest.mark.parametrize("special", ["<|im_end|>", "<s>", "</s>"])
def test_a_special_token_in_a_text_is_no_token_but_an_error(speaking, special):
    message = r"special token '.*' stands in the text 'how .*take it out"
    for chat in ("tokenizer", "builtin"):
        model = speaking(CHATML, chat=chat)
        with pytest.raises(ProbeError, match=message):
            encode(model, f"how {special}\nnow")
        with pytest.raises(ProbeError, match=message):
            encode(model, "now", f"how {special}")
        encode(model, "how <think> <unk> im_end|>", "now")  # plain text, or no more than odd
    item = encode(speaking(CHATML, chat="none"), f"how {special}\nnow")
    assert model.tokenizer.convert_tokens_to_ids(special) in item.ids


@pytest.mark.parametrize("chat", ["tokenizer", "builtin", "none"])
def test_half_a_character_is_refused(speaking, chat):
    model = speaking(CHATML, chat=chat)
    with pytest.raises(ProbeError, match=r"'\\ud800' in 'how \\ud800', character 4, is half a"):
        encode(model, "how \ud800")
    with pytest.raises(ProbeError, match="half a character"):
        encode_example(model, {"prompt": "how", "response": "\udc00"})


@pytest.mark.parametrize("blank", ["", " \n\t"])
def test_a_blank_prompt_is_refused(speaking, blank):
    for chat in ("tokenizer", "builtin"):
        with pytest.raises(ProbeError, match="No tokens in '"):
            encode(speaking(CHATML, chat=chat), blank)
    assert encode(speaking(CHATML, chat="none"), "").ids == (1,)


def test_raw_text_that_brings_its_first_token_gets_no_second(speaking):
    model = speaking(CHATML, chat="none")
    assert encode(model, "<s>how").ids == plain(model, "<s>how")
    assert encode(model, "how").ids == plain(model, "<s>")[:1] + plain(model, "how")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", ["how now", " how now.\n", "now"])
def test_the_users_own_tokens_are_found(speaking, family, text):
    model = speaking(FAMILIES[family][0])
    item = encode(model, text, locate=True)
    start, stop = item.content
    assert text.strip() in written(model, item.ids[start:stop])
    # One token less on either side is not all of it.
    assert text.strip() not in written(model, item.ids[start + 1 : stop])
    assert text.strip() not in written(model, item.ids[start : stop - 1])
    assert stop <= item.prompt_length
    assert item == encode(model, text)


@pytest.mark.parametrize(
    ("chat", "before"), [("none", ""), ("builtin", "User:")], ids=["none", "builtin"]
)
def test_they_are_found_without_a_template_too(speaking, chat, before):
    model = speaking(CHATML, chat=chat)
    item = encode(model, "A", locate=True)  # also in "Assistant"
    start, stop = item.content
    assert written(model, item.ids[start:stop]).strip() == "A"
    assert written(model, item.ids[1:start]).strip() == before


def test_positions_of_the_users_text_are_read(speaking):
    model = speaking(CHATML)
    texts = ["how now", "now brown cow"]
    probes = ProbeSet.from_prompts(texts)
    last, mean = (
        read_activations(model, probes, position=f"content_{p}") for p in ("last", "mean")
    )
    for number, text in enumerate(texts):
        item = encode(model, text, locate=True)
        own = range(*item.content)
        single = ProbeSet.from_prompts([text])
        each = [
            read_activations(model, single, position=place - item.prompt_length)[:, 0]
            for place in own
        ]
        assert (last[:, number] - each[-1]).abs().max() < 1e-4
        assert (mean[:, number] - sum(each) / len(each)).abs().max() < 1e-4
        assert (mean[:, number] - each[-1]).abs().max() > 0.1
    marks = {
        Reading.of(model, probes, p).fingerprint() for p in ("content_last", "content_mean", -1)
    }
    assert len(marks) == 3


def test_a_text_that_the_template_hides_is_not_read(speaking):
    for shown in ("{{ m.content }} {{ m.content }}", "{{ m.content | upper }}"):
        model = speaking(TURNS + shown + "{% endfor %}")
        encode(model, "how")
        with pytest.raises(ProbeError, match="own text cannot be told from what the chat template"):
            encode(model, "how", locate=True)


def test_a_text_that_is_too_long_is_refused_or_cut_within_the_template(speaking):
    long, template = "how now brown cow " * 60 + "now", FAMILIES["chatml"][0]
    with pytest.raises(ProbeError, match=r'reads 128: shorten it, or .* overflow = "truncate"'):
        encode(speaking(template), long)
    model = speaking(template, overflow="truncate")
    short, item = encode(model, "how", locate=True), encode(model, long)
    assert len(item.ids) == item.prompt_length == 128
    whole = encode_whole(model, long)
    assert item.cut == len(whole) - 128
    start, stop = item.content
    tail = short.ids[short.content[1] :]
    assert item.ids[stop:] == tail == whole[-len(tail) :]
    assert item.ids[:stop] == whole[:stop]
    assert (
        written(model, item.ids[start:stop]).lstrip("user\n ").startswith("how now brown cow how")
    )
    assert len(encode(model, long, room=20).ids) == 108


def encode_whole(model, text):
    prompt = FAMILIES["chatml"][1].replace("how now", text)
    return plain(model, prompt)


def test_an_example_that_is_too_long_loses_the_end_of_its_response_first(speaking):
    model = speaking(CHATML, overflow="truncate")
    prompt = encode(model, "how now")
    item = encode(model, "how now", "brown cow " * 80)
    assert (len(item.ids), item.prompt_length) == (128, prompt.prompt_length)
    assert item.ids[: item.prompt_length] == prompt.ids
    both = encode(model, "how now brown cow " * 60, "a cow")
    assert (len(both.ids), both.prompt_length) == (128, 127)
    fits = encode(model, "how now", "a cow")
    assert fits.cut == 0
    assert fits.ids[-1:] == plain(model, "<|im_end|>\n")[-1:]


def test_a_template_that_is_too_long_by_itself_is_not_cut(speaking):
    model = speaking(CHATML, overflow="truncate")
    system = {"role": "system", "content": "cow " * 200}
    with pytest.raises(ProbeError, match=r"too many only \d+ are the user's own: shorten what"):
        encode_example(model, {"messages": [system, *TALK[:2]]})


def test_how_many_are_cut_is_told(speaking):
    model = speaking(CHATML, overflow="truncate")
    probes = ProbeSet.from_prompts(["how", "how now brown cow " * 60, "now"])
    with pytest.warns(UserWarning, match=r"Probes: 1 of 3 are longer than the 128 tokens.*cut"):
        reading = Reading.of(model, probes)
    assert reading.truncated == 1
    assert Reading.of(model, ProbeSet.from_prompts(["how"])).truncated == 0
