"""How far an effect is: pure.

    take(epoch, changes)  a closed epoch came from the feed, with these changes: which of them are still to be done
    settle(place)         one of them is done, or given up
    mark(epoch)           everything at or below it has come

At or below the cursor everything is settled; it moves with the epochs that came with changes, and with marks when
nothing is left. What is settled beyond it is remembered by place, so that a restart gives nothing a second time that
was settled, in whatever order that happened.

Invariants: the cursor never decreases; what is settled is what is at or below it, and the places remembered beyond it;
nothing is settled that was not taken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from tidegrid.effects.place import Place, Waiting


class _Epoch:
    """One that came, and is not settled in whole, or waits for one before it."""

    __slots__ = ("count", "left", "number")

    def __init__(self, number: int, count: int, left: set[Place]) -> None:
        self.number = number
        self.count = count
        self.left = left


class Ledger:
    def __init__(self, cursor: int, beyond: Iterable[Place] = ()) -> None:
        """`beyond`: what was settled above the cursor, before a restart."""
        self.cursor = cursor
        self._marked = cursor
        self._held = 0
        self._open: deque[_Epoch] = deque()
        self._by_number: dict[int, _Epoch] = {}
        self._beyond: dict[int, set[Place]] = {}
        for place in beyond:
            if place.epoch > cursor:
                self._beyond.setdefault(place.epoch, set()).add(place)

    @property
    def held(self) -> int:
        """How many changes above the cursor have come, settled or not: what a restart may have to read again."""
        return self._held

    def take(self, epoch: int, changes: Iterable[Waiting]) -> list[Waiting]:
        """The changes that are to be done, in their order. An epoch comes once, and later ones after it."""
        assert epoch > self._marked, (epoch, self._marked)
        came = list(changes)
        settled = self._beyond.pop(epoch, set())
        left = [change for change in came if change.place not in settled]
        opened = _Epoch(epoch, len(came), {change.place for change in left})
        self._open.append(opened)
        self._by_number[epoch] = opened
        self._held += len(came)
        self._marked = epoch
        self._move()
        return left

    def mark(self, epoch: int) -> None:
        self._marked = max(self._marked, epoch)
        self._move()

    def settle(self, place: Place) -> None:
        self._by_number[place.epoch].left.remove(place)
        self._move()

    def _move(self) -> None:
        while self._open and not self._open[0].left:
            first = self._open.popleft()
            del self._by_number[first.number]
            self._held -= first.count
            self.cursor = first.number
        if not self._open:
            self.cursor = max(self.cursor, self._marked)
