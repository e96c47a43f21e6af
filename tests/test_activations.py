"""Readings of the residual stream: where they are taken, and that taking them leaves no trace."""

import copy
import pickle
from argparse import ArgumentTypeError
from contextlib import nullcontext
from dataclasses import replace
from typing import get_args

import pytest
import torch
from running_blocks import blocks_run
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef

from workbench import activations
from workbench.activations import _total, read_activations, read_batch, read_moments
from workbench.commands.options import read_position
from workbench.directions import fit_directions_from
from workbench.editing import intervene
from workbench.edits import ablate
from workbench.encoding import Encoded, encode
from workbench.errors import LayerError, ProbeError
from workbench.measurement import noise_floor, other_size
from workbench.models import HookedModel, resid_post
from workbench.probes import Probe, ProbeSet
from workbench.reading import TOKENS_PER_BATCH, Position, Reading

pytestmark = pytest.mark.transformer_lens_3

POSITIONS = [-1, -3, "prompt_mean", "response_mean"]


@pytest.fixture
def naive(plain_stream):
    """Read one prompt at a time, unpadded, by plain torch hooks, in float64."""

    def read(model, probes, position):
        rows = []
        for probe in probes.probes:
            response = probe.response if position == "response_mean" else None
            item = encode(model, probe.prompt, response)
            with torch.no_grad():
                resid = plain_stream(model.hf, torch.tensor([item.ids]))[1:, 0].double()
            if position == "prompt_mean":
                rows.append(resid[:, : item.prompt_length].mean(dim=1))
            elif position == "response_mean":
                rows.append(resid[:, item.prompt_length :].mean(dim=1))
            else:
                rows.append(resid[:, item.prompt_length + position])
        return torch.stack(rows, dim=1)

    return read


@pytest.mark.parametrize("position", POSITIONS)
def test_a_reading_is_taken_where_it_says(model, probes, naive, position):
    acts = read_activations(model, probes, position=position)
    assert acts.dtype == torch.float32
    expected = naive(model, probes, position)
    torch.testing.assert_close(acts.double(), expected, atol=2e-5, rtol=1e-5)
    others = [naive(model, probes, other) for other in POSITIONS if other != position]
    assert all((expected - other).abs().max() > 0.1 for other in others)


def test_layers_on_several_devices_are_read_onto_the_first(model, probes, monkeypatch):
    reading = Reading.of(model, probes, "prompt_mean")
    with FakeTensorMode(allow_non_fake_inputs=True):  # knows of devices that are not there

        def run(tokens, mask):  # noqa: ARG001
            for layer, device in enumerate(("cpu", "cuda:0", "cuda:1")):
                model.hook_dict[resid_post(layer)](torch.zeros(*tokens.shape, 32, device=device))

        monkeypatch.setattr(model, "run_decoder", run)
        read = read_batch(model, reading, [0, 1, 2], [0, 1, 2])
    assert read.device.type == "cpu"
    assert read.shape == (3, 3, 32)


def test_every_architecture_is_read_like_that(architecture, make_model, splits, naive):
    model = make_model(architecture)
    expected = naive(model, splits[0], -1)
    acts = read_activations(model, splits[0]).double()
    # In units of the reading: some of these models have activations of several hundred.
    torch.testing.assert_close(acts, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)


