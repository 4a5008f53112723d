"""Requests that wait for the node to get somewhere: to an epoch, a close, or its reference copies.

Each wait names what it waits for and a deadline. `reached` hands back those whose wait is over, `expired` those whose
deadline has passed. O(log n) per wait.
"""

from __future__ import annotations

import heapq
from enum import Enum
from itertools import count
from typing import Any


class Milestone(Enum):
    EPOCH = "an activation"
    CLOSED = "a close"
    REFERENCES = "its copies of reference maps"
    TAILS = "an answer of the log"
    LANDED = "a frame to land"


class Waits:
    def __init__(self) -> None:
        self._heaps: dict[Milestone, list[tuple[int, int, Any]]] = {kind: [] for kind in Milestone}
        self._deadlines: list[tuple[float, int, Milestone]] = []
        self._waiting: dict[int, Any] = {}
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, kind: Milestone, value: int, request: Any, deadline: float) -> None:
        number = next(self._numbers)
        self._waiting[number] = request
        heapq.heappush(self._heaps[kind], (value, number, request))
        heapq.heappush(self._deadlines, (deadline, number, kind))

    def reached(self, kind: Milestone, value: int) -> list[Any]:
        heap = self._heaps[kind]
        ready = []
        while heap and heap[0][0] <= value:
            _, number, request = heapq.heappop(heap)
            if self._waiting.pop(number, None) is not None:
                ready.append(request)
        return ready

    def expired(self, now: float) -> list[tuple[Milestone, Any]]:
        late = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, number, kind = heapq.heappop(self._deadlines)
            request = self._waiting.pop(number, None)
            if request is not None:
                late.append((kind, request))
        return late

    def deadline(self) -> float | None:
        while self._deadlines and self._deadlines[0][1] not in self._waiting:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def highest(self, kind: Milestone) -> int:
        """The farthest value anyone waits for; 0: no one waits. O(waits of this kind)."""
        return max((value for value, number, _ in self._heaps[kind] if number in self._waiting), default=0)

    def drop_all(self) -> list[Any]:
        dropped = list(self._waiting.values())
        self.__init__()  # type: ignore[misc]
        return dropped
