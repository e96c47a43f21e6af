"""What others wrote stays text: in pages, figures, files, on the terminal, in names of files."""

import base64
import hashlib
import html
import json
import os
import re
import shutil
import subprocess
import sys
import termios
import traceback
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import planted_hostile as hostile
import plotly.graph_objects as go
import pytest
from planted_hostile import HACK, RAW, SHORT, TEXTS, file_name, inert_terminal

from workbench.cli import main
from workbench.config import Recipe, sealed
from workbench.errors import ConfigError, RunError
from workbench.runs import Run
from workbench.store import RunStore
from workbench.text import printable

PLOTLY_TAGS = {"<i>", "</i>", "<sub>", "</sub>", "<b>", "</b>", "<br>", "<extra>", "</extra>"}
"""The markup of our own figures."""

TAGS = """
    html head meta title style body noscript script h1 h2 p b i sub ul li small br div figure
    figcaption footer table caption thead tbody tr th td
""".split()  # noqa: SIM905
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
        found = [
            base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in self.scripts
        ]
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
    if drawn and not key.endswith("template") and "%{" in told:
        faults.append(f"{key}, in which plotly fills in placeholders: {told}")
    if key.endswith("template"):
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
    (folder / "summary.json").write_text(json.dumps(sealed(hostile.hostile_summary())))
    return folder


@pytest.fixture(scope="module")
def lone(experiment, tmp_path_factory):
    """The run of one arm under every name that a folder can have."""

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
    assert faults_of({"data": [{"name": "%{meta.caption}"}]})
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


# ---- files for a paper


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """A hostile course in every format, drawn without a browser; hostile captions and facts."""
    from workbench.plots.course import course
    from workbench.plots.paper.export import export

    folder = tmp_path_factory.mktemp("printed")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("BROWSER_PATH", "/nowhere")
        for suffix in ("svg", "pdf", "png", "html"):
            with warnings.catch_warnings(action="ignore"):
                export(
                    course(hostile.hostile_course()),
                    folder / f"course.{suffix}",
                    caption=" ".join(SHORT.values()),
                    provenance=SHORT | {text: name for name, text in SHORT.items()},
                )
    return folder


def faults_of_svg(content):
    faults = []
    for element in ElementTree.fromstring(content).iter():
        tag = element.tag.rpartition("}")[2]
        if tag in ("script", "a", "foreignObject", "iframe", "animate", "set"):
            faults.append(tag)
        for name, value in element.attrib.items():
            name = name.rpartition("}")[2]
            outside = name == "href" and not value.startswith(("#", "data:image/png;base64,"))
            if name.startswith("on") or outside or "url(h" in value or "javascript" in value:
                faults.append(f"{name}={value}")
        if not re.sub("[\n\xa0\u200b]", "", element.text or "").isprintable():
            faults.append(f"{tag}: {element.text!r}")
    return faults


def test_an_exported_svg_is_text_and_shapes_alone(printed):
    content = (printed / "course.svg").read_bytes()
    assert faults_of_svg(content) == []
    assert b"window.__hacked" in content  # as text
    for harm in ("<script/>", '<a href="#x"/>', '<g onload="x"/>', '<use href="http://x"/>'):
        assert faults_of_svg(f"<svg>{harm}</svg>")


def test_an_exported_pdf_acts_on_nothing(printed):
    content = (printed / "course.pdf").read_bytes()
    acting = rb"/(JavaScript|JS|URI|Launch|OpenAction|AA|EmbeddedFile|SubmitForm|GoToR)\b"
    assert re.findall(acting, content) == []
    assert re.findall(acting, b"<</OpenAction <</S /JavaScript>>>>") == [
        b"OpenAction",
        b"JavaScript",
    ]
    info = re.search(rb"<<(/Title.*?)>>\nendobj", content, re.S)[1].decode("ascii")
    for entry in info.splitlines():
        assert re.fullmatch(r"/[\w#]+ <[0-9a-f]+>", entry), entry


def test_the_facts_in_a_png_are_text_chunks_of_one_line(printed):
    content = (printed / "course.png").read_bytes()
    chunks = re.findall(rb"tEXt([^\0]{1,79})\0([^\0]*?).{4}(?=.{4}[a-zA-Z]{4})", content, re.S)
    assert len(chunks) >= 2 * len(SHORT) - 4
    assert b"\x1b" not in b"".join(key + value for key, value in chunks[:50])


