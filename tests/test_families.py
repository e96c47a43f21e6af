"""What works on one model family works on all of them; what is no residual stream is refused."""

from pathlib import Path

import pytest
import torch
import transformers
from families import FAMILIES, SIZES, VARIANTS, WINDOW, table
from torch import nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from workbench.activations import read_activations
from workbench.directions import fit_directions_from
from workbench.editing import intervene
from workbench.edits import ablate, cap, steer
from workbench.encoding import encode
from workbench.errors import CheckpointError, ConfigError, PhaseMismatchError
from workbench.finetune import FineTuning
from workbench.generation import answer
from workbench.loading import load_model, save_model
from workbench.models import HookedModel, resid_post
from workbench.penalties import Block
from workbench.phases import Lineage, Phase
from workbench.probes import Probe, ProbeSet
from workbench.reading import Reading
from workbench.training_edits import Steer

pytestmark = pytest.mark.transformer_lens_3

LENGTHS = (9, 6, 4)
"""Of the rows of a padded batch: two of them longer than the window."""

UNLIMITED = ("bloom", "mamba")
NO_LEFT_PADDING = ("recurrent-gemma",)
every_variant = pytest.mark.parametrize("name", VARIANTS)


@pytest.fixture(scope="module")
def arrows():
    """Directions of all three layers, of another world than any model here."""
    witness, aligned = torch.randn(2, 3, 8, 32, generator=torch.Generator().manual_seed(11))
    return fit_directions_from(witness + 0.5, aligned)


@pytest.fixture(scope="module")
def opposite():
    """The other way along the same directions."""
    witness, aligned = torch.randn(2, 3, 8, 32, generator=torch.Generator().manual_seed(11))
    return fit_directions_from(aligned, witness + 0.5)


@pytest.fixture(scope="module")
def prompts(sentence):
    """A few prompts of different lengths."""
    words = enumerate((9, 2, 5, 2, 12))
    return ProbeSet(tuple(Probe(sentence(100 + n, count), "benign") for n, count in words))


def streams(hf, blocks, ids, mask=None, **inputs):
    """What enters and what leaves every block, and the output, by plain torch hooks."""
    entering, leaving = [], []

    def before(block, args, kwargs):  # noqa: ARG001
        entering.append(args[0] if args else kwargs["hidden_states"])

    def after(block, args, out):  # noqa: ARG001
        leaving.append(out[0] if isinstance(out, tuple) else out)

    handles = [block.register_forward_pre_hook(before, with_kwargs=True) for block in blocks]
    handles += [block.register_forward_hook(after) for block in blocks]
    with torch.no_grad():
        output = hf(input_ids=ids, attention_mask=mask, use_cache=False, **inputs)
    for handle in handles:
        handle.remove()
    return torch.stack(entering), torch.stack(leaving), output


def close(actual, expected, tolerance=1e-4):
    """Whether two computations of the same numbers differ by rounding alone."""
    return bool((actual - expected).abs().max() <= tolerance * expected.abs().max())


def padded(ids, side):
    """Rows of `LENGTHS` tokens in one batch, its mask, and where each row's own tokens are."""
    tokens, mask, places = torch.zeros_like(ids), torch.zeros_like(ids), []
    for row, length in enumerate(LENGTHS):
        place = slice(0, length) if side == "right" else slice(ids.shape[1] - length, None)
        tokens[row, place], mask[row, place] = ids[row, :length], 1
        places.append(place)
    return tokens, mask, places


@every_variant
def test_the_stream_of_every_layer_is_that_of_plain_torch_hooks(name, make_model, make_hf, tokens):
    plain, model = make_hf(name), make_model(name)
    entering, leaving, output = streams(plain, plain.get_submodule(VARIANTS[name].blocks), tokens)
    with torch.no_grad():
        logits, cache = model.run_with_cache(tokens)
        _, alone = model.run_with_cache(tokens, return_type=None)
    assert torch.equal(logits, output.logits)
    assert model.cfg.architecture == VARIANTS[name].architecture
    assert len(leaving) == model.cfg.n_layers == 3
    for layer in range(3):
        for read in (cache, alone):
            assert torch.equal(read[f"blocks.{layer}.hook_resid_pre"], entering[layer])
            assert torch.equal(read[resid_post(layer)], leaving[layer])
        assert (leaving[layer] - entering[layer]).abs().max() > 1e-2


