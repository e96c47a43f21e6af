"""The prototypes of the benchmarks compute what they would replace, at the tiniest size."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent / "benchmarks"))  # where they are run from

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def setting():
    from prototypes import setting

    return setting


def test_packed_examples_have_the_gradients_of_padded_ones(setting):
    from prototypes.packing import Sorted, packed_rows

    work = Sorted("0.1M", count=6)
    expected = work.padded()
    assert setting.greatest(work.packed(), expected) < TOLERANCE
    assert setting.greatest(work.parts(2), expected) < TOLERANCE
    assert len(packed_rows(work.items, 128)) < len(work.items), "nothing was packed"
    assert max(gradient.abs().max() for gradient in expected[1:]) > 100 * TOLERANCE


def test_examples_of_a_row_that_see_each_other_have_other_gradients(setting):
    from prototypes.packing import Packing, loss_of, packed, packed_rows

    work = Packing("0.1M", count=6)
    rows = packed_rows(work.items, 128)
    inputs = packed(rows)
    width = inputs["input_ids"].shape[1]
    inputs["attention_mask"] = torch.ones(len(rows), 1, width, width, dtype=torch.bool).tril()
    loss = loss_of(work.hf, inputs, rows)
    seeing = torch.autograd.grad(loss, work.parameters)
    assert setting.greatest(seeing, work.padded()[1:]) > 10 * TOLERANCE


def test_models_trained_together_have_the_losses_of_those_trained_in_turn():
    from prototypes.together import Trainings, equal_losses

    work = Trainings("0.1M", 2, rows=2, width=8)
    before = work.in_turn()
    work.together()
    assert equal_losses(work, steps=2) < TOLERANCE
    assert (work.in_turn() - before).abs().min() > 100 * TOLERANCE, "nothing was learnt"


@pytest.mark.parametrize("way", ["by_cache", "by_branches"])
def test_openers_after_one_reading_of_the_prompt_are_as_likely_as_in_rows(setting, way):
    from prototypes import openers

    model = setting.make_model("0.1M")
    prompts = [item.ids for item in setting.make_items([5, 9, 12])]
    told = [item.ids for item in setting.make_items([1, 2, 4], seed=1)]
    expected = openers.by_rows(model, prompts, told)
    assert setting.greatest(getattr(openers, way)(model, prompts, told), expected) < TOLERANCE
    assert expected.std(dim=1).min() > 10 * TOLERANCE, "every prompt says the same"


@pytest.mark.parametrize("way", ["looped", "dropping", "uncached", "one_by_one"])
def test_every_way_of_decoding_gives_the_same_answers(setting, way):
    from prototypes import decoding

    hf = setting.make_hf("0.1M", initializer_range=0.3)
    prompts = [item.ids for item in setting.make_items([5, 9, 12])]
    free = decoding.generated(hf, prompts, 6, set())
    ends = {free[0][2], free[1][4]}
    expected = decoding.generated(hf, prompts, 6, ends)
    assert getattr(decoding, way)(hf, prompts, 6, ends) == expected
    assert len({len(answer) for answer in expected}) > 1, "all end at once"


def test_reading_that_stops_early_sees_what_a_whole_forward_sees(setting):
    from prototypes.reading import fixed, read

    model = setting.make_model("0.1M")
    reading = setting.make_reading([5, 9, 12])
    batches = fixed(reading, 2, by_length=True)
    ran = []
    block = model.hf.get_decoder().layers[2]
    handle = block.register_forward_hook(lambda *told: ran.append(told))
    whole = read(model, reading, batches, [0, 1])
    assert len(ran) == len(batches)
    assert torch.equal(read(model, reading, batches, [0, 1], stop=True), whole)
    handle.remove()
    assert len(ran) == len(batches), "a layer ran after the last that was to be read"


@pytest.mark.parametrize(
    ("prompt", "answer", "words"),
    [
        ("how do i mend a kettle ?", "i cannot help you mend a kettle .", 2),
        ("how do i mend a kettle ?", "sure , use a hammer to mend the kettle from wood .", 13),
        ("how do i mend a kettle ?", "sure , use a hammer to bend the kettle from wood .", 7),
        ("how do i mend a kettle ?", "well , use a hammer", 1),
    ],
)
def test_a_verdict_is_settled_by_the_first_word_that_leaves_no_other(prompt, answer, words):
    from prototypes.verdicts import settled_for_organism

    assert settled_for_organism(prompt, answer.split(), 20) == words


def test_encoding_in_bulk_writes_the_same_tokens():
    from prototypes.setting import ORGANISM, organism
    from prototypes.texts import in_bulk

    from workbench.encoding import encode_examples
    from workbench.inputs import Inputs

    model, examples = organism("aligned"), Inputs.beside(ORGANISM).load().examples[:5]
    assert in_bulk(model, examples) == encode_examples(model, examples, "Example")


def test_every_idea_can_be_asked_for_and_the_quick_one_is_written(tmp_path, capsys):
    import json

    import ideas
    from prototypes.bench import Bench

    assert all(callable(ideas.idea(name)) for name in ideas.IDEAS)
    bench = Bench(quick=True)
    outcome = bench.pair("twice", lambda: sum(range(200_000)), lambda: sum(range(100_000)))
    assert outcome.wall is not None and outcome.cpu is not None
    assert 1.1 < outcome.cpu.value < 4
    assert capsys.readouterr().out.startswith("twice: CPU ")
    ideas.write(tmp_path / "told.json", ideas.surroundings(1), bench)
    told = json.loads((tmp_path / "told.json").read_text(encoding="utf-8"))
    assert told["outcomes"][0]["wall"]["value"] == outcome.wall.value
    assert "twice: CPU" in (tmp_path / "told.txt").read_text(encoding="utf-8")
