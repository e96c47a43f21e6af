"""What forwards of the same tokens share changes no bit of what they give, in every family."""

import pytest
import torch
from families import VARIANTS
from running_blocks import blocks_run

from workbench import prefixes
from workbench.continuations import continuation_losses
from workbench.directions import fit_directions_from
from workbench.editing import intervene
from workbench.edits import ablate
from workbench.encoding import encode
from workbench.generation import answer
from workbench.losses import response_losses
from workbench.models import resid_post
from workbench.prefixes import Prefix

SETS = ((1,), (0, 1, 2))
OFTEN = ("gpt2", "llama-gqa", "gemma2", "llama4")
"""Variants that are tried each time; the others are slow together."""


@pytest.fixture(scope="module")
def arrows():
    witness, aligned = torch.randn(2, 3, 8, 32, generator=torch.Generator().manual_seed(11))
    return fit_directions_from(witness + 0.5, aligned)


@pytest.fixture(scope="module")
def prompts(sentence):
    return [sentence(number, words) for number, words in enumerate((9, 2, 5, 9))]


def asked(model, prompts):
    """All ways to run a model in an evaluation: losses, continuations, answers."""
    items = [encode(model, prompt, end) for end in ("bako", "gina domi fura") for prompt in prompts]
    with torch.no_grad():
        losses = response_losses(model, items)
    said = [one.tokens for one in answer(model, prompts, max_new_tokens=4)]
    return losses, continuation_losses(model, items), said


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in OFTEN else pytest.mark.slow) for n in VARIANTS],
)
def test_every_strength_gives_the_same_bits_with_and_without(name, make_model, arrows, prompts):
    model = make_model(name)
    for layers in SETS:
        prefix = Prefix(model, min(layers))
        found = []
        for strength in (0.5, 1.0, -0.7):
            edit = ablate(arrows, strength=strength, layers=layers, positions="all")
            with intervene(model, edit):
                plain = asked(model, prompts)
            with intervene(model, edit, prefix=prefix):
                losses, continued, said = asked(model, prompts)
            assert torch.equal(losses, plain[0])
            assert torch.equal(continued, plain[1])
            assert said == plain[2]
            found.append(losses)
        assert (found[0] - found[2]).abs().max() > 1e-3  # the edit does something


def test_blocks_below_the_edit_run_once_for_all_strengths(make_model, arrows, prompts):
    model = make_model("llama-gqa")
    runs = blocks_run(model)
    items = [encode(model, prompt, "bako") for prompt in prompts]
    prefix = Prefix(model, 1)
    assert prefix.works
    runs.clear()
    for strength in (0.2, 0.4, 0.6, 0.8):
        edit = ablate(arrows, strength=strength, layers=(1,), positions="all")
        with intervene(model, edit, prefix=prefix), torch.no_grad():
            response_losses(model, items)
    assert [runs.count(layer) for layer in range(3)] == [1, 1, 4]


def test_the_unedited_forward_of_a_partial_ablation_runs_once(make_model, arrows, prompts):
    model = make_model("llama-gqa")
    runs = blocks_run(model)
    items = [encode(model, prompt, "bako") for prompt in prompts]
    prefix = Prefix(model, 0)
    runs.clear()
    for strength in (0.2, 0.4, 0.6, 0.8):
        edit = ablate(arrows, strength=strength, positions="all")
        with intervene(model, edit, prefix=prefix), torch.no_grad():
            response_losses(model, items)
    assert [runs.count(layer) for layer in range(3)] == [1, 5, 5]


def test_other_tokens_are_other_forwards(make_model, arrows, prompts):
    model = make_model("gpt2")
    prefix = Prefix(model, 1)
    edit = ablate(arrows, strength=0.5, layers=(1,), positions="all")
    with torch.no_grad():
        for prompt in prompts:
            item = [encode(model, prompt, "bako")]
            with intervene(model, edit):
                plain = response_losses(model, item)
            with intervene(model, edit, prefix=prefix):
                assert torch.equal(response_losses(model, item), plain)


def test_without_room_nothing_is_shared_and_nothing_changes(
    make_model, arrows, prompts, monkeypatch
):
    model = make_model("llama-gqa")
    expected = []
    for most in (prefixes.MOST_BYTES, 0):
        monkeypatch.setattr(prefixes, "MOST_BYTES", most)
        prefix = Prefix(model, 0)
        for strength in (0.5, 0.6):
            edit = ablate(arrows, strength=strength, positions="all")
            with intervene(model, edit, prefix=prefix):
                losses, continued, said = asked(model, prompts)
        assert bool(prefix._kept) == (most > 0)
        expected.append((losses.tolist(), continued.tolist(), said))
    assert expected[0] == expected[1]


def test_a_model_whose_later_blocks_need_the_earlier_ones_shares_nothing(make_model):
    model = make_model("llama-gqa")
    first, last = model.hf.model.layers[0], model.hf.model.layers[2]
    run_first, run_last, left = first.forward, last.forward, {}

    def leaving(*args, **kwargs):
        left["sum"] = left.get("sum", 0.0) + 1e-2
        return run_first(*args, **kwargs)

    first.forward = leaving
    last.forward = lambda *args, **kwargs: run_last(*args, **kwargs) + left["sum"]
    assert not Prefix(model, 1).works
    first.forward, last.forward = run_first, run_last
    assert Prefix(model, 1).works


def test_the_blocks_have_their_own_forward_back_also_after_an_error(make_model, arrows):
    model = make_model("llama-gqa")
    blocks = list(model.hf.model.layers)
    blocks[0].forward = own = blocks[0].forward  # as accelerate does
    prefix = Prefix(model, 1)
    edit = ablate(arrows, strength=0.5, layers=(1,), positions="all")
    with pytest.raises(ZeroDivisionError), intervene(model, edit, prefix=prefix):
        assert vars(blocks[1])["forward"] is not None
        1 / 0  # noqa: B018
    assert vars(blocks[0])["forward"] is own
    assert "forward" not in vars(blocks[1])
    assert not model.hook_dict[resid_post(1)]._forward_hooks