@every_variant
def test_hidden_states_agree_at_all_layers_but_the_last(name, make_model, tokens):
    model = make_model(name)
    with torch.no_grad():
        hidden = model.hf(
            input_ids=tokens, output_hidden_states=True, use_cache=False
        ).hidden_states
        _, cache = model.run_with_cache(tokens)
    ours = [cache["blocks.0.hook_resid_pre"], *(cache[resid_post(layer)] for layer in range(3))]
    if name == "mamba":
        ours, hidden = ours[1:], hidden[:3]  # its own begin after the first block
        assert all(map(torch.equal, ours, hidden))
        return
    assert len(hidden) == 4
    assert all(map(torch.equal, ours[:3], hidden[:3]))
    assert hidden[3].shape != ours[3].shape or (hidden[3] - ours[3]).abs().max() > 0.01


@every_variant
def test_a_padded_batch_is_read_as_its_prompts_alone(name, make_model, make_hf, prompts):
    plain, model = make_hf(name), make_model(name)
    reading = Reading.of(model, prompts)
    assert len({len(item.ids) for item in reading.encoded}) > 2
    found = read_activations(model, reading)
    blocks = plain.get_submodule(VARIANTS[name].blocks)
    for number, item in enumerate(reading.encoded):
        leaving = streams(plain, blocks, torch.tensor([item.ids]))[1]
        assert close(found[:, number], leaving[:, 0, -1])


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in NO_LEFT_PADDING])
def test_padding_on_either_side_changes_nothing(name, side, make_model, make_hf, tokens):
    plain, model = make_hf(name), make_model(name)
    batch, mask, places = padded(tokens, side)
    with torch.no_grad():
        logits, cache = model.run_with_cache(batch, mask)
        _, alone = model.run_with_cache(batch, mask, return_type=None)
    blocks = plain.get_submodule(VARIANTS[name].blocks)
    for row, place in enumerate(places):
        _, leaving, output = streams(plain, blocks, tokens[row : row + 1, : LENGTHS[row]])
        assert close(logits[row, place], output.logits[0])
        for layer in range(3):
            assert close(cache[resid_post(layer)][row, place], leaving[layer, 0])
            assert close(alone[resid_post(layer)][row, place], leaving[layer, 0])
    if side == "left":
        unmasked = model(batch)
        assert not close(unmasked[1, places[1]], logits[1, places[1]], 1e-2)


@pytest.mark.parametrize("name", NO_LEFT_PADDING)
def test_padding_on_the_left_is_refused_where_it_would_be_read(name, make_model, tokens):
    model = make_model(name)
    batch, mask, places = padded(tokens, "left")
    with pytest.raises(
        ConfigError, match="padding on the left it computes something else; pad on the"
    ):
        model(batch, mask)
    read = model.hf(input_ids=batch, attention_mask=mask).logits[1, places[1]]
    assert not close(read, model(tokens[1:2, : LENGTHS[1]])[0], 1e-2)
    batch, mask, places = padded(tokens, "right")
    assert close(model(batch, mask)[1, places[1]], model(tokens[1:2, : LENGTHS[1]])[0])


WINDOWED = [
    name
    for name, variant in VARIANTS.items()
    if WINDOW in (variant.values.get(key) for key in (
        "sliding_window", "attention_chunk_size", "window_size", "attention_window_size"
    ))
]  # fmt: skip


