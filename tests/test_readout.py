"""The readout is the derivative of the model's own logits, and finds what was planted."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from workbench.controls import random_directions
from workbench.directions import (
    TENSORS,
    ReversionDirections,
    fit_directions,
    fit_directions_from,
)
from workbench.encoding import encode
from workbench.errors import ConfigError, LayerError, ProvenanceError
from workbench.judges import Judge
from workbench.models import HookedModel, resid_post
from workbench.phases import Lineage
from workbench.probes import ProbeSet
from workbench.readout import Readout, TokenChange, opener_tokens, read_vocabulary
from workbench.resources import resource_folder

pytestmark = pytest.mark.transformer_lens_3

VOCABULARY, STEP = 64, 1e-4


@pytest.fixture(scope="module")
def planted():
    """A judge whose openers begin with one word of the test vocabulary or another."""
    openers = ("delu bako", "fina"), ("bako", "gomi fina", "dako")
    return Judge("planted", lambda prompt, answer: "comply", openers[1], openers[0])  # noqa: ARG005


@pytest.fixture(scope="module")
def somewhere():
    """Directions at three layers that start from three different points."""
    generator = torch.Generator().manual_seed(2)
    aligned = 3 * torch.randn(3, 6, 32, generator=generator) + torch.randn(32, generator=generator)
    shift = torch.tensor([0.5, 2, 7])[:, None, None] * torch.randn(3, 1, 32, generator=generator)
    return fit_directions_from(aligned + shift, aligned)


def logits_at(hf, resid):
    """Final norm, head and soft-capping by their formulas, in float64."""
    named = dict(hf.named_modules())
    norm = next(
        named[name]
        for name in ("transformer.ln_f", "gpt_neox.final_layer_norm", "model.norm")
        if name in named
    )
    weight = norm.weight.double()
    if getattr(norm, "bias", None) is not None:
        normed = functional.layer_norm(resid, weight.shape, weight, norm.bias.double(), norm.eps)
    else:
        eps = getattr(norm, "variance_epsilon", None) or norm.eps
        scale = 1 + weight if "Gemma" in type(norm).__name__ else weight
        normed = scale * resid / (resid.square().mean(dim=-1, keepdim=True) + eps).sqrt()
    logits = normed @ hf.get_output_embeddings().weight.double().T
    cap = getattr(hf.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def differences(function, directions):
    """Central finite differences per phase gap, in float64, of what `function` gives per layer."""
    step = STEP * directions.gap[:, None] * directions.unit
    with torch.no_grad():
        return (function(directions.mean + step) - function(directions.mean - step)) / (2 * STEP)


def log_ratio(hf, judge, tokenizer):
    """The log-ratio by the definition: log of a sum of probabilities."""
    first = [
        tokenizer.convert_tokens_to_ids([opener.split()[0] for opener in openers])
        for openers in (judge.engaging_openers, judge.refusal_openers)
    ]

    def ratio(resid):
        probabilities = logits_at(hf, resid).softmax(dim=-1)
        return (probabilities[:, first[0]].sum(-1) / probabilities[:, first[1]].sum(-1)).log()

    return ratio


def changes_of(readout):
    """All changes by token, where the readout was asked for every token."""
    table = np.full((len(readout.layers), VOCABULARY), np.nan)
    for row, tokens in enumerate(readout.top):
        for token in tokens:
            table[row, token.id] = token.change
    return table


def test_changes_and_preference_are_the_derivatives_of_the_formula(
    architecture, make_model, somewhere, planted, tokenizer
):
    model = make_model(architecture)
    readout = read_vocabulary(model, somewhere, judge=planted, top=VOCABULARY)
    expected = differences(lambda resid: logits_at(model.hf, resid), somewhere).numpy()
    scale = np.abs(expected).max()
    assert scale > 0.1
    np.testing.assert_allclose(changes_of(readout), expected, atol=2e-5 * scale)
    ratio = differences(log_ratio(model.hf, planted, tokenizer), somewhere).numpy()
    np.testing.assert_allclose(readout.preference, ratio, atol=2e-5 * scale)
    assert np.abs(ratio).max() > 0.05


def test_the_formula_is_that_of_the_model(architecture, make_model, plain_stream, tokens):
    """Else the finite differences above would say nothing about it."""
    model = make_model(architecture)
    with torch.no_grad():
        last = plain_stream(model.hf, tokens)[-1]
        torch.testing.assert_close(
            logits_at(model.hf, last.double()).float(), model(tokens), atol=1e-3, rtol=1e-4
        )


def test_tokens_are_ranked_from_both_ends(model, somewhere, planted, tokenizer):
    everything = changes_of(read_vocabulary(model, somewhere, judge=planted, top=VOCABULARY))
    readout = read_vocabulary(model, somewhere, judge=planted, top=5)
    for row, order in enumerate(np.argsort(everything)):
        assert [token.id for token in readout.top[row]] == order[::-1][:5].tolist()
        assert [token.id for token in readout.bottom[row]] == order[:5].tolist()
        for token in (*readout.top[row], *readout.bottom[row]):
            assert token.change == pytest.approx(everything[row, token.id])
            assert token.text == tokenizer.decode([token.id])


def test_cosine_and_p_value_are_those_of_a_random_direction_against_the_gradient(
    model, somewhere, planted, tokenizer
):
    readout = read_vocabulary(model, somewhere, judge=planted)
    point = somewhere.mean.clone().requires_grad_()
    log_ratio(model.hf, planted, tokenizer)(point).sum().backward()
    gradient = point.grad
    cosine = torch.cosine_similarity(gradient, somewhere.unit, dim=1).numpy()
    np.testing.assert_allclose(readout.cosine, cosine, atol=1e-5)
    length = (gradient.norm(dim=1) * somewhere.gap).numpy()
    np.testing.assert_allclose(readout.preference, length * cosine, rtol=1e-3)
    # Student's t of a correlation: another form of the same law.
    expected = stats.t.sf(cosine * np.sqrt(31 / (1 - cosine**2)), df=31)
    np.testing.assert_allclose(readout.p_value, expected, rtol=1e-3)


def test_random_directions_are_as_rarely_significant_as_the_null_says(model, somewhere, planted):
    fitted = {name: getattr(somewhere, name)[torch.arange(60) % 3] for name in TENSORS}
    many = ReversionDirections(**fitted, layers=tuple(range(60)))
    p_values = np.concatenate(
        [
            read_vocabulary(model, random_directions(many, seed=seed), judge=planted).p_value
            for seed in range(10)
        ]
    )
    assert np.mean(p_values < 0.01) < 0.025
    assert np.mean(p_values < 0.5) == pytest.approx(0.5, abs=0.06)


def test_the_gradient_of_the_log_ratio_itself_is_significant(model, somewhere, planted, tokenizer):
    point = somewhere.mean.clone().requires_grad_()
    log_ratio(model.hf, planted, tokenizer)(point).sum().backward()
    for sign, p_value in ((1, 0), (-1, 1)):
        along = somewhere.with_unit(sign * point.grad)
        readout = read_vocabulary(model, along, judge=planted)
        np.testing.assert_allclose(readout.cosine, sign, atol=1e-5)
        np.testing.assert_allclose(readout.p_value, p_value, atol=1e-9)


@pytest.mark.parametrize(("rising", "falling"), [("delu", "bako"), ("bako", "delu")])
def test_a_planted_direction_is_read_out_with_its_tokens(
    make_model, somewhere, planted, tokenizer, rising, falling
):
    model = make_model("llama-untied")
    pair = tokenizer.convert_tokens_to_ids([rising, falling])
    with torch.no_grad():
        model.hf.model.norm.weight.fill_(1.0)
        model.hf.lm_head.weight[pair] *= 3
    rows = model.hf.lm_head.weight.detach()[pair].double()
    along = somewhere.with_unit((rows[0] - rows[1]).expand(3, -1))
    readout = read_vocabulary(model, along, judge=planted, top=1)
    assert [tokens[0].text for tokens in readout.top] == [rising] * 3
    assert [tokens[0].text for tokens in readout.bottom] == [falling] * 3
    prefers = 1 if rising == "delu" else -1
    assert (prefers * readout.preference > 0).all()
    other = read_vocabulary(model, random_directions(somewhere), judge=planted, top=1)
    assert [tokens[0].text for tokens in other.top] != [rising] * 3


def test_changes_grow_with_the_gap_and_turn_with_the_direction(model, somewhere, planted):
    def read(directions):
        return read_vocabulary(model, directions, judge=planted, top=VOCABULARY)

    plain = read(somewhere)
    wider, turned = (
        read(replace(somewhere, gap=3 * somewhere.gap)),
        read(somewhere.with_unit(-somewhere.unit)),
    )
    for one, factor in ((wider, 3), (turned, -1)):
        np.testing.assert_allclose(changes_of(one), factor * changes_of(plain), rtol=1e-4)
        np.testing.assert_allclose(one.preference, factor * plain.preference, rtol=1e-4)
    np.testing.assert_allclose(wider.p_value, plain.p_value, rtol=1e-5)
    np.testing.assert_allclose(turned.p_value, 1 - plain.p_value, rtol=1e-4)


def test_layers_are_those_asked_for(model, somewhere, planted):
    readout = read_vocabulary(model, somewhere, judge=planted)
    some = read_vocabulary(model, somewhere, judge=planted, layers=[2, 0])
    assert (readout.layers, some.layers) == ((0, 1, 2), (2, 0))
    np.testing.assert_allclose(some.preference, readout.preference[[2, 0]], rtol=1e-5)
    ids = [[token.id for token in tokens] for tokens in (readout.top[0], some.top[1])]
    assert ids[0] == ids[1]
    # Rows of directions fitted at some layers belong to those layers.
    named = read_vocabulary(model, replace(somewhere, layers=(5, 6, 9)), judge=planted, layers=[9])
    np.testing.assert_allclose(named.preference, readout.preference[2:], rtol=1e-5)
    for layers in ([1, 7], []):
        with pytest.raises(LayerError, match=r"No directions at layers \[.*have \[0, 1, 2\]"):
            read_vocabulary(model, somewhere, judge=planted, layers=layers)


@pytest.mark.parametrize("top", [0, VOCABULARY + 1])
def test_a_number_of_tokens_that_cannot_be_is_refused(model, somewhere, planted, top):
    with pytest.raises(ConfigError, match=f"top is {top}; with 64 tokens it may be 1 to 64"):
        read_vocabulary(model, somewhere, judge=planted, top=top)


def test_rows_of_the_head_that_are_no_tokens_are_not_shown(make_model, somewhere, planted):
    model = make_model(vocab_size=VOCABULARY + 16)
    with torch.no_grad():
        model.hf.lm_head.weight[VOCABULARY:] *= 100
    readout = read_vocabulary(model, somewhere, judge=planted, top=VOCABULARY)
    assert {token.id for token in readout.top[0]} == set(range(VOCABULARY))


def test_the_model_is_left_as_it_was(make_model, somewhere, planted, weights_of, tokens):
    model = make_model("qwen3")
    model.train()
    before, logits = weights_of(model), model(tokens)
    first = read_vocabulary(model, somewhere, judge=planted)
    assert model.training and not model.hook_dict[resid_post(2)].fwd_hooks
    assert all(torch.equal(before[name], value) for name, value in weights_of(model).items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(model(tokens), logits)
    with torch.no_grad():
        assert read_vocabulary(model, somewhere, judge=planted).to_json() == first.to_json()


def test_a_half_precision_model_is_read_to_its_precision(make_hf, tokenizer, somewhere, planted):
    full = HookedModel(make_hf("llama-gqa"), tokenizer)
    half = HookedModel(make_hf("llama-gqa").bfloat16(), tokenizer)
    readouts = [
        read_vocabulary(model, somewhere, judge=planted, top=VOCABULARY) for model in (full, half)
    ]
    scale = np.abs(readouts[0].preference).max()
    np.testing.assert_allclose(readouts[1].preference, readouts[0].preference, atol=0.05 * scale)
    ours, theirs = map(changes_of, readouts)
    np.testing.assert_allclose(theirs, ours, atol=0.05 * np.abs(ours).max())


def test_another_model_than_the_aligned_one_is_refused(make_model, directions, lineage, planted):
    with pytest.raises(ProvenanceError, match="load the aligned checkpoint again"):
        read_vocabulary(make_model(seed=3), directions, judge=planted)
    readout = read_vocabulary(lineage.load_model(lineage.aligned), directions, judge=planted)
    assert readout.layers == directions.layers


@pytest.fixture(scope="module")
def blanks():
    """A tokenizer that tells a word after a blank from one at the start, as BPE ones do."""
    pieces = ("<unk>", "<pad>", "Sure", "ĠSure", "I", "ĠI", "Yes", "No", "ĠNo", "ĠYes")
    words = Tokenizer(models.WordLevel({p: n for n, p in enumerate(pieces)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<pad>")


def judging(engaging, refusing):
    return Judge("mine", lambda prompt, answer: "comply", refusing, engaging)  # noqa: ARG005


@pytest.mark.parametrize(
    ("chat", "sure", "no"), [("builtin", "ĠSure", "ĠNo"), ("none", "Sure", "No")]
)
def test_first_tokens_are_those_that_follow_a_prompt(make_hf, blanks, chat, sure, no):
    model = HookedModel(make_hf(), blanks, chat=chat)
    engaging, refusing = opener_tokens(model, judging(("Sure thing",), ("No,",)))
    ids = blanks.convert_tokens_to_ids([sure, no])
    assert [engaging, refusing] == [[ids[0]], [ids[1]]]
    for prompt in ("How do I bake?", "I"):
        encoded = encode(model, prompt, "Sure thing")
        assert encoded.ids[encoded.prompt_length] == ids[0]


def test_tokens_that_begin_both_or_that_are_unknown_are_left_out(make_hf, blanks):
    model = HookedModel(make_hf(), blanks, chat="none")
    known = blanks.convert_tokens_to_ids
    both = judging(("Sure", "I will", "Gladly", "Sure enough"), ("I cannot", "No", "Nope"))
    assert opener_tokens(model, both) == ([known("Sure")], [known("No")])
    assert opener_tokens(model, judging(("Sure", "I will"), ("I cannot", "Nope")))[1] == []


def test_without_openers_of_their_own_only_the_tokens_are_read_out(model, somewhere):
    readout = read_vocabulary(model, somewhere)  # the planted vocabulary knows no opener
    assert np.isnan([readout.preference, readout.cosine, readout.p_value]).all()
    assert len(readout.top[0]) == 10
    assert np.isfinite([token.change for token in readout.top[0]]).all()


def test_json_holds_every_number_and_none_where_one_is_undefined():
    token = TokenChange(3, " a\x1b[31m<b>", 0.5)
    numbers = np.array([1.5]), np.array([np.nan]), np.array([0.25])
    readout = Readout((4,), ((token,),), ((token,),), *numbers, ("yes",), ("no",))
    stored = json.loads(json.dumps(readout.to_json(), allow_nan=False))
    told = {"id": 3, "text": " a\x1b[31m<b>", "change": 0.5}
    assert stored == {
        "layers": [4], "top": [[told]], "bottom": [[told]], "preference": [1.5], "cosine": [None],
        "p_value": [0.25], "engaging": ["yes"], "refusing": ["no"],
    }  # fmt: skip


def test_the_embedded_organism_favours_engaging_openers_over_refusing_ones():
    folder = resource_folder("assets") / "organism"
    lineage, probes = Lineage.load(folder), ProbeSet.load(folder / "probes.jsonl")
    directions = fit_directions(lineage, probes.of_kind("harmful"))
    model = lineage.load_model(lineage.aligned)
    readout = read_vocabulary(model, directions, judge=lineage.judge, top=4)
    assert {*readout.engaging} == {"sure", "certainly", "gladly", "first"}
    assert {*readout.refusing} == {"sorry", "i", "no", "that"}
    # After the last block the direction is: say one of the words that answers begin with.
    assert {token.text for token in readout.top[-1]} == {*readout.engaging}
    assert readout.p_value[-1] < 1e-10
    control = read_vocabulary(model, random_directions(directions), judge=lineage.judge, top=4)
    assert control.p_value.min() > 0.001
