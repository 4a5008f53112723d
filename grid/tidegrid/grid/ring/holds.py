"""Holds: who keeps the horizon from passing an epoch. Part of the fold of the control log.

A hold has a name, an owner (text for people), an epoch and a time at which it expires. It is taken by a HOLD record,
renewed or moved by another one that names the position of the first, and ends by a HOLD_RELEASED, by another HOLD that
takes its name, or by a HORIZON that drops it. Time and memory end a hold in the last way only: whoever proposes a
horizon judges by its own clock and memory, and writes into the record what it found; so the fold is a function of the log.

Invariants: no hold lies below the horizon; a hold's `taken` is the position of one record and names it for ever.

Prior art: the leases of Chubby and etcd; PostgreSQL's replication slots, which a bound on the kept log may invalidate.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from tidegrid.grid.model.ids import Epoch, Position
from tidegrid.v1 import control_pb2

ENDS_REMEMBERED: Final = 100  # so that who comes back is told why its hold is gone


class HoldEnd(enum.IntEnum):
    RELEASED = 1
    TAKEN_OVER = 2
    EXPIRED = 3
    TOO_LARGE = 4

    @property
    def words(self) -> str:
        return _WORDS[self]


_WORDS: Final = {
    HoldEnd.RELEASED: "it was released",
    HoldEnd.TAKEN_OVER: "somebody else took a hold of that name",
    HoldEnd.EXPIRED: "it expired: it was not renewed in time, or was as old as a hold may get",
    HoldEnd.TOO_LARGE: "the history that it held outgrew the memory for it",
}


class Hold(NamedTuple):
    name: str
    owner: str
    epoch: Epoch
    since_ms: int  # held at this epoch since
    expires_ms: int
    taken: Position


class Holds:
    def __init__(self) -> None:
        self._holds: dict[str, Hold] = {}
        self._ends: dict[Position, HoldEnd] = {}  # of the newest that ended, by `taken`, oldest first

    def __len__(self) -> int:
        return len(self._holds)

    def __iter__(self) -> Iterator[Hold]:
        """In the order in which they were taken."""
        return iter(self._holds.values())

    def get(self, name: str) -> Hold | None:
        return self._holds.get(name)

    def end_of(self, taken: Position) -> HoldEnd | None:
        """Why the hold taken there is gone, if that is still known."""
        return self._ends.get(taken)

    @property
    def lowest(self) -> Epoch | None:
        return min((hold.epoch for hold in self), default=None)

    def apply(self, position: Position, record: control_pb2.Hold, horizon: Epoch) -> None:
        """A HOLD below the horizon, or one that renews what is gone, changes nothing."""
        epoch = Epoch(record.epoch)
        known = self._holds.get(record.name)
        if epoch < horizon or (record.taken and (known is None or known.taken != record.taken)):
            return
        if known is not None and not record.taken:
            self._end(known, HoldEnd.TAKEN_OVER)
        taken = Position(record.taken or position)
        self._holds[record.name] = Hold(record.name, record.owner, epoch, record.since_ms, record.expires_ms, taken)

    def release(self, record: control_pb2.HoldReleased) -> None:
        known = self._holds.get(record.name)
        if known is not None and record.taken in (0, known.taken):
            self._end(known, HoldEnd(record.cause) if record.cause in _CAUSES else HoldEnd.RELEASED)

    def _end(self, hold: Hold, cause: HoldEnd) -> None:
        del self._holds[hold.name]
        self._ends[hold.taken] = cause
        if len(self._ends) > ENDS_REMEMBERED:
            del self._ends[next(iter(self._ends))]

    def to_plain(self) -> list[Any]:
        return [[list(hold) for hold in self], [[taken, int(cause)] for taken, cause in self._ends.items()]]

    @classmethod
    def from_plain(cls, plain: list[Any]) -> Holds:
        made = cls()
        holds, ends = plain
        for name, owner, epoch, since_ms, expires_ms, taken in holds:
            made._holds[name] = Hold(name, owner, Epoch(epoch), since_ms, expires_ms, Position(taken))
        made._ends = {Position(taken): HoldEnd(cause) for taken, cause in ends}
        return made


_CAUSES: Final = frozenset(HoldEnd)
