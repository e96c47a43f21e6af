"""What others wrote stays text: in pages, figures, files, on the terminal, and in names of files."""

import base64
import hashlib
import html
import json
import os
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import planted_hostile as hostile
import pytest
from planted_hostile import HACK, RAW, SHORT, TEXTS, file_name, inert_terminal

from workbench.text import printable

PLOTLY_TAGS = {"<i>", "</i>", "<sub>", "</sub>", "<b>", "</b>", "<br>", "<extra>", "</extra>"}
"""The markup of our own figures."""

TAGS = set(
    "html head meta title style body noscript script h1 h2 p b i sub ul li small br div figure "
    "figcaption footer table caption thead tbody tr th td".split()
)
MARKS = {name: printable(text)[:14].strip() for name, text in SHORT.items()}
"""What is seen of each, at the least."""


class Page(HTMLParser):
    """Whatever of a page is not plain text of ours, and its JSON blocks."""

    def __init__(self, text):
        super().__init__()
        self.faults, self.scripts, self.blocks, self.text, self.policy = [], [], {}, "", ""
        self.inside = ("", {})
        self.feed(text)
        self.close()
        allowed = re.findall(r"'sha256-([^']*)'", self.policy)
        found = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in self.scripts]
        if allowed != found or not self.policy.startswith("default-src 'none'; script-src 'sha"):
            self.faults.append(f"policy {self.policy}")
        for name, block in self.blocks.items():
            self.faults += [f"{name}: {fault}" for fault in faults_of(block)]
        if len(self.scripts) != 2:
            self.faults.append(f"{len(self.scripts)} scripts")
        if not inert_terminal(self.text.replace("\xa0", " ")):
            self.faults.append("a control character in the text")

    def handle_starttag(self, tag, attrs):
        self.inside = (tag, dict(attrs))
        if tag not in TAGS:
            self.faults.append(f"tag {tag}")
        for name, value in attrs:
            if name.startswith("on") or name in ("src", "href", "srcdoc", "action"):
                self.faults.append(f"attribute {name}")
            if not (value or "").isprintable():
                self.faults.append(f"attribute {name} with a control character")
        if dict(attrs).get("http-equiv"):
            self.policy = dict(attrs)["content"]

    def handle_endtag(self, _):
        self.inside = ("", {})

    def handle_comment(self, data):
        self.faults.append(f"comment {data}")

    def handle_data(self, data):
        tag, attrs = self.inside
        if tag == "script" and attrs.get("type") == "application/json":
            self.blocks[attrs["id"]] = json.loads(data)
        elif tag == "script":
            self.scripts.append(data)
        elif tag == "style":
            self.faults += re.findall(r"url\(|@import|expression", data)
        else:
            self.text += data


def faults_of(told, drawn=False, key=""):
    """What in JSON values a browser would show otherwise than as text.

    Args:
        told: The values.
        drawn: Whether they are a figure's, in whose text plotly knows markup.
        key: Under which they stand.
    """
    if isinstance(told, dict):
        return [f for k, v in told.items() for f in faults_of(v, drawn or _is_figure(k), k)] + [
            f"key {k!r}" for k in told if not k.isprintable()
        ]
    if isinstance(told, list):
        return [fault for one in told for fault in faults_of(one, drawn, key)]
    if not isinstance(told, str):
        return []
    faults = [] if told.isprintable() else [f"{key} has a control character: {told[:80]!r}"]
    if drawn:
        faults += [f"{key}: {t}" for t in re.findall(r"</?\w[^>]*>?", told) if t not in PLOTLY_TAGS]
    if key.endswith("template") and isinstance(told, str):
        faults += [f"{key}: {told}" for mark in (HACK, "{strength}", "%s", "__") if mark in told]
    return faults


def _is_figure(key):
    return key in ("figure", "data", "layout") or key.endswith((" data", " layout"))


def strings_of(told):
    """All strings of JSON values, keys too."""
    if isinstance(told, dict):
        return [*told, *(s for one in told.values() for s in strings_of(one))]
    if isinstance(told, list):
        return [s for one in told for s in strings_of(one)]
    return [told] if isinstance(told, str) else []


def seen_in(page):
    """Which of the texts a page shows, somewhere."""
    shown = page.text + html.unescape("\n".join(strings_of(page.blocks)))
    return {name for name, mark in MARKS.items() if mark in shown}


@pytest.fixture(scope="module", autouse=True)
def without_plotly():
    """Its 5 MB need not be parsed each time; the browser tests have it."""
    from workbench.plots import page

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(page, "get_plotlyjs", lambda: "void 0")
        yield


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return hostile.hostile_experiment(
        tmp_path_factory.mktemp("experiments") / file_name(TEXTS["image"] + TEXTS["byte"])
    )


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evidence") / file_name(TEXTS["svg"])
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps(hostile.hostile_summary()))
    return folder


