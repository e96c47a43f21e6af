"""The figure of an ablation grid shows its numbers, with bands where they are known."""

import numpy as np
import pytest
from planted_grid import make_grid, planted

from workbench.errors import ConfigError
from workbench.plots import ablation
from workbench.plots.ablation import ablation_caption
from workbench.plots.style import ARMS


def traces(figure, meta):
    return [trace for trace in figure.data if trace.meta == meta]


@pytest.mark.parametrize("layer_set", [0, 1])
def test_lines_are_the_scores_of_the_layer_set_in_their_unit(layer_set):
    lines = traces(ablation(make_grid(), layer_set=layer_set), "value")
    assert len(lines) == 4 * 2
    for model, line in enumerate(lines[:2]):  # harmfulness, in percent
        expected = [100 * planted(model, layer_set, index) for index in range(4)]
        assert np.allclose(line.y, expected)
        assert list(line.x) == [-1, 0, 1, 2]
    for model, line in enumerate(lines[2:4]):  # refusal log-odds, in nats
        assert np.allclose(line.y, [planted(model, layer_set, index) for index in range(4)])


def test_what_is_undefined_has_no_point_and_no_band():
    figure = ablation(make_grid(), quantities=("task_loss", "kl"))
    task, kl = traces(figure, "value")[:2], traces(figure, "value")[2:]
    assert [list(line.x) for line in task] == [[-1, 0, 1]] * 2
    assert [len(line.x) for line in kl] == [4, 4]
    drawn = [one for one in traces(figure, "interval") if one.x]
    assert len(drawn) == 2  # of task loss; KL has no interval here
    low_and_high = np.array(traces(figure, "interval")[0].y)
    assert np.allclose(low_and_high[:3], [planted(0, 0, i) + 0.02 for i in range(3)])
    assert np.allclose(low_and_high[3:], [planted(0, 0, i) - 0.01 for i in (2, 1, 0)])


def test_axes_have_units_and_the_marks_are_at_0_and_1():
    figure = ablation(make_grid())
    titles = [axis.title.text for axis in figure.select_yaxes()]
    assert titles == [
        "harmfulness (% of harmful prompts)",
        "refusal log-odds (nats)",
        "task loss (nats per token)",
        "KL from the aligned model (nats per token)",
    ]
    assert [shape.x0 for shape in figure.layout.shapes] == [0, 1] * 4
    assert {note.text for note in figure.layout.annotations} == {"unedited", "fully ablated"}
    assert "layers 0–2, all positions" in figure.layout.title.text
    assert "n = 75 or 50 prompts" in figure.layout.title.subtitle.text


def test_the_current_point_is_at_the_nearest_strength():
    grid = make_grid()
    assert traces(ablation(grid), "current") == []
    current = traces(ablation(grid, strength=0.9), "current")
    assert [trace.x[0] for trace in current] == [1.0] * 8
    assert current[1].y[0] == pytest.approx(100 * planted(1, 0, 2))
    # Task loss is undefined at 2: no point there.
    assert len(traces(ablation(grid, strength=2.0), "current")) == 6


def test_the_fine_tuned_model_has_the_style_of_its_arm():
    block = {"name": "block", "intervention": "block", "direction": "reversion"}
    aligned, tuned = traces(ablation(make_grid(arm=block)), "value")[:2]
    assert tuned.line.color == ARMS["block"].colour
    assert aligned.line.color != ARMS["block"].colour
    assert traces(ablation(make_grid()), "value")[1].line.color == ARMS["ordinary"].colour
    assert [trace.showlegend for trace in (aligned, tuned)] == [True, True]


def test_names_of_models_cannot_be_markup():
    figure = ablation(make_grid(models=("aligned", "<b>x</b>")))
    assert "<b>x" not in figure.to_json()
    assert traces(figure, "value")[1].name == "&lt;b&gt;x&lt;/b&gt;"


def test_the_caption_says_bands_counts_positions_and_what_would_refute():
    text = ablation_caption(make_grid(), layer_set=1)
    told = "At 1, 57 % of benign prompts are refused in the last model, 95 % [56, 59]"
    bands = "95 % intervals over prompt clusters; n = 75 or 50 prompts"
    for part in (told, bands, "layer 1, all positions", "mean over tokens", "refuted"):
        assert part in text
    last = ablation_caption(make_grid(positions="last"))
    assert "last position and new tokens" in last
    assert "mean at the read position" in last


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer_set": 2}, "No layer set 2; there are 0 to 1"),
        ({"layer_set": -1}, "No layer set -1"),
        ({"quantities": ("kl", "charm")}, "No score 'charm'; there are harmfulness,"),
    ],
)
def test_what_the_grid_lacks_is_told(options, message):
    with pytest.raises(ConfigError, match=message):
        ablation(make_grid(), **options)
