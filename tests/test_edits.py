"""Edits do what their formulas say, at the positions named, in one forward and in generation."""

import pytest
import torch
from transformers import DynamicCache

from workbench.directions import fit_directions_from
from workbench.editing import EditHooks, intervene
from workbench.edits import ablate, cap, steer
from workbench.encoding import encode
from workbench.errors import ConfigError, LayerError
from workbench.generation import answer
from workbench.models import HookedModel, resid_post
from workbench.modes import evaluation_mode

pytestmark = pytest.mark.transformer_lens_3

ARCHITECTURES = ["gpt2", "llama-gqa"]
LAYERS = [(1,), (2, 0), None]


@pytest.fixture(scope="module")
def arrows():
    """Random directions whose mean is far from the origin, rows not in the order of layers."""
    generator = torch.Generator().manual_seed(11)
    witness, aligned = torch.randn(2, 3, 8, 32, generator=generator, dtype=torch.float64)
    return fit_directions_from(witness + 3.0, aligned + 2.0, layers=(2, 0, 1))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def pair(request, make_hf, tokenizer):
    """The same weights twice, in float64: hooked, and plain for the reference."""
    hf = make_hf(request.param).double()
    return HookedModel(hf, tokenizer), make_hf(request.param).double()


@pytest.fixture
def plain(pair, blocks_of):
    """Run the plain model with a function of the stream at some layers, by torch hooks."""
    hf = pair[1]

    def run(functions, ids, mask=None):
        def editing(function):
            def hook(block, args, out):  # noqa: ARG001
                first = out[0] if isinstance(out, tuple) else out
                edited = function(first)
                return (edited, *out[1:]) if isinstance(out, tuple) else edited

            return hook

        blocks = blocks_of(hf)
        handles = [
            blocks[layer].register_forward_hook(editing(function))
            for layer, function in functions.items()
        ]
        try:
            return hf(input_ids=ids, attention_mask=mask, use_cache=False).logits
        finally:
            for handle in handles:
                handle.remove()

    return run


class Formulas:
    """The edits of a batch as plain functions of the stream, one per layer, from the method."""

    def __init__(self, arrows, layers, keep=None):
        self.rows = {layer: arrows.layers.index(layer) for layer in sorted(layers or (0, 1, 2))}
        self.arrows, self.keep = arrows, keep

    def kept(self, function):
        def edited(h):
            keep = torch.ones(h.shape[:2], dtype=torch.bool) if self.keep is None else self.keep
            return torch.where(keep[..., None], function(h), h)

        return edited

    def ablate(self, s, clean, centre=None):
        """`clean`: the stream after each layer without edits, or None for what arrives."""

        def at(layer, row):
            v = self.arrows.unit[row]
            m = self.arrows.mean[row] @ v if centre is None else centre[row]

            def function(h):
                c = (h if clean is None else clean[layer]) @ v
                without = h - (h @ v)[..., None] * v
                return without + (m + (1 - s) * (c - m))[..., None] * v

            return self.kept(function)

        return {layer: at(layer, row) for layer, row in self.rows.items()}

    def steer(self, s):
        functions, before = {}, torch.zeros(32, dtype=torch.float64)
        for layer, row in self.rows.items():
            total = s * self.arrows.gap[row] * self.arrows.unit[row]
            functions[layer] = self.kept(lambda h, add=total - before: h + add)
            before = total
        return functions

    def cap(self, s, ceiling):
        def at(row):
            v = self.arrows.unit[row]

            def function(h):
                over = (h @ v) - ceiling[row]
                return h - s * (torch.where(over > 0, over, 0.0))[..., None] * v

            return self.kept(function)

        return {layer: at(row) for layer, row in self.rows.items()}


CEILING = torch.tensor([0.5, -0.3, 0.1], dtype=torch.float64)
EDITS = {
    "ablate-partly": (
        lambda d, layers, at: ablate(d, strength=0.4, layers=layers, positions=at),
        lambda f, clean: f.ablate(0.4, clean),
    ),
    "ablate-beyond": (
        lambda d, layers, at: ablate(d, strength=2.0, layers=layers, positions=at),
        lambda f, clean: f.ablate(2.0, clean),
    ),
    "ablate-amplify-centred": (
        lambda d, layers, at: ablate(d, strength=-1.0, layers=layers, positions=at, centre=CEILING),
        lambda f, clean: f.ablate(-1.0, clean, CEILING),
    ),
    "ablate-fully": (
        lambda d, layers, at: ablate(d, layers=layers, positions=at),
        lambda f, clean: f.ablate(1.0, clean),
    ),
    "steer": (
        lambda d, layers, at: steer(d, strength=-0.7, layers=layers, positions=at),
        lambda f, clean: f.steer(-0.7),  # noqa: ARG005
    ),
    "cap": (
        lambda d, layers, at: cap(d, strength=0.8, layers=layers, positions=at, ceiling=CEILING),
        lambda f, clean: f.cap(0.8, CEILING),  # noqa: ARG005
    ),
}


