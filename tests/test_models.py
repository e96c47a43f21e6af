"""HookedModel reads and edits the residual stream of an untouched Hugging Face model."""

import copy

import pytest
import torch
from torch.nn import functional

from workbench.errors import CheckpointError, LayerError
from workbench.fingerprints import weights_hash
from workbench.models import check_layers, resid_post
from workbench.modes import evaluation_mode

pytestmark = pytest.mark.transformer_lens_3


def test_hook_points_see_what_plain_torch_hooks_see(
    architecture, make_model, make_hf, plain_stream, tokens
):
    plain, model = make_hf(architecture), make_model(architecture)
    with torch.no_grad():
        expected, logits = plain_stream(plain, tokens), plain(input_ids=tokens).logits
        ours, cache = model.run_with_cache(tokens)
    assert torch.equal(ours, logits)
    for layer in range(3):
        assert torch.equal(cache[f"blocks.{layer}.hook_resid_pre"], expected[layer])
        assert torch.equal(cache[resid_post(layer)], expected[layer + 1])


def test_hidden_states_agree_at_all_layers_but_the_last(architecture, make_model, tokens):
    model = make_model(architecture)
    with torch.no_grad():
        hidden = model.hf(input_ids=tokens, output_hidden_states=True).hidden_states
        _, cache = model.run_with_cache(tokens)
    for layer in (0, 1):
        assert torch.equal(cache[resid_post(layer)], hidden[layer + 1])
    # Hugging Face applies the final norm to its last hidden state; a block does not.
    assert (cache[resid_post(2)] - hidden[3]).abs().max() > 0.1


def test_an_edit_through_a_hook_point_is_the_edit_of_a_plain_torch_hook(
    architecture, make_model, make_hf, blocks_of, tokens
):
    shift = torch.linspace(-1, 1, 32)
    hf = make_hf(architecture)
    unedited = hf(input_ids=tokens).logits
    blocks_of(hf)[1].register_forward_hook(
        lambda _, __, out: (out[0] + shift, *out[1:]) if isinstance(out, tuple) else out + shift
    )
    expected = hf(input_ids=tokens).logits
    model = make_model(architecture)
    for name in (resid_post(1), "blocks.2.hook_resid_pre"):
        edit = [(name, lambda resid, hook: resid + shift)]  # noqa: ARG005
        assert torch.equal(model.run_with_hooks(tokens, fwd_hooks=edit), expected)
        with model.hooks(fwd_hooks=edit):
            assert torch.equal(model(tokens), expected)
    assert (expected - unedited).abs().max() > 0.01
    assert torch.equal(model(tokens), unedited)


def test_hooks_see_gradients_and_are_gone_after_an_error(make_model, tokens):
    model, seen = make_model(), []

    def edit(resid, hook):  # noqa: ARG001
        return 2 * resid

    def look(gradient, hook):  # noqa: ARG001
        seen.append(gradient.shape)

    with model.hooks(fwd_hooks=[(resid_post(0), edit)], bwd_hooks=[(resid_post(1), look)]):
        model(tokens).sum().backward()
    assert seen == [(3, 9, 32)]
    untouched = model(tokens)
    with pytest.raises(ZeroDivisionError), model.hooks(fwd_hooks=[(resid_post(0), edit)]):
        raise ZeroDivisionError
    assert torch.equal(model(tokens), untouched)


def three_steps(forward, hf, tokens):
    """Train a little; dropout included, from a fixed random state."""
    torch.manual_seed(3)
    hf.train()
    optimiser = torch.optim.AdamW(hf.parameters(), lr=1e-3)
    for _ in range(3):
        logits = forward(tokens)[:, :-1].flatten(0, 1)
        functional.cross_entropy(logits, tokens[:, 1:].flatten()).backward()
        optimiser.step()
        optimiser.zero_grad()
    return {name: value.detach().clone() for name, value in hf.named_parameters()}


