"""Time as the shells read it, in one place, so that a test can step it."""

from __future__ import annotations

import time
from typing import Protocol

from tidegrid.grid.engine.node import Instant


class Clock(Protocol):
    def instant(self) -> Instant: ...


class SystemClock:
    def instant(self) -> Instant:
        return Instant(time.monotonic(), time.time_ns() // 1_000_000)
