"""Which change is next: in the order they came, and, if the order of keys counts, one of each key at a time. Pure.

    add(waiting)      it came
    take()            the oldest that may begin now, or None
    finish(waiting)   it is settled (or given up): the next one of its key may begin

With one call at a time, what is taken is in the order it came, whatever the keys.

Invariants: with `by_key`, of each key at most one is ready or taken, and the others of it wait behind, oldest first.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush

from tidegrid.effects.place import Waiting


class Lineup:
    def __init__(self, by_key: bool) -> None:
        self._by_key = by_key
        self._came = 0
        self._ready: list[tuple[int, Waiting]] = []  # a heap: one that had to wait for its key is older than the rest
        self._behind: dict[bytes, deque[tuple[int, Waiting]]] = {}  # of every key that is ready or taken
        self._waiting = 0

    def __len__(self) -> int:
        """How many were added and not taken."""
        return self._waiting

    def add(self, waiting: Waiting) -> None:
        self._came += 1
        self._waiting += 1
        entry = (self._came, waiting)
        if not self._by_key:
            heappush(self._ready, entry)
        elif waiting.raw_key in self._behind:
            self._behind[waiting.raw_key].append(entry)
        else:
            self._behind[waiting.raw_key] = deque()
            heappush(self._ready, entry)

    def take(self) -> Waiting | None:
        if not self._ready:
            return None
        self._waiting -= 1
        return heappop(self._ready)[1]

    def finish(self, waiting: Waiting) -> None:
        if not self._by_key:
            return
        behind = self._behind[waiting.raw_key]
        if behind:
            heappush(self._ready, behind.popleft())
        else:
            del self._behind[waiting.raw_key]