def gradients(logits, hf):
    weights = list(hf.parameters())
    loss = torch.log_softmax(logits, dim=-1)[..., 9].mean()
    return [
        torch.zeros_like(weight) if found is None else found
        for weight, found in zip(
            weights, torch.autograd.grad(loss, weights, allow_unused=True), strict=True
        )
    ]


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("name", EDITS)
def test_logits_and_gradients_are_those_of_the_formula(
    pair, plain, plain_stream, arrows, tokens, name, layers
):
    model, hf = pair
    ours, formula = EDITS[name]
    with intervene(model, ours(arrows, layers, "all")):
        logits = model(tokens)
        found = gradients(logits, model.hf)
    clean = plain_stream(hf, tokens)[1:]
    expected = plain(formula(Formulas(arrows, layers), clean), tokens)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    for one, other in zip(found, gradients(expected, hf), strict=True):
        # Llama's norms are taken in float32, whatever the model's precision.
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6 * float(other.abs().max()))
    assert (logits - model(tokens)).abs().max() > 1e-3  # it did something


def test_edits_of_several_layers_would_compound_without_the_unedited_forward(pair, plain, arrows):
    model, _ = pair
    ids = torch.arange(7, 16)[None]
    formulas = Formulas(arrows, None)
    with torch.no_grad(), intervene(model, ablate(arrows, strength=0.4, positions="all")):
        ours = model(ids)
    compounded = plain(formulas.ablate(0.4, clean=None), ids)
    assert (ours - compounded).abs().max() > 1e-3


def test_edits_act_in_the_order_given(pair, plain, plain_stream, arrows, tokens):
    model, hf = pair
    clean = plain_stream(hf, tokens)[1:]
    formulas = Formulas(arrows, (1,))
    first, second = formulas.steer(2.0)[1], formulas.ablate(0.5, clean)[1]
    edits = [
        steer(arrows, strength=2.0, layers=[1], positions="all"),
        ablate(arrows, strength=0.5, layers=[1], positions="all"),
    ]
    with torch.no_grad():
        for order, function in [(edits, lambda h: second(first(h))),
                                (edits[::-1], lambda h: first(second(h)))]:  # fmt: skip
            with intervene(model, *order):
                ours = model(tokens)
            torch.testing.assert_close(ours, plain({1: function}, tokens), rtol=1e-9, atol=1e-9)


def test_full_ablation_leaves_every_coordinate_at_the_aligned_mean(pair, plain_stream, arrows):
    model, _ = pair
    ids = torch.arange(7, 16)[None]

    def coordinates():
        stream = plain_stream(model.hf, ids)[1:]
        rows = [arrows.layers.index(layer) for layer in range(3)]
        return torch.einsum("lbpd,ld->lbp", stream, arrows.unit[rows])

    aligned = torch.stack(
        [arrows.mean[row] @ arrows.unit[row] for row in map(arrows.layers.index, range(3))]
    )
    with torch.no_grad():
        before = coordinates()
        with intervene(model, ablate(arrows, positions="all")):
            after = coordinates()
    torch.testing.assert_close(after, aligned[:, None, None].expand_as(after))
    assert before.std(dim=-1).min() > 0.1


@pytest.mark.parametrize("layers", [(0, 1, 2), (0, 2), (1,)])
def test_where_blocks_do_nothing_steering_hands_on_exactly_the_gap(
    make_hf, tokenizer, plain_stream, arrows, tokens, layers
):
    hf = make_hf("gpt2").double()
    with torch.no_grad():
        for block in hf.transformer.h:
            for projection in (block.attn.c_proj, block.mlp.c_proj):
                projection.weight.zero_()
                projection.bias.zero_()
    model = HookedModel(hf, tokenizer)
    with torch.no_grad():
        before = plain_stream(hf, tokens)[1:]
        with intervene(model, steer(arrows, strength=1.5, layers=layers, positions="all")):
            moved = plain_stream(hf, tokens)[1:] - before
    for layer in range(3):
        at = max((chosen for chosen in layers if chosen <= layer), default=None)
        row = None if at is None else arrows.layers.index(at)
        total = 0 * arrows.unit[0] if at is None else 1.5 * arrows.gap[row] * arrows.unit[row]
        torch.testing.assert_close(moved[layer], total.expand_as(moved[layer]))


