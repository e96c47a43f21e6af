"""JupyterLab in a real browser: a server on this machine, a notebook, and what it asks for."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

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
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path[:0]]),
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


def open_notebook(page, address: str, name: str) -> None:
    """Open a notebook and wait for its kernel."""
    page.goto(f"{address}/lab/tree/{name}?reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=SERVER_SECONDS * 1000)
    page.wait_for_selector('.jp-NotebookPanel [data-status="idle"]', timeout=SERVER_SECONDS * 1000)


def run_all(page) -> None:
    """Run all cells and wait until the last has ended."""
    page.locator(".jp-Notebook .jp-Cell").first.click()
    page.keyboard.press("Escape")
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
    wait_until_run(page)


def wait_until_run(page) -> None:
    """Wait until every cell has a number and the kernel is idle."""
    page.wait_for_function(
        """() => {
          const prompts = [...document.querySelectorAll(
            ".jp-Notebook .jp-CodeCell .jp-InputArea-prompt")].map((one) => one.textContent);
          return prompts.length && prompts.every((text) => /\\[\\d+\\]/.test(text));
        }""",
        timeout=CELL_SECONDS * 1000,
    )