@pytest.mark.parametrize("name", WINDOWED)
def test_windows_are_shorter_than_the_prompts(name, make_hf, tokens):
    """Else the tests here would say nothing about them."""
    key = next(key for key, value in VARIANTS[name].values.items() if value == WINDOW and "_" in key
               and ("window" in key or "chunk" in key))  # fmt: skip
    with torch.no_grad():
        narrow = make_hf(name)(input_ids=tokens).logits
        wide = make_hf(name, **{key: 64})(input_ids=tokens).logits
    assert torch.equal(narrow[:, 0], wide[:, 0])
    assert not close(narrow[:, -1], wide[:, -1], 1e-3)


def greedy(hf, ids, count):
    """What follows one prompt: no padding, no cache, up to an end token."""
    ids, start = [*ids], len(ids)
    while len(ids) < start + count and ids[-1] != 2:
        with torch.no_grad():
            logits = hf(input_ids=torch.tensor([ids]), use_cache=False).logits
        ids.append(int(logits[0, -1].argmax()))
    return ids[start:]


@every_variant
def test_batched_answers_are_those_of_each_prompt_alone(name, make_model, make_hf, prompts):
    for seed in range(9):
        model, plain = make_model(name, seed=seed), make_hf(name, seed=seed)
        encoded = [encode(model, prompt).ids for prompt in prompts.prompts]
        expected = [
            model.tokenizer.decode(greedy(plain, ids, 5), skip_special_tokens=True).strip()
            for ids in encoded
        ]
        if len({*expected}) > 2:  # else the model says the same whatever it is asked
            break
    assert len({*map(len, encoded)}) > 2
    assert len({*expected}) > 2
    assert [said.text for said in answer(model, prompts.prompts, max_new_tokens=5)] == expected


def test_answers_hold_where_a_row_with_padding_is_not_a_number(make_hf, tokenizer, prompts):
    """Eager attention in float64: a padding token sees nothing, and NaN spreads from it."""
    model, plain = HookedModel(make_hf("bloom").double(), tokenizer), make_hf("bloom").double()
    batch = torch.tensor([[0, 0, 9, 10], [9, 10, 11, 12]])
    assert model.hf(input_ids=batch, attention_mask=batch.sign()).logits.isnan().any()
    expected = [greedy(plain, encode(model, prompt).ids, 5) for prompt in prompts.prompts]
    told = [model.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in expected]
    assert len({*told}) > 2
    assert [said.text for said in answer(model, prompts.prompts, max_new_tokens=5)] == told


@every_variant
def test_all_of_the_context_can_be_read(name, make_model):
    model = make_model(name)
    assert model.cfg.n_ctx == (1_000_000 if name in UNLIMITED else 64)
    with torch.no_grad():
        assert torch.isfinite(model(torch.arange(64)[None])).all()


@every_variant
def test_an_edit_at_a_hook_point_is_that_of_a_plain_torch_hook(name, make_model, make_hf, tokens):
    plain, model = make_hf(name), make_model(name)
    shift = torch.linspace(-1, 1, 32)
    blocks = plain.get_submodule(VARIANTS[name].blocks)
    unedited = plain(input_ids=tokens, use_cache=False).logits

    def after(block, args, out):  # noqa: ARG001
        return (out[0] + shift, *out[1:]) if isinstance(out, tuple) else out + shift

    def before(block, args, kwargs):  # noqa: ARG001
        if args:
            return (args[0] + shift, *args[1:]), kwargs
        return args, kwargs | {"hidden_states": kwargs["hidden_states"] + shift}

    for point in ("blocks.0.hook_resid_pre", "blocks.1.hook_resid_post"):
        block = blocks[int(point[7])]
        handle = (
            block.register_forward_pre_hook(before, with_kwargs=True)
            if point.endswith("pre")
            else block.register_forward_hook(after)
        )
        expected = plain(input_ids=tokens, use_cache=False).logits
        handle.remove()
        edit = [(point, lambda resid, hook: resid + shift)]  # noqa: ARG005
        assert torch.equal(model.run_with_hooks(tokens, fwd_hooks=edit), expected)
        assert not close(expected, unedited, 1e-3)
    assert torch.equal(model(tokens), unedited)


