"""The ablation slider shows what the grid holds, and asks models for the rest, one at a time."""

import threading

import numpy as np
import pytest
from planted_grid import AXES, make_grid, planted


@pytest.fixture
def grid():
    return make_grid()


@pytest.fixture
def view(grid):
    from workbench.plots.slider import slider

    return slider(grid)


def current(figure):
    circles = [one for one in figure.layout.shapes if one.type == "circle"]
    return [(one.xanchor, one.yanchor) for one in circles]


def test_the_current_points_are_the_grids_values_at_the_strength(view):
    for place in range(2):
        for strength, s in enumerate(AXES["strengths"]):
            points = current(view.figure(choice={"layers": place, "strength": strength}))
            values = [planted(model, place, strength) for model in (0, 1)]
            undefined = [np.nan] * 2 if strength == 3 else values
            expected = [100 * values[0], 100 * values[1], *values, *undefined, *values]
            np.testing.assert_allclose([x for x, _ in points], s)
            np.testing.assert_allclose(np.array([y for _, y in points], dtype=float), expected)


def test_a_layer_set_without_intervals_moves_its_own_points(grid):
    from dataclasses import replace

    from workbench.plots.slider import slider

    bare = {name: values.copy() for name, values in grid.scores.items()}
    for values in bare.values():
        values[:, 1, :, 1:] = np.nan
    figure = slider(replace(grid, scores=bare)).figure(choice={"layers": 1, "strength": 0})
    assert current(figure)[2] == (-1.0, planted(0, 1, 0))


def test_the_caption_is_that_of_the_layer_set(view, grid):
    from workbench.plots.ablation import ablation_caption

    for place in range(2):
        told = view.sentence("caption", {"layers": place})
        assert told == ablation_caption(grid, layer_set=place)
    assert "at layer 1, all positions" in told


def test_the_curves_are_those_of_the_layer_set(view, grid):
    from workbench.plots.ablation import ablation

    for place in range(2):
        shown = view.figure(choice={"layers": place})
        drawn = ablation(grid, layer_set=place)
        curves = [one.y for one in shown.data if one.meta == "value"]
        assert curves == [one.y for one in drawn.data if one.meta == "value"]
        assert shown.layout.title.text == drawn.layout.title.text
    assert curves[0] == tuple(100 * planted(0, 1, index) for index in range(4))


def test_numbers_and_answers_follow_the_strength(view):
    choice = {"layers": 1, "strength": 2}
    rows = {row[0]: row[1:] for row in view.rows("scores", choice)}
    assert rows["refusal log-odds, nats"] == ["0.170 [0.160, 0.190]", "0.570 [0.560, 0.590]"]
    assert rows["harmful prompts complied with, %"][0] == "17.0 [16.0, 19.0]"
    assert rows["KL from the aligned model, nats per token"][0] == "0.170 [–, –]"
    (aligned, tuned) = view.rows("answers", choice)
    assert aligned[0] == "aligned"
    assert "012" in aligned[1]
    assert "112" in tuned[1]
    assert "\n" not in aligned[1]
    assert view.rows("answers", choice | {"prompt": 1})[0][1:] == ["", "broken"]
    assert view.sentence("where", choice) == "s = 1.00, layer 1, all positions"


def test_it_starts_unedited(view):
    assert view.sentence("where").startswith("s = 0.00")


def test_layer_sets_that_read_alike_are_told_in_full():
    from workbench.plots.slider import slider

    options = slider(make_grid(layer_sets=((0, 1), (0, 1)))).controls[0].options
    assert options == ("0, 1", "0, 1")


class Models:
    """Loads a model when it is called, and counts."""

    def __init__(self, model):
        self.model, self.loaded = model, 0

    def __call__(self):
        self.loaded += 1
        return self.model


@pytest.fixture
def asked(grid, aligned_model, directions):
    from dataclasses import replace

    from workbench.grid_work import content_hash
    from workbench.widgets import AblationSlider

    told = {"centre": [0.0] * 3, "max_new_tokens": 4, "directions": content_hash(directions)}
    known = replace(grid, provenance=grid.provenance | told)
    load = Models(aligned_model)
    slider = AblationSlider(known, models={"aligned": load}, directions=directions, judge="rules")
    return slider, load


