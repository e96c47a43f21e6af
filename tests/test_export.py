"""Exported figures: exact size, embedded fonts, text as text, provenance, and nothing cut."""

import inspect
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from paper_checks import check_pdf, overlapping, page_points, png_chunks, poppler
from planted_experiment import ARMS, build_experiment

FACTS = {"source": "run θ_S (1)", "config hash": "ab12cd34ef56"}
WIDTHS = {"icml-column": 3.25, "neurips": 5.5, "85mm": 85 / 25.4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_experiment(tmp_path_factory.mktemp("experiments") / "planted")


@pytest.fixture(scope="module")
def figures(folder):
    from workbench.plots.catalogue import figures_of

    return figures_of(folder)


@pytest.fixture
def without_browser(monkeypatch):
    """No browser: matplotlib draws."""
    pytest.importorskip("matplotlib", reason="needs the `export` extra")
    monkeypatch.setenv("BROWSER_PATH", "/nowhere/chromium")


@pytest.fixture(scope="module")
def press():
    """One browser for all tests that need one."""
    from workbench.plots.paper import browser
    from workbench.plots.paper.export import Press

    if reason := browser.missing():
        pytest.skip(reason)
    with Press() as shared:
        yield shared


def quiet_export(*arguments, **options):
    """Export without the warning that there is no browser."""
    import workbench

    with pytest.warns(UserWarning, match="apt-get install chromium"):
        return workbench.export(*arguments, **options)


def test_an_experiment_has_its_figures_and_one_heat_map_per_arm(figures):
    wanted = ["alignment", "sibling", "along", "across", "ordering", "cost", "behaviour"]
    assert [name for name in figures if name in wanted] == wanted
    maps = [name for name in figures if name.startswith("heatmap")]
    assert maps == [f"heatmap-{arm}" for arm in ARMS]
    assert all(one.caption and one.provenance["figure"] == name for name, one in figures.items())


def test_a_run_has_its_own_figures(folder):
    from workbench.plots.catalogue import figures_of

    figures = figures_of(folder / "runs" / "l0-block-0")
    assert list(figures) == ["alignment", "along", "across", "behaviour", "heatmap"]
    assert figures["heatmap"].provenance["source"] == "run l0-block-0"


def test_captions_for_paper_speak_of_nothing_that_only_a_screen_has(figures):
    from workbench.plots import captions

    told = " ".join(one.caption for one in figures.values())
    assert not re.search("click|hover|choose", told, re.IGNORECASE)
    assert re.search("click", captions.CAPTIONS["alignment"])  # it would have been seen
    assert "n = 3 runs per arm" in figures["alignment"].caption


@pytest.mark.usefixtures("without_browser")
@pytest.mark.parametrize("width", WIDTHS)
def test_every_figure_fits_its_page_without_a_browser(width, figures, tmp_path):
    for name, one in figures.items():
        path = quiet_export(one.figure, tmp_path / f"{name}.pdf", width=width)
        boxes = check_pdf(path, WIDTHS[width])
        assert not overlapping(boxes), name


def test_words_on_each_other_would_be_seen():
    assert overlapping([(0, 0, 10, 8, "a"), (5, 1, 15, 9, "b"), (20, 0, 30, 8, "c")]) == [
        ("a", "b")
    ]


@pytest.mark.browser
@pytest.mark.parametrize("width", WIDTHS)
def test_every_figure_fits_its_page(width, figures, tmp_path, press):
    for name, one in figures.items():
        path = press.export(one.figure, tmp_path / f"{name}.pdf", width=width)
        boxes = check_pdf(path, WIDTHS[width])
        assert not overlapping(boxes), name


@pytest.mark.browser
def test_both_ways_of_drawing_show_the_same_words_and_page(figures, tmp_path, press, monkeypatch):
    one = figures["alignment"].figure
    path = press.export(one, tmp_path / "a.pdf", width="neurips")
    monkeypatch.setenv("BROWSER_PATH", "/nowhere")
    other = quiet_export(one, tmp_path / "b.pdf", width="neurips")
    assert page_points(path) == pytest.approx(page_points(other), abs=0.3)
    texts = [poppler("pdftotext", each, "-") for each in (path, other)]
    for word in ("alignment:", "fine-tuning", *ARMS, "null,"):
        assert all(word in text for text in texts), word


@pytest.mark.browser
def test_vectors_of_the_browser_are_stamped_and_text_stays_text(figures, tmp_path, press):
    one = figures["heatmap-block"].figure
    svg = press.export(one, tmp_path / "a.svg", width="85mm", provenance=FACTS).read_text()
    assert re.search(r'<svg[^>]*width="3.34646in"', svg)
    assert ">layer</text>" in svg
    assert "<image" not in svg
    assert "config hash: ab12cd34ef56" in svg
    chunks = png_chunks(press.export(one, tmp_path / "a.png", width="single").read_bytes())
    assert struct.unpack(">II", dict(chunks)[b"IHDR"][:8])[0] == 1050


@pytest.mark.browser
@pytest.mark.usefixtures("press")
def test_the_page_given_to_the_browser_asks_for_nothing():
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    from workbench.plots.paper import browser

    async def index():
        opened = await browser._open()
        try:
            return Path(opened._index.removeprefix("file://")).read_text()
        finally:
            await opened.close()

    # In a thread of its own: where another test drives a browser, a loop runs in this one.
    with ThreadPoolExecutor(1) as pool:
        page = pool.submit(asyncio.run, index()).result()
    assert "plotly.min.js" in page
    assert not re.findall(r"https?://", page)
    assert "@page{margin:0}" in page


@pytest.mark.usefixtures("without_browser")
def test_provenance_is_in_every_file_and_the_caption_beside_it(figures, tmp_path):
    one = figures["alignment"]
    for suffix in ("pdf", "svg", "png"):
        quiet_export(one.figure, tmp_path / f"a.{suffix}", caption="n = 3", provenance=FACTS)
    assert "ab12cd34ef56" in poppler("pdfinfo", "-custom", tmp_path / "a.pdf")
    assert "run θ_S (1)" in poppler("pdfinfo", tmp_path / "a.pdf")
    assert "<metadata>source: run θ_S (1)" in (tmp_path / "a.svg").read_text()
    chunks = png_chunks((tmp_path / "a.png").read_bytes())
    assert (b"tEXt", b"config hash\0ab12cd34ef56") in chunks
    assert [content for kind, content in chunks if kind == b"pHYs"] == [
        struct.pack(">IIB", 11811, 11811, 1)
    ]
    told = (tmp_path / "a.txt").read_text()
    assert told.startswith("n = 3\n")
    assert "config hash: ab12cd34ef56" in told


def test_html_is_one_page_that_asks_for_nothing(figures, tmp_path):
    import workbench

    path = workbench.export(
        figures["alignment"].figure, tmp_path / "a.html", caption="a < b", provenance=FACTS
    )
    from plotly.offline import get_plotlyjs

    text = path.read_text().replace(get_plotlyjs().replace("</script", "<\\/script"), "")
    assert not re.findall(r"https?://", text)
    assert "a &lt; b" in text
    assert "ab12cd34ef56" in text


@pytest.mark.usefixtures("without_browser")
def test_panels_that_would_be_too_narrow_are_stacked_and_the_caption_follows(figures, tmp_path):
    one = figures["sibling"]
    quiet_export(one.figure, tmp_path / "a.pdf", width="icml-column", caption=one.caption)
    quiet_export(one.figure, tmp_path / "b.pdf", width="neurips", caption=one.caption)
    assert (tmp_path / "a.txt").read_text().startswith("Top: ")
    assert (tmp_path / "b.txt").read_text().startswith("Left: ")
    assert page_points(tmp_path / "a.pdf")[1] > page_points(tmp_path / "b.pdf")[1]


def test_on_paper_an_arm_keeps_its_colour_and_differs_without_it(figures):
    from workbench.plots.paper.printing import for_print
    from workbench.plots.style import ARMS as STYLES

    printed = for_print(figures["alignment"].figure, 3.25)
    means = [trace for trace in printed.data if trace.meta == "mean"]
    assert {trace.name: trace.line.color for trace in means} == {
        arm: STYLES[arm].colour for arm in ARMS
    }
    looks = {(trace.marker.symbol, trace.line.dash) for trace in means}
    assert len(looks) == len(ARMS)


def test_type_and_lines_are_those_of_paper_and_the_figure_is_not_changed(figures):
    from workbench.plots.paper.printing import for_print

    figure = figures["alignment"].figure
    before = figure.to_json()
    printed = for_print(figure, 3.25)
    assert figure.to_json() == before
    assert printed.layout.title.text is None
    assert printed.layout.yaxis.title.font.size * 0.75 == pytest.approx(8)
    assert 6 <= printed.layout.xaxis.tickfont.size * 0.75 <= 7
    widths = [trace.line.width for trace in printed.data if trace.line.width]
    assert 0.3 < min(widths) * 0.75 < max(widths) * 0.75 < 1.5


def test_cells_of_a_heat_map_become_polygons_of_the_same_colours():
    from workbench.plots.paper.printing import for_print

    z = [[-1.0, 0.0, None], [0.5, 1.0, 1.0]]
    figure = go.Figure(go.Heatmap(z=z, colorscale="RdBu_r", zmin=-1, zmax=1))
    cells = [trace for trace in for_print(figure, 3.25).data if trace.meta == "cells"]
    corners = {trace.fillcolor: np.array(trace.x, float).reshape(-1, 6)[:, 0] for trace in cells}
    assert len(corners) == 4  # two cells are 1.0, one is undefined
    assert corners["rgb(5, 48, 97)"].tolist() == [-0.5]
    assert corners["rgb(103, 0, 31)"].tolist() == [0.5, 1.5]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"width": "wide"}, "No width 'wide': name one of single"),
        ({"width": "9m"}, "85mm"),
        ({"width": "2mm"}, "outside 1.5 to 20 inches"),
        ({"height": 0.3}, "leaves no room"),
        ({"height": float("nan")}, "Height nan is no length"),
        ({"height": float("inf")}, "Height inf is no length"),
    ],
)
def test_a_size_that_cannot_be_is_refused_before_anything_is_written(
    options, told, figures, tmp_path
):
    import workbench
    from workbench.errors import ConfigError

    with pytest.raises(ConfigError, match=told):
        workbench.export(figures["alignment"].figure, tmp_path / "new" / "a.pdf", **options)
    assert not list(tmp_path.iterdir())


