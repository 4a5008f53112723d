"""The order of appends: compares tails, gives out positions, and collects batches. Pure: bytes and numbers only.

Lifecycle of a batch: *collecting* (appends join it) -> *in flight* (taken; one at a time) -> *landed*, or *refused*
together with everything sequenced after it. Positions are given out when an append joins, since nothing but a refusal
of all can change where it will lie. An append whose compare fails against a tail that is not durable yet is
*undecided*: it has to wait until that batch lands or is refused, as nobody may be told of a tail that never was.

Invariants: `durable` <= what is sequenced; batches lie end to end from the durable end; epochs of a log never decrease.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from tidegrid.grid.log.batch import (
    BATCH_HEADER_BYTES,
    RECORD_HEADER_BYTES,
    Row,
    encode_batch_header,
    encode_record_header,
)
from tidegrid.grid.log.entry import Entry
from tidegrid.grid.log.index import NO_TAIL, Tail
from tidegrid.grid.model.errors import TooLargeError, WrongTailError
from tidegrid.grid.model.ids import LogId, Position


class Batch:
    """Appends that become durable together. `tickets` belongs to the shell: those who wait for it."""

    __slots__ = ("body", "end", "rows", "start", "tickets")

    def __init__(self, start: int) -> None:
        self.start = start
        self.end = start + BATCH_HEADER_BYTES
        self.body: list[bytes] = []  # record header, payload, record header, payload, ...
        self.rows: list[Row] = []
        self.tickets: list[Any] = []

    @property
    def size_bytes(self) -> int:
        return self.end - self.start

    def header(self, salt: int, synced: int) -> bytes:
        return encode_batch_header(salt, self.start, len(self.rows), self.size_bytes - BATCH_HEADER_BYTES, synced)


class Undecided(Exception):
    """Not an error: the compare depends on a batch that has not landed. Wait for it, then add again."""


class LogSequence:
    def __init__(
        self, salt: int, end: int, tails: dict[LogId, Tail], *, batch_bytes_max: int, record_bytes_max: int
    ) -> None:
        self.salt = salt
        self.durable_end = end
        self.durable: dict[LogId, Tail] = dict(tails)
        self.in_flight: Batch | None = None
        self._ahead: dict[LogId, Tail] = {}  # tails that are sequenced, not durable
        self._collecting: deque[Batch] = deque()
        self._end = end
        self._batch_bytes_max = batch_bytes_max
        self._record_bytes_max = record_bytes_max

    @property
    def idle(self) -> bool:
        return self.in_flight is None and not self._collecting

    @property
    def collecting(self) -> bool:
        return bool(self._collecting)

    def add(self, entries: Sequence[Entry], ticket: Any) -> tuple[Position, ...]:
        """Sequences all entries or none. Raises WrongTailError, TooLargeError, Undecided."""
        self._compare(entries)
        batch = self._batch_with_room(entries)
        place, salt = batch.end, self.salt
        body, rows, ahead = batch.body, batch.rows, self._ahead
        first = len(rows)
        for log, expected, epoch, payload in entries:
            position, length = Position(place), len(payload)
            body.append(encode_record_header(salt, place, log, epoch, expected, payload))
            body.append(payload)
            rows.append(Row(log, position, epoch, expected, length))
            ahead[log] = Tail(position, epoch)
            place += RECORD_HEADER_BYTES + length
        self._end = batch.end = place
        batch.tickets.append(ticket)
        return tuple(row.position for row in rows[first:])

    def take(self) -> Batch:
        """The oldest collecting batch goes in flight."""
        assert self.in_flight is None and self._collecting
        self.in_flight = self._collecting.popleft()
        return self.in_flight

    def landed(self) -> Batch:
        """The batch in flight is durable."""
        batch, ahead = self.in_flight, self._ahead
        assert batch is not None and batch.start == self.durable_end
        self.in_flight = None
        self.durable_end = batch.end
        for log, position, epoch, _, _ in batch.rows:
            self.durable[log] = Tail(position, epoch)
            if ahead[log].position == position:
                del ahead[log]
        return batch

    def refused(self) -> list[Batch]:
        """Nothing of what is sequenced and not durable will be: all is taken back, and returned, in order."""
        lost = [self.in_flight] if self.in_flight is not None else []
        lost += self._collecting
        self.in_flight = None
        self._collecting.clear()
        self._ahead.clear()
        self._end = self.durable_end
        return lost

    def tail(self, log: LogId) -> Position:
        """The durable tail."""
        return self.durable.get(log, NO_TAIL).position

    def _compare(self, entries: Sequence[Entry]) -> None:
        assert entries, "an append has at least one entry"
        assert len(entries) == 1 or len({entry.log for entry in entries}) == len(entries), "one entry per log"
        ahead, durable = self._ahead, self.durable
        for log, expected, epoch, payload in entries:
            if len(payload) > self._record_bytes_max:
                raise TooLargeError.of("record", len(payload), self._record_bytes_max)
            waiting = ahead.get(log)
            tail = waiting or durable.get(log, NO_TAIL)
            if expected != tail.position:
                if waiting is not None:
                    raise Undecided
                raise wrong_tail(log, expected, tail.position)
            assert epoch >= tail.epoch, f"epochs of log {log} decrease: {epoch} after {tail.epoch}"

    def _batch_with_room(self, entries: Sequence[Entry]) -> Batch:
        if self._collecting:
            batch = self._collecting[-1]
            added = sum(RECORD_HEADER_BYTES + len(entry.payload) for entry in entries)
            if batch.size_bytes + added <= self._batch_bytes_max:
                return batch
        batch = Batch(self._end)
        self._collecting.append(batch)
        return batch


def wrong_tail(log: LogId, expected: Position, actual: Position) -> WrongTailError:
    return WrongTailError(
        f"log {log} ends at position {actual}, not at {expected}: someone else appended; read what is there",
        log=log,
        expected=expected,
        actual=actual,
    )
