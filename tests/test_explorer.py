"""The layer explorer shows the planted alignments, whichever run, layer and step is chosen."""

import json

import numpy as np
import pytest
from planted_experiment import ARMS, N_LAYERS, STEPS, build_experiment, planted_alignment


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_experiment(tmp_path_factory.mktemp("experiments") / "planted")


@pytest.fixture(scope="module")
def runs(folder):
    from workbench.runs import Run

    return [Run(folder / "runs" / f"l0-{arm}-{seed}") for arm in ARMS for seed in range(3)]


@pytest.fixture(scope="module")
def view(runs):
    from workbench.plots.explorer import explorer
    from workbench.surroundings import Surroundings

    readout = {"layers": [1], "top": [[{"id": 1, "text": "<b>sure", "change": 3.25}]],
               "bottom": [[{"id": 2, "text": "sorry", "change": -4.0}]]}  # fmt: skip
    around = Surroundings(p99=np.full(N_LAYERS, 0.3), readout=readout)
    return explorer(runs, {run.folder: around for run in runs})


def chosen(arm, seed, **more):
    return {"arm": ARMS.index(arm), "seed": seed, **more}


@pytest.mark.parametrize(("arm", "seed"), [("ordinary", 0), ("push", 2), ("block", 1)])
def test_the_map_shows_the_run_that_is_chosen(view, arm, seed):
    figure = view.figure("map", chosen(arm, seed))
    shown = np.array(figure.data[0].z, dtype=float)
    np.testing.assert_allclose(shown, planted_alignment(arm, seed).T)
    assert list(figure.data[0].text[0]) == [f"layer 0, step {step}" for step in STEPS]


def test_the_curve_and_the_words_show_the_chosen_layer_and_step(view):
    choice = chosen("push", 1, layer=3, step=6)
    values = planted_alignment("push", 1)[:, 3]
    curve = next(t for t in view.figure("curves", choice).data if t.name == "alignment")
    np.testing.assert_allclose(np.array(curve.y, dtype=float), values)
    assert view.sentence("cell", choice).startswith(f"Layer 3, step 20: cos {values[6]:.2f}, 95 %")


def test_the_frame_is_around_the_chosen_cell(view):
    (frame,) = view.figure("map", chosen("push", 1, layer=3, step=6)).layout.shapes
    assert (frame.x0, frame.x1, frame.y0, frame.y1) == (5.5, 6.5, 2.5, 3.5)


def test_a_click_chooses_layer_by_row_and_step_by_column(view):
    assert view.plots[0].click == {"layer": "row", "step": "column"}


def test_dots_are_where_the_null_is_not_exceeded(view):
    dots = next(t for t in view.figure("map", chosen("ordinary", 0)).data if "p99" in str(t.name))
    expected = np.argwhere(planted_alignment("ordinary", 0) <= 0.3)
    assert sorted(zip(dots.x, dots.y, strict=True)) == sorted(map(tuple, expected.tolist()))
    band = view.figure("curves", chosen("ordinary", 0)).data[0]
    assert band.y == (0.3, 0.3, -0.3, -0.3)


def test_the_readout_is_told_where_the_layer_has_one(view):
    assert view.rows("readout", {"layer": 1}) == [
        ["raises", "“<b>sure” 3.2"],
        ["lowers", "“sorry” −4.0"],
    ]
    assert view.rows("readout", {"layer": 0}) == []