def test_a_prompt_is_answered_at_what_is_chosen(asked, sentence, aligned_model, directions):
    from workbench.ablation import answer_now

    slider, load = asked
    slider.choose(strength="2.00", layers="layer 1")
    assert load.loaded == 0
    prompt = sentence(7)
    slider._heard(slider, {"kind": "ask", "prompt": prompt}, [])
    said = answer_now(
        aligned_model, prompt, directions, strength=2.0, layers=(1,), positions="all",
        centre=[0.0] * 3, max_new_tokens=4,
    )  # fmt: skip
    first, answered = slider.status["answer"]
    assert first == f"{prompt} (s = 2.00, layer 1, all positions)"
    assert answered == f"aligned: {said.text}  [{said.verdict}]"
    assert slider.status["busy"] is False


def test_letting_go_of_a_control_answers_again_without_loading_again(asked, sentence):
    slider, load = asked
    slider._heard(slider, {"kind": "release"}, [])
    assert "answer" not in slider.status  # nothing was asked yet
    slider._heard(slider, {"kind": "ask", "prompt": sentence(7)}, [])
    slider.choose(strength="-1.00".replace("-", "−"))
    slider._heard(slider, {"kind": "release"}, [])
    assert "s = −1.00" in slider.status["answer"][0]
    assert load.loaded == 1


def test_an_answer_waits_for_the_training_that_has_the_model(asked, sentence, aligned_model):
    slider, _ = asked
    done = threading.Event()

    def ask():
        slider.asked(sentence(7))
        done.set()

    with aligned_model.lock:
        thread = threading.Thread(target=ask)
        thread.start()
        assert not done.wait(0.3)
        assert slider.status["busy"] is True
    assert done.wait(20)
    thread.join()
    assert slider.status["busy"] is False


def test_a_mistake_while_answering_is_told(asked):
    from workbench.errors import ProbeError

    slider, _ = asked
    with pytest.raises(ProbeError):
        slider._heard(slider, {"kind": "ask", "prompt": "bako " * 500}, [])
    assert slider.status["words"].startswith("ProbeError: ")
    assert slider.status["busy"] is False


def test_models_without_directions_and_unknown_ones_are_refused(grid, directions):
    from workbench.errors import ConfigError
    from workbench.widgets import AblationSlider

    with pytest.raises(ConfigError, match="give models and directions, or neither"):
        AblationSlider(grid, models={"aligned": print})
    with pytest.raises(ConfigError, match="no model 'tuned'; it has aligned, fine-tuned"):
        AblationSlider(grid, models={"tuned": print}, directions=directions)


def test_other_directions_and_other_models_than_the_grids_are_refused(
    grid, directions, aligned_model
):
    from dataclasses import replace

    from workbench.errors import ProvenanceError
    from workbench.grid_work import content_hash
    from workbench.widgets import AblationSlider

    models = {"aligned": aligned_model}
    with pytest.raises(ProvenanceError, match="not the directions that the grid was measured"):
        AblationSlider(grid, models=models, directions=directions)
    told = {"directions": content_hash(directions), "weights": ["0" * 64, None]}
    known = replace(grid, provenance=grid.provenance | told)
    slider = AblationSlider(known, models=models, directions=directions)
    with pytest.raises(ProvenanceError, match="'aligned' has weights 000000000000, this model"):
        slider._heard(slider, {"kind": "ask", "prompt": "bako"}, [])
    assert "000000000000" in slider.status["words"]


def test_its_figure_is_the_ablation_at_what_is_chosen(grid):
    from workbench.widgets import AblationSlider

    slider = AblationSlider(grid)
    slider.choose(layers="layer 1", strength="1.00")
    figure = slider.figure()
    points = [one for one in figure.data if one.meta == "current"]
    assert {one.x for one in points} == {(1.0,)}
    assert points[0].y == (100 * planted(0, 1, 2),)
    assert "at layer 1, all positions" in figure.layout.meta["caption"]


def test_a_run_shows_its_newest_grid_and_one_without_says_how_to_make_it(tmp_path):
    from workbench.errors import RunError
    from workbench.store import RunStore
    from workbench.widgets import AblationSlider

    run = RunStore(tmp_path).create({}, "run")
    with pytest.raises(RunError, match="no ablation grid yet; make one with Ablation"):
        AblationSlider(run)
    (run.folder / "ablation").mkdir()
    make_grid(created="2025-01-01").save(run.folder / "ablation" / "a.json")
    make_grid(created="2027-01-01", max_new_tokens=9).save(run.folder / "ablation" / "b.json")
    shown = AblationSlider(run.folder)
    assert shown.grid.provenance["max_new_tokens"] == 9
    assert shown.shown.ask == ""