@pytest.fixture(scope="module")
def lone(experiment, tmp_path_factory):
    """The run of one arm under every name that a folder can have."""
    from workbench.runs import Run

    source = next((experiment / "runs").iterdir())
    folder = tmp_path_factory.mktemp("named")
    runs = {}
    for name, text in SHORT.items():
        place = folder / name / file_name(text)
        shutil.copytree(source, place)
        runs[name] = Run(place)
        info = runs[name].info
        runs[name].write_info(info | {"config": info["config"] | {"arm": None}})
    return runs


# ---- pages


def test_a_page_that_is_not_inert_would_be_noticed():
    assert Page(RAW).faults
    for name in ("script", "script-end", "image", "svg", "link", "frame", "style", "comment"):
        text = f'<body><p title="{TEXTS[name]}">{TEXTS[name]}</p>'
        faults = Page(text).faults
        assert [one for one in faults if not one.startswith(("policy", "0 scripts"))], name
    assert faults_of({"name": TEXTS["bidi"]}) and not faults_of({"name": TEXTS["image"]})
    assert faults_of({"data": [{"name": TEXTS["link"]}]})
    assert faults_of({"hovertemplate": f"{TEXTS['placeholder']}: %{{y}}"})
    assert not faults_of({"data": [{"name": "&lt;img&gt; <i>v</i>", "hovertemplate": "%{y}"}]})


def test_the_report_of_a_hostile_experiment_is_inert(experiment, tmp_path):
    from workbench.plots.report import write_report

    page = Page(write_report(experiment, tmp_path / "out.html").read_text(encoding="utf-8"))
    assert page.faults == []
    assert len(seen_in(page)) > 25
    assert "window.__hacked=1" in page.text


def test_the_report_of_hostile_evidence_is_inert(evidence, tmp_path):
    from workbench.plots.report import write_report

    page = Page(write_report(evidence, tmp_path / "out.html").read_text(encoding="utf-8"))
    assert page.faults == []
    assert len(seen_in(page)) > 20


@pytest.mark.parametrize("name", ["script-end", "byte", "escape", "bidi", "separators", "zalgo"])
def test_a_run_in_a_folder_of_a_hostile_name_is_shown_as_text(lone, name, tmp_path):
    from workbench.plots.report import write_report
    from workbench.widgets import LiveRun

    run, out = lone[name], tmp_path / "out.html"
    live = LiveRun(run)
    live.wait(5.0)
    for written in (write_report(run, out), live.save(tmp_path / "live.html")):
        assert Page(written.read_text(encoding="utf-8")).faults == []
    assert faults_of(json.loads(live.view)) + faults_of(json.loads(live.tables)) == []
    assert faults_of(dict(live.status)) == []
    assert live.status["words"].startswith("failed: step 100")
    assert inert_terminal(repr(live))


def test_saved_views_of_hostile_runs_grids_and_courses_are_inert(experiment, tmp_path):
    from workbench.plots.course import course
    from workbench.widgets import AblationSlider, LayerExplorer, LiveFigure, RunComparison

    figure = course(hostile.hostile_course())
    views = (
        LayerExplorer(experiment),
        RunComparison(experiment),
        AblationSlider(hostile.hostile_grid()),
        LiveFigure(figure),
    )
    for view in views:
        page = Page(view.save(tmp_path / "view.html").read_text(encoding="utf-8"))
        assert page.faults == [], type(view)
        assert len(seen_in(page)) > 6 or type(view) is LiveFigure
        assert faults_of(json.loads(view.view)) + faults_of(json.loads(view.tables)) == []
        assert faults_of(view.figure().to_plotly_json()["layout"], drawn=True) == []


def test_the_geometry_of_a_lone_run_says_its_name_as_text():
    from workbench.plane import Placed
    from workbench.plots.geometry import _told
    from workbench.plots.scene import Track
    from workbench.runs import Run

    placed = Placed(*(np.zeros(2) for _ in Placed.__dataclass_fields__))
    track = Track(Run("x"), TEXTS["link"], TEXTS["link"], np.array([0, 1]), placed)
    assert faults_of(_told(track), drawn=True) == []
    assert _told(replace(track, arm="block"))[0].startswith("block, &lt;a href=")


def test_status_of_a_panel_is_printable_whatever_an_error_quotes(lone):
    from workbench.widgets import LayerExplorer

    panel = LayerExplorer(lone["escape"])
    for text in SHORT.values():
        panel.status = {"words": text, "busy": False, "answer": [text, text]}
        assert [s for s in strings_of(dict(panel.status)) if not s.isprintable()] == []
        json.dumps(dict(panel.status), ensure_ascii=False).encode()  # as it is sent
    assert panel.status["words"].startswith("e\u0301") or panel.status["words"]
