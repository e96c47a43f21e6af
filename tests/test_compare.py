"""Runs are compared in one quantity, over layers or at one, and in a table."""

import json

import numpy as np
import pytest
from planted_experiment import (
    EVALUATED,
    STEPS,
    build_experiment,
    planted_alignment,
    planted_drift,
    planted_scores,
)

from workbench import plots
from workbench.errors import ConfigError
from workbench.plots.trajectories import read_trajectories
from workbench.records import StepRecord
from workbench.store import RunStore

SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_experiment(tmp_path_factory.mktemp("e") / "planted", arms=("ordinary", "block"))


def mean_of(figure, arm):
    (found,) = [one for one in figure.data if one.meta == "mean" and one.name == arm]
    return found


def told_summary(folder, layers):
    """A summary that tells its layers."""
    summary = json.loads((folder / "summary.json").read_text())
    return summary | {"readout": {"organism": {"layers": list(layers)}}}


def at_layer(arm, layer):
    return np.array([planted_alignment(arm, seed)[:, layer] for seed in SEEDS])


@pytest.mark.parametrize("of", ["runs", "summary"])
def test_at_a_layer_the_mean_over_runs_is_that_layers(folder, of):
    source = folder if of == "runs" else told_summary(folder, range(5))
    planted = at_layer("block", 3)
    shown = mean_of(plots.compare(source, layer=3), "block")
    np.testing.assert_allclose(shown.y, planted.mean(axis=0))
    sd = planted.std(axis=0, ddof=1)[6]
    value = f"{planted.mean(axis=0)[6]:.3f}".replace("-", "−")
    assert shown.customdata[6] == f"block, layer 3, step 20, cos {value} ± {sd:.3f} (sd, n = 3)"


def test_a_layer_undefined_at_a_step_stays_undefined_there(folder):
    (ordinary, _) = read_trajectories(list(RunStore(folder / "runs"))[::-1], "alignment", layer=0)
    assert np.isnan(ordinary.values[:, :2]).all()
    assert np.isfinite(ordinary.values[:, 2:]).all()
    np.testing.assert_allclose((ordinary.high - ordinary.low)[:, 2:], 0.08, rtol=1e-6)


def test_along_across_and_norm_are_those_of_the_layer(folder):
    drifts = [
        planted_drift(values, step)
        for step, values in zip(STEPS, planted_alignment("ordinary", 0), strict=True)
    ]
    run = RunStore(folder / "runs").open("l0-ordinary-0")
    for name in ("along", "across", "norm"):
        shown = mean_of(plots.compare(run, name, layer=2), "ordinary")
        np.testing.assert_allclose(shown.y, [getattr(drift, name)[2] for drift in drifts])
        shown = mean_of(plots.compare(run, name), "ordinary")
        np.testing.assert_allclose(shown.y, [getattr(drift, name).mean() for drift in drifts])


def test_the_siblings_cosine_is_computed_from_the_drifts(folder):
    planted = at_layer("ordinary", 4).mean(axis=0)
    shown = mean_of(plots.compare(folder, "alignment_sibling", layer=4), "ordinary")
    # The planted sibling direction has cosine 0.95 with v_rev.
    np.testing.assert_allclose(shown.y, 0.95 * planted, rtol=1e-5)


def test_loss_and_scores_are_shown_as_recorded(folder):
    assert mean_of(plots.compare(folder, "loss"), "block").y == (4.0,) * len(STEPS)
    harm = mean_of(plots.compare(folder, "harmfulness"), "block")
    wanted = [
        100 * np.mean([planted_scores("block", seed, step).harmfulness.value for seed in SEEDS])
        for step in EVALUATED
    ]
    np.testing.assert_allclose(harm.y, wanted)


def test_the_matched_null_of_that_layer_is_drawn_for_the_alignment_only(folder):
    def nulls(figure):
        return [one.name for one in figure.data if one.meta == "null"]

    from planted_surroundings import write_directions

    write_directions(folder / "lineages" / "l0")
    assert nulls(plots.compare(folder, layer=1)) == ["matched null, ±p99 = 0.30"]
    assert nulls(plots.compare(folder, "along", layer=1)) == []
    assert nulls(plots.compare(folder)) == []


