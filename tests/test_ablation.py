"""An ablation grid is evaluations inside interventions, each done once, and kept."""

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from workbench import ablation, grid_work
from workbench.ablated_runs import directions_of_run, grid_of_run
from workbench.ablation import ablation_grid, answer_now
from workbench.activations import read_activations
from workbench.centres import mean_coordinates
from workbench.checkpoints import Checkpoint
from workbench.directions import ReversionDirections
from workbench.editing import intervene
from workbench.edits import ablate
from workbench.encoding import encode
from workbench.errors import ConfigError, LayerError, ProvenanceError, RunError
from workbench.evaluation import ask, evaluate, read_reference
from workbench.files import file_hash
from workbench.grids import stored_grids
from workbench.inputs import Inputs
from workbench.judges import Judge
from workbench.probes import Probe, ProbeSet
from workbench.questions import Questions
from workbench.records import SCORE_NAMES
from workbench.store import RunStore

STRENGTHS = (-1.0, 0.0, 0.5, 1.0)
SETS = ((0, 1, 2), (1,))
OPENERS = ("bako", "gina domi")


@pytest.fixture(scope="module")
def judge():
    """Answers are judged by their first letter, so that verdicts differ."""
    return Judge("planted", lambda _, text: "refuse" if text[:1] in "bdfgkl" else "comply", OPENERS)


@pytest.fixture(scope="module")
def sets(sentence):
    harmful = ProbeSet(tuple(Probe(sentence(n), cluster=f"c{n // 2}") for n in range(6)))
    rows = range(50, 54)
    benign = ProbeSet(tuple(Probe(sentence(n), "benign", None, sentence(n + 40)) for n in rows))
    return {"harmful": harmful, "benign": benign}


@pytest.fixture(scope="module")
def options(sets, judge):
    return {
        **sets,
        "judge": judge,
        "strengths": STRENGTHS,
        "layer_sets": SETS,
        "max_new_tokens": 4,
    }


@pytest.fixture(scope="module")
def phases(lineage):
    """The aligned model, and the helpful one in the place of a fine-tuned one."""
    return {name: Checkpoint.of(lineage, lineage.phase(name)) for name in ("aligned", "helpful")}


@pytest.fixture(scope="module")
def grid(phases, directions, options):
    return ablation_grid(phases, directions, **options)


@pytest.fixture
def _forbidden(monkeypatch):
    """From here on nothing may be evaluated or loaded."""

    def refuse(*_, **__):
        raise AssertionError("it computes")

    monkeypatch.setattr("workbench.grid_work.ask", refuse)
    monkeypatch.setattr("workbench.checkpoints.load_model", refuse)


def values(grid):
    return grid.to_json() | {"provenance": None, "sha256": None}


def test_every_point_is_the_evaluation_within_the_edit(grid, phases, directions, sets, judge):
    reference = read_reference(phases["aligned"](), sets["benign"])
    centre = torch.tensor(grid.provenance["centre"], dtype=torch.float64)
    for number, name in enumerate(grid.models):
        model = phases[name]()
        for place, layers in enumerate(SETS):
            for index, strength in enumerate(STRENGTHS):
                edit = ablate(
                    directions, strength=strength, layers=layers, positions="all", centre=centre
                )
                with intervene(model, edit):
                    questions = Questions.of(model, **sets, judge=judge, max_new_tokens=4)
                    found = ask(model, questions, reference)
                for score in SCORE_NAMES:
                    one = found.scores[score]
                    expected = (one.value, one.low, one.high)
                    assert np.array_equal(
                        grid.scores[score][number, place, index], expected, equal_nan=True
                    )
                    assert grid.counts[score] == one.n
                every = (*found.harmful_answers, *found.benign_answers)
                said = {prompt: (text, verdict) for prompt, text, verdict in every}
                shown = grid.answers[number][place][index]
                assert shown == tuple(said[prompt] for prompt in grid.prompts)
    assert np.ptp(grid.scores["task_loss"][..., 0]) > 0.01  # the edit does something


def test_strength_0_is_no_edit_at_all_to_the_bit(grid, phases, sets, judge):
    model = phases["helpful"]()
    reference = read_reference(phases["aligned"](), sets["benign"])
    plain = evaluate(model, **sets, judge=judge, reference=reference, max_new_tokens=4)
    for score in SCORE_NAMES:
        for row in grid.scores[score][1, :, STRENGTHS.index(0)]:
            assert row[0] == plain[score].value
    assert (grid.scores["kl"][0, :, 1] == 0).all()
    assert (grid.scores["kl"][1, :, 1, 0] > 0).all()


