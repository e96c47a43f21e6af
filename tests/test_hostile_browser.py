"""In a real browser nothing that others wrote runs, asks for anything, or is more than text."""

import json
from pathlib import Path

import lab
import planted_hostile as hostile
import pytest
from planted_hostile import RAW, TEXTS, file_name

from workbench.config import sealed

pytestmark = pytest.mark.browser

WATCH = """
window.__seen = [];
for (const name of ["alert", "confirm", "prompt", "open", "print"])
  window[name] = (...told) => { window.__seen.push([name, ...told]); };
addEventListener("securitypolicyviolation", (event) =>
  window.__seen.push(["policy", event.violatedDirective, event.blockedURI]));
"""

MARKUP = """() => {
  const found = [];
  for (const one of document.querySelectorAll("WITHIN *")) {
    for (const { name, value } of one.attributes) {
      if (/^on/i.test(name)) found.push(`${one.tagName} ${name}`);
      if (/^\\s*javascript:/i.test(value)) found.push(`${one.tagName} ${name}=${value}`);
    }
    if (one.matches("a:not(.modebar-btn), a[href], img, iframe, object, embed, link, base, form")
        || one.localName === "foreignObject") found.push(one.outerHTML.slice(0, 200));
  }
  return found;
}"""
"""Elements and attributes that no page of ours has."""
PAGE, VIEWS = (MARKUP.replace("WITHIN", place) for place in ("html", ".workbench-view"))


class Watched:
    """A page, and everything that it does beyond showing itself."""

    def __init__(self, browser):
        self.context = browser.new_context(viewport={"width": 1280, "height": 900})
        self.page = self.context.new_page()
        self.page.add_init_script(WATCH)
        self.asked, self.wrong, self.heard = [], [], []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("dialog", lambda dialog: (self.wrong.append(dialog.message), dialog.dismiss()))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", self._heard)
        self.context.on("page", lambda page: page is self.page or self.wrong.append("a new page"))

    def _heard(self, message):
        if message.type in ("error", "warning"):
            self.heard.append(message.text)

    def hacked(self):
        return self.page.evaluate("[window.__hacked ?? null, window.__seen]")

    def open(self, path):
        self.page.goto(Path(path).absolute().as_uri())
        self.page.wait_for_load_state("load")
        if self.page.locator(".plot, .workbench-plot").count():
            self.page.wait_for_function(
                "[...document.querySelectorAll('.plot, .workbench-plot')]"
                ".every((plot) => plot.querySelector('.main-svg'))"
            )
        return self

    def hover(self, most=6):
        """Point at traces and legends: labels are drawn then."""
        for plot in self.page.locator(".main-svg .plotly, .nsewdrag").all()[:most]:
            box = plot.bounding_box()
            if box is None:
                continue
            for share in (0.15, 0.5, 0.85):
                x, y = box["x"] + share * box["width"], box["y"] + share * box["height"]
                self.page.mouse.move(x, y)
        self.page.wait_for_timeout(50)

    def check(self, path):
        """Nothing ran, nothing was asked for, nothing is markup."""
        assert self.hacked() == [None, []]
        assert (self.wrong, self.heard) == ([], [])
        assert {url.split("#")[0] for url in self.asked} <= {Path(path).absolute().as_uri()}
        assert self.page.evaluate(PAGE) == []


@pytest.fixture
def watched(browser):
    opened = []

    def make():
        opened.append(Watched(browser))
        return opened[-1]

    yield make
    for one in opened:
        one.context.close()


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    name = file_name(TEXTS["image"] + TEXTS["attribute"])
    return hostile.hostile_experiment(tmp_path_factory.mktemp("experiments") / name)


def test_the_canary_fires_where_text_is_taken_for_markup(watched, tmp_path):
    (tmp_path / "raw.html").write_text(RAW, encoding="utf-8")
    tab = watched().open(tmp_path / "raw.html")
    tab.page.wait_for_function("window.__hacked")
    assert len(tab.asked) == 2
    for name in ("svg", "link", "frame", "attribute", "web-link"):
        body = f"<p title='{TEXTS[name]}'>{TEXTS[name]}"
        (tmp_path / "raw.html").write_text(f"<!DOCTYPE html>{body}", encoding="utf-8")
        tab.open(tmp_path / "raw.html")
        assert tab.page.evaluate(PAGE), name


def test_a_hostile_report_shows_its_text_and_does_nothing(experiment, watched, tmp_path):
    from workbench.plots.report import write_report

    path = write_report(experiment, tmp_path / file_name(TEXTS["svg"] + ".html"))
    tab = watched().open(path)
    tab.hover()
    for select in tab.page.locator("select").all()[:4]:
        for option in range(min(5, select.locator("option").count())):
            select.select_option(index=option)
    tab.page.wait_for_timeout(100)
    tab.check(path)
    shown = tab.page.locator("body").inner_text()
    for name in ("script-end", "image", "svg", "web-link", "comment", "style"):
        assert TEXTS[name][:20] in shown, name
    legend = " ".join(tab.page.locator(".legendtext").all_text_contents())
    assert "%{customdata} %{y:.2f}" in legend
    assert "<img src=x onerror=" in legend and '<a href="javascript:' in legend
    tab.page.screenshot(path=tmp_path / "report.png", full_page=True)


def test_hostile_evidence_does_nothing(watched, tmp_path):
    from workbench.plots.report import write_report

    (tmp_path / "in").mkdir()
    (tmp_path / "in/summary.json").write_text(json.dumps(sealed(hostile.hostile_summary())))
    path = write_report(tmp_path / "in", tmp_path / "report.html")
    tab = watched().open(path)
    tab.hover()
    tab.check(path)
    assert "window.__hacked=1" in tab.page.locator("body").inner_text()
    tab.page.screenshot(path=tmp_path / "evidence.png", full_page=True)