def test_captions_and_pages_beside_a_figure_are_inert(printed):
    assert inert_terminal((printed / "course.txt").read_text(encoding="utf-8"))
    page = Page((printed / "course.html").read_text(encoding="utf-8"))
    assert page.faults == []
    assert len(seen_in(page)) > 25


def test_a_plotly_page_of_a_figure_holds_no_markup_of_others(tmp_path):
    from workbench.plots.course import course

    course(hostile.hostile_course()).write_html(tmp_path / "plain.html", include_plotlyjs=False)
    text = (tmp_path / "plain.html").read_text(encoding="utf-8")
    tags = {tag.lower() for tag in re.findall(r"<([a-zA-Z!]+)", text)}
    assert tags <= {"!doctype", "html", "head", "meta", "style", "body", "div", "script"}
    assert len(re.findall(r"</script", text)) == len(re.findall(r"<script", text)) == 1


def test_a_latex_table_has_no_command_of_others():
    from workbench.plots.paper.latex import summary_latex

    summary = hostile.hostile_summary()
    told = SHORT | {text: name for name, text in SHORT.items()}
    lines = summary_latex(summary, told).splitlines()
    code = "\n".join(line for line in lines if not line.startswith("%"))
    known = (
        "begin end centering small caption label toprule midrule bottomrule linewidth texttt ldots "
        "textbackslash textasciicircum textasciitilde textless textgreater textbar pm to times leq "
        "geq Vert theta rho alpha lambda delta cdot mathrm"
    )
    assert {*re.findall(r"\\([a-zA-Z]+)", code)} <= {*known.split()}
    assert "input" in re.findall(r"\\([a-zA-Z]+)", TEXTS["latex"])  # it would have been seen
    assert not re.search(r"(?<!\\)%", code)
    bare = re.sub(r"\\.", "", code)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert inert_terminal("\n".join(lines))
    assert all(
        line.isascii() or line.startswith("%") or max(map(ord, line)) < 0x100 for line in lines
    )


# ---- where it is written


WRITING = {
    "os.mkdir": 0,
    "os.rename": 1,
    "os.link": 1,
    "os.symlink": 1,
    "os.remove": 0,
    "os.rmdir": 0,
}
"""Audit events that change a folder, and which argument says where."""

_noted: list[list[str]] = []


def _note(event, arguments):
    if not _noted or (event != "open" and event not in WRITING):
        return
    place = arguments[WRITING.get(event, 0)]
    if event == "open":
        _, mode, flags = arguments
        opened = set(str(mode or "")) & set("wax+") or flags & (
            os.O_WRONLY | os.O_RDWR | os.O_CREAT
        )
        if not opened or isinstance(place, int) or Path(place).is_dir():  # a file without a name
            return
    _noted[-1].append(os.path.realpath(os.fsdecode(place)))


sys.addaudithook(_note)


@pytest.fixture
def written(tmp_path):  # noqa: ARG001 – made before anything is noted
    """Paths of whatever is made, moved, removed or opened to be written, meanwhile."""
    _noted.append([])
    yield _noted[-1]
    _noted.pop()


def outside(paths, *folders):
    """Those of the paths that lie below none of the folders, nor are the system's own."""
    roots = [os.path.realpath(one) for one in (*folders, "/dev/null", "/proc")]
    within = lambda path: any(path == r or path.startswith(r + os.sep) for r in roots)  # noqa: E731
    return [path for path in paths if not within(path) and "__pycache__" not in path]


def test_a_write_outside_would_be_noticed(written, tmp_path):
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("x")
        (tmp_path / name / "x").rename(tmp_path / name / "y")
    (tmp_path / "in/link").symlink_to(tmp_path / "out")
    (tmp_path / "in/link/z").write_text("z")
    found = [Path(path).relative_to(tmp_path) for path in outside(written, tmp_path / "in")]
    assert [*map(str, found)] == ["out", "out/x", "out/y", "out/z"]


def test_exports_lie_below_out_and_no_two_are_one_file(experiment, said, tmp_path, written):
    said("export", experiment, "--format", "html", "--out", tmp_path / "out")
    assert outside(written, tmp_path / "out") == []
    names = [path.name for path in (tmp_path / "out").iterdir()]
    assert len({name.lower() for name in names}) == len(names) > 15
    assert all(re.fullmatch(r"[\w.-]{1,90}", name) for name in names)