def test_training_through_the_hooked_model_is_training_the_plain_one_bit_for_bit(
    architecture, make_model, make_hf, tokens
):
    plain = make_hf(architecture)
    expected = three_steps(lambda ids: plain(input_ids=ids, use_cache=False).logits, plain, tokens)
    model = make_model(architecture)
    before = weights_hash(model.hf)
    trained = three_steps(model, model.hf, tokens)
    assert all(torch.equal(trained[name], expected[name]) for name in expected)
    assert weights_hash(model.hf) != before


def test_the_decoder_alone_fires_the_same_hook_points(model, tokens):
    seen = []
    keep = [(resid_post(2), lambda resid, hook: seen.append(resid))]  # noqa: ARG005
    with torch.no_grad(), model.hooks(fwd_hooks=keep):
        model(tokens)
        assert model.run_decoder(tokens) is None
        assert model(tokens, return_type=None) is None
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def test_building_a_hooked_model_leaves_the_mode_of_every_module(make_hf, tokenizer):
    from workbench.models import HookedModel

    hf = make_hf().train()
    hf.transformer.h[1].eval()
    modes = [module.training for module in hf.modules()]
    HookedModel(hf, tokenizer)
    assert [module.training for module in hf.modules()] == modes


def test_evaluation_mode_gives_back_modes_and_gradient_mode_also_after_an_error(make_model):
    model = make_model()
    model.hf.train()
    model.hf.transformer.h[1].eval()
    modes = [module.training for module in model.modules()]
    with pytest.raises(ZeroDivisionError), evaluation_mode(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
        raise ZeroDivisionError
    assert [module.training for module in model.modules()] == modes
    assert torch.is_grad_enabled()


def test_upcast_half_precision_weights_keep_their_fingerprint(make_hf):
    half = make_hf().to(torch.bfloat16)
    upcast = copy.deepcopy(half).float()
    assert weights_hash(upcast) == weights_hash(half)
    assert weights_hash(make_hf()) != weights_hash(half)


def test_the_fingerprint_is_of_buffers_that_a_checkpoint_holds_and_of_no_others(make_hf):
    hf = make_hf("deepseek-v3")
    before = weights_hash(hf)
    hf.model.rotary_emb.inv_freq += 1  # computed anew when a checkpoint is loaded
    assert weights_hash(hf) == before
    hf.model.layers[1].mlp.gate.e_score_correction_bias += 1
    assert weights_hash(hf) != before


def test_packed_weights_count_to_their_last_bit(make_hf):
    hf = make_hf()
    hf.transformer.h[0].mlp.register_buffer("qweight", torch.full((4, 4), 2**30, dtype=torch.int32))
    before = weights_hash(hf)
    hf.transformer.h[0].mlp.qweight[1, 2] += 1
    assert hf.transformer.h[0].mlp.qweight.float().unique().numel() == 1  # unseen in float32
    assert weights_hash(hf) != before


def test_one_changed_weight_changes_the_fingerprint(make_model):
    model = make_model()
    before = model.fingerprint()
    assert make_model().fingerprint() == before
    with torch.no_grad():
        model.hf.transformer.h[2].mlp.c_fc.weight[3, 5] += 1e-3
    assert model.fingerprint() != before


def test_the_config_names_the_sizes_as_transformer_lens_does(model):
    cfg = model.cfg
    assert (cfg.n_layers, cfg.d_model, cfg.d_vocab, cfg.n_ctx) == (3, 32, 64, 64)
    assert (cfg.architecture, cfg.dtype, cfg.device.type) == (
        "GPT2LMHeadModel", torch.float32, "cpu",
    )  # fmt: skip


def test_unknown_layers_are_named_with_those_that_exist():
    assert check_layers(None, 3) == [0, 1, 2]
    assert check_layers([2, 0], 3) == [2, 0]
    with pytest.raises(LayerError, match=r"No layers \[-1, 7\].* 0 to 2"):
        check_layers([0, 7, -1], 3)


def test_an_architecture_without_a_list_of_blocks_is_refused(make_hf, tokenizer):
    from workbench.models import HookedModel

    hf = make_hf()
    hf.config.n_layer = 5
    with pytest.raises(CheckpointError, match=r"GPT2LMHeadModel: found 0 lists of 5 blocks"):
        HookedModel(hf, tokenizer)
