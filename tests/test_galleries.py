"""Galleries, comparison and slider show what the figures they are made of show."""

import numpy as np
import plotly.graph_objects as go
import pytest
from planted_experiment import STEPS, build_experiment, planted_alignment


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_experiment(tmp_path_factory.mktemp("experiments") / "planted")


def planted_gallery(draw):
    from workbench.plots.gallery import gallery
    from workbench.plots.view import Control

    controls = (
        Control("row", "row", "select", ("a", "b")),
        Control("column", "column", "select", ("x", "y", "z"), 1),
    )
    return gallery("Planted", controls, draw, alt="planted")


def numbered(choice):
    number = 10 * choice["row"] + choice["column"]
    return go.Figure(layout={"height": 300, "title": {"text": f"figure {number}"}}).add_scatter(
        y=[number]
    )


def test_every_choice_shows_its_own_figure():
    view = planted_gallery(numbered)
    for row in range(2):
        for column in range(3):
            shown = view.figure(choice={"row": row, "column": column})
            assert shown.data[0].y == (10 * row + column,)
            assert shown.layout.title.text == f"figure {10 * row + column}"


def test_where_a_row_has_one_figure_it_stands_for_all_of_them():
    view = planted_gallery(lambda c: numbered(c) if c["row"] or not c["column"] else None)
    assert [view.figure(choice={"row": 0, "column": n}).data[0].y for n in range(3)] == [(0,)] * 3
    assert view.figure(choice={"row": 1, "column": 2}).data[0].y == (12,)


def test_the_comparison_shows_quantity_and_layer(folder):
    from workbench.plots.galleries import comparison

    view = comparison(folder)
    titles = view.controls[0].options
    assert titles[0] == "alignment: cos(drift, v_rev)"
    by_layer = np.mean([planted_alignment("push", seed) for seed in range(3)], axis=0)

    def curve(**choice):
        shown = view.figure(choice=choice).data
        (mean,) = [one for one in shown if one.meta == "mean" and one.name == "push"]
        return np.array(mean.y, dtype=float)

    np.testing.assert_allclose(curve(layer=4), by_layer[:, 3])
    seeds = [np.nanmean(planted_alignment("push", seed), axis=1) for seed in range(3)]
    np.testing.assert_allclose(curve(layer=0), np.mean(seeds, axis=0))
    harm = next(i for i, title in enumerate(titles) if title.startswith("harmfulness"))
    assert (curve(quantity=harm, layer=0) == curve(quantity=harm, layer=3)).all()


def test_the_comparison_tells_every_run_at_the_last_step(folder):
    from workbench.plots.galleries import comparison

    view = comparison(folder)
    rows = view.rows("runs")
    assert len(rows) == 15
    assert view.cells[0].caption.endswith(str(STEPS[-1]))
    first = np.nanmean(planted_alignment("ordinary", 0)[-1])
    assert f"{first:.3f}" in rows[0]


def test_runs_without_a_measured_step_are_not_compared(tmp_path):
    from workbench.errors import ConfigError
    from workbench.plots.galleries import comparison
    from workbench.store import RunStore

    with pytest.raises(ConfigError, match="No run to compare"):
        comparison(RunStore(tmp_path).create({}, "begun"))


def test_a_gap_before_other_figures_is_refused():
    from workbench.errors import ConfigError

    with pytest.raises(ConfigError, match="No figure for column 'y'"):
        planted_gallery(lambda c: None if c["column"] == 1 else numbered(c))
    with pytest.raises(ConfigError, match="No figure for column 'x'"):
        planted_gallery(lambda c: numbered(c) if c["row"] else None)


def test_the_comparison_offers_the_layers_of_the_model_that_all_runs_have(tmp_path):
    from planted_experiment import write_run

    from workbench.plots.galleries import comparison
    from workbench.store import RunStore

    store = RunStore(tmp_path)
    for name, layers in (("odd", [1, 3, 5, 7, 9]), ("few", [2, 3, 4, 5, 6])):
        config = {"arm": name, "seed": 0, "layers": layers}
        write_run(store.create(config, name), "block", 0)
    view = comparison(list(store))
    assert view.controls[1].options == ("mean over layers", "3", "5")
    shown = view.figure(choice={"layer": 2})
    for name, row in (("odd", 2), ("few", 3)):
        (mean,) = [one for one in shown.data if one.meta == "mean" and one.name == name]
        np.testing.assert_allclose(mean.y, planted_alignment("block", 0)[:, row])


@pytest.mark.parametrize("of", ["result", "under way", "runs"])
def test_all_views_take_the_same_sources(folder, tmp_path, of):
    import shutil

    from workbench.experiment import Experiment
    from workbench.plots.material import gather
    from workbench.plots.sources import runs_of

    if of == "under way":
        source = shutil.copytree(folder, tmp_path / "young")
        (source / "summary.json").unlink()
    else:
        result = Experiment(folder, {})
        source = result if of == "result" else result.runs
    assert {run.id for run in gather(source).runs} == {run.id for run in runs_of(source)}
    assert (gather(source).summary is not None) == (of == "result")


@pytest.mark.parametrize("wrong", [12, [12], None])
def test_what_has_no_runs_is_refused_by_its_type(wrong):
    # The types are checked before in tests, but not in a notebook.
    from workbench.errors import ConfigError
    from workbench.plots.sources import _only_runs

    with pytest.raises(ConfigError, match=r"No runs in a (int|NoneType): give a run"):
        _only_runs(wrong)


def test_runs_of_equal_names_are_told_apart_by_their_experiment(folder, tmp_path):
    import shutil

    from workbench.plots.material import gather
    from workbench.plots.selection import Selection
    from workbench.store import RunStore

    other = shutil.copytree(folder, tmp_path / "again")
    (other / "lineages" / "l0" / "nulls.json").write_text('{"matched": {"p99": [0.9, 1, 1, 1, 1]}}')
    runs = [RunStore(each / "runs").open("l0-block-0") for each in (folder, other)]
    (control,) = Selection.of(runs).controls
    assert control.options == ("planted/l0-block-0", "again/l0-block-0")
    around = gather(runs).surroundings
    assert [around[run.folder].p99[0] for run in runs] == [0.3, 0.9]
    assert Selection.of([runs[0], *RunStore(folder / "runs")][:1]).controls == ()
