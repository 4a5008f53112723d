"""Rule R2: before a linearizable read, the owner asks its log whether somebody else has written what it does not hold.

    asked --a check starts--> checked --the owner holds all up to that tail--> the read is served
                                      --a frame of its own is on its way--> judged again when it has landed
                                      --neither--> another owner has written: WrongOwnerError, ask who it is

One check is on its way at a time; whoever comes meanwhile shares the next one, which so starts after all of them came.
The tails are a lower bound for what the answer shows: all that was acknowledged before the read came is at or below them.
Invariant: a check is asked for only while somebody waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tidegrid.grid.engine.effects import CheckTails, Effect
from tidegrid.grid.model.ids import PartitionId


class TailChecks:
    def __init__(self, emit: Callable[[Effect], None]) -> None:
        self._emit = emit
        self._number = 0  # of the newest check that has started
        self._running = False
        self._wanted: set[PartitionId] = set()

    def ask(self, partitions: Iterable[PartitionId]) -> int:
        """Asks for the tails of these logs; returns the number of the check that will tell them."""
        self._wanted.update(partitions)
        return self._number if self._start() else self._number + 1

    def _start(self) -> bool:
        if self._running or not self._wanted:
            return False
        self._number += 1
        self._running = True
        self._emit(CheckTails(self._number, tuple(sorted(self._wanted))))
        self._wanted.clear()
        return True

    def ended(self, number: int) -> None:
        """The outcome of check `number` is here, and whoever waited for it has been told: the next may start."""
        assert number == self._number
        self._running = False
        self._start()