@pytest.mark.parametrize("name", ["../../x", "/etc/x", ".."])
def test_a_figure_that_is_a_path_is_refused(experiment, said, tmp_path, written, name):
    told = said("export", experiment, "--figure", name, "--out", tmp_path / "out")
    assert "No figure" in told
    assert written == []


def test_a_link_in_place_of_a_report_is_replaced_and_not_followed(lone, said, tmp_path, written):
    (tmp_path / "out").mkdir()
    (tmp_path / "victim").write_text("untouched")
    (tmp_path / "out/report.html").symlink_to(tmp_path / "victim")
    del written[:]
    said("report", lone["script"].folder, "--out", tmp_path / "out/report.html")
    assert (tmp_path / "victim").read_text() == "untouched"
    assert not (tmp_path / "out/report.html").is_symlink()


NAMES = (
    *TEXTS.values(), "A", "a", "é", "e\u0301", "CON", "nul.txt", "..", ".", "", " ", "/", "/etc/x",
    "a/b", "a-b", "a b", "x" * 300, "é" * 200,
)  # fmt: skip


def test_names_of_phases_become_different_files_in_the_passage(tmp_path):
    from workbench.passage import phase_file

    names = [name for name in dict.fromkeys(NAMES) if name != TEXTS["surrogate"]]
    files = [phase_file(tmp_path, name) for name in names if name != TEXTS["byte"]]
    assert {path.parent for path in files} == {tmp_path / "phases"}
    assert len({path.name.lower() for path in files}) == len(files)
    assert all(re.fullmatch(r"[\w.-]{1,90}", path.name) for path in files)


def test_names_of_figures_are_slugs_that_differ_in_more_than_case():
    from workbench.plots.slug import distinct, slug

    names = distinct(f"heatmap-{slug(name)}" for name in NAMES)
    assert len({name.lower() for name in names}) == len(NAMES)
    assert all(re.fullmatch(r"heatmap-[\w.-]{1,70}", name) for name in names)
    assert distinct(["a", "A", "a", "a-2"]) == ["a", "A-2", "a-3", "a-2-2"]


def test_grids_of_runs_that_would_have_one_name_are_all_kept(lone, tmp_path):
    from workbench.plots.from_runs import grids_of

    grid, runs = hostile.hostile_grid(), []
    for place, name in enumerate(("a b", "a-b", "A-b", "b/A-b")):
        shutil.copytree(lone["script"].folder, tmp_path / name)
        (tmp_path / name / "ablation").mkdir()
        told = {**grid.provenance, "created": str(place)}
        replace(grid, provenance=told).save(tmp_path / name / "ablation/x.json")
        runs.append(Run(tmp_path / name))
    found = grids_of(runs)
    assert [*found] == ["ablation-a-b", "ablation-a-b-2", "ablation-A-b-3", "ablation-A-b-4"]
    assert [one.provenance["created"] for one in found.values()] == ["0", "1", "2", "3"]


def test_lineages_whose_slugs_are_equal_have_a_plane_each(monkeypatch):
    from workbench.plots import from_runs

    drawn = {"é": 1, "日": 2, "A": 3, "a": 4}

    class Ground:
        lineages = drawn

        def scene(self, lineage):
            return lineage

    def draw(scene, _):
        return go.Figure(layout={"meta": {"caption": scene}})

    stand_ins = {"snapshots": list, "read_ground": lambda _: Ground(), "draw_scene": draw}
    for name, stand_in in (stand_ins | {"source_styles": lambda _: {}}).items():
        monkeypatch.setattr(from_runs, name, stand_in)
    sections = from_runs.geometry_sections([Run("x")])
    assert [one.caption for one in sections] == [*drawn]
    assert [one.name for one in sections] == [
        "geometry-unnamed", "geometry-unnamed-2", "geometry-A", "geometry-a-2"
    ]  # fmt: skip


