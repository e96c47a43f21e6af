"""The causal evidence is shown with the summary's own numbers, and no text of it is markup."""

import json
import re

import numpy as np
import pytest
from planted_summary import HOSTILE, N_LAYERS, NULLS, STEPS, STRENGTHS, SWEPT, planted_summary
from test_report import Page

from workbench.config import sealed

NEW_KEYS = ("dose", "tradeoff", "significance", "other_phases", "after_blocking", "readout")
NEW_KEYS += ("layers", "controls")


@pytest.fixture(scope="module")
def summary():
    return planted_summary()


@pytest.fixture(scope="module")
def hostile():
    return planted_summary(extra=(HOSTILE,))


def without(summary, *names):
    return {key: value for key, value in summary.items() if key not in names}


def traces(figure, meta, name=None):
    return [t for t in figure.data if t.meta == meta and name in (None, t.name)]


@pytest.fixture
def report_of(tmp_path, monkeypatch):
    """Write the report of a summary, without plotly's own script, and return its page."""
    from workbench.plots import page
    from workbench.plots.report import write_report

    monkeypatch.setattr(page, "get_plotlyjs", lambda: "")

    def write(summary):
        (tmp_path / "summary.json").write_text(json.dumps(sealed(summary)))
        written = write_report(tmp_path, tmp_path / "report.html")
        return Page(written.read_text(encoding="utf-8"))

    return write


def perceived(colour, deficiency):
    """CIELAB of a colour as people with a colour vision deficiency see it (Viénot et al. 1999)."""
    value = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    to_lms = np.array(
        [[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]]
    )
    lost = {
        "protan": [[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]],
        "deutan": [[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]],
        "none": np.eye(3),
    }[deficiency]
    seen = np.clip(np.linalg.solve(to_lms, np.array(lost) @ to_lms @ linear), 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ seen / [0.9505, 1.0, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("deficiency", ["none", "protan", "deutan"])
def test_colours_of_families_can_be_told_apart(deficiency):
    from workbench.plots.style import FAMILIES

    colours = sorted({style.colour for style in FAMILIES.values()})
    seen = [perceived(colour, deficiency) for colour in colours]
    apart = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]]
    assert len(colours) == 10
    assert min(apart) > 10
    red_and_green = [perceived(colour, "deutan") for colour in ("#D55E00", "#8F8C1E")]
    assert np.linalg.norm(red_and_green[0] - red_and_green[1]) < 10  # as somebody would see it


def test_an_arm_has_its_familys_colour_and_marks_of_its_own(summary):
    from workbench.plots.style import FAMILIES, arm_styles

    styles = arm_styles(summary["arms"], summary["arms"])
    for name, style in styles.items():
        stem = re.split("[:@]", name)[0]
        assert style.colour == FAMILIES[stem].colour
    assert len({*styles.values()}) == len(styles) == len(summary["arms"])


@pytest.mark.parametrize(
    ("name", "told", "expected"),
    [
        ("block:0.5@2,3", None, "block"),
        ("anchor-kl:3", None, "anchor-kl"),
        ("anchor-odd:3", None, "anchor"),
        ("matched-unscaled", {"intervention": "block", "direction": "matched"}, "matched-unscaled"),
        ("block:1", {"intervention": "block", "direction": "refusal"}, "refusal"),
        ("mine", {"intervention": "cap", "direction": "reversion"}, "cap"),
        ("blockade", None, None),
    ],
)
def test_the_family_of_an_arm_is_what_is_done_unless_it_is_a_control(name, told, expected):
    from workbench.plots.style import family

    assert family(name, told) == expected


def test_an_arm_looks_the_same_in_figures_that_show_other_arms(summary):
    from workbench import plots

    partial = json.loads(json.dumps(summary))
    del partial["arms"]["block:0.1"]["harmfulness"]
    drawn = [
        traces(plots.alignment(partial), "mean", "block:0.25"),
        traces(plots.behaviour(partial, ["harmfulness"]), "mean", "block:0.25"),
    ]
    (symbol,) = {trace.marker.symbol for several in drawn for trace in several}
    assert symbol
    assert len({trace.line.dash for several in drawn for trace in several}) == 1