@pytest.mark.parametrize("kind", ["explorer", "comparison", "slider", "live", "figure"])
def test_a_saved_hostile_view_does_nothing(kind, experiment, watched, tmp_path):
    from workbench.plots.course import course
    from workbench.runs import Run
    from workbench.widgets import AblationSlider, LayerExplorer, LiveFigure, LiveRun, RunComparison

    made = {
        "explorer": lambda: LayerExplorer(experiment),
        "comparison": lambda: RunComparison(experiment),
        "slider": lambda: AblationSlider(hostile.hostile_grid()),
        "live": lambda: LiveRun(Run(next((experiment / "runs").glob("[<]*")))),
        "figure": lambda: LiveFigure(course(hostile.hostile_course())),
    }[kind]()
    path = made.save(tmp_path / "view.html")
    tab = watched().open(path)
    tab.hover()
    for select in tab.page.locator("select").all():
        for option in range(min(6, select.locator("option").count())):
            select.select_option(index=option)
            tab.page.wait_for_timeout(20)
    tab.check(path)
    tab.page.screenshot(path=tmp_path / f"{kind}.png", full_page=True)


@pytest.mark.parametrize("kind", ["export", "plotly"])
def test_an_exported_hostile_figure_does_nothing(kind, watched, tmp_path):
    from workbench.plots.course import course
    from workbench.plots.paper.export import export

    figure, path = course(hostile.hostile_course()), tmp_path / "figure.html"
    if kind == "export":
        words = " ".join(hostile.SHORT.values())
        export(figure, path, caption=words, provenance=hostile.SHORT)
    else:
        figure.write_html(path)
    tab = watched()
    tab.page.goto(path.as_uri())
    tab.page.wait_for_selector(".main-svg")
    tab.hover()
    tab.check(path)
    assert tab.page.locator("[data-title*='hare'], [data-title*='loud']").count() == 0


def test_a_drawn_svg_and_pdf_of_the_browser_hold_text_alone(tmp_path):
    from test_hostile_text import faults_of_svg

    from workbench.plots.course import course
    from workbench.plots.paper.export import Press

    figure = course(hostile.hostile_course())
    with Press() as press:
        for suffix in ("svg", "pdf"):
            told = {"caption": TEXTS["lines"], "provenance": hostile.SHORT}
            press.export(figure, tmp_path / f"figure.{suffix}", **told)
        assert press.remark is None
    assert faults_of_svg((tmp_path / "figure.svg").read_bytes()) == []
    assert b"/JavaScript" not in (tmp_path / "figure.pdf").read_bytes()
    assert b"/URI" not in (tmp_path / "figure.pdf").read_bytes()


CELLS = (
    "import sys; sys.path.insert(0, {tests!r})\n"
    "import planted_hostile as hostile, workbench as wb\n"
    "from pathlib import Path\n"
    "folder = next(Path({folder!r}).iterdir())\n"
    "explorer = wb.LayerExplorer(folder)\nexplorer",
    "wb.RunComparison(folder)",
    "from workbench.plots.slider import slider\n"
    "from workbench.widgets.panel import Panel\n"
    "told = {{'words': hostile.TEXTS['image'], 'answer': list(hostile.SHORT.values())}}\n"
    "Panel(slider(hostile.hostile_grid(), ask=True), status=told)",
    "live = wb.LiveRun(next((folder / 'runs').glob('[<]*')))\nlive",
    "from workbench.plots.course import course\nwb.LiveFigure(course(hostile.hostile_course()))",
    "course(hostile.hostile_course())",
    "live.run",
    "try:\n    wb.Run(folder / hostile.file_name(hostile.TEXTS['escape'])).checked()\n"
    "except wb.WorkbenchError as error:\n    print(error)\n    raise",
)
RAW_CELL = "from IPython.display import HTML\nHTML({raw!r})"


def test_widgets_of_hostile_things_in_jupyterlab_do_nothing(experiment, tmp_path_factory, watched):
    place = tmp_path_factory.mktemp("lab")
    tests = str(Path(__file__).parent)
    cells = [cell.format(tests=tests, folder=str(experiment.parent)) for cell in CELLS]
    lab.write_notebook(place / "hostile.ipynb", *cells)
    lab.write_notebook(place / "raw.ipynb", RAW_CELL.format(raw=TEXTS["image"]))
    with lab.serve(place) as address:
        tab = watched()
        lab.open_notebook(tab.page, address, "hostile.ipynb")
        lab.run_all(tab.page)
        lab.wait_until_drawn(tab.page)
        tab.page.wait_for_timeout(300)
        tab.hover()
        assert tab.hacked() == [None, []]
        own = (address, address.replace("http", "ws"), "blob:", "data:")
        assert [url for url in tab.asked if not url.startswith(own)] == []
        assert [told for told in tab.wrong if "Canceled future" not in told] == []
        assert tab.page.evaluate(VIEWS) == []
        answer = " ".join(tab.page.locator(".workbench-answer p").all_text_contents())
        assert "<img src=x onerror=" in answer
        shown = tab.page.locator(".jp-OutputArea-output pre").last.text_content()
        assert shown.isprintable() or "\x1b" not in shown
        tab.page.screenshot(path=place / "lab.png")
        raw = watched().page
        lab.open_notebook(raw, address, "raw.ipynb")
        lab.run_all(raw)
        raw.wait_for_function("window.__hacked")  # output of one's own cell is trusted
