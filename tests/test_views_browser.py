"""Views in real JupyterLab, in a real browser: what is seen is what Python says."""

import json
import re
import time

import lab
import numpy as np
import pytest
from planted_experiment import ARMS, build_experiment, planted_alignment

pytestmark = pytest.mark.browser

PLOT = ".workbench-view .workbench-plot"
CELL = "[data-words='cell']"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_experiment(tmp_path_factory.mktemp("experiments") / "planted")


@pytest.fixture(scope="module")
def server(tmp_path_factory, folder):
    place = tmp_path_factory.mktemp("lab")
    lab.write_notebook(
        place / "views.ipynb",
        f"import workbench as wb\nexplorer = wb.LayerExplorer({str(folder)!r})\nexplorer",
        "print(explorer.chosen)",
    )
    with lab.serve(place) as address:
        yield address


@pytest.fixture(scope="module")
def opened(browser, server):
    """A notebook with its cells run, and what the page asked for and complained of.

    One for all tests here, in their order: each chooses what it needs; the last shuts the kernel.
    """
    with lab.tab(browser) as tab:
        lab.open_notebook(tab.page, server, "views.ipynb")
        lab.run_all(tab.page)
        lab.wait_until_drawn(tab.page)
        yield tab


def shown(page, place=0):
    """The heat map's cells as the browser has them."""
    z = lab.trace(page, PLOT, place)["z"]
    return np.array(z, dtype=float)


def wait_for(page, text):
    page.wait_for_function(
        "([place, text]) => document.querySelector(place).textContent.includes(text)",
        arg=[CELL, text],
    )


def wait_for_python(page, chosen):
    """Run the last cell until it prints what was chosen: a browser holds changes back at first.

    ipywidgets sends one change at a time and the newest when the kernel is idle again, so a cell
    run at once may come before it.
    """
    deadline = time.monotonic() + lab.CELL_SECONDS
    while True:
        lab.run_last(page)
        printed = page.locator(".jp-OutputArea-output pre").last.text_content().strip()
        if printed == str(chosen) or time.monotonic() > deadline:
            assert printed == str(chosen)
            return


def choose_run(page, arm, seed):
    page.get_by_label("arm", exact=True).select_option(arm)
    page.get_by_label("seed", exact=True).select_option(str(seed))


def test_the_slider_and_boxes_move_the_plot_to_what_python_says(opened):
    page = opened.page
    np.testing.assert_allclose(shown(page), planted_alignment("ordinary", 0).T, rtol=1e-4)
    choose_run(page, "push", 2)
    page.get_by_label("layer", exact=True).fill("1")
    page.get_by_label("step", exact=True).fill("6")
    value = planted_alignment("push", 2)[6, 1]
    wait_for(page, f"Layer 1, step 20: cos {value:.2f}")
    np.testing.assert_allclose(shown(page), planted_alignment("push", 2).T, rtol=1e-4)
    curve = next(t for t in lab.traces(page, PLOT, 1) if t.get("name") == "alignment")
    np.testing.assert_allclose(curve["y"], planted_alignment("push", 2)[:, 1], rtol=1e-4)
    wait_for_python(page, {"arm": "push", "seed": "2", "layer": "1", "step": "20"})


def test_a_click_on_a_cell_drills_down(opened):
    page = opened.page
    choose_run(page, "ordinary", 0)
    lab.click_cell(page, PLOT, column=4, row=2)
    value = planted_alignment("ordinary", 0)[4, 2]
    wait_for(page, f"Layer 2, step 8: cos {value:.2f}")
    assert page.get_by_label("layer", exact=True).input_value() == "2"


def test_arrow_keys_move_the_slider_and_not_the_notebook(opened):
    page = opened.page
    selected = page.locator(".jp-Cell.jp-mod-selected").count()
    step = page.get_by_label("step", exact=True)
    step.fill("10")
    step.focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    wait_for(page, "step 30:")
    page.get_by_label("layer", exact=True).fill("4")
    page.get_by_label("layer", exact=True).focus()
    page.keyboard.press("ArrowDown")
    wait_for(page, "Layer 3,")
    assert page.evaluate("document.activeElement.name") == "layer"
    assert page.locator(".jp-Cell.jp-mod-selected").count() == selected