def test_of_a_crowd_of_arms_the_main_ones_are_shown_and_the_others_wait(summary):
    from workbench import plots

    for figure in (plots.alignment(summary), plots.behaviour(summary)):
        shown = {t.name for t in traces(figure, "mean") if t.visible is True}
        waiting = {t.name for t in traces(figure, "mean") if t.visible == "legendonly"}
        assert shown == {"ordinary", "block", "push", "random", "matched", "matched-unscaled"}
        assert shown | waiting == {*summary["arms"]}
        assert f"{len(waiting)} more arms" in figure.layout.title.subtitle.text
    few = summary | {"arms": {name: summary["arms"][name] for name in ("ordinary", "project")}}
    assert all(t.visible is True for t in traces(plots.alignment(few), "mean"))


def test_dose_shows_the_means_and_intervals_of_every_strength(summary):
    from workbench import plots

    figure = plots.dose(summary)
    for name, told in summary["dose"].items():
        panels = (("alignment", 1, "x"), ("harmfulness", 100, "x2"), ("task_cost", 100, "x3"))
        for quantity, scale, axis in panels:
            (line,) = [t for t in traces(figure, "mean", name) if t.xaxis == axis]
            (band,) = [t for t in traces(figure, "interval", name) if t.xaxis == axis]
            doses = told[quantity][1:]
            np.testing.assert_allclose(line.x, np.log10(STRENGTHS[name]))
            np.testing.assert_allclose(line.y, [scale * one["mean"] for one in doses])
            upper = [scale * one["interval"][1] for one in doses]
            lower = [scale * one["interval"][0] for one in doses]
            np.testing.assert_allclose(band.y, [*upper, *lower[::-1]])


def test_strength_zero_stands_apart_and_once(summary):
    from workbench import plots

    figure = plots.dose(summary)
    first, *_ = zeros = traces(figure, "zero")
    assert [trace.name for trace in zeros] == ["ordinary"] * 3
    assert first.y[0] == summary["arms"]["ordinary"]["alignment"]["100"]["mean"]
    low, high = summary["arms"]["ordinary"]["alignment"]["100"]["interval"]
    assert first.y[0] + first.error_y.array[0] == pytest.approx(high)
    assert first.y[0] - first.error_y.arrayminus[0] == pytest.approx(low)
    smallest = min(min(several) for several in STRENGTHS.values())
    assert first.x[0] <= np.log10(smallest) - 0.4
    assert figure.layout.xaxis.ticktext[0] == "0"
    assert figure.layout.xaxis.tickvals[0] == first.x[0]


def test_a_negative_strength_is_refused(summary):
    from workbench import plots
    from workbench.errors import ConfigError

    told = json.loads(json.dumps(summary["dose"]))
    told["block"]["strength"][1] = -0.5
    with pytest.raises(ConfigError, match=r"-0\.5 has no place"):
        plots.dose({"dose": told})


def test_tradeoff_shows_every_arm_with_its_intervals(summary):
    from workbench import plots

    figure = plots.tradeoff(summary)
    shown = {}
    for trace in traces(figure, "points"):
        bars = (trace.error_x.array, trace.error_y.arrayminus)
        for text, *numbers in zip(trace.customdata, trace.x, trace.y, *bars, strict=True):
            shown[re.match("<b>(.*?)</b>", text)[1]] = (numbers, trace.name, text)
    assert shown.keys() == summary["arms"].keys()
    for point in summary["tradeoff"]["points"]:
        numbers, _, text = shown[point["arm"]]
        cost, harm = point["task_cost"], point["harmfulness"]
        expected = [100 * cost["mean"], 100 * harm["mean"]]
        expected += [100 * (cost["interval"][1] - cost["mean"])]
        expected += [100 * (harm["mean"] - harm["interval"][0])]
        np.testing.assert_allclose(numbers, expected)
        assert "KL (nats): " in text
    assert shown["block:0.5"][1] == shown["block:1@2,3"][1] == "block"
    assert shown["refusal"][1] == "refusal"