def test_a_cap_leaves_alone_what_is_below_the_ceiling(pair, plain_stream, arrows, tokens):
    model, _ = pair
    row = arrows.layers.index(1)
    with torch.no_grad():
        before = plain_stream(model.hf, tokens)[2]
        ceiling = (before @ arrows.unit[row]).median()
        capped = cap(arrows, layers=[1], positions="all", ceiling=ceiling.expand(3))
        with intervene(model, capped):
            after = plain_stream(model.hf, tokens)[2]
    over = before @ arrows.unit[row] > ceiling
    assert 0 < over.sum() < over.numel()
    assert torch.equal(after[~over], before[~over])
    torch.testing.assert_close(after[over] @ arrows.unit[row], ceiling.expand(int(over.sum())))


@pytest.mark.parametrize("name", EDITS)
def test_the_last_real_token_of_each_row_is_edited_and_no_other(
    pair, plain, plain_stream, arrows, tokens, name
):
    model, hf = pair
    mask = torch.ones_like(tokens)
    mask[0, 5:] = mask[2, 8:] = 0
    keep = torch.zeros_like(tokens, dtype=torch.bool)
    keep[0, 4] = keep[1, 8] = keep[2, 7] = True
    ours, formula = EDITS[name]
    with torch.no_grad():
        clean = plain_stream(hf, tokens, mask)[1:]
        expected = plain(formula(Formulas(arrows, None, keep), clean), tokens, mask)
        unedited = plain({}, tokens, mask)
        with intervene(model, ours(arrows, None, "last")):
            logits = model(tokens, mask)
            unmasked = model(tokens)
    real = mask.bool()
    torch.testing.assert_close(logits[real], expected[real], rtol=1e-9, atol=1e-9)
    assert torch.equal(logits[real & ~keep], unedited[real & ~keep])
    assert (logits[keep] - unedited[keep]).abs().max() > 1e-3
    with torch.no_grad():  # without a mask all is real
        column = keep[1:2].expand_as(keep)
        clean = plain_stream(hf, tokens)[1:]
        expected = plain(formula(Formulas(arrows, None, column), clean), tokens)
    torch.testing.assert_close(unmasked, expected, rtol=1e-9, atol=1e-9)


@pytest.fixture(scope="module")
def prompts(sentence):
    return [sentence(100 + number, words) for number, words in enumerate((9, 2, 5))]


def said_without_cache(model, plain, plain_stream, prompt, formula, arrows, last):
    """Greedy answer of the reference: one prompt, no padding, the whole sequence each time."""
    ids = list(encode(model, prompt).ids)
    start = len(ids)
    with torch.no_grad():
        for _ in range(4):
            sequence = torch.tensor([ids])
            keep = torch.arange(len(ids))[None] >= start - 1 if last else None
            clean = plain_stream(model.hf, sequence)[1:]
            functions = formula(Formulas(arrows, None, keep), clean)
            ids.append(int(plain(functions, sequence)[0, -1].argmax()))
            if ids[-1] == model.tokenizer.eos_token_id:
                break
    return model.tokenizer.decode(ids[start:], skip_special_tokens=True).strip()


@pytest.mark.parametrize(
    ("name", "positions"),
    [("ablate-partly", "all"), ("ablate-beyond", "last"), ("steer", "last"), ("cap", "all")],
)
def test_answers_with_a_cache_are_those_of_a_loop_without(
    pair, plain, plain_stream, arrows, prompts, name, positions
):
    model, _ = pair
    ours, formula = EDITS[name]
    unedited = [said.text for said in answer(model, prompts, max_new_tokens=4)]
    expected = [
        said_without_cache(model, plain, plain_stream, prompt, formula, arrows, positions == "last")
        for prompt in prompts
    ]
    with intervene(model, ours(arrows, None, positions)):
        said = [said.text for said in answer(model, prompts, max_new_tokens=4)]
    assert said == expected
    assert said != unedited