def frame_place(page):
    """Where the frame around the chosen cell is, in the plot, as a path."""
    return page.evaluate(
        "(place) => document.querySelector(place + ' .shapelayer path').getAttribute('d')", PLOT
    )


def test_the_frame_that_is_moved_lies_where_plotly_would_draw_it(opened):
    page = opened.page
    page.get_by_label("step", exact=True).fill("3")
    page.get_by_label("layer", exact=True).fill("2")
    wait_for(page, "Layer 2, step 5:")
    moved = frame_place(page)
    for width in (1000, 1280):  # at every width plotly draws all of it anew
        before = frame_place(page)
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_function(
            "([place, before]) => document.querySelector(place + ' .shapelayer path')"
            ".getAttribute('d') !== before",
            arg=[PLOT, before],
        )
    page.wait_for_function(
        "(place) => Math.abs(document.querySelector(place)._fullLayout.width - "
        "document.querySelector(place).clientWidth) < 2",
        arg=PLOT,
    )
    numbers = [[float(n) for n in re.findall(r"-?[\d.]+", d)] for d in (moved, frame_place(page))]
    np.testing.assert_allclose(*numbers, atol=1.0)


def test_every_control_has_a_name_and_a_plot_a_text(opened):
    unnamed = opened.page.evaluate(
        """() => [...document.querySelectorAll(
             ".workbench-view :is(input, select, textarea, button)")]
             .filter((one) => !one.ariaLabel && !one.textContent.trim())
             .map((one) => one.outerHTML)"""
    )
    assert unnamed == []
    texts = opened.page.eval_on_selector_all(PLOT, "(all) => all.map((one) => one.ariaLabel)")
    assert all(len(text) > 30 for text in texts)


def test_nothing_leaves_the_machine_and_nothing_offers_to(opened, server):
    own = (server, server.replace("http", "ws"), "blob:", "data:")
    assert [url for url in opened.asked if not url.startswith(own)] == []
    titles = opened.page.eval_on_selector_all(
        ".modebar-btn", "(all) => all.map((one) => one.dataset.title ?? '')"
    )
    assert titles
    assert not [title for title in titles if "hare" in title or "loud" in title]
    assert opened.wrong == []


@pytest.mark.parametrize("width", [800, 1280])
@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_nothing_is_cut_at_any_width_and_theme(opened, width, theme):
    page = opened.page
    page.set_viewport_size({"width": width, "height": 900})
    lab.set_theme(page, theme)
    page.wait_for_function(
        "(place) => [...document.querySelectorAll(place)].every((plot) => "
        "Math.abs(plot._fullLayout.width - plot.clientWidth) < 2)",
        arg=PLOT,
    )
    cut = page.evaluate(
        """() => { const view = document.querySelector(".workbench-view");
             const right = view.getBoundingClientRect().right + 1;
             return [...view.querySelectorAll("*")].filter((one) =>
               one.getBoundingClientRect().right > right).map((one) => one.tagName); }"""
    )
    assert cut == []
    colours = page.evaluate(
        """() => { const style = getComputedStyle(document.querySelector(".workbench-view"));
             return [style.color, style.backgroundColor]; }"""
    )
    assert json.dumps(colours) == '["rgb(34, 34, 34)", "rgb(255, 255, 255)"]'


def test_a_reload_shows_what_was_chosen(opened, server):
    page = opened.page
    choose_run(page, "block", 1)
    page.get_by_label("layer", exact=True).fill("0")
    wait_for(page, "Layer 0,")
    lab.save(page)
    lab.open_notebook(page, server, "views.ipynb", fresh=False)
    lab.wait_until_drawn(page)
    assert page.get_by_label("arm", exact=True).input_value() == str(ARMS.index("block"))
    np.testing.assert_allclose(shown(page), planted_alignment("block", 1).T, rtol=1e-4)
    wait_for(page, "Layer 0,")


def test_it_moves_without_a_kernel(opened):
    page = opened.page
    lab.shut_kernel_down(page)
    choose_run(page, "matched", 0)
    page.get_by_label("layer", exact=True).fill("2")
    page.get_by_label("step", exact=True).fill("10")
    value = planted_alignment("matched", 0)[-1, 2]
    wait_for(page, f"Layer 2, step 100: cos {value:.2f}")
    np.testing.assert_allclose(shown(page), planted_alignment("matched", 0).T, rtol=1e-4)