def test_the_pareto_front_is_a_staircase_through_its_arms_which_are_named(summary):
    from workbench import plots

    figure = plots.tradeoff(summary)
    (front,) = traces(figure, "front")
    points = [point for point in summary["tradeoff"]["points"] if point["pareto"]]
    points.sort(key=lambda point: point["task_cost"]["mean"])
    np.testing.assert_allclose(front.x, [100 * p["task_cost"]["mean"] for p in points])
    np.testing.assert_allclose(front.y, [100 * p["harmfulness"]["mean"] for p in points])
    assert front.line.shape == "hv"
    named = [note.text for note in figure.layout.annotations]
    assert {*named} <= {point["arm"] for point in points}
    assert "block" in named
    assert len(named) > 3


def test_significance_is_the_share_of_ordinary_runs_that_are_rejected(summary):
    from workbench import plots

    figure = plots.significance(summary)
    assert figure.layout.title.subtitle.text.endswith("n = 8 of 9 runs")
    cells = traces(figure, "share")
    runs = summary["significance"]["runs"]
    resolved = [
        runs[run_id]
        for run_id in summary["arms"]["ordinary"]["runs"]
        if runs[run_id]["resolution"] == "ok"
    ]
    assert len(resolved) == 8
    for trace, null in zip(cells, NULLS, strict=True):
        for step in range(len(STEPS)):
            for layer in range(N_LAYERS):
                holm = [run["nulls"][null]["holm"][step][layer] for run in resolved]
                shown = trace.z[layer][step]
                if None in holm:
                    assert shown is None
                else:
                    assert shown == pytest.approx(100 * np.mean([p <= 0.01 for p in holm]))
                    assert trace.customdata[layer][step][1] == 8
    assert 0 < np.nanmean(np.array(cells[0].z, dtype=float)) < 100


def test_runs_without_enough_draws_claim_nothing(summary):
    from workbench import plots
    from workbench.errors import ConfigError
    from workbench.plots.significance import family_told, significance_table

    assert "Resolution too low: isotropic null in 2 of 18 runs" in family_told(summary)
    coarse = json.loads(json.dumps(summary))
    for run in coarse["significance"]["runs"].values():
        run["resolution"] = "too low"
    with pytest.raises(ConfigError, match="enough draws"):
        plots.significance(coarse)
    for run in coarse["significance"]["runs"].values():  # only one null is too coarse
        for name, null in run["nulls"].items():
            null["resolution"] = "too low" if name == "sign_flip" else "ok"
            null["rejected"] = None if name == "sign_flip" else null["rejected"]
    figure = plots.significance(coarse)
    *others, flip = traces(figure, "share")
    assert {*np.ravel(flip.z)} == {None}
    assert all(np.nanmax(np.array(one.z, dtype=float)) > 0 for one in others)
    assert [note.text for note in figure.layout.annotations][
        2
    ] == "sign flip null: resolution too low"
    assert significance_table(coarse).rows[2][2] == "resolution too low"
    assert significance_table(coarse).rows[0][2] != "resolution too low"
    for run in coarse["significance"]["runs"].values():
        run["nulls"] = {
            name: null | {"resolution": "too low"} for name, null in run["nulls"].items()
        }
    assert {*significance_table(coarse).rows[0][2:]} == {"resolution too low"}