def test_a_size_of_another_type_is_refused_in_a_line():
    from workbench.errors import ConfigError
    from workbench.plots.paper.printing import for_print
    from workbench.plots.paper.widths import inches

    # As a caller has them, whose types nothing checks.
    with pytest.raises(ConfigError, match=r"No width 3\.5: name one of"):
        inspect.unwrap(inches)(3.5)
    with pytest.raises(ConfigError, match="Height '3' is no length"):
        inspect.unwrap(for_print)(go.Figure(go.Scatter(x=[1], y=[1])), 3.5, "3")


STRANGE = {"θ–鍵": "a", "lone \ud800": "b \ud800\x00", "count": 3, "": "no name"}
"""Keys and values that no file format takes as they are."""


@pytest.mark.usefixtures("without_browser")
def test_strange_provenance_is_written_as_far_as_a_format_can(figures, tmp_path):
    from xml.etree import ElementTree

    from workbench import export

    for suffix in ("pdf", "svg", "png"):
        path = tmp_path / f"a.{suffix}"
        quiet_export(figures["alignment"].figure, path, provenance=STRANGE)
    export(figures["alignment"].figure, tmp_path / "a.html", caption="\ud800", provenance=STRANGE)
    assert "θ–鍵: a" in (tmp_path / "a.html").read_text()
    ElementTree.parse(tmp_path / "a.svg")
    assert "θ–鍵: a" in (tmp_path / "a.svg").read_text()
    told = [content for kind, content in png_chunks((tmp_path / "a.png").read_bytes())
            if kind == b"tEXt"]  # fmt: skip
    assert len(told) == len(STRANGE)
    assert b"count\x003" in told
    assert all(0 < text.index(b"\0") < 80 for text in told)
    assert "θ–鍵: a" in poppler("pdfinfo", tmp_path / "a.pdf")


