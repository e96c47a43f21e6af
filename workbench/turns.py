"""Turns: a lock that threads get in the order in which they asked for it, one per model."""

import threading
from collections import deque
from weakref import WeakKeyDictionary


class Turns:
    """A lock for one thread at a time, re-entrant and first come, first served.

    A training thread takes it anew at every step. With `threading.RLock` it would nearly always
    win against a reader that waits; here its next step comes after everyone who asked meanwhile.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._owner: int | None = None
        self._depth = 0
        self._waiting: deque[tuple[int, threading.Lock]] = deque()

    def __enter__(self) -> "Turns":
        """Wait for the turn of this thread, unless it is on already."""
        me = threading.get_ident()
        with self._guard:
            if self._owner in (me, None):
                self._owner, self._depth = me, self._depth + 1
                return self
            ticket = (me, threading.Lock())
            ticket[1].acquire()
            self._waiting.append(ticket)
        try:
            ticket[1].acquire()
        except BaseException:  # interrupted while it waits, or just as it was called
            with self._guard:
                if ticket in self._waiting:
                    self._waiting.remove(ticket)
                else:
                    self._call_next()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End the turn where it was begun; who waits longest is next."""
        with self._guard:
            assert self._owner == threading.get_ident(), "another thread's turn"
            self._depth -= 1
            if self._depth == 0:
                self._call_next()

    def __reduce__(self) -> tuple[type["Turns"], tuple[()]]:
        """Give the copy of a model a lock of its own."""
        return Turns, ()

    def _call_next(self) -> None:
        self._owner, self._depth = None, 0
        if self._waiting:
            self._owner, ticket = self._waiting.popleft()
            self._depth = 1
            ticket.release()


_locks: WeakKeyDictionary[object, Turns] = WeakKeyDictionary()
_making = threading.Lock()


def turns_of(weights: object) -> Turns:
    """Return the lock of whatever holds some weights: the same one each time."""
    with _making:
        return _locks.setdefault(weights, Turns())
