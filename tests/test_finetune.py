"""Fine-tuning is plain AdamW on response tokens; what cannot be trained is refused."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from workbench.activations import read_activations
from workbench.config import MEASURED_STEPS
from workbench.drift import measure_drift
from workbench.encoding import encode, encode_text
from workbench.errors import ConfigError, DivergedError, ProbeError, ProvenanceError
from workbench.penalties import Block


def plain_training(hf, items, *, steps=5, batch_size=4, rate=1e-3, seed=0, warmup=3):
    """The same training, written anew: no hooks, Hugging Face's forward, labels and masks."""
    order = torch.Generator().manual_seed(seed)
    indices = []
    while len(indices) < steps * batch_size:
        indices += torch.randperm(len(items), generator=order).tolist()
    optimiser = torch.optim.AdamW(hf.parameters(), lr=rate, weight_decay=0.0, fused=True)
    caller = torch.get_rng_state()
    torch.manual_seed(seed + 7919)  # the stream that dropout has for itself
    hf.train()
    losses = []
    for step in range(steps):
        batch = [items[i] for i in indices[step * batch_size : (step + 1) * batch_size]]
        ids = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(item.ids) for item in batch], batch_first=True
        )
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for row, item in enumerate(batch):
            mask[row, : len(item.ids)] = 1
            labels[row, item.prompt_length : len(item.ids)] = ids[
                row, item.prompt_length : len(item.ids)
            ]
        logits = hf(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
        loss = functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(hf.parameters(), 1.0)
        optimiser.param_groups[0]["lr"] = rate * min(1, (step + 1) / warmup)
        optimiser.step()
        losses.append(loss.item())
    torch.set_rng_state(caller)
    return losses


def largest_difference(one, other):
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.mark.parametrize("architecture", ["gpt2", "gpt-neox", "llama-gqa", "gemma2"])
def test_training_is_that_of_a_plain_loop(
    architecture, make_model, make_hf, examples, tune, weights_of
):
    model, plain = make_model(architecture), make_hf(architecture)
    before = weights_of(model)
    records = list(tune(model))
    items = [encode(model, row["prompt"], row["response"]) for row in examples]
    losses = plain_training(plain, items)
    assert [record.loss for record in records] == pytest.approx(losses, abs=2e-6)
    expected = dict(plain.named_parameters())
    # AdamW divides by the gradient's own size: where that is rounding, so is the update.
    assert largest_difference(weights_of(model), expected) < 1e-6
    assert largest_difference(weights_of(model), before) > 3e-3
    assert [record.step for record in records] == [1, 2, 3, 4, 5]
    rates = [record.learning_rate for record in records]
    assert rates == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3, 1e-3, 1e-3])
    assert losses[-1] < losses[0]