def test_runs_of_one_name_or_none_below_the_folder_are_refused_before_anything_is_read(
    inputs_folder, tmp_path, written
):
    from workbench.arms import Arm
    from workbench.experiment import _unique_names, run_experiment
    from workbench.inputs import Inputs

    given = Inputs.beside(inputs_folder)
    held = given.load()
    for names in (("../../x",), ("/etc/x",), ("a/b",), ("é" * 200,), ("A", "a"), (TEXTS["c1"],)):
        with pytest.raises(ConfigError, match=r"is not a name for a run|Two runs would be called"):
            run_experiment(
                given, arms=[Arm(name) for name in names], seeds=[0], recipe=Recipe(steps=1),
                out=tmp_path / "out",
            )  # fmt: skip
    assert outside(written) == []

    def called(*names):
        return _unique_names(replace(held, lineage=replace(held.lineage, name=n)) for n in names)

    for names in (("A", "a"), ("a b", "a-b"), ("../a", "a"), ("日", "本"), ("x" * 300, "x" * 301)):
        with pytest.raises(ConfigError, match="Two lineages are called"):
            called(*names)
    assert called("é", "e\u0301") == ["lineage", "e"]
    for name in NAMES:
        assert re.fullmatch("[a-z0-9-]{1,100}", called(name)[0])


@pytest.mark.parametrize(
    "name", [n for n in dict.fromkeys(NAMES) if n and len(n.encode("utf-8", "surrogatepass")) < 256]
)
def test_a_run_lies_below_its_store_or_nowhere(name, tmp_path, written):
    try:
        run = RunStore(tmp_path / "runs").create({}, name)
    except RunError as error:
        assert str(error).isprintable()
        assert not (tmp_path / "runs").exists() or not any((tmp_path / "runs").iterdir())
    else:
        assert run.folder.parent == tmp_path / "runs"
        assert name.isprintable()
    assert outside(written, tmp_path / "runs") == []


# ---- the terminal


@pytest.fixture(scope="module")
def inputs(inputs_folder, tmp_path_factory):
    """A lineage of hostile names, in a folder of one."""
    place = file_name(TEXTS["escape"] + TEXTS["bidi"] + TEXTS["lines"])
    return hostile.hostile_inputs(tmp_path_factory.mktemp("inputs") / place, inputs_folder)


@pytest.fixture
def said(capfd):
    """Run a command; return its status and all that it printed, which must be inert."""

    def run(*argv):
        capfd.readouterr()
        try:
            status = main([str(part) for part in argv])
        except SystemExit as stop:
            status = stop.code
        out, err = capfd.readouterr()
        loud = [line for line in f"{out}\n{err}".split("\n") if not line.isprintable()]
        assert loud == [], argv
        assert status in (0, 2), err
        assert status == 0 or re.fullmatch("workbench: .*\n", err)
        return out if status == 0 else err

    return run


SMALL = ("--steps", "2", "--batch-size", "4")


@pytest.mark.filterwarnings("ignore:.*longer than the")
def test_commands_on_hostile_inputs_print_nothing_but_text_and_write_below_out(
    inputs, said, tmp_path, monkeypatch, written
):
    monkeypatch.setenv("BROWSER_PATH", "/nowhere\x1b[2J\n\u202e")
    out = tmp_path / file_name(TEXTS["c1"] + "\n" + TEXTS["bidi"])
    out.mkdir()
    fitted, run, whole = out / "v.safetensors", out / "run", out / file_name(TEXTS["lines"])
    assert "/nowhere [2J" in said("doctor", inputs)
    assert r"\x1b[31m" in said("directions", inputs, "--out", fitted, "--readout")
    assert "exists" in said("directions", inputs, "--out", fitted)
    scores = json.loads(said("evaluate", inputs, "--json", "--max-new-tokens", "1"))
    assert next(iter(scores)) == TEXTS["escape"]
    assert "[31mred" in said("evaluate", inputs, "--max-new-tokens", "1")
    assert "2 steps" in said("finetune", inputs, "--out", run, *SMALL)
    assert "already used" in said("finetune", inputs, "--out", run, *SMALL)
    done = said("experiment", inputs, "--out", whole, "--arms", "ordinary", "--seeds", "1", *SMALL)
    assert "Beside the paper's numbers" in done
    assert "report.html" in said("report", whole)
    assert "heatmap-ordinary\n" in said("export", whole, "--figure", "list")
    shown = said("export", run, "--figure", "alignment", "--format", "svg")
    assert shown.endswith("alignment.svg\n")
    assert "layers 0, 1, 2" in said("convert", fitted, out / file_name(TEXTS["c1"] + ".npz"))
    import matplotlib

    own = (matplotlib.get_configdir(), matplotlib.get_cachedir())
    assert outside(written, out, *own) == []
    for path in inputs.glob("3*/config.json"):
        path.rename(path.with_name("kept"))
    read = said("read", inputs, "--out", out / file_name(TEXTS["escape"]), "--skip-missing")
    assert "3 of 4 phases" in read
    assert len([*out.rglob("phases/*")]) == 3


