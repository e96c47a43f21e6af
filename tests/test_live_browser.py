"""In JupyterLab a live run fills while the kernel is free, survives a reload, stops, continues."""

from pathlib import Path

import lab
import numpy as np
import pytest

pytestmark = pytest.mark.browser

ORGANISM = Path(__file__).parents[1] / "assets" / "organism"
DARK = {"@jupyterlab/apputils-extension:themes": {"theme": "JupyterLab Dark"}}
MS = 60_000

BEGIN = f"""
import time
import plotly.graph_objects as go
import workbench as wb

organism = {str(ORGANISM)!r}
lineage = wb.Lineage.load(organism + "/lineage.toml")
probes = wb.ProbeSet.load(organism + "/probes.jsonl").of_kind("harmful")
fit, _, measure = probes.split(fit=0.1, penalty=0.8, measure=0.1)
model = lineage.load_model(lineage.aligned)
model.hf.get_decoder().register_forward_pre_hook(lambda *_: time.sleep(0.02))
tuning = wb.FineTuning(
    model, wb.load_examples(organism + "/finetune.jsonl")[:200],
    probes=measure, directions=wb.fit_directions(lineage, fit),
    steps=2000, batch_size=4, measure_at=range(1, 2001, 20),
)
live = wb.LiveRun(tuning, out="live")
live
"""
FREE = "print('free while', live.state, 6 * 7)"
FIGURE = "figure = wb.LiveFigure(go.Figure().add_scatter(y=[1, 2, 3]))\nfigure"
UPDATE = """
for number in range(50):
    figure.update(go.Figure().add_scatter(y=[1, 2, 3, number]))
"""

BUSY = """
again = "again" in globals()
while again and live.state != "stopped":
    time.sleep(0.05)
print("busy till then:", again)
"""

MAP, CURVES = (f".workbench-view .workbench-plot[aria-label^='{alt}']" for alt in ("Heat", "Mean"))
SINGLE = ".workbench-view .workbench-plot[aria-label='Figure']"
STATUS = "[aria-label='Run live'] .workbench-status"
MEASURED = f"""(least) => {{
  const z = document.querySelector("{MAP}")?._fullData?.[0].z;
  return Boolean(z) && z[0].filter((one) => Number.isFinite(one)).length >= least;
}}"""


@pytest.fixture(params=[{"width": 1280}, {"width": 800, "theme": DARK}], ids=["light", "dark"])
def begun(browser, tmp_path, request):
    """A notebook whose live run has begun to fill, and the run."""
    from workbench.runs import Run

    lab.write_notebook(tmp_path / "live.ipynb", BEGIN, FREE, FIGURE, UPDATE, BUSY)
    with (
        lab.serve(tmp_path, settings=request.param.get("theme")) as address,
        lab.tab(browser, width=request.param["width"], height=1100) as tab,
    ):
        lab.open_notebook(tab.page, address, "live.ipynb")
        lab.run_all(tab.page)
        wait_until_measured(tab.page, 3)
        yield tab, Run(tmp_path / "live"), address, tmp_path


def wait_until_measured(page, least):
    page.wait_for_function(MEASURED, arg=least, timeout=MS)


def wait_until_told(page, text):
    page.wait_for_function(
        "([place, text]) => document.querySelector(place).textContent.includes(text)",
        arg=[STATUS, text],
        timeout=MS,
    )


def press(page, button):
    page.locator("[aria-label='Run live']").get_by_role("button", name=button).click()


def check_against(run, page):
    """What the browser shows is what the run recorded; return how many steps that are."""
    z = np.array(lab.trace(page, MAP)["z"], dtype=float)
    known = int((~np.isnan(z)).any(axis=0).sum())
    recorded = run.refresh().layer_values("alignment")[:known].T
    np.testing.assert_allclose(z[:, :known], recorded, rtol=1e-4)
    loss = lab.traces(page, CURVES)[1]
    stored = run.records()["loss"].loc[loss["x"]]
    np.testing.assert_allclose(loss["y"], stored, rtol=1e-4)
    return known


def test_a_live_run_fills_survives_a_reload_stops_and_continues(begun):
    tab, run, address, folder = begun
    page = tab.page
    assert page.locator(".jp-OutputArea-output", has_text="free while running 42").count() == 1
    page.wait_for_function(
        f'document.querySelector("{SINGLE}")._fullData[0].y.at(-1) === 49', timeout=MS
    )

    lab.save(page)
    before = check_against(run, page)
    page.reload()
    wait_until_measured(page, before + 1)
    assert check_against(run, page) > before
    page.locator(STATUS).scroll_into_view_if_needed()
    page.screenshot(path=folder / "running.png")
    assert lab.trace(page, SINGLE)["y"] == [1, 2, 3, 49]

    press(page, "Stop")
    wait_until_told(page, "stopped: step")
    stopped = run.refresh().lines[-1]["step"]
    assert f"stopped: step {stopped} of 2000" in page.locator(STATUS).text_content()
    assert run.info["failure"].startswith(f"stopped by the user at step {stopped};")
    assert check_against(run, page) == len(run.measured)
    page.screenshot(path=folder / "stopped.png")

    press(page, "Continue")
    wait_until_measured(page, len(run.measured) + 1)
    lab.run_last(page, wait=False)
    press(page, "Stop")  # while a cell runs that ends once this is heard
    wait_until_told(page, "stopped: step")
    page.wait_for_selector("text=busy till then: True", state="attached", timeout=MS)
    steps = [line["step"] for line in run.refresh().lines]
    assert steps == list(range(1, steps[-1] + 1))
    assert steps[-1] > stopped

    assert page.locator("[data-title*='Share'], [data-title*='cloud' i]").count() == 0
    hosts = (address, address.replace("http", "ws"), "data:", "blob:")
    assert [url for url in tab.asked if not url.startswith(hosts)] == []
    assert tab.wrong == []


def test_a_kernel_that_jupyter_shuts_down_leaves_a_run_that_can_be_continued(begun):
    tab, run, _, _ = begun
    lab.shut_kernel_down(tab.page)
    tab.page.wait_for_function("() => true")
    for _ in range(100):
        if run.status != "running":
            break
        tab.page.wait_for_timeout(100)
    last = run.refresh().lines[-1]["step"]
    assert run.info["failure"] == f"stopped with its process at step {last}; resume to continue"
    assert run.states.reached()[0] == last
    assert not (run.folder / "lock").exists()