def test_a_browser_that_does_not_start_is_told_in_a_line_and_matplotlib_draws(tmp_path):
    pytest.importorskip("kaleido", reason="needs the `export` extra")
    script = (
        "import workbench, plotly.graph_objects as go\n"
        "workbench.export(go.Figure(go.Scatter(x=[1, 2], y=[1, 2])), 'a.svg')\n"
    )
    here = {"BROWSER_PATH": "/bin/false", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path, env=os.environ | here, capture_output=True, text=True, check=True,
    )  # fmt: skip
    (line,) = done.stderr.strip().splitlines()
    assert "The browser /bin/false does not start; install one" in line
    assert line.endswith("Drawn by matplotlib instead.")
    assert (tmp_path / "a.svg").exists()


def two_rows(columns=1):
    """A figure of two rows of panels with one x axis, and a line across all."""
    figure = go.Figure().set_subplots(2, columns, shared_xaxes=True)
    for row in (1, 2):
        for column in range(1, columns + 1):
            place = {"row": row, "col": column}
            figure.add_scatter(
                x=[1, 2], y=[row, 2], name=f"{row}{column}", line_color="#882255", **place
            )
    figure.update_xaxes(title_text="step", row=2)
    return figure.add_shape(type="line", x0=1, x1=1, y0=0, y1=1, xref="x", yref="paper")


