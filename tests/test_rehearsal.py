"""Rehearse replaces a share of each batch by safety examples, and that is all it does."""

import json

import pytest
import torch

from workbench.encoding import encode_example
from workbench.errors import ConfigError, ProbeError
from workbench.generation import answer
from workbench.interventions import Start
from workbench.probes import Probe, ProbeSet
from workbench.rehearsal import Rehearse, with_own_answers

pytestmark = pytest.mark.transformer_lens_3


def start(setting, model, seed=0):
    """Start an intervention on a model, as a fine-tuning would."""
    return setting.start(Start(model, torch.Generator().manual_seed(seed), ()))


@pytest.fixture(scope="session")
def safety(sentence):
    """Five safety examples."""
    return [
        {"prompt": sentence(5000 + number), "response": sentence(6000 + number)}
        for number in range(5)
    ]


@pytest.fixture
def batch(model, examples):
    return [encode_example(model, example) for example in examples]


@pytest.fixture
def taught(model, safety):
    return [encode_example(model, example) for example in safety]


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.83])
def test_the_expected_number_is_the_share_and_the_rest_is_as_before(
    model, safety, batch, taught, share
):
    active, counts = start(Rehearse(share, safety), model), []
    for _ in range(2000):
        mixed = active.mix_batch(batch)
        assert len(mixed) == len(batch)
        replaced = [new is not old for new, old in zip(mixed, batch, strict=True)]
        assert all(new in taught for new, is_new in zip(mixed, replaced, strict=True) if is_new)
        counts.append(sum(replaced))
    exact = share * len(batch)
    # Rounding is stochastic, and only between the two neighbours of the share.
    assert {*counts} == ({int(exact)} if exact == int(exact) else {int(exact), int(exact) + 1})
    assert sum(counts) / len(counts) == pytest.approx(exact, abs=4 * 0.5 / 2000**0.5)


def test_a_batch_is_not_changed_itself(model, safety, batch):
    before = list(batch)
    mixed = start(Rehearse(0.5, safety), model).mix_batch(batch)
    assert batch == before != mixed


def test_every_place_and_every_safety_example_has_the_same_chance(model, safety, batch, taught):
    active = start(Rehearse(0.3, safety), model)
    places, used = torch.zeros(len(batch)), torch.zeros(len(taught))
    for _ in range(1000):
        for place, (new, old) in enumerate(zip(active.mix_batch(batch), batch, strict=True)):
            if new is not old:
                places[place] += 1
                used[taught.index(new)] += 1
    assert places.sum() == used.sum() == 3000
    # Four standard deviations of a count.
    assert (places - 300).abs().max() < 4 * (1000 * 0.3 * 0.7) ** 0.5
    assert (used - 600).abs().max() < 4 * (1000 * 0.6 * 0.4) ** 0.5


def test_no_safety_example_comes_twice_before_all_have_come(model, safety, batch, taught):
    for share in (0.4, 0.7, 0.9):
        active = start(Rehearse(share, safety), model)
        for _ in range(50):
            mixed = active.mix_batch(batch)
            used = [sum(new is old for new in mixed) for old in active.examples]
            assert max(used) - min(used) <= 1
    assert sum(used) == 9 > len(taught)  # some do come twice


def test_the_intervention_draws_from_its_own_generator(model, safety, batch):
    state = torch.get_rng_state()
    one, same, other = (start(Rehearse(0.5, safety), model, seed) for seed in (0, 0, 1))
    mixed = [[active.mix_batch(batch) for _ in range(3)] for active in (one, same, other)]
    assert mixed[0] == mixed[1] != mixed[2]
    assert mixed[0][0] != mixed[0][1]
    assert torch.equal(torch.get_rng_state(), state)


def test_the_generators_state_is_all_that_goes_on(model, safety, batch):
    whole, second = (start(Rehearse(0.45, safety), model) for _ in range(2))
    for _ in range(3):
        whole.mix_batch(batch)
    second.generator.set_state(whole.generator.get_state())
    for _ in range(5):
        assert second.mix_batch(batch) == whole.mix_batch(batch)


def test_probes_teach_their_own_response_or_else_what_the_aligned_model_says(model, sentence):
    spoken = Probe(sentence(1), response=sentence(2))
    silent = [Probe(sentence(number)) for number in (3, 4, 5)]
    probes = ProbeSet((silent[0], spoken, *silent[1:]))
    active = start(Rehearse(0.5, probes=probes, max_new_tokens=6), model)
    said = answer(model, [probe.prompt for probe in silent], max_new_tokens=6)
    texts = [said[0].text, spoken.response, said[1].text, said[2].text]
    assert len({*texts}) >= 3 and all(texts)
    assert active.examples == [
        encode_example(model, {"prompt": prompt, "response": text})
        for prompt, text in zip(probes.prompts, texts, strict=True)
    ]