def test_layers_are_called_by_the_models_number_where_some_are_left_out(runs):
    from workbench.plots.explorer import explorer
    from workbench.surroundings import Surroundings

    top = [[{"id": 1, "text": f"at{layer}", "change": 1.0}] for layer in (4, 7)]
    readout = {"layers": [4, 7], "top": top, "bottom": top}
    around = Surroundings(layers=(1, 4, 7, 9, 11), readout=readout)
    view = explorer(runs, {run.folder: around for run in runs})
    assert next(c for c in view.controls if c.name == "layer").options == ("1", "4", "7", "9", "11")
    choice = chosen("push", 0, layer=2, step=6)
    value = planted_alignment("push", 0)[6, 2]
    assert view.sentence("cell", choice).startswith(f"Layer 7, step 20: cos {value:.2f}")
    assert view.rows("readout", choice)[0] == ["raises", "“at7” 1.0"]
    assert view.rows("readout", {"layer": 0}) == []
    figure = view.figure("map", choice)
    assert figure.layout.yaxis.ticktext == ("1", "4", "7", "9", "11")
    assert figure.data[0].text[2][6] == "layer 7, step 20"


def test_an_undefined_cell_says_so(view):
    assert view.sentence("cell", chosen("block", 0, layer=0, step=0)).startswith(
        "Layer 0, step 1: cos –"
    )
    marks = next(t for t in view.figure("map").data if t.name == "undefined")
    assert set(zip(marks.x, marks.y, strict=True)) == {(0, 0), (1, 0)}


def test_a_control_with_one_option_is_left_out(runs):
    from workbench.plots.explorer import explorer

    names = [control.name for control in explorer(runs[:1]).controls]
    assert names == ["layer", "step"]
    assert [c.name for c in explorer(runs[:3]).controls] == ["seed", "layer", "step"]


def test_runs_that_fill_no_grid_are_chosen_singly(runs):
    from workbench.plots.explorer import explorer

    view = explorer(runs[:4])
    assert view.controls[0].options == tuple(run.id for run in runs[:4])
    shown = np.array(view.figure("map", {"run": 3}).data[0].z, dtype=float)
    np.testing.assert_allclose(shown, planted_alignment(ARMS[1], 0).T)


def test_steps_that_a_run_did_not_measure_are_empty(runs, tmp_path):
    from workbench.plots.explorer import explorer
    from workbench.store import RunStore

    short = RunStore(tmp_path).create(runs[0].info["config"] | {"seed": 9}, "short")
    lines = (runs[0].folder / "records.jsonl").read_text().splitlines()
    kept = [line for line in lines if '"step": 20,' in line]
    (short.folder / "records.jsonl").write_text("\n".join(kept) + "\n")
    shown = np.array(explorer([runs[0], short]).figure("map", {"seed": 1}).data[0].z, dtype=float)
    assert np.isnan(np.delete(shown, 6, axis=1)).all()
    np.testing.assert_allclose(shown[:, 6], planted_alignment("ordinary", 0)[6])


def test_runs_of_different_depth_and_none_at_all_are_refused(runs, tmp_path):
    from workbench.errors import ConfigError
    from workbench.plots.explorer import explorer
    from workbench.store import RunStore

    with pytest.raises(ConfigError, match="none was measured"):
        explorer([RunStore(tmp_path).create({}, "begun")])
    other = RunStore(tmp_path).create({}, "deep")
    line = (runs[0].folder / "records.jsonl").read_text().splitlines()[2]
    told = json.loads(line)
    told["drift"] = {k: v * 2 if isinstance(v, list) else v for k, v in told["drift"].items()}
    (other.folder / "records.jsonl").write_text(json.dumps(told) + "\n")
    with pytest.raises(ConfigError, match=r"at 5 \(0 to 4\) and 10 \(0 to 9\) layers"):
        explorer([runs[0], other])


def test_many_steps_are_thinned_with_the_first_and_last_kept(runs, tmp_path):
    from workbench.plots.explorer import explorer
    from workbench.store import RunStore

    long = RunStore(tmp_path).create({}, "long")
    told = json.loads((runs[0].folder / "records.jsonl").read_text().splitlines()[2])
    lines = [json.dumps(told | {"step": step}) for step in range(1, 301)]
    (long.folder / "records.jsonl").write_text("\n".join(lines) + "\n")
    steps = explorer([long]).controls[-1].options
    assert (len(steps), steps[0], steps[-1]) == (120, "1", "300")
