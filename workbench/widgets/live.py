"""A fine-tuning in a notebook, watched while it goes on."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import ConfigError
from workbench.plots.live import live_figures, live_words
from workbench.plots.view import Button, View
from workbench.plots.whole import whole_plot, whole_tables
from workbench.records import Scores
from workbench.runs import Run
from workbench.standing import Pace, Standing, stamp
from workbench.text import printable
from workbench.widgets.panel import Panel
from workbench.widgets.throttle import PUSH_SECONDS

if TYPE_CHECKING:
    from workbench.background import Background
    from workbench.finetune import FineTuning

LOOK_SHARE = 0.1
"""Of the time, what looking may take: where it takes long it is done more rarely."""

WORDS_SECONDS = 2.0
"""Between two changes of the words while a run goes on: they are read aloud."""

BUTTONS = (Button("stop", "Stop"), Button("continue", "Continue"))
ALT = {
    "map": "Heat map of the alignment at every layer and measured step so far",
    "curves": "Mean alignment and training loss over the fine-tuning steps so far",
}


class LiveRun(Panel):
    """The alignment per layer while fine-tuning goes on.

    Given a fine-tuning, it trains in the background and leaves the kernel free: closing the page
    stops nothing, and a page that is loaded later shows how things stand. Given a run, it watches
    what another process writes, or shows what has ended. Either way it shows what is in the run's
    folder, and nothing else.

    Stop ends the training after the step under way and stores its state. Continue, here or with
    the same fine-tuning and folder in a new kernel, goes on to the bits of an uninterrupted run;
    `workbench finetune --resume` does so, too.

    A kernel that is shut down marks the run stopped at once, then ends the step under way and
    stores its state. Jupyter kills one that takes more than some seconds (2.5, half of its
    `KernelManager.shutdown_wait_time`): after longer steps press Stop first and wait, or the run
    continues from its last training state.

    Args:
        source: A `FineTuning` just made, or a run or its folder to watch.
        out: Where to store the run of a fine-tuning; by default a new folder below `runs`. One
            that was stopped before is continued.
        state_every: Steps between training states: what a crash can cost.
        evaluate: Gives the scores after a step, to be stored.
        evaluate_at: Steps to evaluate after; 0 is before the first.

    Raises:
        ConfigError: If the model is being trained already, or the fine-tuning has begun.
        RunError: If there is no run to watch, or the folder of a new one is taken.
    """

    def __init__(
        self,
        source: "FineTuning | Run | str | Path",
        *,
        out: str | Path | None = None,
        state_every: int = 10,
        evaluate: Callable[[int], Scores] | None = None,
        evaluate_at: Sequence[int] = (),
    ) -> None:
        self._training: Background | None = None
        if isinstance(source, Run | str | Path):
            folder = source.folder if isinstance(source, Run) else Path(source)
        else:
            self._training = _begin(
                source, out=out, state_every=state_every, evaluate=evaluate, evaluate_at=evaluate_at
            )
            folder = self._training.run.folder
        self.run = Run(folder).checked()
        """The run as stored; `refresh()` it to read what has come since."""

        self._watched, self._pace = Run(folder), Pace()
        self._standing: Standing | None = None
        self._seen: object = None
        self._looking = threading.Lock()
        self._nudge = threading.Event()
        self._spoken = (-math.inf, "")
        super().__init__(_view(self._watched, BUTTONS if self._training else ()))
        self._watch()

    @property
    def tuning(self) -> "FineTuning | None":
        """The fine-tuning, if it is trained here."""
        return self._training and self._training.tuning

    @property
    def state(self) -> str:
        """`running`, `stopping`, `stopped`, `done` or `failed`."""
        return self._now() or self._end(Standing.of(Run(self.run.folder)))

    def stop(self) -> None:
        """End the training after the step under way.

        Raises:
            ConfigError: If it is not trained here.
        """
        self._own().stop()
        self._look()

    def resume(self) -> None:
        """Continue the training from where it was stopped.

        Raises:
            ConfigError: If it is training, is finished, or is not trained here.
            RunError: If another process has taken up the run.
        """
        self._own().resume()
        self._watch(self._watcher)

    def wait(self, timeout: float | None = None) -> str:
        """Wait until the run has ended, or so many seconds; return the `state`.

        Raises:
            Exception: What ended the training before its time, if it is trained here.
        """
        nudge, watcher = self._nudge, self._watcher
        if self._training is None:
            watcher.join(timeout)
        elif self._training.wait(timeout):
            nudge.set()
            watcher.join()
            if self._training.error is not None:
                raise self._training.error
        self.run.refresh()
        return self.state

    def pressed(self, name: str) -> None:
        """Stop or continue."""
        if name == "stop":
            self.stop()
        elif name == "continue":
            self.resume()

    def _own(self) -> "Background":
        if self._training is None:
            raise ConfigError(f"{self.run.folder}: only watched here; it is trained elsewhere.")
        return self._training

    def _watch(self, watcher: threading.Thread | None = None) -> None:
        """Look at the folder in a thread until the run has ended, after another that did."""
        before, self._nudge = self._nudge, threading.Event()
        before.set()
        if watcher is not None:
            watcher.join()
        self._look()
        self._watcher = self.in_thread(partial(self._keep_looking, self._nudge))

    def _keep_looking(self, nudge: threading.Event) -> None:
        while nudge is self._nudge:
            start = time.monotonic()
            if self._look():
                return
            took = time.monotonic() - start
            nudge.wait(max(PUSH_SECONDS, took / LOOK_SHARE))

    def _look(self) -> bool:
        """Show what the folder holds; return whether the run had ended before."""
        with self._looking:
            try:
                # Asked before the folder is: what that says after the end is final.
                now, standing = self._now(), self._read()
                state = now or self._end(standing)
                self.status = self._told(state, standing) | self._words(state, standing)
            except Exception as error:  # the panel is all that a user sees of this thread
                self.status = {"words": f"{type(error).__name__}: {error}"}
                return True
            return state not in ("running", "stopping")

    def _read(self) -> Standing:
        """How the run stands by its folder; what is new there is shown."""
        seen = stamp(self._watched)
        if self._standing is None or seen != self._seen:
            self._standing = Standing.of(self._watched)
            self._pace.note(self._standing.step, time.monotonic())
            self.fill(whole_tables(live_figures(self._watched)))
            self._seen = seen
        return self._standing

    def _now(self) -> str | None:
        """What the training here is doing; None if it has ended, or there is none."""
        if (own := self._training) is None or not own.alive:
            return None
        return "stopping" if own.stopping else "running"

    def _end(self, standing: Standing) -> str:
        """How a training has ended that is not, or not any more, at work here."""
        lost = self._training is not None and standing.state == "running"
        return "failed" if lost else standing.state

    def _told(self, state: str, standing: Standing) -> dict[str, Any]:
        resumable = self._training is not None and self._training.resumable
        return {
            "progress": standing.step / standing.steps if standing.steps else None,
            # Not while it runs: what is busy need not be read aloud, Stop included.
            "busy": state == "stopping",
            "disabled": [*(["stop"] * (state != "running")), *(["continue"] * (not resumable))],
        }

    def _words(self, state: str, standing: Standing) -> dict[str, str]:
        """What to say; while it runs, for a while what was said last."""
        (spoken, of), now = self._spoken, time.monotonic()
        if state == of == "running" and now - spoken < WORDS_SECONDS:
            return {"words": self.status["words"]}
        self._spoken = (now, state)
        own = self._training
        line = live_words(standing, self._pace.rate if state == "running" else None)
        why = standing.why or (f"{own.error}" if own and own.error else "")
        go_on = "press Continue to go on" if own is not None and own.resumable else why
        return {
            "words": {
                "running": line,
                "stopping": f"stopping after this step: {line}",
                "stopped": f"stopped: {line}; {go_on}",
                "done": f"done: {line}",
                "failed": f"failed: {line}: {why}",
            }[state]
        }


def _begin(tuning: Any, **options: Any) -> "Background":
    """Train in the background; only this needs torch."""
    from workbench.background import Background
    from workbench.finetune import FineTuning

    if not isinstance(tuning, FineTuning):
        name = type(tuning).__name__
        raise ConfigError(f"LiveRun takes a FineTuning, a run or its folder, not {name}.")
    return Background(tuning, **options)


def _view(run: Run, buttons: tuple[Button, ...]) -> View:
    figures = live_figures(run)
    plots = tuple(whole_plot(name, figure, ALT[name]) for name, figure in figures.items())
    return View(f"Run {printable(run.id)}", whole_tables(figures), (), plots, buttons=buttons)