def test_what_has_no_layers_or_is_not_there_is_refused(folder):
    untold = json.loads((folder / "summary.json").read_text())
    summary = told_summary(folder, range(5))
    for call, told in (
        (lambda: plots.compare(folder, "harmfulness", layer=1), "harmfulness has no layers"),
        (lambda: plots.compare(folder, "loss", layer=1), "loss has no layers"),
        (lambda: plots.compare(folder, "beauty"), "no quantity 'beauty'; there are alignment"),
        (lambda: plots.compare(folder, layer=5), "no layer 5 here; there are 0, 1, 2, 3, 4"),
        (lambda: plots.compare(summary, layer=5), "No layer 5 here; there are 0, 1, 2, 3, 4"),
        (lambda: plots.compare(untold, layer=1), "does not tell which layers .* no readout"),
        (lambda: plots.compare(told_summary(folder, [1, 3]), layer=1), "tells of 2 layers, but"),
        (lambda: plots.compare(summary, "along", layer=1), "give the runs instead"),
    ):
        with pytest.raises(ConfigError, match=told):
            call()


def test_the_table_has_every_run_at_the_last_step_that_all_have(folder, tmp_path):
    table = plots.comparison_table(folder)
    assert table.caption.endswith(": 100")
    assert [row[:5] for row in table.rows[:2]] == [
        ("ordinary", "0", "organism", "done", "100"),
        ("ordinary", "1", "organism", "done", "100"),
    ]
    last = np.nanmean(planted_alignment("ordinary", 1)[-1])
    assert table.rows[1][5] == f"{last:.3f}"
    # A run that is only at step 3 takes the common step of the drift back to 3.
    young = RunStore(tmp_path / "runs").create({"arm": "young", "seed": 0}, "young")
    for step, values in zip(STEPS[:3], planted_alignment("block", 0), strict=False):
        young.append(StepRecord(step, 4.0, 1e-5, 1.0, drift=planted_drift(values, step)))
    young.unlock()
    mixed = plots.comparison_table([*RunStore(folder / "runs"), young])
    assert "alignment at 3" in mixed.caption
    assert "task loss at 100" in mixed.caption
    assert mixed.rows[-1][:5] == ("young", "0", "–", "running", "3")
    assert mixed.rows[-1][-1] == "–"


def test_a_caption_says_n_and_the_layer(folder):
    caption = plots.compare(folder, layer=2).layout.meta["caption"]
    assert "n = 3 per arm" in caption
    assert "at layer 2" in caption
    assert "refuted" in caption


def write_lone(store, name, n_steps, layers=None):
    """A run of arm `lone` that measured so many steps, at these layers of a deeper model."""
    run = store.create({"arm": "lone", "seed": 0, "layers": layers}, name)
    for step, values in zip(STEPS[:n_steps], planted_alignment("block", 0), strict=False):
        run.append(StepRecord(step, 4.0, 1e-5, 1.0, drift=planted_drift(values, step)))
    run.unlock()
    return run


def test_n_counts_the_runs_that_have_a_value_and_says_where_it_differs(tmp_path):
    store = RunStore(tmp_path / "runs")
    runs = [write_lone(store, name, n) for name, n in (("a", 4), ("b", 4), ("c", 2))]
    figure = plots.compare(runs)
    assert "n = 2 to 3 runs" in figure.layout.title.subtitle.text
    assert "n = 2 to 3 per arm" in figure.layout.meta["caption"]
    assert "n = 2 runs" in plots.compare([*runs[:2]]).layout.title.subtitle.text
    begun = write_lone(store, "d", 0)
    assert "n = 2 per arm" in plots.compare([*runs[:2], begun]).layout.meta["caption"]


def test_a_layer_is_that_of_the_model_in_runs_and_in_a_summary(folder, tmp_path):
    layers = [1, 3, 5, 7, 9]
    run = write_lone(RunStore(tmp_path / "runs"), "odd", 4, layers)
    planted = planted_alignment("block", 0)[:4, 1]
    np.testing.assert_allclose(mean_of(plots.alignment(run, layer=3), "lone").y, planted)
    told = mean_of(plots.alignment(told_summary(folder, layers), layer=3), "block")
    np.testing.assert_allclose(told.y, at_layer("block", 1).mean(axis=0))
    for source in (run, told_summary(folder, layers)):
        with pytest.raises(ConfigError, match="o layer 0 here; there are 1, 3, 5, 7, 9"):
            plots.alignment(source, layer=0)