def test_the_table_of_nulls_counts_rejections_and_says_each_h0(summary):
    from workbench.plots.significance import significance_table

    table = significance_table(summary)
    assert table.header[2:] == (
        "ordinary: layers × steps",
        "ordinary: mean over layers",
        "block: layers × steps",
        "block: mean over layers",
    )
    runs = summary["significance"]["runs"]
    for row, null in zip(table.rows, NULLS, strict=True):
        assert row[1] == f"The {null} null: nothing points back."
        told = [runs[run_id] for run_id in summary["arms"]["ordinary"]["runs"][:8]]
        rejected = sum(run["nulls"][null]["rejected"] for run in told)
        means = sum(p <= 0.01 for run in told for p in run["nulls"][null]["holm_aggregate"])
        assert row[2:4] == (f"{rejected} of {8 * 43}", f"{means} of {8 * 11}")


def test_the_layer_sweep_stands_beside_ordinary(summary):
    from workbench import plots

    figure = plots.layers(summary)
    rows = summary["layers"]["rows"]
    for axis, name, scale in (("x", "alignment", 1), ("x2", "harmfulness", 100)):
        (points,) = [trace for trace in traces(figure, "rows") if trace.xaxis == axis]
        (line,) = [trace for trace in traces(figure, "ordinary") if trace.xaxis == axis]
        (band,) = [trace for trace in traces(figure, "interval") if trace.xaxis == axis]
        np.testing.assert_allclose(points.x, [scale * row[name]["mean"] for row in rows])
        high = [scale * (row[name]["interval"][1] - row[name]["mean"]) for row in rows]
        np.testing.assert_allclose(points.error_x.array, high)
        usual = summary["arms"]["ordinary"][name]["100"]
        assert {*line.x} == {scale * usual["mean"]}
        assert [min(band.x), max(band.x)] == [scale * end for end in usual["interval"]]
    labels = figure.layout.yaxis.ticktext
    assert len(labels) == len(SWEPT) + 1
    assert labels[4:] == (
        "block:1@0,1 (layers 0, 1)",
        "block:1@2,3 (layers 2, 3)",
        "block (all layers)",
    )


@pytest.mark.parametrize("draw", ["dose", "tradeoff", "significance", "layers"])
def test_a_summary_without_the_numbers_has_no_such_figure(draw, summary):
    from workbench import plots
    from workbench.errors import ConfigError

    with pytest.raises(ConfigError, match=r"^No .* here: "):
        getattr(plots, draw)(without(summary, *NEW_KEYS))


def test_what_is_left_after_blocking_is_a_mean_over_runs(summary):
    from workbench.plots.aftermath import aftermath_tables

    layers, behaviour = aftermath_tables(summary)
    told = summary["after_blocking"]["project"]
    row = layers.rows[N_LAYERS + 2]
    assert row[:2] == ("project", "2")
    for cell, name in zip(row[2:], ("cosine", "gap", "along", "off", "shared"), strict=True):
        values = np.array(told[name])[:, 2]
        assert cell == f"{values.mean():.3f} ± {values.std(ddof=1):.3f}"
    mean = told["harmfulness_returned"]["mean"]
    assert behaviour.rows[1][1].startswith(f"{100 * mean:.1f} ± ")
    low, high = told["harmfulness_returned"]["interval"]
    assert behaviour.below[1][1] == f"[{100 * low:.1f}, {100 * high:.1f}]"


def test_tokens_are_shown_as_they_are_and_never_as_markup(summary):
    from workbench.plots.readout import readout_tables, shown_token
    from workbench.plots.typeset import to_html

    assert shown_token(" of\ncourse") == "“␣of↵course”"
    assert shown_token("\u202eevil\x1b[31m") == "“�evil�[31m”"
    assert shown_token("x" * 90) == "“" + "x" * 18 + "…”"
    table = readout_tables(summary)[0]
    told = summary["readout"]["organism-0"]
    assert table.rows[0][3] == f"{told['preference'][0]:.2f}"
    assert [row[5] for row in table.rows] == ["< 0.0001", "0.0020", "0.3000", "–"]
    assert table.rows[0][1].startswith(f"“sure” {told['top'][0][0]['change']:.2f}, ")
    assert "<img" not in to_html(table)
    assert "&lt;/script&gt;" in to_html(table)