@pytest.mark.parametrize("third", [0, 1, 2])
def test_wrong_arguments_are_told_in_one_printable_line(third, said, tmp_path, inputs_folder):
    text = (
        " ".join([*hostile.WORDS.values(), TEXTS["byte"]][third::3])
        .replace("\0", "")
        .replace("/", "\N{DIVISION SLASH}")
    )
    for argv in (
        (text,),
        ("demo", "--seeds", text),
        ("finetune", inputs_folder, "--out", tmp_path / "x", "--intervention", f"a{text}"),
        ("experiment", inputs_folder, "--layers", f"a{text}"),
        ("experiment", inputs_folder, "--arms", f"a{text}", "--out", tmp_path / "x"),
        ("evaluate", f"a{text}"),
        ("report", f"a{text}"),
        ("export", f"a{text}"),
        ("export", tmp_path, "--width", f"a{text}"),
        ("export", tmp_path, "--format", f"a{text}"),
        ("convert", f"a{text}", tmp_path / "x"),
        ("calibrate", "--simulations", f"a{text}"),
        ("lab", "--no-open", f"a{text}"),
        ("organism", f"a{text}", "--out", tmp_path / "x"),
        ("read", f"a{text}", "--out", tmp_path / "x"),
        ("directions", f"a{text}", "--out", tmp_path / "x"),
        ("doctor", "--quiet", f"--{text}"),
    ):
        assert said(*argv).startswith("workbench: "), argv


def test_every_error_of_ours_is_one_printable_line():
    from workbench import errors

    ours = (one for one in vars(errors).values() if isinstance(one, type))
    kinds = [one for one in ours if issubclass(one, errors.WorkbenchError)]
    assert len(kinds) > 10
    for kind in kinds:
        for text in SHORT.values():
            told = str(kind(f"{text}: choose another."))
            assert told.isprintable() and told.endswith(": choose another.")
            assert traceback.format_exception_only(kind(text))[-1].count("\n") == 1
    assert not str(ValueError(TEXTS["escape"])).isprintable()


TERMINAL = """
import sys, time
sys.path.insert(0, {tests!r})
from planted_hostile import SHORT
from workbench import progress
from workbench.cli import main
from workbench.config import Recipe
from workbench.errors import ConfigError, RunError
from workbench.runs import Run
from workbench.store import RunStore
texts = list(SHORT.values())
with progress.Progress(len(texts)) as told:
    for step, text in enumerate(texts):
        told.bar.mininterval = 0
        told(text, 1, 0.5)
with progress.Tally(len(texts), "phase") as told:
    for text in texts:
        told.bar.mininterval = 0
        told(text)
        told.tell(text)
for text in texts:
    text = text.replace("\\0", "")
    try:
        main(["report", "a" + text])
        main(["export", "a" + text, "--width", text])
        main([text])
    except SystemExit:
        pass
print("END")
"""


def test_on_a_terminal_only_the_bars_own_codes_are_seen():
    code = TERMINAL.format(tests=str(Path(__file__).parent))
    leader, follower = os.openpty()
    termios.tcsetwinsize(follower, (40, 200))
    done = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1], stdout=follower, stderr=follower, stdin=subprocess.DEVNULL,
        env=os.environ | {"COLUMNS": "200", "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    os.close(follower)
    seen = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:
            break
        if not part:
            break
        seen += part
    assert done.wait(10) == 0, seen[-2000:]
    os.close(leader)
    text = seen.decode("utf-8")
    assert "%|" in text and text.rstrip().endswith("END")
    left = re.sub(r"\r|\n|\x1b\[A", "", text)  # what tqdm moves its bar by
    assert [c for c in left if not c.isprintable()] == []
    assert "[31mred" in text
