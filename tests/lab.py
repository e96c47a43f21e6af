"""JupyterLab in a real browser: a server on this machine, a notebook, and what it asks for."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat

NO_NEWS = {
    "@jupyterlab/apputils-extension:notification": {
        "fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True,
    }
}  # fmt: skip
SERVER_SECONDS, CELL_SECONDS = 90, 60
QUIET = (
    "--ServerApp.token=",
    "--ServerApp.password=",
    "--ServerApp.disable_check_xsrf=True",
    "--ServerApp.open_browser=False",
    "--LabApp.expose_app_in_browser=True",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
)


@contextmanager
def serve(folder: Path, *, settings=None):
    """Serve a folder with JupyterLab while open; yield its address.

    Args:
        folder: What is served; configuration and kernels' files go below it.
        settings: User settings by plugin, such as the theme.
    """
    home = folder / ".home"
    for plugin, values in (NO_NEWS | (settings or {})).items():
        package, name = plugin.split(":")
        place = home / "lab" / "user-settings" / package / f"{name}.jupyterlab-settings"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(values))
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    environment = os.environ | {
        "JUPYTER_CONFIG_DIR": str(home),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "lab" / "user-settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "lab" / "workspaces"),
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.port={port}", *QUIET,
               f"--ServerApp.root_dir={folder}"]  # fmt: skip
    if os.geteuid() == 0:
        command.append("--allow-root")
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_up(address, server, folder / "server.log")
        yield address
    finally:
        server.terminate()
        server.wait(20)


def _wait_until_up(address, server, log):
    for _ in range(SERVER_SECONDS * 4):
        if server.poll() is not None:
            raise RuntimeError(f"JupyterLab did not start: {log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(f"{address}/api/status", timeout=2):
                return
        except OSError:
            time.sleep(0.25)
    raise RuntimeError(f"JupyterLab did not start in {SERVER_SECONDS} s")


def write_notebook(path: Path, *cells: str) -> Path:
    """Write a notebook of code cells."""
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    nbformat.write(notebook, path)
    return path


@dataclass
class Tab:
    """A page, and what it asked for and complained of."""

    page: Any
    asked: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


@contextmanager
def tab(browser, *, width=1280, height=900):
    """Open a page of its own context while open."""
    context = browser.new_context(viewport={"width": width, "height": height})
    made = Tab(context.new_page())
    made.page.on("request", lambda request: made.asked.append(request.url))
    made.page.on("websocket", lambda socket: made.asked.append(socket.url))
    made.page.on("pageerror", lambda error: _note(made.wrong, str(error)))
    try:
        yield made
    finally:
        context.close()


def _note(wrong: list[str], error: str) -> None:
    """Keep an error, unless it is JupyterLab's own about the kernel that was restarted."""
    if "Canceled future" not in error:
        wrong.append(error)


def open_notebook(page, address: str, name: str, *, fresh: bool = True) -> None:
    """Open a notebook and wait for its kernel.

    Args:
        page: Of the browser.
        address: Of the server.
        name: Of the notebook.
        fresh: Whether with a kernel of its own and nothing run yet.
    """
    page.goto(f"{address}/lab/tree/{name}?reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=SERVER_SECONDS * 1000)
    page.wait_for_function(
        "() => window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status"
        " === 'idle'",
        timeout=SERVER_SECONDS * 1000,
    )
    if fresh:
        page.evaluate(
            """async () => {
              const { sessionContext, content } = window.jupyterapp.shell.currentWidget;
              await sessionContext.session.kernel.restart();
              for (const cell of content.widgets) cell.model.sharedModel.setOutputs?.([]);
              for (const cell of content.widgets) cell.model.executionCount = null;
            }"""
        )


def run_all(page) -> None:
    """Run all cells and wait until the last has ended."""
    _command(page, "notebook:run-all-cells")
    wait_until_run(page)


def run_last(page, *, wait=True) -> None:
    """Run the last cell again, and wait until it has ended unless told not to."""
    before = page.evaluate(_COUNTS)
    page.evaluate(
        "() => { const { content } = window.jupyterapp.shell.currentWidget;"
        " content.activeCellIndex = content.widgets.length - 1; content.deselectAll(); }"
    )
    if not wait:
        page.evaluate("() => void window.jupyterapp.commands.execute('notebook:run-cell')")
        return
    _command(page, "notebook:run-cell")
    page.wait_for_function(
        f"(before) => {{ const now = ({_COUNTS})(); return now.at(-1) > before.at(-1); }}",
        arg=before,
        timeout=CELL_SECONDS * 1000,
    )


def wait_until_run(page) -> None:
    """Wait until every code cell has been run."""
    page.wait_for_function(
        f"() => {{ const counts = ({_COUNTS})(); return counts.length && counts.every(Boolean); }}",
        timeout=CELL_SECONDS * 1000,
    )


def wait_until_drawn(page) -> None:
    """Wait until every plot of every view is drawn."""
    page.wait_for_selector(".workbench-plot .main-svg", timeout=CELL_SECONDS * 1000)
    for _ in range(200):
        if page.evaluate(
            "[...document.querySelectorAll('.workbench-plot')]"
            ".every((plot) => plot._fullLayout && plot.querySelector('.main-svg'))"
        ):
            return
        page.wait_for_timeout(50)
    raise AssertionError("not all plots were drawn")


def save(page) -> None:
    """Save the notebook."""
    _command(page, "docmanager:save")


def shut_kernel_down(page) -> None:
    """End the notebook's kernel."""
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")


def set_theme(page, theme: str) -> None:
    """Switch JupyterLab to a theme."""
    page.evaluate(
        "(theme) => window.jupyterapp.commands.execute('apputils:change-theme', { theme })", theme
    )
    light = str("Dark" not in theme).lower()
    page.wait_for_selector(f"body[data-jp-theme-light='{light}']", state="attached")


def traces(page, selector: str, place: int = 0) -> list[dict[str, Any]]:
    """Return the traces of a plot as the browser has drawn them."""
    return json.loads(
        page.evaluate(
            """([selector, place]) => {
              const plot = document.querySelectorAll(selector)[place];
              const plain = (value) => ArrayBuffer.isView(value) ? [...value].map(plain)
                : Array.isArray(value) ? value.map(plain) : value;
              return JSON.stringify(plot._fullData.map(({ name, meta, visible, x, y, z }) =>
                ({ name, meta, visible, x: plain(x), y: plain(y), z: plain(z) })));
            }""",
            [selector, place],
        )
    )


def trace(page, selector: str, place: int = 0) -> dict[str, Any]:
    """Return the first of them."""
    return traces(page, selector, place)[0]


def click_cell(page, selector: str, *, column: int, row: int) -> None:
    """Click on a cell of a heat map."""
    plot = page.locator(selector).first
    plot.scroll_into_view_if_needed()
    x, y = plot.evaluate(
        """(plot, [column, row]) => {
          const { xaxis, yaxis } = plot._fullLayout;
          const box = plot.getBoundingClientRect();
          return [box.left + xaxis._offset + xaxis.d2p(column),
                  box.top + yaxis._offset + yaxis.d2p(row)];
        }""",
        [column, row],
    )
    page.mouse.move(x - 3, y - 3)
    page.mouse.move(x, y, steps=4)
    page.wait_for_timeout(100)
    page.mouse.click(x, y)


_COUNTS = """() => [...window.jupyterapp.shell.currentWidget.content.widgets]
  .filter((cell) => cell.model.type === "code").map((cell) => cell.model.executionCount)"""


def _command(page, name: str) -> None:
    page.evaluate("(name) => window.jupyterapp.commands.execute(name)", name)