def test_what_is_unedited_is_evaluated_once_for_all_layer_sets(
    phases, directions, options, monkeypatch
):
    calls, told = [], []
    plain = grid_work.ask
    monkeypatch.setattr(grid_work, "ask", lambda *a, **k: calls.append(1) or plain(*a, **k))
    ablation_grid(phases, directions, **options, on_progress=lambda *at: told.append(at))
    assert len(calls) == 2 * (len(SETS) * (len(STRENGTHS) - 1) + 1)
    assert told == [(n + 1, len(calls)) for n in range(len(calls))]


def test_the_centre_is_the_mean_over_all_tokens_but_the_first(
    model, directions, sets, plain_stream
):
    texts = [(p.prompt, None) for p in sets["harmful"].probes]
    texts += [(p.prompt, p.response) for p in sets["benign"].probes]
    items = [encode(model, *text) for text in texts]
    coordinates = []
    for item in items:
        with torch.no_grad():
            stream = plain_stream(model.hf, torch.tensor([item.ids]))[1:, 0, 1:].double()
        coordinates.append(torch.einsum("lpd,ld->lp", stream, directions.unit))
    expected = torch.cat(coordinates, dim=1).mean(dim=1)
    torch.testing.assert_close(
        mean_coordinates(model, items, directions), expected, atol=1e-5, rtol=1e-5
    )
    at_read_position = (directions.mean * directions.unit).sum(dim=1)
    assert (expected - at_read_position).abs().max() > 0.05


def test_the_centre_of_a_grid_is_that_of_the_unedited_aligned_model(grid, phases, directions, sets):
    model = phases["aligned"]()
    items = [encode(model, prompt) for prompt in sets["harmful"].prompts]
    items += [encode(model, p.prompt, p.response) for p in sets["benign"].probes]
    assert grid.provenance["centre"] == mean_coordinates(model, items, directions).tolist()


def test_at_last_only_what_is_generated_has_scores(phases, directions, options):
    grid = ablation_grid(phases, directions, **options | {"positions": "last"})
    edited = [index for index, strength in enumerate(STRENGTHS) if strength]
    for name in ("refusal_log_odds", "task_loss", "perplexity", "kl"):
        assert np.isnan(grid.scores[name][:, :, edited]).all()
        assert not np.isnan(grid.scores[name][:, :, STRENGTHS.index(0), 0]).any()
    assert not np.isnan(grid.scores["harmfulness"]).any()
    at_read_position = (directions.mean * directions.unit).sum(dim=1)
    assert grid.provenance["centre"] == at_read_position.tolist()


def test_a_grid_that_is_there_is_not_computed_again(
    grid, phases, directions, options, tmp_path, _forbidden
):
    grid.save(tmp_path / f"{grid.identity()}.json")
    again = ablation_grid(phases, directions, **options, cache=tmp_path)
    assert again.to_json() == grid.to_json()
    with pytest.raises(AssertionError, match="it computes"):
        ablation_grid(phases, directions, **options, cache=tmp_path / "elsewhere")


def test_a_model_in_memory_is_known_by_its_weights(
    phases, directions, options, tmp_path, monkeypatch
):
    small = options | {"strengths": (0.0, 1.0), "layer_sets": [(1,)]}
    models = {name: source() for name, source in phases.items()}
    first = ablation_grid(models, directions, **small, cache=tmp_path)
    monkeypatch.setattr("workbench.grid_work.ask", None)
    assert ablation_grid(models, directions, **small, cache=tmp_path).identity() == first.identity()
    with torch.no_grad():
        models["helpful"].hf.lm_head.weight += 1e-3
    with pytest.raises(TypeError, match="not callable"):
        ablation_grid(models, directions, **small, cache=tmp_path)


def changes(sets, directions):
    other = directions.with_unit(directions.unit.flip(0))
    return {
        "directions": (other, {}),
        "prompts of the set": (directions, {"harmful": ProbeSet(sets["harmful"].probes[1:])}),
        "responses": (directions, {"task": ProbeSet(sets["benign"].probes[1:])}),
        "strengths": (directions, {"strengths": (0.0, 1.0)}),
        "layers": (directions, {"layer_sets": [(2,)]}),
        "positions": (directions, {"positions": "last"}),
        "judge": (directions, {"judge": Judge("other", lambda *_: "comply", OPENERS)}),
        "length": (directions, {"max_new_tokens": 3}),
        "shown": (directions, {"prompts": ["bako"]}),
    }


CHANGES = ("directions", "prompts of the set", "responses", "strengths", "layers", "positions",
           "judge", "length", "shown")  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_changed_inputs_are_not_taken_for_the_same(
    name, grid, phases, directions, options, sets, tmp_path, _forbidden
):
    grid.save(tmp_path / f"{grid.identity()}.json")
    changed, more = changes(sets, directions)[name]
    with pytest.raises(AssertionError, match="it computes"):
        ablation_grid(phases, changed, **options | more, cache=tmp_path)