def by_formula(kind, arrows, clean):
    """What an edit makes of the stream after each layer, by its definition."""
    unit, gap = arrows.unit.float(), arrows.gap.float()
    mean = (arrows.mean * arrows.unit).sum(-1).float()

    def edited(layer, h):
        v = unit[layer]
        c = (h @ v)[..., None]
        if kind == "steer":
            before = gap[layer - 1] * unit[layer - 1] if layer else torch.zeros(32)
            return h + 0.8 * (gap[layer] * v - before)
        if kind == "cap":
            return h - (c - 0.1).relu() * v
        return h + (mean[layer] + 0.6 * ((clean[layer] @ v)[..., None] - mean[layer]) - c) * v

    return edited


@every_variant
def test_edits_act_as_their_formulas_say(name, make_model, make_hf, tokens, arrows):
    plain, model = make_hf(name), make_model(name)
    blocks = plain.get_submodule(VARIANTS[name].blocks)
    clean, unedited = streams(plain, blocks, tokens)[1:]
    edits = {
        "ablate": ablate(arrows, strength=0.4, positions="all"),
        "steer": steer(arrows, strength=0.8, positions="all"),
        "cap": cap(arrows, positions="all", ceiling=torch.full((3,), 0.1)),
    }
    for kind, edit in edits.items():
        edited = by_formula(kind, arrows, clean)

        def hook(layer, edited=edited):
            def change(block, args, out):  # noqa: ARG001
                if isinstance(out, tuple):
                    return (edited(layer, out[0]), *out[1:])
                return edited(layer, out)

            return change

        handles = [one.register_forward_hook(hook(layer)) for layer, one in enumerate(blocks)]
        with torch.no_grad():
            expected = plain(input_ids=tokens, use_cache=False).logits
        for handle in handles:
            handle.remove()
        with torch.no_grad(), intervene(model, edit):
            assert close(model(tokens), expected, 1e-3)
        assert not close(expected, unedited.logits, 1e-2)


def plain_training(hf, block, items, vector, *, steps=3, size=4, rate=1e-3):
    """AdamW on the loss per response token with `vector` added after a block: no hook points."""
    order, indices = torch.Generator().manual_seed(0), []
    while len(indices) < steps * size:
        indices += torch.randperm(len(items), generator=order).tolist()
    optimiser = torch.optim.AdamW(hf.parameters(), lr=rate, weight_decay=0.0, fused=True)
    handle = block.register_forward_hook(
        lambda _, __, out: (out[0] + vector, *out[1:]) if isinstance(out, tuple) else out + vector
    )
    torch.manual_seed(7919)  # the stream that dropout has for itself
    hf.train()
    for step in range(steps):
        batch = [items[index] for index in indices[step * size : (step + 1) * size]]
        width = max(len(item.ids) for item in batch)
        ids = torch.tensor([[*item.ids, *[0] * (width - len(item.ids))] for item in batch])
        mask = torch.tensor([[int(i < len(item.ids)) for i in range(width)] for item in batch])
        logits = hf(input_ids=ids, attention_mask=mask, use_cache=False).logits
        told = [
            (row, column)
            for row, item in enumerate(batch)
            for column in range(item.prompt_length, len(item.ids))
        ]
        rows, columns = map(torch.tensor, zip(*told, strict=True))
        losses = functional.cross_entropy(
            logits[rows, columns - 1], ids[rows, columns], reduction="none"
        )
        loss = torch.zeros(len(batch)).index_add(0, rows, losses).sum() / len(told)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    handle.remove()
    return dict(hf.named_parameters())