@pytest.mark.parametrize("kind", ["saved", "report"])
def test_a_saved_view_works_from_disk(browser, folder, tmp_path, kind):
    from workbench.plots.report import write_report
    from workbench.widgets import LayerExplorer

    path = tmp_path / "page.html"
    LayerExplorer(folder).save(path) if kind == "saved" else write_report(folder, path)
    with lab.tab(browser) as tab:
        tab.page.goto(path.as_uri())
        lab.wait_until_drawn(tab.page)
        first = tab.page.locator(".workbench-view").first
        first.get_by_label("arm", exact=True).select_option("push")
        first.get_by_label("step", exact=True).fill("0")
        wait_for(tab.page, "step 1:")
        np.testing.assert_allclose(shown(tab.page), planted_alignment("push", 0).T, rtol=1e-4)
        assert tab.asked == [path.as_uri()]
        assert tab.wrong == []


def drag_up(page, plot):
    """Zoom into the middle of the y axis."""
    left, top, width, height = page.evaluate(
        f"(() => {{ const {{ left, top }} = {plot}.getBoundingClientRect(); "
        f"const {{ l, t, w, h }} = {plot}._fullLayout._size; "
        "return [left + l, top + t, w, h]; })()"
    )
    page.mouse.move(left + width / 2, top + 0.7 * height)
    page.mouse.down()
    page.mouse.move(left + width / 2, top + 0.3 * height, steps=8)
    page.mouse.up()
    page.wait_for_timeout(300)


def test_what_is_hidden_stays_hidden_and_a_zoom_goes_with_its_quantity(browser, folder, tmp_path):
    from workbench.widgets import RunComparison

    path = RunComparison(folder).save(tmp_path / "view.html")
    with lab.tab(browser) as tab:
        page = tab.page
        page.goto(path.as_uri())
        lab.wait_until_drawn(page)
        plot = "document.querySelector('.workbench-plot')"
        page.locator(".legend .traces", has_text="block").locator(".legendtoggle").click()
        page.wait_for_timeout(800)  # plotly waits for a second click
        drag_up(page, plot)
        zoomed = page.evaluate(f"{plot}._fullLayout.yaxis.range")
        page.get_by_label("layer", exact=True).select_option("2")
        page.wait_for_timeout(500)
        hidden = {t["name"] for t in lab.traces(page, ".workbench-plot")
                  if t["visible"] == "legendonly"}  # fmt: skip
        assert hidden == {"block"}
        page.get_by_label("quantity", exact=True).select_option(index=3)
        page.wait_for_timeout(500)
        assert page.evaluate(f"{plot}._fullLayout.yaxis.range") != zoomed
        page.get_by_label("quantity", exact=True).select_option(index=0)
        page.wait_for_timeout(500)
        shown = {t["name"] for t in lab.traces(page, ".workbench-plot") if t["visible"] is True}
        assert "block" not in shown


def test_every_quantity_of_the_comparison_is_drawn(browser, folder, tmp_path):
    from workbench.widgets import RunComparison

    comparison = RunComparison(folder)
    path = comparison.save(tmp_path / "view.html")
    quantities = comparison.shown.controls[0].options
    with lab.tab(browser) as tab:
        page = tab.page
        page.goto(path.as_uri())
        lab.wait_until_drawn(page)
        for place in [*range(len(quantities)), 0]:
            page.get_by_label("quantity", exact=True).select_option(index=place)
            comparison.choose(quantity=quantities[place])
            figure = comparison.figure()
            page.wait_for_timeout(250)
            drawn = [t for t in lab.traces(page, ".workbench-plot") if t["meta"] == "mean"]
            means = [one for one in figure.data if one.meta == "mean"]
            assert [one["name"] for one in drawn] == [one.name for one in means]
            for seen, mean in zip(drawn, means, strict=True):
                values = np.array(mean.y, dtype=float)
                np.testing.assert_allclose(np.array(seen["y"], float), values, rtol=1e-4)
        assert tab.wrong == []
        assert page.locator("[role=status]").text_content() == ""