def test_beams_that_swap_places_take_their_unedited_past_along(pair, arrows, tokens):
    model, _ = pair
    options = {"num_beams": 3, "max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}

    def beams(**more):
        with evaluation_mode(model):
            return model.hf.generate(
                tokens, attention_mask=torch.ones_like(tokens), **options, **more
            )

    unedited = beams()
    with intervene(model, ablate(arrows, strength=-1.0, positions="all")):
        cached, whole = beams(), beams(use_cache=False)
    assert torch.equal(cached, whole)
    assert not torch.equal(cached, unedited)


def test_dropout_masks_are_shared_with_the_unedited_forward(pair, plain, plain_stream, arrows):
    model, hf = pair
    ids = torch.arange(7, 16)[None].repeat(2, 1)
    for one in (model.hf, hf):
        one.train()
    try:
        with intervene(model, ablate(arrows, strength=0.4, positions="all")), torch.no_grad():
            torch.manual_seed(3)
            ours, state = model(ids), torch.get_rng_state()
        torch.manual_seed(3)
        clean = plain_stream(hf, ids)[1:]
        assert torch.equal(torch.get_rng_state(), state)  # as after one forward
        torch.manual_seed(3)
        expected = plain(Formulas(arrows, None).ablate(0.4, clean), ids)
    finally:
        for one in (model.hf, hf):
            one.eval()
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def listeners(model):
    """How many hooks there are, on hook points and on the decoder."""
    points = sum(len(point.fwd_hooks) for point in model.hook_dict.values())
    decoder = model.hf.get_decoder()
    return points + len(decoder._forward_hooks) + len(decoder._forward_pre_hooks)


@pytest.mark.parametrize("positions", ["all", "last"])
def test_strength_zero_installs_nothing_and_changes_no_bit(pair, arrows, tokens, positions):
    model, _ = pair
    nothing = [
        ablate(arrows, strength=0.0, positions=positions),
        steer(arrows, strength=0.0, positions=positions),
        cap(arrows, strength=0.0, positions=positions, ceiling=CEILING),
    ]
    before, count = model(tokens), listeners(model)
    with intervene(model, *nothing):
        assert listeners(model) == count
        assert torch.equal(model(tokens), before)
    with intervene(model, steer(arrows, strength=1e-2, positions=positions)):
        assert listeners(model) > count
        assert not torch.equal(model(tokens), before)


def test_edits_are_gone_after_an_exception(pair, arrows, tokens):
    model, _ = pair
    before, count = model(tokens), listeners(model)
    edit = ablate(arrows, strength=0.5, positions="last")

    def fail(resid, hook):  # noqa: ARG001
        raise KeyError("inside the forward")

    with (
        pytest.raises(KeyError),
        intervene(model, edit),
        model.hooks(fwd_hooks=[(resid_post(1), fail)]),
    ):
        assert listeners(model) > count + 3
        model(tokens)
    assert listeners(model) == count
    assert torch.equal(model(tokens), before)
    with intervene(model, edit):  # and it can be opened again
        assert not torch.equal(model(tokens), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_stream_keeps_its_precision_and_is_never_written_to(model, arrows, dtype):
    edits = [
        ablate(arrows, strength=0.5, positions="all"),
        steer(arrows, strength=1.0, positions="all"),
        cap(arrows, positions="all", ceiling=CEILING),
    ]
    hooks = EditHooks(model, edits[1:], lambda edit, resid: None)  # noqa: ARG005
    resid = torch.randn(2, 4, 32).to(dtype)
    original = resid.clone()
    for _, hook in hooks.forward_hooks():
        edited = hook(resid, hook=None)
        assert edited.dtype == dtype
        assert torch.equal(resid, original)
        assert not torch.equal(edited, original)


def test_a_half_precision_edit_is_rounded_once(make_hf, tokenizer, arrows, tokens):
    model = HookedModel(make_hf("gpt2").bfloat16(), tokenizer)
    streams = {}

    def keep(name):
        def hook(resid, hook):  # noqa: ARG001
            streams[name] = resid

        return [(resid_post(1), hook)]

    row = arrows.layers.index(1)
    with torch.no_grad():
        with model.hooks(fwd_hooks=keep("before")):
            model(tokens)
        edit = ablate(arrows, layers=[1], positions="all")
        with intervene(model, edit), model.hooks(fwd_hooks=keep("after")):
            model(tokens)
    h, v = streams["before"].double(), arrows.unit[row]
    expected = h - (h @ v - arrows.mean[row] @ v)[..., None] * v
    assert streams["after"].dtype == torch.bfloat16
    error = (streams["after"].double() - expected).abs() / expected.abs().clamp(min=1e-2)
    assert error.max() < 2**-8


def test_several_edits_belong_into_one_context(pair, arrows, tokens):
    model, _ = pair
    edit = steer(arrows, strength=1.0, positions="all")
    with intervene(model, edit):
        edited = model(tokens)
        with pytest.raises(ConfigError, match="give all of them"), intervene(model, edit):
            pass
        assert torch.equal(model(tokens), edited)  # the open one goes on


def test_a_cache_filled_without_the_edits_is_refused(pair, arrows, tokens):
    model, _ = pair
    edit = ablate(arrows, strength=0.5, positions="all")
    cache = DynamicCache(config=model.hf.config)
    with torch.no_grad():
        model.hf(tokens, past_key_values=cache)
        with intervene(model, edit):
            with pytest.raises(ConfigError, match="start with an empty cache"):
                model.hf(tokens[:, :1], past_key_values=cache)
            fresh = DynamicCache(config=model.hf.config)
            model.hf(tokens, past_key_values=fresh)
            step = model.hf(tokens[:, :1], past_key_values=fresh).logits[:, -1]
            whole = model(torch.cat([tokens, tokens[:, :1]], dim=1))[:, -1]
    torch.testing.assert_close(step, whole, rtol=1e-6, atol=1e-6)


def test_a_last_token_that_cannot_be_known_is_refused(pair, arrows, tokens):
    model, _ = pair
    width = tokens.shape[1]
    empty = torch.ones_like(tokens)
    empty[1] = 0
    square = torch.zeros(3, 1, width, width, dtype=torch.float64)
    with intervene(model, steer(arrows, strength=1.0, positions="last")):
        with pytest.raises(ConfigError, match="no real token"):
            model(tokens, empty)
        with pytest.raises(ConfigError, match="attention mask"):
            model.hf(tokens, attention_mask=square)
        with pytest.raises(ConfigError, match="outside of the model's forward"):
            model.hf.get_decoder().forward(tokens)
        model(tokens, torch.ones_like(tokens))
    with intervene(model, steer(arrows, strength=1.0, positions="all")):
        model.hf(tokens, attention_mask=square)  # no need to know it


def test_settings_that_make_no_sense_are_refused(pair, arrows):
    model, _ = pair
    for make in (ablate, steer, lambda *a, **k: cap(*a, ceiling=CEILING, **k)):
        for strength in (float("nan"), float("inf")):
            with pytest.raises(ConfigError, match=r"strength is .*must be finite"):
                make(arrows, strength=strength, positions="all")
        with pytest.raises(ConfigError, match="positions is 'middle'; it must be 'all' or 'last'"):
            make(arrows, strength=1.0, positions="middle")
        with pytest.raises(LayerError, match=r"layers \[7\]; they have \[2, 0, 1\]"):
            make(arrows, strength=1.0, layers=[7, 1], positions="all")
        with pytest.raises(LayerError, match="no directions at layers"):
            make(arrows, strength=1.0, layers=[], positions="all")
    with pytest.raises(ConfigError, match="cap: strength is -1"):
        cap(arrows, strength=-1.0, positions="all", ceiling=CEILING)
    with pytest.raises(ConfigError, match="centre has 2 values for 3 layers"):
        ablate(arrows, positions="all", centre=CEILING[:2])
    with pytest.raises(ConfigError, match=r"ceiling has 3 values .* finite"):
        cap(arrows, positions="all", ceiling=CEILING / 0)
    deeper = fit_directions_from(torch.rand(2, 3, 32), torch.rand(2, 3, 32), layers=(1, 5))
    with (
        pytest.raises(LayerError, match=r"No layers \[5\]"),
        intervene(model, ablate(deeper, positions="all")),
    ):
        pass
    wider = fit_directions_from(torch.rand(3, 3, 40), torch.rand(3, 3, 40))
    with (
        pytest.raises(ConfigError, match="40 wide"),
        intervene(model, ablate(wider, positions="all")),
    ):
        pass
    with intervene(model, ablate(arrows, positions="all")):
        pass