def test_controls_tell_their_overlap_with_v_rev(summary):
    from workbench.plots.controls import controls_table

    (row,) = [row for row in controls_table(summary).rows if row[0] == "matched"]
    values = np.array(summary["controls"]["matched"]["cosine"])
    mean, sd = values.mean(axis=0), values.std(axis=0, ddof=1)
    told = [f"{m:.2f} ± {s:.2f}".replace("-", "−") for m, s in zip(mean, sd, strict=True)]
    assert [cell.lstrip("−") for cell in row[1:5]] == [cell.lstrip("−") for cell in told]
    assert row[5] == f"{np.abs(values).max():.2f}"
    deep = {"matched": {"cosine": [[-0.1] * 39 + [0.05]], "applied": None}}
    assert controls_table(summary | {"controls": deep}).rows == (("matched", "0.10"),)


def test_other_phases_are_a_comparison_beside_v_rev(summary):
    from workbench.plots.controls import other_phases_table

    table = other_phases_table(summary)
    assert "a comparison, not a test" in table.caption
    assert table.header == ("direction", "step 1", "step 20", "step 100")
    usual = summary["arms"]["ordinary"]["alignment"]["20"]
    assert table.rows[0][:3:2] == ("v_rev", f"{usual['mean']:.3f} ± {usual['sd']:.3f}")
    other = summary["other_phases"]["pretrained→helpful"]["alignment"]["100"]
    assert table.rows[1][3] == f"{other['mean']:.3f} ± {other['sd']:.3f}".replace("-", "−")


def test_the_ordering_has_its_sign_test_and_the_correlation_within_arms(summary):
    from workbench.plots.controls import ordering_table

    rows = ordering_table(summary).rows
    assert rows[0][1:] == ("9 of 9", "on lineage means in 3 of 3, p = 0.0046")
    within = list(summary["spearman"]["within_arms"].values())
    assert rows[2][1] == f"{len(within)} arms"
    assert f"median {np.median(within):.2f}" in rows[2][2]
    untested = {"alignment": {"holds": 9, "n": 9, "p": None}}
    assert ordering_table(summary | {"ordering": untested}) is None


def test_the_big_table_has_every_arm_with_sd_and_interval(summary):
    from workbench.plots.table import arms_table
    from workbench.plots.typeset import to_html

    table = arms_table(summary)
    assert [row[0] for row in table.rows] == list(summary["arms"])
    columns = {
        "alignment, step 1": ("alignment", "1", 1, 3),
        "alignment, step 20": ("alignment", "20", 1, 3),
        "alignment": ("alignment", "100", 1, 3),
        "along": ("along", "100", 1, 3),
        "across": ("across", "100", 1, 3),
        "harmful %": ("harmfulness", "100", 100, 1),
        "broken %": ("broken", "100", 100, 1),
        "refusal log-odds": ("refusal_log_odds", "100", 1, 2),
        "over-refusal %": ("over_refusal", "100", 100, 1),
        "task loss": ("task_loss", "100", 1, 3),
        "task cost %": ("task_cost", None, 100, 1),
        "KL": ("kl", "100", 1, 3),
    }
    assert table.header == ("arm", *columns)
    index = list(summary["arms"]).index("block:2")
    for heading, (name, step, scale, digits) in columns.items():
        told = summary["arms"]["block:2"][name]
        told = told if step is None else told[step]
        at = table.header.index(heading)
        mean, sd, low, high = (
            f"{scale * value:.{digits}f}".replace("-", "−")
            for value in (told["mean"], told["sd"], *told["interval"])
        )
        assert table.rows[index][at] == f"{mean} ± {sd}"
        assert table.below[index][at] == f"[{low}, {high}]"
        assert f"<small>[{low}, {high}]</small>" in to_html(table)


def test_the_terminal_has_one_line_per_arm_at_100_columns(summary):
    from workbench.plots.table import table_text

    lines = table_text(summary).splitlines()
    assert max(map(len, lines)) <= 100
    for name in summary["arms"]:
        (line,) = [line for line in lines if line.split("  ")[0] == name]
        assert line.count("±") == 5


