"""Rule C: who completes a round appends CLOSE at exactly the control position it has applied.

    nothing --offered a complete token--> candidate --asked, and it is worth it--> appending at a position
    appending --a record after that position was applied: the slot is decided--> candidate again, or nothing
    appending --wrong tail--> candidate that waits for the control log to be applied further
    appending --another refusal, as of a full storage--> candidate that waits for a while

Why exactly there: a VIEW in between gives a partition to somebody whose promise is not in the token. After another
record than a VIEW the same floor holds, and is appended at the new position; after a VIEW the round is incomplete
and the candidate is dropped: the next round collects anew.
"""

from __future__ import annotations

from dataclasses import dataclass

from tidegrid.grid.model.errors import GridError, WrongTailError
from tidegrid.grid.model.ids import Position
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.local import AppendClose, RingOptions
from tidegrid.grid.ring.token import Token, complete, renew
from tidegrid.v1 import control_pb2


@dataclass(slots=True)
class Closing:
    options: RingOptions
    candidate: Token | None = None
    appending: Position | None = None  # the position expected by the CLOSE on its way
    retry_at: float | None = None
    _refused: Position | None = None  # a slot taken by a record that is not applied yet

    def offer(self, token: Token) -> None:
        if self.candidate is None or token.floor >= self.candidate.floor:
            self.candidate = token

    def applied(self, control: ControlState) -> None:
        """The control log moved: a slot before its position is decided, whoever took it."""
        if self.appending is not None and control.position > self.appending:
            self.appending = None
        if self._refused is not None and control.position > self._refused:
            self._refused = None

    def failed(self, now: float, expected: Position, error: GridError) -> None:
        if self.appending != expected:
            return  # decided meanwhile, by applying the log
        self.appending = None
        if isinstance(error, WrongTailError):
            self._refused = expected
        else:
            self.retry_at = now + self.options.close_retry

    def decide(self, now: float, control: ControlState, time_ms: int) -> AppendClose | None:
        """The CLOSE to append now, if any."""
        if self.candidate is None or self.appending is not None:
            return None
        view = control.view
        token = renew(self.candidate, view.position, control.changed_since(self.candidate.view))
        worth = token.floor > control.closed and (token.busy or control.activation_pending)
        if not worth or not complete(token, view, control.partitions):
            self.candidate = self.retry_at = None
            return None
        self.candidate = token
        if control.position == self._refused or (self.retry_at is not None and now < self.retry_at):
            return None
        self.retry_at, self.appending = None, control.position
        return AppendClose(control.position, close_record(token, control, time_ms))


def close_record(token: Token, control: ControlState, time_ms: int) -> control_pb2.ControlRecord:
    """Tails of partitions that changed since the last close only; the reference epoch is an upper bound."""
    known = control.tails
    changed = sorted((p, tail) for p, tail in token.tails.items() if tail > known.get(p, 0))
    close = control_pb2.Close(
        epoch=token.floor,
        time_ms=max(time_ms, control.closed_time_ms),
        tails=[control_pb2.Tail(partition=partition, position=tail) for partition, tail in changed],
        reference_epoch=max(control.reference_epoch, min(token.reference_epoch, token.floor)),
    )
    return control_pb2.ControlRecord(close=close)
