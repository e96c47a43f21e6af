"""A fine-tuning in the background: a thread trains and stores, until it is stopped."""

import atexit
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from workbench.errors import ConfigError, RunError
from workbench.finetune import FineTuning
from workbench.recording import failing, note_machine, record_run
from workbench.records import Scores
from workbench.runs import Run
from workbench.standing import RESUME
from workbench.store import RunStore
from workbench.surroundings import DIRECTIONS


class Background:
    """A fine-tuning that a thread of this process trains and stores.

    When the process ends, the run is marked stopped at once, and training ends after the step under
    way with its state stored. If the process is killed before, the steps since the last are lost.

    Threads share torch's global random numbers. While a model with dropout is trained, draw yours
    from a generator of your own: else they are not what they would be, and neither is the dropout.

    Args:
        tuning: Just made.
        out: The run's folder; by default a new one below `runs`. A run there that was stopped is
            continued, if it was made with the same settings.
        state_every: Steps between training states; one more is stored whenever it is stopped.
        evaluate: Gives the scores after a step.
        evaluate_at: Steps to evaluate after; 0 is before the first.

    Raises:
        ConfigError: If the model is being trained already, or the fine-tuning has begun.
        RunError: If the folder holds a run that is finished, being written, or of other settings.
    """

    def __init__(
        self,
        tuning: FineTuning,
        *,
        out: str | Path | None = None,
        state_every: int = 10,
        evaluate: Callable[[int], Scores] | None = None,
        evaluate_at: Sequence[int] = (),
    ) -> None:
        self.tuning = tuning
        self.error: Exception | None = None
        """What ended the training before its time."""

        self._record = partial(
            record_run, state_every=state_every, evaluate=evaluate, evaluate_at=evaluate_at
        )
        self._thread: threading.Thread | None = None
        self._why: str | None = None
        self._marking = threading.Lock()
        folder = Path(out) if out is not None else Path("runs") / _new_name()
        with _claim(self):
            self._config = tuning.config()
            self.run = _take(folder, self._config)
            self._start()

    @property
    def alive(self) -> bool:
        """Whether the thread is at work."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop, and has not yet."""
        return self.alive and self._why is not None

    @property
    def resumable(self) -> bool:
        """Whether it can go on from where it ended."""
        left = self.tuning.step < self.tuning.steps
        return not self.alive and left and self.run.states.reached()[0] >= 0

    def stop(self, why: str = "stopped by the user") -> None:
        """End the training after the step under way; `resume` continues it to the same bits."""
        if self.alive and self._why is None:
            self._why = why
            self.tuning.stop()

    def resume(self) -> None:
        """Continue from the last training state.

        Raises:
            ConfigError: If it is training, is finished, or no training state was stored.
            RunError: If another process has taken up the run.
        """
        if not self.resumable:
            told = "it is training" if self.alive else "no training state is left"
            raise ConfigError(f"{self.run.folder}: cannot be continued: {told}.")
        with _claim(self):
            self.run = _take(self.run.folder, self._config)
            self.tuning.stopped = False  # an error may have come before what was told to stop
            self._start()

    def leave(self) -> None:
        """Stop with the process, and mark the run so before the step under way has ended."""
        self.stop("stopped with its process")
        with self._marking:
            # It stays locked: training still writes to it.
            if self.alive and (info := self.run.info)["status"] == "running":
                self.run.write_info(info | {"status": "failed", "failure": self._told()})

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the thread has ended, or so many seconds; return whether it has."""
        if self._thread is not None:
            self._thread.join(timeout)
        return not self.alive

    def _start(self) -> None:
        self._why = self.error = None
        name = f"training {self.run.id}"
        self._thread = threading.Thread(target=self._train, name=name, daemon=True)
        self._thread.start()

    def _train(self) -> None:
        run, tuning = self.run, self.tuning
        try:
            with failing(run):
                with self._marking:
                    note_machine(run, tuning.model)
                if tuning.directions is not None:
                    tuning.directions.save(run.folder / DIRECTIONS)
                self._record(run, tuning)
                with self._marking:
                    run.finish() if tuning.step == tuning.steps else run.fail(self._told())
        except Exception as error:  # told by `error`, and by the run where it can be
            self.error = error
        finally:
            _training.pop(tuning.model.hf, None)

    def _told(self) -> str:
        return f"{self._why or 'stopped'} at step {self.tuning.step}; {RESUME}"


_training: WeakKeyDictionary[nn.Module, Background] = WeakKeyDictionary()
"""By model, who trains it now."""

_claiming = threading.Lock()


@contextmanager
def _claim(background: Background) -> Iterator[None]:
    """Claim the model for a thread that is started while open; if that fails, give it up again."""
    model = background.tuning.model.hf
    with _claiming:
        if model in _training:
            raise ConfigError(
                "This model is being trained already: wait for that, or stop it and make model "
                "and fine-tuning anew."
            )
        _training[model] = background
    try:
        yield
    except BaseException:
        _training.pop(model, None)
        raise


def _take(folder: Path, config: dict[str, Any]) -> Run:
    """Create the run, or take it up where it was left."""
    store = RunStore(folder.parent)
    if not folder.exists():
        return store.create(config, folder.name)
    run = store.resume(folder.name, config)
    if run.status == "done":
        raise RunError(f"{folder}: finished; show it by its folder, or choose another.")
    return run


def _new_name() -> str:
    return f"live-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"


@atexit.register
def _leave() -> None:
    """Stop all training with its process, so that every run can be resumed at its last step."""
    left = list(_training.values())
    for background in left:
        with suppress(OSError, RunError):  # a full disk; what is stored stays
            background.leave()
    for background in left:
        background.wait()