@pytest.mark.parametrize("position", POSITIONS)
def test_half_precision_is_averaged_in_single(make_model, splits, naive, position):
    model = make_model()
    model.hf.to(torch.bfloat16)
    expected = naive(model, splits[0], position)
    acts = read_activations(model, splits[0], position=position, batch_size=1).double()
    # A mean in bfloat16 would be good to three digits only.
    torch.testing.assert_close(acts, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("position", POSITIONS)
def test_the_streaming_mean_is_the_mean_of_the_readings(model, probes, position):
    moments = read_moments(model, probes, position=position, batch_size=5)
    acts = read_activations(model, probes, position=position, batch_size=5)
    assert moments.mean.dtype == torch.float64
    assert moments.count == len(probes)
    torch.testing.assert_close(moments.mean, acts.double().mean(dim=1), atol=1e-12, rtol=0)


def test_the_streaming_mean_is_summed_in_double_precision(model, probes, monkeypatch):
    # 4096 + k/1024 is exact in float32; a float32 sum of 32 of them is not.
    planted = 4096 + torch.arange(32).float()[None, :, None].expand(3, 32, 32) / 1024
    batches = iter(planted.split(1, dim=1))
    monkeypatch.setattr(
        "workbench.activations._reader",
        lambda *_: nullcontext(lambda batch: next(batches)),  # noqa: ARG005
    )
    mean = read_moments(model, probes, batch_size=1).mean
    assert torch.equal(mean, torch.full((3, 32), 4096 + 15.5 / 1024, dtype=torch.float64))


def test_readings_do_not_depend_on_the_batch_size(model, probes):
    whole = read_activations(model, probes)
    for size in (1, 3, 100):
        again = read_activations(model, probes, batch_size=size)
        torch.testing.assert_close(again, whole, atol=2e-5, rtol=1e-5)


def test_the_noise_floor_is_small_and_sees_another_model(model, make_model, probes):
    reading = Reading.of(model, probes)
    acts = read_activations(model, reading)
    floor = noise_floor(model, reading, acts, [0, 1, 2])
    assert floor.shape == (3,)
    assert (floor < 1e-6 * acts.norm(dim=-1).mean()).all()
    assert (noise_floor(make_model(seed=1), reading, acts, [0, 1, 2]) > 0.1).all()


BF16_ERROR, BF16_COSINE = 0.02, 0.995
"""As the docstring of `read_activations` says."""


def test_bfloat16_reads_what_float32_reads_to_a_known_tolerance(
    architecture, make_hf, tokenizer, probes
):
    def means(dtype, shift):
        hf = make_hf(architecture, seed=3).to(torch.bfloat16)  # the same weights in both
        with torch.no_grad():
            hf.get_input_embeddings().weight += shift.to(torch.bfloat16)
        return read_moments(HookedModel(hf.to(dtype), tokenizer, chat="builtin"), probes).mean

    shift = torch.randn(32, generator=torch.Generator().manual_seed(1))
    single, half = (
        [means(dtype, size * shift) for size in (0.0, 0.02)]
        for dtype in (torch.float32, torch.bfloat16)
    )
    error = (half[0] - single[0]).norm(dim=-1) / single[0].norm(dim=-1)
    cosine = torch.cosine_similarity(half[1] - half[0], single[1] - single[0], dim=-1)
    gap = (single[1] - single[0]).norm(dim=-1) / single[0].norm(dim=-1)
    assert gap.min() > 0.05
    assert 0 < error.max() < BF16_ERROR
    assert cosine.min() > BF16_COSINE


@pytest.mark.parametrize("position", [*POSITIONS, "content_last", "content_mean"])
def test_nothing_of_ours_waits_for_the_device_from_batch_to_batch(
    make_model, probes, position, monkeypatch
):
    model = make_model()
    reading = Reading.of(model, probes, position)
    model.cfg = replace(model.cfg, device=torch.device("meta"))
    batches = []

    def fire(tokens, mask):
        batches.append((tokens.device.type, mask is not None))
        for layer in range(3):
            model.hook_dict[resid_post(layer)](torch.empty(*tokens.shape, 32, device="meta"))

    # Transformers itself looks at its masks once a forward, so that the blocks stay out of this.
    monkeypatch.setattr(model, "run_decoder", fire)
    # Whatever asks a meta tensor for its numbers fails.
    total = _total(model, reading, [0, 1, 2], batch_size=5)
    assert (total.device.type, total.dtype, total.shape) == ("meta", torch.float64, (3, 32))
    assert len(batches) == 7
    assert ("meta", True) in batches
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        read_moments(model, reading, batch_size=5)


def test_a_device_without_double_precision_is_summed_on_the_cpu(model, probes, monkeypatch):
    mean = read_moments(model, probes).mean
    reading = Reading.of(model, probes)
    read, prepared = activations._reader, Reading.prepared
    monkeypatch.setattr("workbench.activations._reader", lambda _, layers: read(model, layers))
    monkeypatch.setattr(
        Reading,
        "prepared",
        lambda self, size, device: prepared(self, size, model.cfg.device),  # noqa: ARG005
    )
    apple = copy.copy(model)
    apple.cfg = replace(model.cfg, device=torch.device("mps"))
    assert torch.equal(read_moments(apple, reading).mean, mean)


def test_the_command_line_knows_every_position():
    named = get_args(get_args(Position)[1])
    assert {*POSITIONS[2:], "content_last", "content_mean"} == {*named}
    assert [read_position(text) for text in (*named, "-3")] == [*named, -3]
    with pytest.raises(ArgumentTypeError, match="count from the end"):
        read_position("0")


def test_layers_come_in_the_order_asked_for(model, splits):
    acts = read_activations(model, splits[0])
    assert torch.equal(read_activations(model, splits[0], layers=[2, 0]), acts[[2, 0]])
    assert torch.equal(
        read_moments(model, splits[0], layers=[1]).mean, read_moments(model, splits[0]).mean[[1]]
    )
    with pytest.raises(LayerError, match=r"No layers \[3\]"):
        read_activations(model, splits[0], layers=[3])
    with pytest.raises(LayerError, match=r"No layers \[-1\]"):
        read_moments(model, splits[0], layers=[-1])


def test_gradients_flow_from_a_reading_to_the_weights(make_model, splits, blocks_of):
    model = make_model()
    reading = Reading.of(model, splits[0])
    resid = read_batch(model, reading, [0, 1], [1])
    resid.sum().backward()
    blocks = blocks_of(model.hf)
    assert blocks[1].mlp.c_proj.weight.grad.abs().max() > 0
    assert blocks[2].mlp.c_proj.weight.grad is None  # it comes after


def test_positions_outside_a_prompt_are_refused(model):
    probes = ProbeSet.from_prompts(["bako", "bako delu"])
    assert read_activations(model, probes, position=-6).shape == (3, 2, 32)
    with pytest.raises(ProbeError, match="Position -7 is not in the 6 tokens of 'bako'"):
        Reading.of(model, probes, -7)
    for position in (0, 3):
        with pytest.raises(ProbeError, match="positions count from the end"):
            Reading.of(model, probes, position)
    with pytest.raises(ProbeError, match="No response to read at in probe 'bako'"):
        Reading.of(model, probes, "response_mean")
    with pytest.raises(ProbeError, match="at least one prompt"):
        Reading.of(model, ProbeSet(()))


def test_batches_hold_every_prompt_once_and_limited_tokens():
    lengths = [7, 3000, 5, 4000, 4096, 9, 20_000, 1]
    reading = Reading(tuple(Encoded((0,) * n, n) for n in lengths), -1, fill=0)
    for size in (None, 1, 2):
        batches = list(reading.batches(size))
        assert sorted(index for batch in batches for index in batch) == list(range(8))
        assert all(len(batch) <= (size or 8) for batch in batches)
    for batch in reading.batches():
        padded = len(batch) * max(lengths[index] for index in batch)
        assert padded <= TOKENS_PER_BATCH or len(batch) == 1


@pytest.mark.parametrize("position", [-1, "prompt_mean"])
def test_no_full_residual_stream_is_kept(make_model, probes, blocks_of, position):
    model, alive, most = make_model(), [], []

    def watch(block, args, out):  # noqa: ARG001
        resid = out[0] if isinstance(out, tuple) else out
        alive.append(StorageWeakRef(resid.untyped_storage()))
        most.append(sum(not storage.expired() for storage in alive))

    for block in blocks_of(model.hf):
        block.register_forward_hook(watch)
    read_moments(model, probes, position=position, batch_size=4)
    assert len(most) == 3 * 8
    # The input of a block and its output; never the stream of a layer or batch before.
    assert max(most) <= 2
    with torch.no_grad():
        model.run_with_cache(torch.arange(8)[None])
    assert most[-1] == 3  # a cache keeps all layers


@pytest.mark.parametrize("read", [read_activations, read_moments])
def test_reading_leaves_modes_hooks_gradients_and_randomness(make_model, splits, read):
    model = make_model()
    model.hf.train()
    model.hf.transformer.h[1].eval()
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    clean = read(model, splits[0])
    assert [module.training for module in model.modules()] == modes
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(not point.fwd_hooks for point in model.hook_dict.values())
    model.hf.eval()
    again = read(model, splits[0])  # dropout was off in training mode too
    assert torch.equal(*(r.mean if hasattr(r, "count") else r for r in (clean, again)))


def test_a_reading_that_fails_leaves_modes_and_hooks(make_model, splits, blocks_of):
    model = make_model()
    model.hf.train()

    def fail(*_):
        raise ZeroDivisionError

    handle = blocks_of(model.hf)[1].register_forward_hook(fail)
    with pytest.raises(ZeroDivisionError):
        read_activations(model, splits[0])
    handle.remove()
    assert model.hf.training
    assert all(module.training for module in model.hf.modules())
    assert torch.is_grad_enabled()
    assert all(not point.fwd_hooks for point in model.hook_dict.values())


def test_paired_prompts_of_different_number_are_noticed(model):
    from workbench.directions import fit_directions_from

    acts = read_activations(model, ProbeSet((Probe("bako"), Probe("delu"), Probe("fina"))))
    with pytest.raises(TypeError, match="prompt"):  # jaxtyping names the axis
        fit_directions_from(acts, acts[:, :2])


def test_a_reading_stops_at_its_last_layer_with_the_same_bits(make_model, probes):
    model = make_model("llama-gqa")
    whole = read_activations(model, probes)
    runs = blocks_run(model)
    early = read_activations(model, probes, layers=[1, 0])
    assert {*runs} == {0, 1}
    assert torch.equal(early, whole[[1, 0]])
    assert torch.equal(read_activations(model, probes), whole)
    assert 2 in runs
    assert not any(point._forward_hooks for point in model.hook_dict.values())


def test_gradients_flow_from_a_reading_that_stops_early(make_model, probes):
    model = make_model("llama-gqa")
    reading = Reading.of(model, probes)
    weights = [*model.hf.model.layers[0].parameters()]
    early, whole = (
        torch.autograd.grad(read_batch(model, reading, [0, 1, 2], layers)[0].sum(), weights)
        for layers in ([0], [0, 1, 2])
    )
    assert all(map(torch.equal, early, whole))
    assert max(float(one.abs().max()) for one in early) > 0


def test_within_a_partial_edit_of_several_layers_the_edited_stream_is_read(make_model, probes):
    # Such an edit runs the blocks twice, without it first: stopping there would read the wrong one.
    model = make_model("llama-gqa")
    acts = read_activations(model, probes)
    arrows = fit_directions_from(acts + torch.randn(3, 1, acts.shape[2]), acts)
    with intervene(model, ablate(arrows, strength=0.5, layers=[0, 1], positions="all")):
        early = read_activations(model, probes, layers=[1])
        whole = read_activations(model, probes)
    assert torch.equal(early[0], whole[1])
    assert (whole[1] - acts[1]).abs().max() > 0.1


def test_a_reading_can_be_sent_to_another_process_after_it_was_read(model, probes):
    reading = Reading.of(model, probes)
    acts = read_activations(model, reading)
    again = pickle.loads(pickle.dumps(reading))
    assert again == reading
    assert torch.equal(read_activations(model, again), acts)


@pytest.mark.parametrize(("count", "length"), [(64, 24), (48, 32), (5, 40), (2, 40), (3, 8)])
def test_the_noise_floor_is_read_in_other_batches(make_model, count, length):
    model = make_model()
    reading = Reading(
        tuple(Encoded(tuple(range(6, 6 + length)), length) for _ in range(count)), -1, 0
    )
    default = [one.indices for one in reading.prepared(None, model.cfg.device)]
    other = [*reading.batches(other_size(model, reading))]
    assert not {tuple(one) for one in default} & {tuple(one) for one in other}