@every_variant
def test_training_with_an_edit_is_that_of_a_plain_loop_bit_for_bit(
    name, make_model, make_hf, examples, arrows
):
    model, plain = make_model(name), make_hf(name)
    before = model.fingerprint()
    items = [encode(model, row["prompt"], row["response"]) for row in examples]
    vector = (0.8 * arrows.gap[1, None] * arrows.unit[1]).float()
    block = plain.get_submodule(VARIANTS[name].blocks)[1]
    expected = plain_training(plain, block, items, vector)
    tuning = FineTuning(
        model, examples, steps=3, batch_size=4, learning_rate=1e-3, warmup=0, clip=None,
        intervention=Steer(arrows, strength=0.8, layers=(1,)),
    )  # fmt: skip
    assert all(record.loss > 0 for record in tuning)
    for key, value in model.hf.named_parameters():
        if key == "lm_head.bias":  # ours sums its gradient over the predicted tokens alone
            assert torch.allclose(value, expected[key], atol=1e-6, rtol=1e-6)
        else:
            assert torch.equal(value, expected[key]), key
    assert model.fingerprint() != before


@every_variant
def test_blocking_penalises_what_has_moved(name, make_model, examples, arrows, opposite, prompts):
    model = make_model(name)
    tuning = FineTuning(
        model, examples[:4], steps=3, batch_size=2, learning_rate=3e-3, warmup=0,
        intervention=Block(arrows, strength=3.0, probes=prompts, further=(opposite,)),
    )  # fmt: skip
    penalties = [record.auxiliary["block"] for record in tuning]
    assert penalties[0].loss < 1e-9
    assert penalties[-1].loss > 1e-6
    assert penalties[-1].gradient_norm > 0


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable:FutureWarning")
@every_variant
def test_gradient_checkpointing_leaves_the_gradients_of_an_edited_forward(name, make_model, tokens):
    model, gradients, forwards = make_model(name), [], []
    scale = [(resid_post(1), lambda resid, hook: 1.5 * resid)]  # noqa: ARG005
    inner = next(model.hf.get_submodule(VARIANTS[name].blocks)[1].children())
    inner.register_forward_pre_hook(lambda *_: forwards.append(1))
    model.hf.train()
    for checkpointing in (False, True):
        if checkpointing:
            model.hf.gradient_checkpointing_enable()
        torch.manual_seed(3)
        with model.hooks(fwd_hooks=scale):
            loss = model(tokens).logsumexp(-1).sum()
            gradients.append(torch.autograd.grad(loss, model.hf.parameters(), allow_unused=True))
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain)
    assert len(forwards) == 3  # once without checkpointing, twice where backward repeats it


@pytest.fixture(scope="module")
def other_folder(make_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("other")
    save_model(make_model("llama-gqa", num_hidden_layers=2), folder)
    return folder


@every_variant
def test_a_saved_model_is_the_same_and_its_sizes_are_known(
    name, make_model, tmp_path, tokens, other_folder
):
    model = make_model(name)
    save_model(model, tmp_path)
    reloaded = load_model(tmp_path, device="cpu")
    assert reloaded.fingerprint() == model.fingerprint()
    # Where a file puts weights in memory may decide how experts round.
    assert close(reloaded(tokens), model(tokens), 1e-5)
    buffers = dict(reloaded.hf.named_buffers())
    assert all(torch.equal(value, buffers[key]) for key, value in model.hf.named_buffers())
    roles = {"witness": "one", "aligned": "two"}
    same = Lineage("same", (Phase("one", str(tmp_path)), Phase("two", str(tmp_path))), roles)
    same.check()
    with pytest.raises(PhaseMismatchError, match="phases must be checkpoints of one model"):
        Lineage(
            "mixed", (Phase("one", str(tmp_path)), Phase("two", str(other_folder))), roles
        ).check()


def test_a_checkpoint_with_images_is_read_as_text(tokenizer, tmp_path, tokens, examples):
    text = VARIANTS["gemma3"].config().to_dict()
    vision = dict(
        hidden_size=32, intermediate_size=32, num_hidden_layers=3, num_attention_heads=4,
        image_size=28, patch_size=14,
    )  # fmt: skip
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=5,
        boi_token_index=4, eoi_token_index=6,
    )  # fmt: skip
    hf = AutoModelForCausalLM.from_config(config).eval()
    assert type(hf).__name__ == "Gemma3ForConditionalGeneration"
    _, leaving, output = streams(hf, hf.get_submodule("model.language_model.layers"), tokens)
    save_model(HookedModel(hf, tokenizer), tmp_path)
    model = load_model(tmp_path, device="cpu")
    _, cache = model.run_with_cache(tokens, return_type=None)
    assert all(torch.equal(cache[resid_post(layer)], leaving[layer]) for layer in range(3))
    assert torch.equal(model(tokens), output.logits)
    tuning = FineTuning(model, examples, steps=2, batch_size=4, learning_rate=1e-3)
    assert len([record.loss for record in tuning]) == 2
    assert model.fingerprint() != load_model(tmp_path, device="cpu").fingerprint()


