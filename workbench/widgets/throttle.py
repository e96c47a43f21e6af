"""A brake on what is sent to a browser: not more often than it can be seen, and the last always."""

import threading
import time
from collections.abc import Callable
from contextvars import copy_context

PUSH_SECONDS = 0.2
"""Between two pushes to a browser: a push per training step would pile up for seconds."""


class Throttle:
    """Calls `push` when asked to, but not more often than every `seconds`; the last is never lost.

    Safe to ask from any thread. What is asked for too early is pushed once, as soon as it may.

    Args:
        push: Sends the present state.
        seconds: Between two pushes.
        clock: Tells the time in seconds.
        after: Calls something after so many seconds, in another thread.
    """

    def __init__(
        self,
        push: Callable[[], None],
        *,
        seconds: float = PUSH_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        after: Callable[[float, Callable[[], None]], object] | None = None,
    ) -> None:
        self._push, self.seconds, self._clock = push, seconds, clock
        self._after = after or _call_after
        self._guard, self._pushing = threading.Lock(), threading.Lock()
        self._next = clock()
        self._waiting = False

    def __call__(self) -> None:
        """Push now if it may, else as soon as it may."""
        with self._guard:
            if self._waiting:
                return
            wait = self._next - self._clock()
            self._waiting = wait > 0
        if wait > 0:
            self._after(wait, self._now)
        else:
            self._now()

    def _now(self) -> None:
        with self._guard:
            self._waiting = False
            self._next = self._clock() + self.seconds
        with self._pushing:  # in order, so that the newest state is the last
            self._push()


def _call_after(seconds: float, call: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, copy_context().run, (call,))
    timer.daemon = True
    timer.start()