def test_an_interrupted_grid_continues_where_it_was(
    grid, phases, directions, options, tmp_path, monkeypatch
):
    plain, done = grid_work.ask, []

    def counted(limit):
        def evaluate(*args, **kwargs):
            if len(done) == limit:
                raise KeyboardInterrupt
            done.append(1)
            return plain(*args, **kwargs)

        return evaluate

    monkeypatch.setattr(grid_work, "ask", counted(9))
    with pytest.raises(KeyboardInterrupt):
        ablation_grid(phases, directions, **options, cache=tmp_path)
    (part,) = tmp_path.iterdir()
    part.write_bytes(part.read_bytes()[:-20])  # the last line was being written
    monkeypatch.setattr(grid_work, "ask", counted(None))
    continued = ablation_grid(phases, directions, **options, cache=tmp_path)
    assert len(done) == 14 + 1  # one point is computed twice
    assert values(continued) == values(grid)
    assert [path.name for path in tmp_path.iterdir()] == [f"{grid.identity()}.json"]


def test_models_are_loaded_one_at_a_time(phases, directions, options):
    alive, most = weakref.WeakSet(), []

    def loading(source):
        def load():
            model = source()
            alive.add(model.hf)
            most.append(len(alive))
            return model

        return load

    small = options | {"strengths": (0.0, 1.0), "layer_sets": [(1,)]}
    ablation_grid({name: loading(one) for name, one in phases.items()}, directions, **small)
    assert most
    assert max(most) == 1


def test_a_model_that_moves_meanwhile_is_refused(phases, directions, options, monkeypatch):
    model = phases["aligned"]()
    with torch.no_grad():
        known = {"weights": model.fingerprint(), "tokens": "", "dtype": ""}
        model.hf.lm_head.weight += 1e-3
    monkeypatch.setattr("workbench.grid_work._known", lambda *_: known)
    monkeypatch.setattr("workbench.grid_work.read_reference", None)
    with pytest.raises(ProvenanceError, match="'aligned' changed meanwhile"):
        ablation_grid({"aligned": model}, directions, **options)


def testdirections_of_run_another_aligned_model_are_refused(phases, directions, options):
    with pytest.raises(ProvenanceError, match="These directions start from"):
        ablation_grid({"aligned": phases["helpful"]}, directions, **options)


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"strengths": (1.0, 0.0)}, ConfigError, "ascending, with 0 and 1"),
        ({"strengths": (0.0, 2.0)}, ConfigError, "ascending, with 0 and 1"),
        ({"strengths": (0.0, 1.0, float("inf"))}, ConfigError, "must be finite"),
        ({"layer_sets": []}, ConfigError, "layer_sets is empty"),
        ({"layer_sets": [(7,)]}, LayerError, r"no directions at layers \[7\]"),
        ({"positions": "first"}, ConfigError, "must be 'all' or 'last'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    phases, directions, options, more, error, message, _forbidden
):
    with pytest.raises(error, match=message):
        ablation_grid(phases, directions, **options | more)


def test_by_default_all_layers_come_first_and_then_each(directions):
    assert ablation._layer_sets(directions, None) == ((0, 1, 2), (0,), (1,), (2,))
    deep = replace(directions, layers=tuple(range(9)))
    parts = [(*range(9),), (0, 1, 2, 3, 4), (5, 6, 7, 8), (0, 1, 2), (3, 4, 5), (6, 7, 8)]
    assert list(ablation._layer_sets(deep, None)) == parts


def test_answer_now_is_the_answer_of_the_grid(grid, phases, directions, judge):
    model = phases["helpful"]()
    place = STRENGTHS.index(-1)
    options = {"judge": judge, "max_new_tokens": 4, "centre": grid.provenance["centre"]}
    for prompt, expected in zip(grid.prompts, grid.answers[1][0][place], strict=True):
        said = answer_now(model, prompt, directions, strength=-1.0, **options)
        assert said == expected
    before = read_activations(model, ProbeSet.from_prompts(grid.prompts))
    answer_now(model, grid.prompts[0], directions, strength=5.0, **options)
    assert torch.equal(before, read_activations(model, ProbeSet.from_prompts(grid.prompts)))