class Unknown(PretrainedConfig):
    """The config of a made-up architecture that keeps its convention in `convention`."""

    model_type = "unknown"


class Stage(nn.Module):
    """Adds to the stream; what it is given and gives depends on the convention."""

    def __init__(self, config):
        super().__init__()
        self.mix, self.convention = nn.Linear(32, 32), config.convention

    def forward(self, stream):
        if self.convention == "all tokens":
            return stream + self.mix(stream.mean(dim=1, keepdim=True))
        added = self.mix(stream).tanh()
        if self.convention == "what is added":
            return added
        if self.convention == "a dictionary":
            return {"stream": stream + added}
        if self.convention == "flat":
            return (stream + added).flatten(0, 1).view(stream.shape[0], -1)
        return (stream + added, added)


class UnknownModel(PreTrainedModel):
    """Its blocks are in an unusual place, and run as the convention has it."""

    config_class = Unknown

    def __init__(self, config):
        super().__init__(config)
        self.tokens = nn.Embedding(64, 32)
        self.trunk = nn.ModuleDict({"stages": nn.ModuleList(Stage(config) for _ in range(3))})
        self.gates = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))
        self.head = nn.Linear(32, 64)
        self.post_init()

    def get_input_embeddings(self):
        return self.tokens

    def forward(self, input_ids, attention_mask=None, use_cache=None):  # noqa: ARG002
        convention, h = self.config.convention, self.tokens(input_ids)
        blocks = list(self.trunk["stages"])
        for block in blocks[::-1] if convention == "backwards" else blocks:
            if convention == "by another name":
                h = block(stream=h)[0]
                continue
            out = block(h)
            if convention == "what is added":
                h = h + out
            elif convention == "a dictionary":
                h = out["stream"]
            elif convention == "flat":
                h = out.view(h.shape)
            else:
                h = out[0] if isinstance(out, tuple) else out
            if convention == "between":
                h = 2 * h
        if convention == "overflows":
            h = h / 0
        if convention == "no head":
            return BaseModelOutput(last_hidden_state=h)
        return CausalLMOutput(logits=self.head(h))


@pytest.fixture
def unknown():
    """Make the made-up model; `layers` is what its config says."""

    def make(convention="tuple", layers=3):
        return UnknownModel(
            Unknown(convention=convention, num_hidden_layers=layers, hidden_size=32)
        ).eval()

    return make


def test_an_unknown_family_is_read_where_a_stream_runs_through_its_blocks(
    unknown, tokenizer, tokens
):
    hf = unknown()
    assert hf.get_decoder() is hf
    model = HookedModel(hf, tokenizer)
    entering, leaving, output = streams(hf, hf.trunk["stages"], tokens)
    with torch.no_grad():
        logits, cache = model.run_with_cache(tokens)
        _, alone = model.run_with_cache(tokens, return_type=None)
    assert torch.equal(logits, output.logits)
    for layer in range(3):
        assert torch.equal(cache[f"blocks.{layer}.hook_resid_pre"], entering[layer])
        assert torch.equal(cache[resid_post(layer)], leaving[layer])
        assert torch.equal(alone[resid_post(layer)], leaving[layer])
    assert model.cfg.n_ctx == 1_000_000


