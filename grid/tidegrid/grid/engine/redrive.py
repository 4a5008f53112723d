"""Requests about parked writes: what is parked, and to run triggers on it again.

A redrive names parked writes of one partition. It may be sent again, also to another owner: a write that was redriven
is not parked any more, so it is told as gone. What is refused or gone needs no record.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from tidegrid.grid.engine.parking import ParkedId, ParkedWrite
from tidegrid.grid.model.errors import GridError
from tidegrid.grid.model.ids import Epoch, PartitionId

REDRIVEN: Final = "redriven"
DROPPED: Final = "dropped"
FAILED: Final = "failed"
SUPERSEDED: Final = "superseded"
GONE: Final = "gone"
_NO_EPOCH: Final = Epoch(0)


class Outcome(NamedTuple):
    """`epoch`: of what came of it, 0 where nothing was stored."""

    id: ParkedId
    word: str
    message: str = ""
    epoch: Epoch = _NO_EPOCH


class RedriveRequest:
    """Answered from the first to the last, over as many frames as it takes. `next_row`: the first without an answer."""

    __slots__ = ("drop", "error", "force", "ids", "outcomes", "partition", "reply_to")

    def __init__(self, partition: PartitionId, ids: Sequence[ParkedId], force: bool, drop: bool, reply_to: Any) -> None:
        self.partition = partition
        self.ids = list(dict.fromkeys(ids))
        self.force = force
        self.drop = drop
        self.reply_to = reply_to
        self.outcomes: list[Outcome] = []
        self.error: GridError | None = None

    @property
    def next_row(self) -> int:
        return len(self.outcomes)

    @property
    def complete(self) -> bool:
        return len(self.outcomes) == len(self.ids)

    def answer(self, outcomes: Sequence[Outcome], epoch: Epoch) -> None:
        """A frame has decided these, and is in the log (or has nothing to put there)."""
        self.outcomes += (
            outcome._replace(epoch=epoch) if outcome.word in (REDRIVEN, DROPPED) else outcome for outcome in outcomes
        )


class RedriveQueue:
    """The redrives of one partition, the oldest first; it stays here until it is complete, or nothing more can come."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: deque[RedriveRequest] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, request: RedriveRequest) -> None:
        self._waiting.append(request)

    @property
    def first(self) -> RedriveRequest:
        return self._waiting[0]

    def end(self, request: RedriveRequest, error: GridError | None = None) -> list[RedriveRequest]:
        """What has been answered stands: whoever asked asks again for the rest."""
        if request not in self._waiting:
            return []
        self._waiting.remove(request)
        request.error = None if request.outcomes else error
        return [request]

    def end_all(self, error: GridError, but: RedriveRequest | None) -> list[RedriveRequest]:
        """`but`: of the frame in flight, which may yet be found in the log."""
        return [ended for one in list(self._waiting) if one is not but for ended in self.end(one, error)]


class ParkedRequest:
    """A page of what is parked in one partition, of one map or (empty) of all."""

    __slots__ = ("after", "error", "map", "more", "partition", "reply_to", "rows_max", "superseded", "writes")

    def __init__(self, partition: PartitionId, map_name: str, after: ParkedId, rows_max: int, reply_to: Any) -> None:
        self.partition = partition
        self.map = map_name
        self.after = after
        self.rows_max = rows_max
        self.reply_to = reply_to
        self.writes: list[ParkedWrite] = []
        self.superseded: list[bool] = []
        self.more = False
        self.error: GridError | None = None
