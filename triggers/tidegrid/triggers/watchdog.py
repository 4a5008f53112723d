"""Stops triggers that are over their time budget in the process itself: a thread that looks, now and then, at what the
thread that runs triggers is busy with (budget.py), and throws `Overrun` into it. For the shells above, and for authors'
tests (testing.py); nothing else of this floor has a clock or a thread.

Invariant: nothing is thrown but while the row that is over its budget is in the hands of triggers. `Watch.row` is looked
at under the lock, after `stopping` is set; whoever finds `stopping` set takes the lock, and then takes back what has not
come yet. So one of the two sees the other.

An exception comes between two instructions of Python code. Code that is in C for long (a regular expression, a sort, a
sleep) gets it when it comes back, and code that catches everything catches it; it is thrown again as long as the row goes
on. For more there are worker processes.
"""

from __future__ import annotations

import ctypes
import threading
import time
from typing import Final

from tidegrid.triggers.budget import Overrun, Watch

LOOK_SECONDS_MAX: Final = 0.25
LOOK_SECONDS_MIN: Final = 0.01


class Watchdog:
    """Of the thread that makes it. `watch` adds what runs there; `close` ends it."""

    def __init__(self) -> None:
        self._watched = threading.get_ident()
        self._watches: tuple[Watch, ...] = ()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tidegrid-watchdog", daemon=True)

    def watch(self, watch: Watch) -> None:
        watch.settle = lambda: self._settle(watch)
        self._watches = (*self._watches, watch)
        if not self._thread.is_alive():
            self._thread.start()

    def forget(self, watch: Watch) -> None:
        self._watches = tuple(one for one in self._watches if one is not watch)

    def close(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        seen: dict[int, tuple[object, float]] = {}  # the row, and how long it has been there
        pause, looked = LOOK_SECONDS_MAX, time.monotonic()
        while not self._ended.wait(pause):
            now = time.monotonic()
            passed, looked = min(now - looked, 1.5 * pause), now  # a process that was stopped has not run for so long
            pause = LOOK_SECONDS_MAX
            for watch in self._watches:
                row, budget = watch.row, watch.budget
                if budget:
                    pause = min(pause, max(LOOK_SECONDS_MIN, budget / 4))
                known, spent = seen.get(id(watch), (None, 0.0))
                spent = spent + passed if row is not None and row is known else 0.0
                seen[id(watch)] = (row, spent)
                if budget and spent >= budget:
                    self._stop(watch, row)

    def _stop(self, watch: Watch, row: object) -> None:
        with self._lock:
            watch.stopping = True
            if watch.row is row:
                _throw(self._watched, ctypes.py_object(Overrun))
            else:
                watch.stopping = False

    def _settle(self, watch: Watch) -> None:
        """From the watched thread, with no row in hand any more."""
        with self._lock:
            _throw(self._watched, None)
            watch.stopping = False


def _throw(thread: int, what: ctypes.py_object[type[BaseException]] | None) -> None:
    """None takes back what has not come yet."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), what)