def test_the_report_has_the_evidence_after_the_rest_each_part_once(summary, report_of):
    page = report_of(summary)
    for name in ("significance", "dose", "tradeoff", "sweep"):
        assert name in {key.removesuffix("-data") for key in page.blocks}
    order = ["Does behaviour follow?", "Could it be chance?", "What does the direction say?"]
    order += ["How much is enough?", "at what price?", "Where must one intervene?"]
    order += ["Is it this direction?", "What comes back after blocking?", "All arms"]
    places = [page.text.index(heading) for heading in order]
    assert places == sorted(places)
    told = " ".join(page.text.split())
    assert told.count("95 % intervals over lineages, n = 9 runs") == 3
    captions = re.findall(r"Figure (\d+)\.", page.text)
    assert captions == [str(number + 1) for number in range(len(captions))]
    assert page.text.count("refuted") + page.text.count("refute ") >= 5


def test_a_summary_without_the_new_keys_has_none_of_the_new_parts(summary, report_of):
    old = without(summary, *NEW_KEYS)
    old["ordering"] = {name: {"holds": 9, "n": 9} for name in ("alignment", "harmfulness")}
    page = report_of(old)
    assert not {"significance-data", "dose-data", "tradeoff-data", "sweep-data"} & {*page.blocks}
    assert "Could it be chance?" not in page.text
    assert "Does behaviour follow?" in page.text
    assert "All arms" in page.text


def test_statistics_without_numbers_are_dashes_and_gaps(summary, report_of):
    nothing = {"mean": None, "sd": None, "n": 0, "per_seed": [None] * 9}
    nothing |= {"interval": None, "interval_over": "lineages"}
    damaged = json.loads(json.dumps(summary))
    damaged["dose"]["block"]["alignment"][2] = nothing
    damaged["tradeoff"]["points"][3]["task_cost"] = nothing
    damaged["layers"]["rows"][0] |= {"alignment": nothing, "task_cost": None}
    damaged["after_blocking"]["block"] |= {"harmfulness_returned": nothing, "shared": None}
    damaged["controls"]["random"]["applied"] = None
    for told in damaged["arms"]["ordinary"]["harmfulness"].values():
        told["interval"] = [None, None]
    page = report_of(damaged)
    assert "NaN" not in json.dumps(page.blocks)
    shown = [t for t in page.blocks["dose-data"]["data"] if t["meta"] == "mean"]
    assert any(None in trace["y"] for trace in shown)


def test_one_run_per_arm_has_no_intervals_and_says_so(summary):
    from workbench import plots

    lone = json.loads(json.dumps(summary["dose"]))
    for told in lone.values():
        for name in ("alignment", "harmfulness", "task_cost", "over_refusal"):
            for one in told[name]:
                one |= {"sd": None, "n": 1, "interval": None}
    figure = plots.dose({"dose": lone})
    assert not traces(figure, "interval")
    assert "no intervals: too few runs, n = 1 runs" in figure.layout.title.subtitle.text


def test_hostile_names_and_tokens_stay_text(hostile, report_of):
    from workbench import plots

    page = report_of(hostile)
    assert not {"img", "a", "iframe", "link"} & {tag for tag, _ in page.tags}
    assert len(page.scripts) == 1  # the page's own
    assert not [a for _, attrs in page.tags for a in attrs if a.startswith("on")]
    assert "window.broken=1" in page.text
    for draw in (plots.dose, plots.tradeoff, plots.significance, plots.layers, plots.ordering):
        assert "<img" not in draw(hostile).to_json()
    hostile["dose"][HOSTILE] = hostile["dose"]["block"]
    hostile["layers"]["rows"][0]["arm"] = HOSTILE
    for draw in (plots.dose, plots.layers):
        text = draw(hostile).to_json()
        assert "<img" not in text
        assert "&lt;" in text or "\\u0026lt;" in text