@pytest.fixture
def hanging(make_model):
    """A model whose answer hangs on one coordinate of ":", the last token of every prompt.

    No block reads or writes the coordinate; above 0 it makes "bako" likely, below 0 "gina".
    """
    model = make_model(seed=4)
    hf, words = model.hf, model.tokenizer.convert_tokens_to_ids(["bako", "gina", ":"])
    refusing, complying, last = words
    with torch.no_grad():
        for block in hf.transformer.h:
            for norm in (block.ln_1, block.ln_2):
                norm.weight[5] = norm.bias[5] = 0
            for written in (block.attn.c_proj, block.mlp.c_proj):
                written.weight[:, 5] = written.bias[5] = 0
        hf.transformer.wpe.weight[:, 5] = 0
        hf.transformer.wte.weight[:, 5] = -4.0
        hf.transformer.wte.weight[last, 5] = 10.0
        hf.transformer.ln_f.weight[5], hf.transformer.ln_f.bias[5] = 3.0, 0.0
        head = torch.zeros_like(hf.lm_head.weight)
        head[refusing, 5], head[complying, 5] = 1.0, -1.0
        hf.lm_head.weight = torch.nn.Parameter(head)
    return model


def along(coordinate):
    """Directions along one coordinate of the stream, at every layer."""
    unit = torch.zeros(3, 32, dtype=torch.float64)
    unit[:, coordinate] = 1
    ones, nothing = torch.ones(3).double(), torch.zeros(3, 2).double()
    return ReversionDirections(unit, ones, ones, nothing, 0 * unit, (0, 1, 2))


def test_refusal_that_hangs_on_the_direction_goes_with_it(hanging, sets):
    judge = Judge("first", lambda _, t: "refuse" if t.startswith("bako") else "comply", ("bako",))
    options = {"judge": judge, "strengths": (-1.0, 0.0, 1.0, 2.0, 3.0), "max_new_tokens": 1}

    def odds_and_harm(coordinate):
        models, layers = {"aligned": hanging}, [(0, 1, 2)]
        grid = ablation_grid(models, along(coordinate), **sets, **options, layer_sets=layers)
        return (grid.scores[name][0, 0, :, 0] for name in ("refusal_log_odds", "harmfulness"))

    odds, harm = odds_and_harm(5)
    assert (np.diff(odds) < -0.1).all()
    assert harm.tolist() == [0, 0, 1, 1, 1]
    odds, harm = odds_and_harm(6)  # a coordinate on which no answer hangs
    assert harm.tolist() == [0, 0, 0, 0, 0]
    assert odds.min() > 1


@pytest.fixture
def run(inputs_folder, directions, tmp_path):
    """A finished run that kept its model, here the helpful one."""
    inputs = Inputs.beside(inputs_folder)
    lineage = inputs.load().lineage
    run = RunStore(tmp_path).create({"judge": "rules", "max_new_tokens": 3}, "one")
    run.folder.joinpath("model").symlink_to(lineage.phase("helpful").model)
    directions.save(run.folder / "directions.safetensors")
    run.finish()
    return run, inputs


def test_the_grid_of_a_run_is_kept_in_it(run, forbidden_later):
    run, inputs = run
    small = {"strengths": (0.0, 1.0), "layer_sets": [(0,)], "n_prompts": 4}
    grid = grid_of_run(run, inputs, **small)
    assert grid.models == ("aligned", "fine-tuned")
    assert grid.counts["harmfulness"] == 4
    assert grid.provenance["run"] == "one"
    assert grid.provenance["max_new_tokens"] == 3
    assert grid.scores["kl"][1, 0, 0, 0] > 0
    (stored,) = stored_grids(run)
    assert stored.to_json() == grid.to_json()
    forbidden_later()
    assert grid_of_run(run, inputs, **small).to_json() == grid.to_json()


@pytest.fixture
def forbidden_later(monkeypatch):
    def forbid():
        monkeypatch.setattr("workbench.grid_work.ask", None)
        monkeypatch.setattr("workbench.checkpoints.load_model", None)

    return forbid


def test_thedirections_of_run_an_experiment_are_found_by_their_content(directions, tmp_path):
    places = [tmp_path / "lineages" / name for name in ("a", "b")]
    for place, saved in zip(
        places, (directions.with_unit(-directions.unit), directions), strict=True
    ):
        place.mkdir(parents=True)
        saved.save(place / "directions.safetensors")
    told = {"directions": file_hash(places[1] / "directions.safetensors")}
    run = RunStore(tmp_path / "runs").create(told, "one")
    assert torch.equal(directions_of_run(run).unit, directions.unit)
    (places[1] / "directions.safetensors").unlink()
    with pytest.raises(RunError, match=r"no directions here or in its experiment; give"):
        directions_of_run(run)


def test_a_run_without_a_model_says_what_to_do(run):
    run, inputs = run
    (run.folder / "model").unlink()
    with pytest.raises(RunError, match="kept no model; run it again with --save-model"):
        grid_of_run(run, inputs)


def test_a_run_that_is_not_finished_is_refused(run):
    run, inputs = run
    run.write_info(run.info | {"status": "running"})
    with pytest.raises(RunError, match="running; resume it"):
        grid_of_run(run, inputs)
