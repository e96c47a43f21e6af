"""Answers are greedy, the same in any batch, and end where the model ends them."""

import copy

import pytest
import torch
from transformers import GenerationConfig

from workbench import generation
from workbench.encoding import encode
from workbench.errors import ConfigError, ProbeError
from workbench.generation import answer, answer_encoded, encode_prompts
from workbench.models import GuestModel

END = 2
"""The tokenizer's end token in the planted vocabulary."""


def greedy(model, prompt, count, ends=(END,)):
    """One prompt, no padding, no cache: the token ids up to an end token."""
    ids, said = list(encode(model, prompt).ids), []
    with torch.no_grad():
        while len(said) < count:
            token = int(model.hf(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            if token in ends:
                break
            said.append(token)
            ids.append(token)
    return said


def text(model, ids):
    return model.tokenizer.decode(ids, skip_special_tokens=True).strip()


@pytest.fixture(scope="module", params=["gpt2", "llama-gqa", "gpt-neox"])
def speaker(request, make_model):
    return make_model(request.param)


@pytest.fixture(scope="module")
def prompts(sentence):
    return [sentence(100 + number, words) for number, words in enumerate((9, 2, 5, 14, 2, 30))]


@pytest.fixture
def own_model(make_model):
    return make_model("llama-gqa")


def test_batched_answers_equal_unbatched_greedy_ones(speaker, prompts):
    expected = [text(speaker, greedy(speaker, prompt, 12)) for prompt in prompts]
    assert len({*expected}) > 1
    assert [said.text for said in answer(speaker, prompts, max_new_tokens=12)] == expected


def test_the_number_of_prompts_per_batch_changes_nothing(speaker, prompts, monkeypatch):
    together = answer(speaker, prompts, max_new_tokens=8)
    monkeypatch.setattr(generation, "PROMPTS_PER_BATCH", 2)
    assert answer(speaker, prompts, max_new_tokens=8) == together


def test_a_prompt_near_the_context_length_does_not_cut_the_others_short(speaker, sentence):
    short, long = sentence(1, words=2), sentence(2, words=52)
    room = speaker.cfg.n_ctx - len(encode(speaker, long).ids)
    assert 0 < room < 20
    said = answer(speaker, [short, long], max_new_tokens=20)
    assert said[0].text == text(speaker, greedy(speaker, short, 20))
    assert said[1].text == text(speaker, greedy(speaker, long, room))


def test_an_answer_stops_at_the_end_token_and_says_so(own_model, prompts):
    going_on = greedy(own_model, prompts[0], 8, ends=())
    assert answer(own_model, prompts[:1], max_new_tokens=8)[0].finished is False
    own_model.tokenizer = copy.deepcopy(own_model.tokenizer)
    own_model.tokenizer.eos_token = own_model.tokenizer.convert_ids_to_tokens(going_on[3])
    (said,) = answer(own_model, prompts[:1], max_new_tokens=8)
    assert said.finished
    assert said.text == text(own_model, going_on[: going_on.index(going_on[3])])


def test_an_end_of_turn_that_only_the_checkpoint_names_ends_an_answer_too(own_model, prompts):
    going_on = greedy(own_model, prompts[0], 8, ends=())
    own_model.hf.generation_config.eos_token_id = [END, going_on[3]]
    (said,) = answer(own_model, prompts[:1], max_new_tokens=8)
    assert said.finished
    assert said.text == text(own_model, going_on[: going_on.index(going_on[3])])


def test_the_end_of_turn_of_the_chat_template_ends_an_answer_too(own_model, prompts):
    own_model.chat = "tokenizer"
    own_model.tokenizer = own = copy.deepcopy(own_model.tokenizer)
    own_model.hf.generation_config.eos_token_id = None
    turn = "{% for m in messages %}{{ m.content }} {{ '%s' if m.role == 'assistant' }} {% endfor %}"
    own.chat_template = turn.replace("%s", "kila")
    for prompt in prompts:
        going_on = greedy(own_model, prompt, 8, ends=())
        word = own.convert_ids_to_tokens(going_on[3])
        if word not in prompt:
            break
    own.chat_template = turn.replace("%s", word)
    (said,) = answer(own_model, [prompt], max_new_tokens=8)
    assert said.text == text(own_model, going_on)  # a plain word of the template ends nothing
    own.add_special_tokens({"additional_special_tokens": [word]})
    (said,) = answer(own_model, [prompt], max_new_tokens=8)
    assert said.finished
    assert said.text == text(own_model, going_on[: going_on.index(going_on[3])])


def test_a_prompt_that_is_cut_leaves_room_for_an_answer(own_model, sentence):
    own_model.overflow = "truncate"
    with pytest.warns(UserWarning, match="Prompts: 1 of 1 are longer than the 64 tokens"):
        (said,) = answer(own_model, [sentence(1, words=80)], max_new_tokens=9)
    ids = list(encode(own_model, sentence(1, words=80), room=9).ids)
    assert len(ids) == 55
    with torch.no_grad():
        for _ in range(9):
            ids.append(int(own_model.hf(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    assert END not in ids[55:]
    assert said.text == text(own_model, ids[55:])


def test_sampling_defaults_of_the_checkpoint_do_not_touch_greedy_answers(own_model, prompts):
    before = answer(own_model, prompts, max_new_tokens=12)
    own_model.hf.generation_config = GenerationConfig(
        repetition_penalty=5.0, no_repeat_ngram_size=2, eos_token_id=END
    )
    assert answer(own_model, prompts, max_new_tokens=12) == before
    assert own_model.hf.generation_config.repetition_penalty == 5.0


def test_hooks_that_are_open_on_the_model_act_on_its_answers(speaker, prompts):
    shift = 30 * torch.randn(speaker.cfg.d_model, generator=torch.Generator().manual_seed(3))

    def steer(resid, hook):  # noqa: ARG001
        return resid + shift

    plain = answer(speaker, prompts, max_new_tokens=6)
    with speaker.hooks(fwd_hooks=[("blocks.1.hook_resid_post", steer)]):
        steered = answer(speaker, prompts, max_new_tokens=6)
        expected = [text(speaker, greedy(speaker, prompt, 6)) for prompt in prompts]
    assert [said.text for said in steered] == expected
    assert steered != plain
    assert answer(speaker, prompts, max_new_tokens=6) == plain


def test_answering_leaves_mode_and_random_state_alone(own_model, prompts):
    own_model.hf.train()
    state = torch.get_rng_state()
    answer(own_model, prompts, max_new_tokens=4)
    assert own_model.hf.training
    assert torch.equal(torch.get_rng_state(), state)


def test_a_prompt_longer_than_the_context_is_refused(speaker, sentence):
    with pytest.raises(ProbeError, match="but the model reads 64"):
        answer(speaker, [sentence(1, words=80)])


def test_a_guest_is_refused_because_it_generates_by_its_own_method():
    with pytest.raises(ConfigError, match="Hugging Face model"):
        answer(object.__new__(GuestModel), ["prompt"])


def drafted(model, prompts, drafts, count=8):
    items = encode_prompts(model, prompts, max_new_tokens=count)
    return answer_encoded(model, items, max_new_tokens=count, drafts=drafts)


@pytest.fixture
def tokens_written(monkeypatch):
    """How many rows were written token by token, and how far."""
    written, plain = [], generation.generate

    def counted(model, batch, room, ends, **more):
        written.extend([room] * len(batch))
        return plain(model, batch, room, ends, **more)

    monkeypatch.setattr(generation, "generate", counted)
    return written


def test_right_drafts_are_the_answers_and_nothing_is_written(speaker, prompts, tokens_written):
    plain = answer(speaker, prompts, max_new_tokens=8)
    tokens_written.clear()
    found = drafted(speaker, prompts, [one.tokens for one in plain])
    assert found == plain
    assert [one.tokens for one in found] == [one.tokens for one in plain]
    assert not tokens_written


def test_wrong_drafts_change_no_answer(speaker, prompts, tokens_written):
    plain = answer(speaker, prompts, max_new_tokens=8)
    for wrong_at in (0, 3, 7):
        drafts = [list(one.tokens) for one in plain]
        for draft in drafts:
            if wrong_at < len(draft):
                draft[wrong_at] = 9 if draft[wrong_at] != 9 else 10
        tokens_written.clear()
        assert drafted(speaker, prompts, drafts) == plain
        assert all(room == 7 - wrong_at for room in tokens_written)
    assert (
        drafted(speaker, prompts, [(), (END,), (9,) * 50, (9, END, 9), (), plain[5].tokens])
        == plain
    )


def test_a_draft_that_stops_early_is_gone_on_with(speaker, prompts):
    plain = answer(speaker, prompts, max_new_tokens=8)
    assert drafted(speaker, prompts, [one.tokens[:3] for one in plain]) == plain


def test_drafts_leave_each_answer_its_own_room(make_model, sentence):
    model = make_model("gpt2")  # learned positions: beyond the context there are none
    prompts = [sentence(1, words=count) for count in (50, 56, 3)]
    plain = answer(model, prompts, max_new_tokens=12)
    drafts = [one.tokens[:count] for one, count in zip(plain, (2, 0, 5), strict=True)]
    assert drafted(model, prompts, drafts, 12) == plain


def test_without_padding_on_the_left_drafts_are_left_alone(make_model, prompts, tokens_written):
    model = make_model("recurrent-gemma")
    plain = answer(model, prompts, max_new_tokens=4)
    tokens_written.clear()
    assert drafted(model, prompts, [one.tokens for one in plain], 4) == plain
    assert tokens_written == [4] * len(prompts)