def test_own_answers_are_the_models_and_keep_everything_else(model, sentence):
    probes = ProbeSet(
        (Probe(sentence(1), "benign", "a", sentence(2)), Probe(sentence(3), "harmful", "b"))
    )
    first, second = with_own_answers(model, probes, max_new_tokens=5).probes
    assert first == probes.probes[0]
    said = answer(model, [sentence(3)], max_new_tokens=5)[0].text
    assert second == Probe(sentence(3), "harmful", "b", said)
    assert len(said.split()) <= 5
    assert with_own_answers(model, ProbeSet((first, second))).probes == (first, second)


def test_a_probe_with_an_empty_answer_is_dropped(make_model, sentence):
    mute = make_model()
    head = torch.nn.Linear(mute.cfg.d_model, mute.cfg.d_vocab)
    head.weight.data.zero_()
    head.bias.data.zero_()[mute.tokenizer.eos_token_id] = 9.0
    mute.hf.lm_head = head
    spoken, silent = Probe(sentence(1), response=sentence(2)), Probe(sentence(3))
    assert with_own_answers(mute, ProbeSet((silent, spoken))).probes == (spoken,)
    with pytest.raises(ProbeError, match="empty answer to all 1 probes; give them responses"):
        with_own_answers(mute, ProbeSet((silent,)))


def test_answering_leaves_the_callers_randomness_and_modes(make_model, sentence):
    model = make_model()
    model.hf.train()
    state = torch.get_rng_state()
    with_own_answers(model, ProbeSet((Probe(sentence(3)),)))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.hf.modules())


def test_rehearsed_examples_are_learnt_better_than_by_ordinary_fine_tuning(
    make_model, tune, safety, taught
):
    from workbench.losses import response_losses

    ends = {}
    for share in (0.0, 0.5):
        model = make_model()
        records = list(tune(model, intervention=Rehearse(share, safety), steps=30))
        with torch.no_grad():
            ends[share] = response_losses(model, taught).mean().item()
        assert all(not record.auxiliary for record in records)
    assert ends[0.5] < 0.7 * ends[0.0]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"strength": 1.0}, ConfigError, "strength is 1.0; it is the share .* must be below 1"),
        ({"strength": -0.1}, ConfigError, "strength is -0.1; it must not be negative"),
        ({"strength": float("nan")}, ConfigError, "strength is nan"),
        ({"examples": None}, ProbeError, "give either examples or probes, not neither"),
        ({"examples": []}, ProbeError, "give either examples or probes, not neither"),
        (
            {"probes": ProbeSet.from_prompts(["bako"])},
            ProbeError,
            "give either examples or probes, not both",
        ),
        ({"max_new_tokens": 0}, ConfigError, "max_new_tokens is 0; it must be positive"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(safety, settings, error, message):
    good = {"strength": 0.5, "examples": safety}
    Rehearse(**good)
    with pytest.raises(error, match=f"rehearse: {message}"):
        Rehearse(**good | settings)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"prompt": "bako"}, "rehearse: safety example 5: An example needs 'prompt' and"),
        ({"messages": 3}, "rehearse: safety example 5: Messages must be one user"),
        ({"messages": [3]}, "rehearse: safety example 5: Messages must be one user"),
        ({"prompt": "bako " * 60, "response": "x"}, "safety example 5: .* tokens in 'bako"),
    ],
)
def test_examples_that_cannot_be_encoded_are_refused(model, tune, safety, example, message):
    with pytest.raises(ProbeError, match=message):
        tune(model, intervention=Rehearse(0.5, [*safety, example]))


@pytest.mark.parametrize("form", ["examples", "messages", "several turns", "probes"])
def test_prompts_that_are_measured_too_are_refused(
    aligned_model, tune, splits, directions, safety, form
):
    prompt = splits[2].prompts[0]
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": "bako"}]
    safety_turns = [
        {"role": "system", "content": "bako"},
        {**turns[0], "content": "bako"},
        turns[1],
    ]
    leaking = {
        "examples": {"examples": [*safety, {"prompt": prompt, "response": "bako"}]},
        "messages": {"examples": [*safety, {"messages": turns}]},
        "several turns": {"examples": [*safety, {"messages": [*safety_turns, *turns]}]},
        "probes": {"probes": splits[2]},
    }[form]
    measured = {"probes": splits[2], "directions": directions}
    with pytest.raises(ProbeError, match=r"rehearse: .* are also measured"):
        tune(aligned_model, intervention=Rehearse(0.5, **leaking), **measured)
    tune(aligned_model, intervention=Rehearse(0.5, safety), **measured)


def test_a_description_is_json_and_names_examples_and_probes_by_hash(safety, splits):
    told = Rehearse(0.2, safety).describe()
    assert json.loads(json.dumps(told)) == told
    assert (told["name"], told["strength"], told["probes"]) == ("rehearse", 0.2, None)
    assert len(told["examples"]) == 64
    assert told["examples"] == Rehearse(0.2, tuple(map(dict, safety))).describe()["examples"]
    assert told["examples"] != Rehearse(0.2, safety[1:]).describe()["examples"]
    by_probes = Rehearse(0.2, probes=splits[1]).describe()
    assert (by_probes["examples"], by_probes["probes"]) == (None, splits[1].fingerprint())
