"""The browser that draws figures as PDF, SVG and PNG: one for a batch, and no request leaves it."""

import asyncio
import importlib.util
import logging
import os
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import plotly.graph_objects as go

from workbench.errors import WorkbenchError

PX, DPI = 96, 300
"""Pixels per inch of a page, and of a PNG."""

SECONDS = 60
"""A browser that takes longer to start or to draw is given up."""

INSTALL = "install one with `apt-get install chromium` or `plotly_get_chrome`"

NO_MARGINS = "<style>@page{margin:0}</style>"
"""Otherwise the browser's own margins shrink the page's content."""


class BrowserError(WorkbenchError, RuntimeError):
    """A browser that does not start or does not draw."""


def missing() -> str | None:
    """Return what is missing to draw in a browser, and how to install it; None if nothing is."""
    if importlib.util.find_spec("kaleido") is None:
        return "no kaleido: pip install 'reversion-workbench[export]'"
    named = os.environ.get("BROWSER_PATH")
    if named is not None and not Path(named).is_file():
        return f"no browser at BROWSER_PATH={named}: {INSTALL}, or correct it"
    return None if find_browser() else f"no Chrome or Chromium: {INSTALL}"


def find_browser() -> str | None:
    """Return where Chrome or Chromium is: BROWSER_PATH, choreographer's own, or on PATH."""
    from choreographer.browsers.chromium import Chromium

    found = os.environ.get("BROWSER_PATH") or Chromium.find_browser(skip_local=False)
    return found if found and Path(found).is_file() else None


class Browser:
    """A running browser; closed at the end of the `with` block, or by `close`.

    It has an event loop and a thread of its own, so that it works in notebooks, too.

    Raises:
        BrowserError: If it does not start.
    """

    def __init__(self) -> None:
        # It logs a trace for a message that ends with the browser; what matters is raised here.
        self._log = logging.getLogger("choreographer")
        self._level = self._log.level
        self._log.setLevel(logging.CRITICAL)
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        try:
            self._kaleido = self._wait(_open())
        except BrowserError as error:
            self._stop()
            raise BrowserError(
                f"the browser {find_browser()} does not start; {INSTALL}, or correct BROWSER_PATH"
            ) from error
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the browser."""
        if not self._loop.is_closed():
            try:
                self._wait(self._kaleido.close())
            finally:
                self._stop()

    def draw(self, figure: go.Figure, suffix: str) -> bytes:
        """Return a figure of fixed width and height (pixels) as `pdf`, `svg` or `png`.

        Raises:
            BrowserError: If the browser cannot draw it.
        """
        scale = DPI / PX if suffix == "png" else 1
        return self._wait(self._kaleido.calc_fig(figure, opts={"format": suffix, "scale": scale}))

    def _wait(self, work: Any) -> Any:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(SECONDS)
        except TimeoutError:
            future.cancel()
            raise BrowserError(
                f"The browser did not answer within {SECONDS} s; try again."
            ) from None
        except (RuntimeError, OSError, ValueError) as error:
            raise BrowserError(
                f"The browser failed: {' '.join(str(error).split())[:300]}"
            ) from error

    def _stop(self) -> None:
        """End what still runs in the loop, then the loop."""
        self._log.setLevel(self._level)
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(_end_others(), self._loop).result(SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)
        if not self._loop.is_running():
            self._loop.close()


async def _end_others() -> None:
    """Cancel every other task, such as those of a browser that closed at once."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _open() -> Any:
    """Open kaleido's browser on a page whose scripts all lie on this machine."""
    import kaleido

    class Page(kaleido.PageGenerator):
        def generate_index(self) -> str:
            return super().generate_index().replace("</title>", f"</title>{NO_MARGINS}")

    # Without mathjax=False every start would ask a server for it.
    browser = kaleido.Kaleido(page_generator=Page(mathjax=False), path=find_browser())
    await browser.open()
    return browser
