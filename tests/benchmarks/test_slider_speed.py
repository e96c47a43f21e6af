"""How long a control takes to reach the screen, in a real browser.

The layer explorer with 12 layers × 100 steps, and the ablation slider with 13 strengths.
"""

import json

import lab
import numpy as np
import pytest

pytestmark = pytest.mark.browser

LAYERS, STEPS, MOVES = 12, 100, 40
BUDGET = 80.0
"""Milliseconds from the input to the paint, median."""

MEASURE = """async ([name, places]) => {
  const view = document.querySelector(".workbench-view");
  const input = view.querySelector(`[name='${name}']`);
  const times = [];
  for (const place of places) {
    const painted = new Promise((done) =>
      view.addEventListener("workbench:painted", done, { once: true }));
    const start = performance.now();
    input.value = String(place);
    input.dispatchEvent(new Event(input.tagName === "SELECT" ? "change" : "input"));
    await painted;
    // The next frame has begun once this one is on the screen.
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    times.push(performance.now() - start);
    await new Promise((done) => setTimeout(done, 30));
  }
  return times;
}"""


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    """A saved view of two planted runs."""
    from workbench.plots.explorer import explorer
    from workbench.store import RunStore
    from workbench.widgets import Panel

    place = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    runs = []
    for seed in range(3):
        run = RunStore(place).create({"arm": "ordinary", "lineage": "l", "seed": seed}, f"r{seed}")
        lines = []
        for step in range(1, STEPS + 1):
            values = rng.uniform(-1, 1, (6, LAYERS)).round(4).tolist()
            names = ("alignment", "low", "high", "along", "across", "norm")
            drift = dict(zip(names, values, strict=True)) | {"mean_alignment": 0.1}
            lines.append(json.dumps({"step": step, "loss": 1.0, "drift": drift}))
        (run.folder / "records.jsonl").write_text("\n".join(lines) + "\n")
        runs.append(run)
    path = Panel(explorer(runs)).save(place / "view.html")
    with lab.tab(browser) as tab:
        tab.page.goto(path.as_uri())
        lab.wait_until_drawn(tab.page)
        yield tab.page


@pytest.fixture(scope="module")
def slider_page(browser, tmp_path_factory):
    """A saved ablation slider of a planted grid, as large as the default one."""
    from planted_grid import make_grid

    from workbench.grids import STRENGTHS
    from workbench.widgets import AblationSlider

    sets = ((0, 1, 2, 3), *((layer,) for layer in range(4)))
    view = AblationSlider(make_grid(strengths=STRENGTHS, layer_sets=sets))
    path = view.save(tmp_path_factory.mktemp("grid") / "view.html")
    with lab.tab(browser) as tab:
        tab.page.goto(path.as_uri())
        lab.wait_until_drawn(tab.page)
        yield tab.page


def measure(page, control, options, capsys, what):
    """Print the times of moving a control, and hold their median against the budget."""
    places = (np.arange(MOVES) * 7 + 1) % options
    times = page.evaluate(MEASURE, [control, places.tolist()])
    low, median, high = np.quantile(times, [0.05, 0.5, 0.95])
    with capsys.disabled():
        print(f"\n{what}, {control} to paint: {median:.0f} ms [{low:.0f}, {high:.0f}], "
              f"budget {BUDGET:.0f} ms")  # fmt: skip
    assert median <= BUDGET


@pytest.mark.parametrize(("control", "options"), [("step", STEPS), ("layer", LAYERS), ("seed", 3)])
def test_from_the_layer_explorer_to_paint(page, control, options, capsys):
    measure(page, control, options, capsys, f"layer explorer {LAYERS} × {STEPS}")


@pytest.mark.parametrize(("control", "options"), [("strength", 13), ("layers", 5)])
def test_from_the_ablation_slider_to_paint(slider_page, control, options, capsys):
    measure(slider_page, control, options, capsys, "ablation slider")