def test_rows_of_the_screen_stay_rows_and_only_the_last_has_numbers():
    from workbench.plots.paper.printing import for_print

    printed = for_print(two_rows(), 6.75).layout
    assert printed.yaxis2.domain[1] < printed.yaxis.domain[0]
    assert printed.xaxis.domain == printed.xaxis2.domain
    assert printed.xaxis.showticklabels is False
    assert printed.xaxis2.title.text == "step"
    assert printed.meta["stacked"] is False


def test_panels_in_two_rows_and_columns_are_stacked_only_where_they_are_too_narrow():
    from workbench.plots.paper.printing import for_print

    wide, narrow = (for_print(two_rows(2), width).layout for width in (6.75, 3.25))
    assert wide.yaxis.domain == wide.yaxis2.domain
    assert wide.xaxis.domain == wide.xaxis3.domain
    assert wide.xaxis2.domain[0] > wide.xaxis.domain[1]
    tops = [narrow[f"yaxis{n}"].domain[1] for n in ("", 2, 3, 4)]
    assert tops == sorted(tops, reverse=True)
    assert len(set(tops)) == 4
    assert all(narrow[f"xaxis{n}"].showticklabels for n in ("", 2, 3, 4))


def test_a_line_across_all_panels_ends_at_the_last_and_not_in_the_legend():
    from workbench.plots.paper.printing import for_print

    printed = for_print(two_rows(), 3.25).layout
    (line,) = [shape for shape in printed.shapes if shape.yref == "paper"]
    assert (line.y0, line.y1) == (printed.yaxis2.domain[0], printed.yaxis.domain[1])
    assert line.y0 > printed.yaxis99.domain[1] > 0


def test_keys_of_the_legend_have_the_colours_of_their_curves():
    from workbench.plots.paper.printing import for_print

    figure = go.Figure([
        go.Scatter(x=[1], y=[1], mode="lines+markers", name="line", line_color="#882255"),
        go.Scatter(x=[1], y=[1], mode="markers", name="mark", marker_color="#009E73"),
        go.Scatter(x=[1], y=[1], mode="text", name="text", text="t", textfont_color="#D55E00"),
        go.Scatter(x=[1], y=[1], mode="lines+markers", name="none"),
    ])  # fmt: skip
    printed = for_print(figure, 3.25)
    keys = [trace for trace in printed.data if trace.meta == "key"]
    dots = [trace.marker.color for trace in keys if trace.mode == "markers"]
    assert dots == ["#882255", "#009E73", printed.data[3].marker.color]
    assert printed.data[0].marker.color == "#882255"
    assert printed.data[3].line.color == printed.data[3].marker.color is not None
    assert [trace.textfont.color for trace in keys if trace.mode == "text"] == ["#D55E00"]


def test_without_browser_and_matplotlib_the_error_says_what_to_install(
    figures, tmp_path, monkeypatch
):
    import workbench
    from workbench.errors import ConfigError
    from workbench.plots.paper import export

    monkeypatch.setenv("BROWSER_PATH", "/nowhere")
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="need a browser, or matplotlib"):
        workbench.export(figures["alignment"].figure, tmp_path / "a.pdf")


@pytest.mark.usefixtures("without_browser")
def test_the_command_writes_what_is_asked_for(folder, tmp_path, capsys):
    from workbench.cli import main

    assert main(["export", str(folder), "--figure", "list"]) == 0
    names = capsys.readouterr().out.split()
    assert names[0] == "alignment"
    out = tmp_path / "out"
    argv = ["export", str(folder), "--figure", "ordering,alignment", "--out", str(out)]
    assert main([*argv, "--format", "svg,pdf", "--width", "3in"]) == 0
    assert {path.name for path in out.iterdir()} == {
        f"{name}.{suffix}" for name in ("ordering", "alignment") for suffix in ("svg", "pdf", "txt")
    }
    assert "Drawn by matplotlib" in capsys.readouterr().err


@pytest.mark.usefixtures("without_browser")
def test_all_figures_come_with_the_tables(folder, tmp_path):
    from workbench.cli import main

    out = tmp_path / "out"
    assert main(["export", str(folder), "--format", "html", "--out", str(out)]) == 0
    names = json.loads(json.dumps(sorted(path.name for path in out.iterdir())))
    assert "summary.tex" in names
    assert "heatmap-matched.html" in names


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--figure", "charm"], "No figure 'charm' here: there are alignment, "),
        (["--format", "pdf,gif"], "No format 'gif': choose from pdf, svg, png, html"),
        (["--width", "huge"], "No width 'huge'"),
    ],
)
def test_what_the_command_cannot_do_is_one_line_and_nothing_is_written(
    options, told, folder, tmp_path, capsys
):
    from workbench.cli import main

    assert main(["export", str(folder), "--out", str(tmp_path / "out"), *options]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())