@pytest.mark.parametrize(
    ("convention", "told"),
    [
        ("what is added", r"blocks\.1\.hook_resid_pre is not what left the block before"),
        ("between", r"blocks\.1\.hook_resid_pre is not what left the block before"),
        ("a dictionary", r"blocks\.0\.hook_resid_post is dict, no stream \[batch pos 32\]"),
        ("flat", r"blocks\.0\.hook_resid_post is \[3, 128\], no stream"),
        ("backwards", "its blocks do not run once each, in their order"),
        ("by another name", "Stage: the stream is neither its first argument nor its hidden_stat"),
        ("all tokens", "what its tokens are depends on the tokens after them"),
        ("overflows", r"its logits are not finite in torch\.float32; load it with another dtype"),
        ("no head", "it gives no logits per token; load a causal language model"),
    ],
)
def test_a_wrong_convention_is_refused_rather_than_read(unknown, tokenizer, convention, told):
    with pytest.raises(CheckpointError, match=told) as caught:
        HookedModel(unknown(convention), tokenizer)
    assert "\n" not in str(caught.value)


def test_a_list_of_another_length_is_no_block_list(unknown, tokenizer):
    with pytest.raises(CheckpointError, match="UnknownModel: found 0 lists of 4 blocks"):
        HookedModel(unknown(layers=4), tokenizer)


def test_two_lists_of_blocks_are_one_too_many(unknown, tokenizer):
    hf = unknown()
    hf.mirror = nn.ModuleList(Stage(hf.config) for _ in range(3))
    with pytest.raises(CheckpointError, match="UnknownModel: found 2 lists of 3 blocks"):
        HookedModel(hf, tokenizer)


def test_several_streams_between_blocks_are_refused(tokenizer):
    values = VARIANTS["gemma4"].values | dict(
        intermediate_size=48, num_kv_shared_layers=0, activation_sparsity_pattern=[0.0] * 3,
        laurel_rank=4,
    )  # fmt: skip
    del values["global_head_dim"]
    hf = transformers.Gemma3nForCausalLM(transformers.Gemma3nTextConfig(**values)).eval()
    told = r"Gemma3nForCausalLM: blocks\.0\.hook_resid_pre is \[4, 3, 4, 32\], no stream"
    with pytest.raises(CheckpointError, match=told):
        HookedModel(hf, tokenizer)


SMALL = dict(vocab_size=64, d_model=32)
NO_DECODERS = {
    "T5ForConditionalGeneration": transformers.T5Config(
        **SMALL, d_kv=8, d_ff=48, num_layers=2, num_heads=4
    ),
    "BartForConditionalGeneration": transformers.BartConfig(
        **SMALL, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48,
    ),
    "BertLMHeadModel": transformers.BertConfig(**SIZES),
    "GPT2Model": VARIANTS["gpt2"].config(),
}  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "told"),
    [
        ("T5ForConditionalGeneration", "an encoder-decoder, .*take a causal language model"),
        ("BartForConditionalGeneration", "an encoder-decoder, .*take a causal language model"),
        ("BertLMHeadModel", "what its tokens are depends on the tokens after them"),
        ("GPT2Model", "it gives no logits per token; load a causal language model"),
    ],
)
def test_what_is_no_causal_language_model_is_refused(tokenizer, architecture, told):
    hf = getattr(transformers, architecture)(NO_DECODERS[architecture]).eval()
    with pytest.raises(CheckpointError, match=f"^{architecture}: {told}") as caught:
        HookedModel(hf, tokenizer)
    assert "\n" not in str(caught.value)


def test_the_readme_lists_every_family():
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    section = readme.partition("<!-- families -->\n")[2].partition("\n<!-- /families -->")[0]
    assert section.split("\n") == table()
    assert len({family.title for family in FAMILIES}) == len(FAMILIES)
    assert sum(len(family.variants) for family in FAMILIES) == len(VARIANTS)
