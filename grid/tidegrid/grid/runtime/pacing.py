"""How fast long work beside a live grid may go: a share of the time of its process or thread, and so many writes a second.

Called now and then from the work (`ReplayWork`), it sleeps as long as it takes, and tells how far the work is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

_TELL_SECONDS: Final = 0.1
_BREATH_SECONDS: Final = 0.01  # work goes on for so long at a time
_BURST_SECONDS: Final = 0.2  # what was not used of a rate is not saved up for longer


class Pacer:
    """`share`: above 0, at most 1. `rate`: writes a second, 0: any number. `tell`: (bytes, writes) since it was last told."""

    def __init__(self, tell: Callable[[int, int], None], share: float, rate: float) -> None:
        self._tell = tell
        self._rest = (1 - share) / share
        self._rate = rate
        self._bytes = self._writes = self._seen = 0
        self._told_at = self._woke_at = self._due = time.monotonic()

    def __call__(self, size: int, writes: int) -> None:
        """`writes`: in this task so far."""
        done = writes - self._seen if writes >= self._seen else writes
        self._seen = writes
        self._bytes += size
        self._writes += done
        now = time.monotonic()
        if self._rate:
            self._due += done / self._rate
        busy = now - self._woke_at
        if busy >= _BREATH_SECONDS or self._due > now + _BREATH_SECONDS:
            pause = busy * self._rest
            if self._rate:
                self._due = max(self._due, now - _BURST_SECONDS)
                pause = max(pause, self._due - now)
            if pause > 0:
                time.sleep(pause)
            self._woke_at = time.monotonic()
        if now - self._told_at >= _TELL_SECONDS:
            self._told_at = now
            self.flush()

    def flush(self) -> None:
        if self._bytes or self._writes:
            self._tell(self._bytes, self._writes)
        self._bytes = self._writes = 0
