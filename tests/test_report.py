"""The report is one inert file: it holds the planted numbers, and nothing leaves or gets in."""

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from planted_experiment import ARMS, STEPS, build_experiment, planted_alignment

from workbench.config import sealed

HOSTILE = "</script><script>window.broken=1</script><img src=x onerror='window.broken=1'>"
MAX_BYTES = 6_000_000


class Page(HTMLParser):
    """Tags, attributes, scripts and JSON blocks of a page, and its visible text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.blocks, self.text, self.inside = [], [], {}, "", None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = (tag, dict(attrs)) if tag in ("script", "style") else None

    def handle_endtag(self, _):
        self.inside = None

    def handle_data(self, data):
        if self.inside is None:
            self.text += data
        elif self.inside[0] == "script" and self.inside[1].get("type") == "application/json":
            self.blocks[self.inside[1]["id"]] = json.loads(data)
        elif self.inside[0] == "script":
            self.scripts.append(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_experiment(tmp_path_factory.mktemp("experiments") / "planted")


@pytest.fixture(scope="module")
def report(folder):
    from workbench.plots.report import write_report

    return write_report(folder, folder / "report.html")


@pytest.fixture(scope="module")
def text(report):
    return report.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


@pytest.fixture(scope="module")
def hostile_report(tmp_path_factory):
    from workbench.plots.report import write_report

    place = tmp_path_factory.mktemp("experiments") / "<img src=x onerror=alert(1)>"
    folder = build_experiment(place, arms=("ordinary", HOSTILE), lineages=(HOSTILE,), seeds=(0, 1))
    return write_report(folder, folder / "report.html")


def test_the_report_is_small_and_holds_one_plotly(report, page):
    assert report.stat().st_size <= MAX_BYTES
    assert len(page.scripts) == 2
    assert sum(script.count("plotly.js v") for script in page.scripts) == 1


def test_nothing_in_the_report_points_outside(text, page):
    from plotly.offline import get_plotlyjs

    assert not re.findall(r"https?://|//[a-z]+\.", text.replace(get_plotlyjs(), ""))
    assert not [tag for tag, _ in page.tags if tag in ("link", "img", "iframe", "base", "a")]
    assert not [attrs for _, attrs in page.tags if {"src", "href"} & attrs.keys()]


def test_the_policy_of_the_report_lets_only_its_own_scripts_run(page):
    policy = next(
        attrs["content"]
        for tag, attrs in page.tags
        if tag == "meta" and attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy
    allowed = re.search(r"script-src ([^;]*)", policy).group(1).split()
    hashes = [hashlib.sha256(script.encode()).digest() for script in page.scripts]
    assert allowed == [f"'sha256-{base64.b64encode(one).decode()}'" for one in hashes]


def test_no_upload_button(page):
    config = page.blocks["config"]
    assert config["showSendToCloud"] is False
    assert config["plotlyServerURL"] == ""


def test_the_report_holds_the_planted_alignment(page):
    traces = page.blocks["alignment-data"]["data"]
    (mean,) = [t for t in traces if t["meta"] == "mean" and t["name"] == "block"]
    planted = np.mean([np.nanmean(planted_alignment("block", s), axis=1) for s in range(3)], axis=0)
    np.testing.assert_allclose(mean["y"], planted, rtol=1e-4)
    assert mean["x"] == list(STEPS)


def test_every_run_can_be_chosen_in_the_layer_explorer(page):
    view = page.blocks["layers-data"]
    offered = {control["name"]: control["options"] for control in view["controls"]}
    assert offered["arm"] == list(ARMS)
    assert offered["seed"] == ["0", "1", "2"]
    for arm, of_arm in zip(ARMS, view["tables"]["alignment"], strict=True):
        for seed, values in enumerate(of_arm):
            shown = np.array(values, dtype=float)
            np.testing.assert_allclose(shown, planted_alignment(arm, seed).T, rtol=1e-4)
    places = [json.loads(attrs["data-choice"]) for _, attrs in page.tags if "data-view" in attrs]
    assert places == [{}, {"arm": ARMS.index("block")}]


def test_the_matched_null_of_the_lineage_marks_the_layer_explorer(page):
    tables = page.blocks["layers-data"]["tables"]
    x, y = (tables[f"null_{axis}"][ARMS.index("ordinary")][0] for axis in "xy")
    expected = np.argwhere(planted_alignment("ordinary", 0) <= 0.3)
    assert sorted(zip(x, y, strict=True)) == sorted(map(tuple, expected.tolist()))


def test_the_report_says_how_to_read_it(page):
    told = " ".join(page.text.split())
    assert "they are not ours" in told
    assert "share their past" in told
    assert "Shared endpoint separated." in told
    assert "n = 3 runs per arm" in told


def test_the_report_tells_where_its_numbers_come_from(page, folder):
    from workbench.plots.provenance import config_hash
    from workbench.store import RunStore

    for run in RunStore(folder / "runs"):
        assert run.id in page.text
        assert config_hash(run.info["config"]) in page.text
        for package, version in run.info["versions"].items():
            assert f"{package} {version}" in page.text


def test_files_are_named_by_the_first_digits_of_their_hash(tmp_path):
    from workbench.plots.provenance import provenance_html
    from workbench.store import RunStore

    told = {"directions": "ab12" * 16, "inputs": {"probes": "cd34" * 16, "task": None}}
    text = provenance_html([RunStore(tmp_path).create(told, "one")])
    assert "Directions by content: ab12ab12ab12." in text
    assert "Inputs by content: probes cd34cd34cd34." in text


def test_equal_settings_have_equal_hashes():
    from workbench.plots.provenance import config_hash

    assert config_hash({"a": 1, "b": 2}) == config_hash({"b": 2, "a": 1})
    assert config_hash({"a": 1, "b": 2}) != config_hash({"a": 1, "b": 3})


def test_every_figure_has_a_caption_and_a_text_for_who_cannot_see_it(page):
    plots = [attrs for _, attrs in page.tags if attrs.get("class") == "plot"]
    assert len(plots) == 8  # of which none is left out; those of the layer explorer are views
    assert all(len(attrs["aria-label"]) > 40 and attrs["role"] == "group" for attrs in plots)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("figcaption") == tags.count("figure") == 9


def test_hostile_names_stay_text(hostile_report, page):
    hostile = Page(hostile_report.read_text(encoding="utf-8"))
    assert {tag for tag, _ in hostile.tags} == {tag for tag, _ in page.tags}
    assert len(hostile.scripts) == 2
    assert not [a for _, attrs in hostile.tags for a in attrs if a.startswith("on")]
    assert "window.broken=1" in hostile.text
    assert any("</script>" in str(c["options"]) for c in hostile.blocks["layers-data"]["controls"])
    for block in hostile.blocks.values():
        for trace in block.get("data", []) if isinstance(block, dict) else []:
            assert "<" not in trace.get("name", "")


def test_the_same_runs_give_the_same_bytes(folder, report, tmp_path):
    from workbench.plots.report import write_report

    assert write_report(folder, tmp_path / "again.html").read_bytes() == report.read_bytes()


def test_without_a_sibling_the_report_says_so(tmp_path):
    from workbench.plots.report import write_report

    folder = build_experiment(tmp_path / "lone", sibling=False, seeds=(0,), arms=("ordinary",))
    page = Page(write_report(folder, tmp_path / "out.html").read_text(encoding="utf-8"))
    assert "Shared endpoint not separated." in page.text
    assert "One run per arm." in page.text
    assert "sibling-data" not in page.blocks
    assert len([1 for _, attrs in page.tags if "data-view" in attrs]) == 1


def test_undefined_numbers_do_not_stop_a_report(folder, tmp_path):
    from workbench.plots.report import write_report

    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    summary = json.loads((damaged / "summary.json").read_text())
    nothing = {"mean": None, "sd": None, "n": 0, "per_seed": [None] * 3}
    for name in ("alignment", "harmfulness"):
        for told in summary["arms"]["block"][name].values():
            told |= nothing
    summary["arms"]["block"]["task_cost"] = nothing
    summary["nulls"]["matched"]["aggregate_p99"] = []
    (damaged / "summary.json").write_text(json.dumps(sealed(summary)))
    page = Page(write_report(damaged, tmp_path / "out.html").read_text(encoding="utf-8"))
    assert "NaN" not in json.dumps(page.blocks)
    (mean,) = [
        trace
        for trace in page.blocks["alignment-data"]["data"]
        if trace["meta"] == "mean" and trace["name"] == "block"
    ]
    assert mean["y"] == [None] * len(STEPS)


def test_heat_maps_without_room_are_left_out_and_counted(folder, report, tmp_path, monkeypatch):
    from workbench.plots import report as module

    for room in range(report.stat().st_size + 60_000, 0, -20_000):
        monkeypatch.setattr(module, "MAX_BYTES", room)
        written = module.write_report(folder, tmp_path / "out.html")
        assert written.stat().st_size <= room
        page = Page(written.read_text(encoding="utf-8"))
        tables = page.blocks["layers-data"]["tables"]
        if (kept := sum(map(len, tables["alignment"]))) < 15:
            break
    assert kept > 0
    assert f"{15 - kept} runs left out" in page.text
    # Every arm's first seed comes before any second one.
    assert len(tables["alignment"]) == len(ARMS)


def test_runs_of_another_depth_have_an_explorer_of_their_own(folder, tmp_path):
    from workbench.plots.report import write_report
    from workbench.store import RunStore

    run = RunStore(folder / "runs").open("l0-block-1")
    other = RunStore(tmp_path).create({}, "deep")
    line = json.loads((run.folder / "records.jsonl").read_text().splitlines()[2])
    line["drift"] = {k: v * 2 if isinstance(v, list) else v for k, v in line["drift"].items()}
    (other.folder / "records.jsonl").write_text(json.dumps(line) + "\n")
    page = Page(write_report([run, other], tmp_path / "out.html").read_text(encoding="utf-8"))
    assert len(page.blocks["layers-data"]["tables"]["alignment"]) == 5
    assert len(page.blocks["layers-2-data"]["tables"]["alignment"]) == 10


@pytest.mark.parametrize("given", ["folder", "run", "several"])
def test_runs_have_a_report_of_their_own(given, folder, tmp_path):
    from workbench.plots.report import write_report
    from workbench.store import RunStore

    store = RunStore(folder / "runs")
    run = store.open("l0-block-1")
    source = {"folder": run.folder, "run": run, "several": [run, store.open("l0-push-0")]}[given]
    page = Page(write_report(source, tmp_path / "out.html").read_text(encoding="utf-8"))
    assert "l0-block-1" in page.text
    assert "Shared endpoint not separated." in page.text
    means = [t for t in page.blocks["alignment-data"]["data"] if t["meta"] == "mean"]
    assert len(means) == (2 if given == "several" else 1)
    planted = np.nanmean(planted_alignment("block", 1), axis=1)
    np.testing.assert_allclose(means[0]["y"], planted, rtol=1e-4)


def test_a_run_without_records_still_has_a_report(tmp_path):
    from workbench.plots.report import write_report
    from workbench.store import RunStore

    run = RunStore(tmp_path).create({}, "begun")
    page = Page(write_report(run, tmp_path / "out.html").read_text(encoding="utf-8"))
    assert "begun: running" in page.text


def test_a_folder_that_holds_nothing_is_refused(tmp_path):
    from workbench.errors import RunError
    from workbench.plots.report import write_report

    with pytest.raises(RunError, match="neither an experiment"):
        write_report(tmp_path, tmp_path / "out.html")
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        write_report(tmp_path, tmp_path / "out.html")


@pytest.fixture
def opened(browser):
    """Open a report; return its tab, what it asked for and what went wrong."""

    def open_report(path):
        tab = browser.new_page(viewport={"width": 1280, "height": 800})
        asked, wrong = [], []
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: wrong.append(message.text))
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.goto(path.resolve().as_uri())
        tab.wait_for_function(
            "[...document.querySelectorAll('.plot, .workbench-plot')]"
            ".every((p) => p.querySelector('.main-svg'))"
        )
        return tab, asked, wrong

    return open_report


@pytest.mark.browser
def test_a_browser_draws_every_figure_and_asks_for_nothing(report, opened):
    tab, asked, wrong = opened(report)
    assert tab.locator(".plot .main-svg").count() >= 9
    assert tab.locator("[data-title*='Share']").count() == 0
    assert asked == [report.resolve().as_uri()]
    assert wrong == []


@pytest.mark.browser
def test_choosing_an_arm_and_a_seed_shows_its_heat_map(report, opened):
    tab, _, wrong = opened(report)
    panel = tab.locator(".workbench-view").first
    panel.get_by_label("seed", exact=True).select_option("2")
    panel.get_by_label("arm", exact=True).select_option("push")
    first = "document.querySelector('.workbench-plot')"
    tab.wait_for_timeout(500)
    shown = tab.evaluate(f"{first}._fullData[0].z.map((row) => [...row])")
    expected = planted_alignment("push", 2).T
    np.testing.assert_allclose(np.array(shown, dtype=float), expected, rtol=1e-4)
    scale = tab.evaluate(f"(({{cmin, cmax}}) => [cmin, cmax])({first}._fullLayout.coloraxis)")
    assert scale == [-1, 1]
    assert wrong == []


@pytest.mark.browser
def test_a_browser_runs_no_hostile_name(hostile_report, opened):
    tab, asked, wrong = opened(hostile_report)
    assert tab.evaluate("window.broken") is None
    assert len(asked) == 1
    assert wrong == []
    assert "<script>" in tab.locator(".workbench-view select").first.inner_text()
