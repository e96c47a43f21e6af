"""Figures show the planted numbers, one colour per arm, and text that cannot be markup."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from planted_experiment import (
    ARMS,
    N_LAYERS,
    STEPS,
    build_experiment,
    planted_alignment,
    planted_drift,
    planted_scores,
    write_run,
)

SEEDS = (0, 1, 2)
HOSTILE = '</script><a href="https://example.org">%{y}\n\x1b[31m'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_experiment(tmp_path_factory.mktemp("experiments") / "planted")


@pytest.fixture(scope="module")
def summary(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def runs(folder):
    from workbench.store import RunStore

    return list(RunStore(folder / "runs"))


@pytest.fixture(scope="module")
def run(folder):
    from workbench.store import RunStore

    return RunStore(folder / "runs").open("l0-block-0")


@pytest.fixture
def new_run(tmp_path):
    """Start an empty run outside any experiment."""
    from workbench.store import RunStore

    return RunStore(tmp_path / "runs").create({"seed": 0}, "lone")


def traces(figure, meta, arm=None):
    return [t for t in figure.data if t.meta == meta and arm in (None, t.name)]


def planted_means(arm):
    """Planted mean alignment over layers, by run and step."""
    return np.array([np.nanmean(planted_alignment(arm, seed), axis=1) for seed in SEEDS])


@pytest.mark.parametrize("of", ["summary", "runs"])
@pytest.mark.parametrize("arm", ARMS)
def test_alignment_shows_the_planted_mean_sd_and_runs_of_every_arm(arm, of, summary, runs):
    from workbench import plots

    figure = plots.alignment(summary if of == "summary" else runs)
    planted = planted_means(arm)
    (mean,) = traces(figure, "mean", arm)
    assert mean.x == STEPS
    np.testing.assert_allclose(mean.y, planted.mean(axis=0))
    (band,) = traces(figure, "sd", arm)
    upper = np.array(band.y[: len(STEPS)])
    np.testing.assert_allclose(upper - planted.mean(axis=0), planted.std(axis=0, ddof=1))
    (single,) = traces(figure, "runs", arm)
    shown = np.array(single.y, dtype=float).reshape(len(SEEDS), -1)
    np.testing.assert_allclose(shown[:, :-1], planted)
    assert np.isnan(shown[:, -1]).all()  # no line from one run to the next


def test_arms_stand_in_their_usual_order_whatever_order_the_runs_are_in(runs):
    from workbench import plots

    shown = [trace.name for trace in traces(plots.alignment(runs[::-1]), "mean")]
    assert shown == list(ARMS)


def test_a_run_outside_an_experiment_is_an_arm_of_its_own_without_a_band(new_run):
    from workbench import plots

    write_run(new_run, "ordinary", 0)
    figure = plots.alignment(new_run)
    (mean,) = traces(figure, "mean")
    assert mean.name == "lone"
    np.testing.assert_allclose(mean.y, np.nanmean(planted_alignment("ordinary", 0), axis=1))
    assert traces(figure, "sd")[0].y == traces(figure, "runs")[0].y == ()


def test_a_run_that_lacks_a_step_is_left_out_of_its_mean_only(new_run, run):
    from workbench.plots.trajectories import read_trajectories
    from workbench.records import StepRecord

    new_run.write_info(run.info | {"id": "lone"})
    values = planted_alignment("block", 1)
    new_run.append(StepRecord(1, 4.0, 1e-5, 1.0, drift=planted_drift(values[0], 1)))
    new_run.append(StepRecord(2, 4.0, 1e-5, 1.0, drift=planted_drift(np.full(N_LAYERS, np.nan), 2)))
    (block,) = read_trajectories([run, new_run], "alignment")
    first, second = planted_means("block")[:2, 0]
    assert block.mean[0] == pytest.approx((first + second) / 2)
    assert block.sd[0] == pytest.approx(abs(first - second) / np.sqrt(2))
    assert block.mean[1] == pytest.approx(planted_means("block")[0, 1])
    assert np.isnan(block.sd[1:]).all()
    assert np.isfinite(block.mean).all()


def test_every_arm_has_its_okabe_ito_colour_in_every_figure(summary):
    from workbench import plots

    colours = {
        "ordinary": "#000000",
        "block": "#0072B2",
        "push": "#D55E00",
        "random": "#E69F00",
        "matched": "#009E73",
    }
    figures = [plots.alignment(summary), plots.sibling(summary), plots.behaviour(summary)]
    figures += [plots.ordering(summary), plots.cost(summary)]
    for figure in figures:
        for arm, colour in colours.items():
            assert {trace.marker.color for trace in traces(figure, "mean", arm)} == {colour}


def test_other_arms_get_styles_that_no_named_arm_has():
    from workbench.plots.style import ARMS as NAMED
    from workbench.plots.style import arm_styles

    names = ["block", *(f"block-{strength}" for strength in range(12)), "ordinary"]
    styles = arm_styles(names)
    assert styles["block"] == NAMED["block"]
    assert styles["ordinary"] == NAMED["ordinary"]
    drawn = {(style.colour, style.symbol, style.dash) for style in styles.values()}
    assert len(drawn) == len(names)


def test_null_bands_are_the_largest_p99_of_the_lineages(summary):
    from workbench import plots

    nulls = {
        "isotropic": {"aggregate_p99": [0.1, 0.12, None]},
        "matched": {"aggregate_p99": 0.3},
        "sign_flip": {"p": 0.01},
    }
    figure = plots.alignment(summary, nulls=nulls)
    bands = {trace.name.split()[0]: trace for trace in traces(figure, "null")}
    assert bands.keys() == {"isotropic", "matched"}
    assert {abs(y) for y in bands["isotropic"].y if y is not None} == {0.12}
    assert {abs(y) for y in bands["matched"].y} == {0.3}
    assert bands["matched"].fill == "toself"
    assert not traces(plots.alignment(summary, quantity="along"), "null")


def test_the_zero_line_of_a_cosine_is_drawn_and_in_sight(summary, run):
    from workbench import plots

    for figure in (plots.alignment(summary), plots.alignment(run), plots.sibling(summary)):
        axis = figure.layout.yaxis
        assert axis.zeroline
        assert axis.range[0] < 0 < axis.range[1]
        shown = [y for trace in traces(figure, "mean") for y in trace.y]
        assert axis.range[0] < min(shown) < max(shown) < axis.range[1]


def test_the_sibling_figure_shows_both_alignments(summary):
    from workbench import plots

    figure = plots.sibling(summary)
    own, other = traces(figure, "mean", "ordinary")
    assert (own.xaxis, other.xaxis) == ("x", "x2")
    for trace, name in ((own, "alignment"), (other, "alignment_sibling")):
        told = summary["arms"]["ordinary"][name]
        assert trace.y == tuple(told[str(step)]["mean"] for step in STEPS)
    # The planted sibling direction has cosine 0.95 with v_rev.
    np.testing.assert_allclose(other.y[2:], 0.95 * np.array(own.y[2:]), rtol=1e-5)


def test_without_a_sibling_the_error_says_what_to_do(summary):
    from workbench import plots
    from workbench.errors import ConfigError

    arms = {
        name: {key: value for key, value in arm.items() if key != "alignment_sibling"}
        for name, arm in summary["arms"].items()
    }
    with pytest.raises(ConfigError, match=r"under \[roles\]"):
        plots.sibling(summary | {"arms": arms})


def test_what_was_not_measured_is_refused_by_name(new_run):
    from workbench import plots
    from workbench.errors import ConfigError

    with pytest.raises(ConfigError, match="No 'alignment' here"):
        plots.alignment(new_run)
    with pytest.raises(ConfigError, match="no 'charm'"):
        plots.behaviour(new_run, ["charm"])
    with pytest.raises(ConfigError, match="no step of this run was measured"):
        plots.heatmap(new_run)


def test_heatmap_shows_the_planted_alignments_on_a_fixed_scale(run):
    from workbench import plots

    figure = plots.heatmap(run)
    (cells,) = traces(figure, "alignment")
    np.testing.assert_allclose(np.array(cells.z, dtype=float), planted_alignment("block", 0).T)
    # In the figure itself: from a template plotly would take the colours, but not the range.
    axis = figure.layout.coloraxis
    assert (axis.cmin, axis.cmax) == (-1, 1)
    assert axis.colorscale[0][1] == "rgb(5,48,97)"  # RdBu_r: −1 is blue
    assert figure.layout.xaxis.ticktext == tuple(str(step) for step in STEPS)


def test_heatmap_tells_the_other_readings_on_hovering(run):
    from workbench import plots

    (cells,) = traces(plots.heatmap(run), "alignment")
    step, layer = 6, 3
    planted = planted_alignment("block", 0)[step, layer]
    drift = planted_drift(planted_alignment("block", 0)[step], STEPS[step])
    expected = [planted - 0.04, planted + 0.04]
    expected += [drift.along[layer], drift.across[layer], drift.norm[layer]]
    np.testing.assert_allclose(cells.customdata[layer][step], expected)
    assert cells.text[layer][step] == f"layer {layer}, step {STEPS[step]}"


def test_heatmap_marks_what_is_undefined_and_what_is_within_the_null(run):
    from workbench import plots

    figure = plots.heatmap(run, p99=[0.3] * N_LAYERS)
    (undefined,) = traces(figure, "undefined")
    assert set(zip(undefined.x, undefined.y, strict=True)) == {(0, 0), (1, 0)}
    (within,) = traces(figure, "not above p99")
    values = planted_alignment("block", 0)
    expected = {(column, layer) for column, layer in np.argwhere(values <= 0.3).tolist()}
    assert set(zip(within.x, within.y, strict=True)) == expected


def test_heatmap_refuses_percentiles_of_another_model(run):
    from workbench import plots
    from workbench.errors import ConfigError

    with pytest.raises(ConfigError, match=f"7 percentiles for {N_LAYERS} layers"):
        plots.heatmap(run, p99=[0.3] * 7)


def test_the_zero_contour_runs_between_cells_of_opposite_sign():
    from workbench.plots.heatmap import zero_contour

    values = np.array([[0.5, -0.5], [0.5, np.nan], [0.5, 0.5]])
    x, y = zero_contour(values)
    assert (x, y) == ([-0.5, 0.5, None], [0.5, 0.5, None])


def test_more_steps_than_columns_are_thinned_and_said_so(new_run):
    from workbench import plots
    from workbench.records import StepRecord

    for step in range(1, 151):
        drift = planted_drift(np.full(N_LAYERS, step / 200), step)
        new_run.append(StepRecord(step, 4.0, 1e-5, 1.0, drift=drift))
    figure = plots.heatmap(new_run)
    (cells,) = traces(figure, "alignment")
    assert len(cells.z[0]) == 120
    assert (cells.z[0][0], cells.z[0][-1]) == (1 / 200, 150 / 200)
    assert "120 of 150" in figure.layout.title.subtitle.text


def test_ordering_shows_every_run_and_the_means(summary):
    from workbench import plots

    figure = plots.ordering(summary)
    for arm in ARMS:
        (points,) = traces(figure, "runs", arm)
        np.testing.assert_allclose(points.x, planted_means(arm)[:, -1])
        harmful = [100 * planted_scores(arm, seed, 100).harmfulness.value for seed in SEEDS]
        np.testing.assert_allclose(points.y, harmful)
        (mean,) = traces(figure, "mean", arm)
        assert mean.x[0] == pytest.approx(planted_means(arm)[:, -1].mean())
        assert mean.y[0] == pytest.approx(np.mean(harmful))
    told = f"{summary['spearman']['r']:.3f}"
    assert f"Spearman ρ = {told}" in figure.layout.title.subtitle.text
    assert "n = 15 runs" in figure.layout.title.subtitle.text


def test_ordering_joins_block_ordinary_and_push_of_one_seed(summary):
    from workbench import plots

    (lines,) = traces(plots.ordering(summary), "joined")
    for seed in SEEDS:
        part = lines.x[4 * seed : 4 * seed + 4]
        expected = [planted_means(arm)[seed, -1] for arm in ("block", "ordinary", "push")]
        np.testing.assert_allclose(part[:3], expected)
        assert part[3] is None


def test_cost_shows_the_share_of_the_task_gain_that_is_lost(summary):
    from workbench import plots

    (points,) = traces(plots.cost(summary), "runs", "block")
    for seed, shown in zip(SEEDS, points.x, strict=True):
        usual, mine = (planted_scores(a, seed, 100).task_loss.value for a in ("ordinary", "block"))
        assert shown == pytest.approx(100 * (mine - usual) / (4.7 - usual))


def test_behaviour_shows_means_and_sd_over_runs_in_percent(summary):
    from workbench import plots

    figure = plots.behaviour(summary)
    harm, task = traces(figure, "mean", "push")
    assert [told[0] for told in harm.customdata] == [0, 1, 20, 100]
    values = np.array(
        [
            [planted_scores("push", seed, step).harmfulness.value for step in (0, 1, 20, 100)]
            for seed in SEEDS
        ]
    )
    np.testing.assert_allclose(harm.y, 100 * values.mean(axis=0))
    np.testing.assert_allclose(harm.error_y.array, 100 * values.std(axis=0, ddof=1))
    assert task.y[0] == pytest.approx(4.7)
    assert "nats per token" in figure.layout.yaxis2.title.text


def test_behaviour_of_a_single_run_has_the_interval_over_prompts(run):
    from workbench import plots

    harm, task = traces(plots.behaviour(run), "mean", "block")
    np.testing.assert_allclose(harm.error_y.array, 5.0)
    np.testing.assert_allclose(task.error_y.arrayminus, 0.05)


def test_text_from_data_is_shown_as_it_is_and_never_as_markup():
    from workbench.plots.style import inert

    shown = inert(HOSTILE)
    assert "<" not in shown
    assert shown.isprintable()
    assert shown.startswith("&lt;/script&gt;")
    assert len(inert("x" * 1000)) == 80


def test_arm_names_are_inert_in_every_figure(tmp_path):
    from workbench import plots

    folder = build_experiment(tmp_path / "hostile", arms=("ordinary", HOSTILE))
    summary = json.loads((folder / "summary.json").read_text())
    for draw in (plots.alignment, plots.sibling, plots.behaviour, plots.ordering, plots.cost):
        text = draw(summary).to_json()
        assert "<a " not in text
        assert "\\u001b" not in text


def test_undefined_numbers_leave_gaps_and_break_nothing(summary):
    from workbench import plots

    damaged = json.loads(json.dumps(summary))
    for told in damaged["arms"]["block"]["alignment"].values():
        told |= {"mean": None, "sd": None, "n": 0, "per_seed": [None] * 3}
    damaged["spearman"] = {"r": None, "n": 0, "interval": [None, None]}
    figure = plots.alignment(damaged)
    assert np.isnan(traces(figure, "mean", "block")[0].y).all()
    assert traces(figure, "sd", "block")[0].y == ()
    ordering = plots.ordering(damaged)
    assert not traces(ordering, "mean", "block")
    assert traces(ordering, "mean", "push")
    assert ordering.layout.title.subtitle.text == ""


def test_the_table_stands_beside_the_papers_numbers(summary):
    from workbench.plots.table import table_text

    lines = table_text(summary, width=150).splitlines()
    row = next(line for line in lines if line.startswith("cos(drift, v_rev) after the first"))
    mean, sd = planted_means("ordinary")[:, 0].mean(), planted_means("ordinary")[:, 0].std(ddof=1)
    assert "0.429 ± 0.052" in row
    assert f"{mean:.3f} ± {sd:.3f}" in row
    assert any(line.startswith("block ") and "−0.3" in line for line in lines)
    assert "they are not ours" in " ".join(lines)


@pytest.mark.parametrize("width", [72, 100])
def test_the_table_fits_the_terminal(width, summary):
    from workbench.plots.table import table_text

    assert max(len(line) for line in table_text(summary, width=width).splitlines()) <= width


def test_the_table_says_when_the_shared_endpoint_is_not_separated(tmp_path):
    from workbench.plots.table import table_text

    folder = build_experiment(tmp_path / "lone", sibling=False, seeds=(0,), arms=("ordinary",))
    text = table_text(json.loads((folder / "summary.json").read_text()))
    assert "shared endpoint not separated" in text
    assert "one run per arm" in " ".join(text.split())


def test_spread_between_lineages_stands_beside_spread_between_seeds(tmp_path):
    from workbench.plots.table import control_table

    folder = build_experiment(tmp_path / "two", lineages=("a", "b"), arms=("ordinary",))
    table = control_table(json.loads((folder / "summary.json").read_text()))
    told = dict(table.rows)["sd of ordinary alignment at the last step"]
    ends = np.array(
        [
            [np.nanmean(planted_alignment("ordinary", seed + 10 * number)[-1]) for seed in SEEDS]
            for number in range(2)
        ]
    )
    between = ends.mean(axis=1).std(ddof=1)
    within = np.sqrt(ends.var(axis=1, ddof=1).mean())
    assert told == f"{between:.3f} between lineages, {within:.3f} between seeds"


def test_the_html_table_escapes_what_comes_from_data(summary):
    from workbench.plots.table import table_html

    paper = [{"quantity": HOSTILE, "paper": "<b>1</b>", "ours": "<i>2</i>"}]
    text = table_html(summary | {"paper": paper})
    assert "<a " not in text
    assert "<b>1" not in text
    assert "<i>2" not in text


def test_plots_import_neither_torch_nor_transformer_lens():
    code = (
        "import sys, workbench.plots.report\n"
        "print([m for m in ('torch', 'transformer_lens', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_edges_of_the_zero_contour_that_meet_are_one_line():
    from workbench.plots.heatmap import zero_contour

    values = np.ones((3, 5))
    values[1, 1] = values[1, 3] = -1.0  # two cells apart: two rings of four edges
    x, y = zero_contour(values)
    assert x.count(None) == y.count(None) == 2
    rings = [list(zip(x[start : start + 5], y[start : start + 5], strict=True)) for start in (0, 6)]
    for ring, layer in zip(sorted(rings, key=lambda ring: ring[0][1]), (1, 3), strict=True):
        assert ring[0] == ring[-1]
        assert {*ring} == {(s, layer + d) for s in (0.5, 1.5) for d in (-0.5, 0.5)}


def test_the_zero_contour_has_every_edge_between_signs_once():
    from workbench.plots.heatmap import zero_contour

    values = np.random.default_rng(0).uniform(-1, 1, (9, 7))
    crossings = sum((np.diff(np.sign(values), axis=axis) != 0).sum() for axis in (0, 1))
    x, y = zero_contour(values)
    points = list(zip(x, y, strict=True))
    edges = [frozenset(pair) for pair in itertools.pairwise(points) if (None, None) not in pair]
    assert len(edges) == len({*edges}) == crossings
    assert x.count(None) < crossings / 2
