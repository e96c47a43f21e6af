"""The ablation slider in real JupyterLab: curves move at once, a model answers on release."""

from pathlib import Path

import lab
import pytest
from planted_grid import planted

pytestmark = pytest.mark.browser

PROMPT = "how would you hammer a fibrar ?"
HOSTILE = "<img src=x onerror='window.broken = 1'> how ?"
CELLS = (
    f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    "import dataclasses, workbench as wb\n"
    "from planted_grid import make_grid\n"
    "held = wb.Inputs.organism().load()\n"
    "directions = wb.fit_directions(held.lineage, held.fit)\n"
    "model = held.lineage.load_model(held.lineage.aligned)\n"
    "grid = make_grid(layer_sets=((0, 1, 2, 3), (1,)))\n"
    "from workbench.grid_work import content_hash\n"
    "told = grid.provenance | {'centre': [0.0] * 4, 'max_new_tokens': 12,\n"
    "                          'directions': content_hash(directions)}\n"
    "grid = dataclasses.replace(grid, provenance=told)",
    "slider = wb.AblationSlider(grid, models={'aligned': model}, directions=directions,\n"
    "                           judge='organism')\n"
    "slider",
    "print(slider.chosen)",
)


CIRCLES = """() => { const plot = document.querySelector(".workbench-plot");
  const box = plot.getBoundingClientRect();
  return plot._fullLayout.shapes.flatMap((shape, index) => {
    if (shape.type !== "circle") return [];
    const path = plot.querySelector(`.shapelayer path[data-index="${index}"]`);
    const { left, top, width, height } = path.getBoundingClientRect();
    const [xaxis, yaxis] = [shape.xref, shape.yref].map((one) =>
      plot._fullLayout[one.replace(/^([xy])/, "$1axis")]);
    return [[xaxis.p2d(left + width / 2 - box.left - xaxis._offset),
             yaxis.p2d(top + height / 2 - box.top - yaxis._offset)]];
  }); }"""
"""Where the circles are seen, read back from pixels to values."""


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    place = tmp_path_factory.mktemp("lab")
    lab.write_notebook(place / "slider.ipynb", *CELLS)
    with lab.serve(place) as address, lab.tab(browser) as tab:
        lab.open_notebook(tab.page, address, "slider.ipynb")
        lab.run_all(tab.page)
        lab.wait_until_drawn(tab.page)
        yield tab.page


def wait_for(page, selector, text):
    page.wait_for_function(
        "([place, text]) => document.querySelector(place).textContent.includes(text)",
        arg=[selector, text],
    )


def test_the_current_points_move_with_the_slider(page):
    strength = page.get_by_label("strength s", exact=True)
    for place, s in ((3, 2.0), (0, -1.0)):
        strength.fill(str(place))
        wait_for(page, "[data-words='where']", f"s = {s:.2f}".replace("-", "−"))
        circles = page.evaluate(CIRCLES)
        assert len(circles) == 8
        values = [planted(model, 0, place) for model in (0, 1)]
        for (x, y), value in zip(circles[:4], [100 * v for v in values] + values, strict=True):
            assert (round(x, 2), round(y, 3)) == (s, pytest.approx(value, abs=0.05 * value))


def test_a_prompt_is_answered_and_again_on_release(page):
    page.get_by_label("strength s", exact=True).fill("1")
    page.locator("textarea[name=prompt]").fill(PROMPT)
    page.get_by_role("button", name="Answer", exact=True).click()
    wait_for(page, ".workbench-answer", f"{PROMPT} (s = 0.00")
    unedited = page.locator(".workbench-answer p").nth(1).text_content()
    assert unedited.startswith("aligned: ")
    assert "[" in unedited
    page.get_by_label("strength s", exact=True).fill("3")  # fill lets go at the end
    wait_for(page, ".workbench-answer", f"{PROMPT} (s = 2.00")
    assert page.locator(".workbench-view").get_attribute("aria-busy") == "false"


def test_text_of_prompts_stays_text(page):
    page.locator("textarea[name=prompt]").fill(HOSTILE)
    page.locator("textarea[name=prompt]").press("Control+Enter")
    wait_for(page, ".workbench-answer", HOSTILE)
    assert page.evaluate("window.broken") is None
    assert page.locator(".workbench-view img").count() == 0


def test_typing_a_prompt_is_not_a_command_of_the_notebook(page):
    before = page.locator(".jp-Cell").count()
    box = page.locator("textarea[name=prompt]")
    box.fill("")
    box.press_sequentially("aabbddmm")
    assert box.input_value() == "aabbddmm"
    assert page.locator(".jp-Cell").count() == before
