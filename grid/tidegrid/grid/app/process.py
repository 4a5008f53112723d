"""What belongs to the process and not to the grid: signals, the event loop, the garbage collector, its log.

The first SIGTERM or SIGINT asks for an orderly end, a second one ends at once: what was acknowledged is in the log.

Garbage collection: values are bytes and entries are plain tuples, so cycles are rare, and scanning millions of long
lived objects for them is what costs: half a second for a million, in which nothing is served. So young objects are
looked at often and in small numbers (the collector then lets go of tuples that cannot be in a cycle), full collections
practically never, and what recovery has built is frozen, out of the collector's sight.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

GC_THRESHOLDS = (1_500, 2, 1_000_000)
SWITCH_SECONDS = 0.000_5  # how long the event loop may keep the commit thread waiting for the interpreter


class Stopping:
    """`requested` is set by the first signal; `on_first` is called with its name."""

    def __init__(self, on_first: Callable[[str], None]) -> None:
        self.requested = asyncio.Event()
        self._on_first = on_first
        self._cancelled: asyncio.Task[Any] | None = None

    def install(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                loop.add_signal_handler(number, self._received, number)
            except NotImplementedError:  # Windows: Ctrl-C arrives as KeyboardInterrupt
                return

    @contextmanager
    def cancels_this_task(self) -> Iterator[None]:
        """Inside, the first signal cancels the task, which has nothing to finish."""
        self._cancelled = asyncio.current_task()
        try:
            yield
        finally:
            self._cancelled = None

    def _received(self, number: int) -> None:
        if self.requested.is_set():
            os._exit(128 + number)
        self.requested.set()
        self._on_first(signal.Signals(number).name)
        if self._cancelled is not None:
            self._cancelled.cancel()


def tune_interpreter() -> None:
    gc.set_threshold(*GC_THRESHOLDS)
    sys.setswitchinterval(SWITCH_SECONDS)


def freeze_gc() -> None:
    """What is there now stays: call it once recovery is done."""
    gc.collect()
    gc.freeze()


def start_logging(verbose: bool) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
