"""Stopping by a signal: the first ends what is under way so that it can be continued, a second all.

Only the command line, and processes that it starts, heed signals so; elsewhere nothing here acts.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)

ONE_STOP_SECONDS = 1.0
"""So soon after the first, a signal is the same stop: `timeout` and launchers send theirs twice."""

NOTICE = "stopping after the step under way; once more stops at once"


class Stopped(KeyboardInterrupt):
    """What a signal ended.

    Args:
        number: Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        """Return what happened, such as `stopped by SIGTERM`."""
        return f"stopped by {signal.Signals(self.number).name}"


@dataclass
class _Heed:
    """How this process heeds signals, and which came first."""

    quiet: bool = True
    worker: bool = False
    """Whether another process decides when all is to end at once."""

    first: int | None = None
    at: float = 0.0
    instead: list[Callable[[], object] | None] = field(default_factory=list)
    """What the first does, the innermost last: nothing if empty; None raises `Stopped`."""

    def __call__(self, number: int, _frame: object) -> None:
        """Do what a signal asks for."""
        if self.worker and not self.instead:
            os._exit(128 + number)  # idle: raised, it would end as a trace
        if self.first is None:
            self.first, self.at = number, time.monotonic()
            if not self.instead:
                return  # nothing has begun, or all has ended
            if (action := self.instead[-1]) is None:
                raise Stopped(number)
            if not self.quiet:
                _say(NOTICE)
            action()
        elif not self.worker and time.monotonic() - self.at > ONE_STOP_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


_heed: _Heed | None = None


@contextmanager
def heeding(*, quiet: bool = False, worker: bool = False) -> Iterator[None]:
    """Heed signals while open, if this is the main thread; those that are ignored stay so.

    The first is noted, and does what `instead` says.

    Args:
        quiet: Do not say that what is under way is finished first.
        worker: Another process decides when all is to end at once.
    """
    if _heed is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        _install(_Heed(quiet or worker, worker))
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
        _install(None)


def heed_as_worker() -> None:
    """From now on stop this process when told to: after its step, or at once if it has none."""
    _install(_Heed(worker=True))
    unblock()


def _install(heed: _Heed | None) -> None:
    global _heed
    _heed = heed
    for number in SIGNALS if heed is not None else ():
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, heed)


def asked() -> Stopped | None:
    """Return the stop that was asked for, if one was."""
    return None if _heed is None or _heed.first is None else Stopped(_heed.first)


def check() -> None:
    """Raise `Stopped` if a stop was asked for."""
    if (stop := asked()) is not None:
        raise stop


@contextmanager
def instead(action: Callable[[], object] | None) -> Iterator[None]:
    """While open, let the first signal do this, in the main thread.

    Args:
        action: What; None to raise `Stopped`.
    """
    if (heed := _heed) is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    heed.instead.append(action)
    try:
        yield
    finally:
        heed.instead.pop()


def later() -> AbstractContextManager[None]:
    """While open, only note that a stop was asked for: `check` raises it."""
    return instead(lambda: None)


@contextmanager
def blocked() -> Iterator[None]:
    """Let signals wait while open, also those of processes that are started, until they unblock."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def unblock() -> None:
    """Receive what `blocked` has kept waiting."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _say(text: str) -> None:
    """Write past the buffers, which may be in use where the signal came."""
    with suppress(OSError):
        os.write(2, f"workbench: {text}\n".encode())