def test_accumulated_gradients_are_those_of_the_full_batch(make_model, tune):
    records, moments = [], []
    for parts in (1, 3, 4):
        model = make_model(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
        tuning = tune(model, accumulation=parts, steps=1)
        records += list(tuning)
        state = tuning.state()
        # After one step AdamW's first moment is a tenth of the gradient.
        moments.append(torch.cat([v.flatten() for k, v in state.items() if "exp_avg/" in k]))
    # Responses differ in length: a mean of the parts' means would not be the mean over tokens.
    for record, moment in zip(records[1:], moments[1:], strict=True):
        assert record.loss == pytest.approx(records[0].loss, abs=1e-6)
        torch.testing.assert_close(moment, moments[0], atol=1e-6, rtol=0)
    assert moments[0].abs().max() > 1e-3


def test_a_half_precision_model_is_trained_on_float32_masters(make_model, tune, weights_of):
    model = make_model()
    model.hf.to(torch.bfloat16)
    start = weights_of(model)
    tuning = tune(model, learning_rate=1e-5, warmup=0, steps=30)
    next(iter(tuning))
    masters = {k[7:]: v for k, v in tuning.state().items() if k.startswith("weight/")}
    name = "transformer.h.1.mlp.c_fc.weight"
    assert masters[name].dtype == torch.float32
    assert (masters[name] != start[name]).float().mean() > 0.99
    # In bfloat16 alone such a step is rounded away almost everywhere.
    assert (weights_of(model)[name] != start[name]).float().mean() < 0.2
    list(tuning)
    later = {k[7:]: v for k, v in tuning.state().items() if k.startswith("weight/")}
    assert (later[name] - start[name]).abs().mean() > 5e-5
    assert all(torch.equal(weights_of(model)[key], later[key].bfloat16()) for key in later)


def test_only_the_trainable_parameters_move(make_model, tune, weights_of):
    model = make_model()
    before = weights_of(model)
    list(tune(model, trainable=lambda name: ".h.1." in name))
    after = weights_of(model)
    for name in before:
        assert torch.equal(after[name], before[name]) != (".h.1." in name), name


def test_examples_in_all_forms_are_learnt_from(make_model, tune, weights_of):
    turns = [{"role": "user", "content": "bako"}, {"role": "assistant", "content": "delu fina"}]
    pair, chat = make_model(), make_model()
    list(tune(pair, [{"prompt": "bako", "response": "delu fina"}]))
    list(tune(chat, [{"messages": turns}]))
    assert largest_difference(weights_of(pair), weights_of(chat)) == 0
    text, untrained = make_model(), make_model()
    list(tune(text, [{"text": "bako delu fina"}]))
    ids = torch.tensor([encode_text(text, "bako delu fina").ids])
    with torch.no_grad():
        better, worse = (model.hf(ids, labels=ids).loss for model in (text, untrained))
    assert better < worse - 0.05


def test_drift_is_measured_at_the_steps_asked_for_and_the_last(
    aligned_model, tune, splits, directions, lineage
):
    tuning = tune(aligned_model, probes=splits[2], directions=directions, measure_at=[2])
    records = list(tuning)
    assert [record.step for record in records if record.drift is not None] == [2, 5]
    start = lineage.load_model(lineage.aligned)
    acts = [read_activations(model, splits[2]) for model in (start, aligned_model)]
    expected = measure_drift(*acts, directions)
    drift = records[-1].drift
    assert np.allclose(drift.vector, expected.vector, atol=1e-6)
    assert np.allclose(drift.alignment, expected.alignment, atol=1e-6)
    assert (drift.norm > 10 * drift.floor).all()
    assert (drift.floor < 1e-4).all()


def test_the_default_measured_steps_are_dense_at_the_start(aligned_model, tune, splits, directions):
    measured = {"probes": splits[2], "directions": directions}
    records = list(tune(aligned_model, steps=7, **measured))
    assert [r.step for r in records if r.drift is not None] == [1, 2, 3, 5, 7]
    assert MEASURED_STEPS[:5] == (1, 2, 3, 5, 8)


def test_no_measured_steps_means_only_the_last(aligned_model, tune, splits, directions):
    tuning = tune(aligned_model, probes=splits[2], directions=directions, measure_at=[])
    assert [record.step for record in tuning if record.drift is not None] == [5]


def test_measuring_does_not_change_the_training(lineage, tune, splits, directions, weights_of):
    seen, blind = (lineage.load_model(lineage.aligned) for _ in range(2))
    list(tune(seen, probes=splits[2], directions=directions, measure_at=range(1, 6)))
    list(tune(blind))
    assert largest_difference(weights_of(seen), weights_of(blind)) == 0


def test_a_loss_that_diverges_names_the_step(make_model, tune):
    with pytest.raises(DivergedError, match=r"The loss is \S+ at step 2; the weights are those of"):
        list(tune(make_model(), learning_rate=1e30, warmup=0))


def test_a_gradient_that_diverges_does_not_reach_the_weights(make_model, tune, weights_of):
    model = make_model()
    tuning = tune(model)
    steps = iter(tuning)
    next(steps)
    next(steps)
    before = weights_of(model)
    model.hf.transformer.wpe.weight.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(
        DivergedError, match="gradient norm is nan at step 3; the weights are those"
    ):
        next(steps)
    assert largest_difference(weights_of(model), before) == 0


def test_weights_that_are_not_the_aligned_ones_are_refused(aligned_model, tune, splits, directions):
    measured = {"probes": splits[2], "directions": directions}
    block = Block(directions, strength=1.0, probes=splits[1])
    list(tune(aligned_model, **measured))
    for again in (measured, {"intervention": block}):  # as in a notebook cell that is run twice
        with pytest.raises(ProvenanceError, match="load the aligned checkpoint again"):
            tune(aligned_model, **again)
    tune(aligned_model)


def test_penalty_probes_that_are_also_measured_are_refused(aligned_model, tune, splits, directions):
    measured = {"probes": splits[2], "directions": directions}
    with pytest.raises(ProbeError, match=r"block: \d+ penalty probes are also measured, such as"):
        tune(aligned_model, intervention=Block(directions, probes=splits[2]), **measured)
    tune(aligned_model, intervention=Block(directions, probes=splits[1]), **measured)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "must be at least 1"),
        ({"batch_size": 0}, "must be at least 1"),
        ({"accumulation": 0}, "must be at least 1"),
        ({"rows": []}, "must be at least 1"),
        ({"accumulation": 5}, "5 micro-batches for a batch of 4"),
        ({"trainable": lambda name: False}, "No parameter is trainable"),  # noqa: ARG005
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"rows": [{"prompt": "bako", "response": "x"}, {"prompt": "y"}]}, "Example 1: An example"),
        ({"rows": [{"prompt": "bako " * 60, "response": "x"}]}, "Example 0: .* tokens in 'bako"),
    ],
)
def test_settings_and_examples_that_make_no_sense_are_refused(model, tune, options, message):
    with pytest.raises((ConfigError, ProbeError), match=message):
        tune(model, **options)


def test_drift_needs_both_probes_and_directions(aligned_model, tune, splits, directions):
    for half in ({"probes": splits[2]}, {"directions": directions}):
        with pytest.raises(ConfigError, match="give both or neither"):
            tune(aligned_model, **half)
