"""Holds on their way into the control log: any node takes them, and answers once it has applied the record.

One record is on its way at a time, appended by compare to the control position that it was decided at; so the horizon
that it was checked against is the one that it meets. Where another record took the slot, it is decided anew.

A hold's time is given here: `expires_ms` is at most `hold_seconds_max` after the hold was taken, or was moved to the
epoch that it holds. An expired hold stands until a HORIZON drops it (engine/retention.py); until then it may be renewed.

Invariant: every request is answered exactly once. One whose deadline passed may be in the log all the same; a hold
that nobody renews expires.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from tidegrid.grid.engine.effects import Answered, AppendControl, Effect
from tidegrid.grid.engine.hold import HoldRequest
from tidegrid.grid.model.errors import (
    CallerError,
    DeadlineError,
    EpochTooNewError,
    EpochTooOldError,
    GridError,
    HoldLostError,
    TooLargeError,
    TooManyHoldsError,
    WrongTailError,
)
from tidegrid.grid.model.ids import BEFORE_FIRST, Epoch, Position
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.holds import Hold, HoldEnd
from tidegrid.v1 import control_pb2
from tidegrid.v1.control_pb2 import ControlRecord

_AGAIN_SECONDS: Final = 0.1  # after an append of which nothing was heard


class _Waiting(NamedTuple):
    request: HoldRequest
    deadline: float


class Holding:
    def __init__(self, control: ControlState, limits: Limits, emit: Callable[[Effect], None]) -> None:
        self._control = control
        self._limits = limits
        self._emit = emit
        self._waiting: deque[_Waiting] = deque()  # the first one's record is on its way
        self._record: ControlRecord | None = None
        self._expected = Position(0)  # the slot that the record contends for
        self._again_at: float | None = None

    def submit(self, now: float, time_ms: int, request: HoldRequest, deadline: float) -> None:
        self._waiting.append(_Waiting(request, deadline))
        if len(self._waiting) == 1:
            self._go_on(now, time_ms)

    def control_applied(self, now: float, time_ms: int) -> None:
        """Records were applied: the slot is decided."""
        if self._record is None or self._control.position == self._expected:
            return
        request = self._waiting[0].request
        if self._done(request, self._record):
            self._waiting.popleft()
            self._emit(Answered((request,)))
        self._record = None
        self._go_on(now, time_ms)

    def failed(self, now: float, effect: AppendControl, error: GridError) -> None:
        """Not heard, or not for now: the same slot is tried again, since what may have got there is in it or never is."""
        if effect.record is self._record and not isinstance(error, WrongTailError):  # else reading on decides
            self._again_at = now + _AGAIN_SECONDS

    def time_passed(self, now: float, time_ms: int) -> None:
        for waiting in [one for one in self._waiting if one.deadline <= now]:
            first = waiting is self._waiting[0]
            self._waiting.remove(waiting)
            late = "the deadline passed before the hold was in the control log; take it again"
            self._refuse(waiting.request, DeadlineError(late))
            if first:
                self._record = None
        if self._record is None:
            self._go_on(now, time_ms)
        elif self._again_at is not None and self._again_at <= now:
            self._append(self._record)

    def deadline(self) -> float | None:
        if not self._waiting:
            return self._again_at
        times = [waiting.deadline for waiting in self._waiting]
        if self._again_at is not None:
            times.append(self._again_at)
        return min(times, default=None)

    def fail(self, error: GridError) -> None:
        """Nothing more is taken: the node stops, or its log is dead."""
        waiting, self._waiting, self._record, self._again_at = self._waiting, deque(), None, None
        for one in waiting:
            self._refuse(one.request, error)

    def _refuse(self, request: HoldRequest, error: GridError) -> None:
        request.error = error
        self._emit(Answered((request,)))

    def _go_on(self, now: float, time_ms: int) -> None:
        """Decides requests, the oldest first, until one needs a record."""
        self._again_at = None
        while self._waiting and self._record is None:
            request = self._waiting[0].request
            try:
                record = self._decide(request, time_ms)
            except GridError as error:
                self._waiting.popleft()
                self._refuse(request, error)
                continue
            if record is None:
                self._waiting.popleft()
                self._emit(Answered((request,)))
            else:
                self._append(record)

    def _append(self, record: ControlRecord) -> None:
        self._again_at = None
        self._record, self._expected = record, self._control.position
        self._emit(AppendControl(self._expected, record))

    def _decide(self, request: HoldRequest, time_ms: int) -> ControlRecord | None:
        """The record that does it; None: nothing is to be done. Raises GridError."""
        known = self._control.holds.get(request.name)
        if request.release:
            if known is None or request.taken not in (0, known.taken):
                return None
            released = control_pb2.HoldReleased(name=known.name, taken=known.taken, cause=HoldEnd.RELEASED)
            return ControlRecord(hold_released=released)
        self._check(request)
        if request.taken:
            if known is None or known.taken != request.taken:
                end = self._control.holds.end_of(request.taken)
                raise HoldLostError.of(request.name, end.words if end is not None else "it ended some time ago")
            return self._renewed(request, known, time_ms)
        again = known is not None and known.owner == request.owner and time_ms < known.expires_ms
        epoch = request.epoch or (known.epoch if again and known is not None else self._control.closed)
        if epoch < self._control.horizon:
            raise EpochTooOldError.of(epoch, self._control.horizon)
        if again and known is not None:  # a request that was sent twice, the second answered: it takes nothing away
            return self._record_of(request, known.taken, min(epoch, known.epoch), known.since_ms, time_ms)
        if known is None and len(self._control.holds) >= self._limits.holds_max:
            raise TooManyHoldsError.of(self._limits.holds_max)
        return self._record_of(request, BEFORE_FIRST, epoch, time_ms, time_ms)

    def _check(self, request: HoldRequest) -> None:
        for what, text in (("name of the hold", request.name), ("owner of the hold", request.owner)):
            size = len(text.encode(errors="replace"))
            if size > self._limits.hold_text_bytes_max:
                raise TooLargeError.of(what, size, self._limits.hold_text_bytes_max)
        if not request.name:
            raise CallerError("a hold has a name; give one that says what it is for")
        if request.epoch >= self._control.limit:
            raise EpochTooNewError.of(request.epoch, self._control.limit)

    def _renewed(self, request: HoldRequest, known: Hold, time_ms: int) -> ControlRecord:
        epoch = request.epoch or known.epoch
        if epoch < known.epoch:
            raise CallerError(
                f"the hold {known.name!r} is at epoch {known.epoch}, and moves forward only; not to {epoch}"
            )
        since_ms = known.since_ms if epoch == known.epoch else time_ms
        if time_ms >= since_ms + int(self._limits.hold_seconds_max * 1000):
            seconds = f"{self._limits.hold_seconds_max:g}"
            raise HoldLostError.of(known.name, f"it has held epoch {epoch} for {seconds} seconds, which is the most")
        return self._record_of(request, known.taken, epoch, since_ms, time_ms)

    def _record_of(
        self, request: HoldRequest, taken: Position, epoch: Epoch, since_ms: int, time_ms: int
    ) -> ControlRecord:
        expires_ms = min(time_ms + request.for_ms, since_ms + int(self._limits.hold_seconds_max * 1000))
        hold = control_pb2.Hold(
            name=request.name, owner=request.owner, epoch=epoch, since_ms=since_ms, expires_ms=expires_ms,
            taken=taken,
        )  # fmt: skip
        return ControlRecord(hold=hold)

    def _done(self, request: HoldRequest, record: ControlRecord) -> bool:
        """Whether the control log says what `record` says. A twin of it does as well: whoever wrote it wanted the same."""
        known = self._control.holds.get(request.name)
        if request.release:
            return known is None or known.taken != record.hold_released.taken
        wanted = record.hold
        if known is None or wanted.taken not in (0, known.taken) or known.owner != wanted.owner:
            return False
        if (known.epoch, known.since_ms, known.expires_ms) != (wanted.epoch, wanted.since_ms, wanted.expires_ms):
            return False
        request.epoch, request.taken, request.expires_ms = known.epoch, known.taken, known.expires_ms
        return True
