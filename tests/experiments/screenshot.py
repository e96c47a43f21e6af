"""Take the README's picture of the layer explorer, of the experiment in the folder given."""

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from workbench.plots.paper.browser import find_browser
from workbench.widgets import LayerExplorer

OUT = Path(__file__).parents[2] / "assets" / "explorer.png"

explorer = LayerExplorer(sys.argv[1])
explorer.choose(arm="ordinary", layer=2, step=20)
with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
    page = playwright.chromium.launch(
        executable_path=find_browser(), args=["--no-sandbox"]
    ).new_page(viewport={"width": 1080, "height": 700}, device_scale_factor=1.5)
    page.goto(explorer.save(Path(folder) / "view.html").as_uri())
    page.wait_for_selector(".workbench-plot .main-svg")
    page.wait_for_timeout(1000)
    page.locator(".workbench-view").screenshot(path=OUT)
