"""The keys of a table in order, for scans: built on first use, then brought up to date at the next scan.

Between scans it only notes what came and what went, so that a write costs one dict operation more, and a table that
is never scanned costs nothing. Invariant: keys in `_sorted`, with `_pending` applied, are the keys of the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sortedcontainers import SortedList


class OrderedKeys:
    __slots__ = ("_pending", "_sorted")

    def __init__(self, keys: Iterable[bytes]) -> None:
        """O(n log n)."""
        self._sorted: Any = SortedList(keys)
        self._pending: dict[bytes, bool] = {}  # True: came, False: went; both cancel out

    def add(self, keys: Iterable[bytes]) -> None:
        """Each has not been here, or has gone. O(1) a key."""
        pending = self._pending
        for key in keys:
            if pending.pop(key, None) is None:
                pending[key] = True

    def discard(self, key: bytes) -> None:
        """It has been here. O(1)."""
        if self._pending.pop(key, None) is None:
            self._pending[key] = False

    def between(self, begin: bytes, end: bytes | None, reverse: bool) -> Iterator[bytes]:
        """Keys in [begin, end), while nothing is added. O(log n) and O(log n) per pending key, then O(1) a key."""
        if self._pending:
            for key, came in self._pending.items():
                if not came:
                    self._sorted.remove(key)
            self._sorted.update([key for key, came in self._pending.items() if came])
            self._pending = {}
        keys: Iterator[bytes] = self._sorted.irange(begin, end, inclusive=(True, False), reverse=reverse)
        return keys

    def _check(self, keys: Iterable[bytes]) -> None:
        self._sorted._check()
        shown = {key for key in self._sorted if self._pending.get(key) is not False}
        shown.update(key for key, came in self._pending.items() if came)
        assert shown == set(keys) and len(self._sorted) == len(set(self._sorted))
        for key, came in self._pending.items():
            assert came != (key in self._sorted)
