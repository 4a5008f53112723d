"""The parked writes of one partition: stored, and visible, but without what their triggers would have made of them.

    a frame lands with a failure --> parked --a record names it as redriven, without a failure--> gone
                                            --..., with a failure--> parked still, with the new words and one try more

A write is parked when a trigger with `on_error="park"` fails on it; a row that was routed here is parked whichever of
its triggers fails, since it cannot be refused. What is parked follows from the log alone, record by record: a live
partition and one that is replayed take it from the same bytes. Values are kept here, so nothing has to be read again.

Invariants: names and order are those of the log. A write is let in only while there is room, and refused by its
failure where there is none; routed rows that find none stay in the log and are counted in `unparked`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final, NamedTuple

from tidegrid.grid.log.record import DELETE, ROUTED, Failure, Record, Redriven, decode_section
from tidegrid.grid.model.ids import Epoch, Position
from tidegrid.grid.model.limits import Limits
from tidegrid.triggers.seeded import WriteName

PER_PARKED_BYTES: Final = 256  # what one weighs beside its texts
ROWS_PER_CHUNK: Final = 500
CHUNK_BYTES: Final = 1024 * 1024


class ParkedId(NamedTuple):
    """The record of a write, and its row in there: counted through the writes, or the delivered rows."""

    position: Position
    row: int

    @property
    def write_name(self) -> WriteName:
        """What it draws random numbers by when it is redriven."""
        return b"redriven %d/%d" % self, 0


@dataclass(frozen=True, slots=True)
class ParkedWrite:
    """`value` is None for a delete. `previous`: the value before it, as its triggers saw it. `tries`: redrives that failed."""

    id: ParkedId
    map: str
    key: bytes
    value: bytes | None
    op: int
    schema: int
    version: int
    effective: Epoch
    time_ms: int
    previous: bytes | None
    routed: bool
    trigger: str
    module: str
    line: int
    message: str
    tries: int = 0

    @property
    def size(self) -> int:
        return parked_bytes(self.key, self.value, self.previous, self.message)


def parked_bytes(key: bytes, value: bytes | None, previous: bytes | None, message: str) -> int:
    return PER_PARKED_BYTES + len(key) + len(value or b"") + len(previous or b"") + len(message)


class Parking:
    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._writes: dict[ParkedId, ParkedWrite] = {}
        self.bytes = 0
        self.unparked = 0

    def __len__(self) -> int:
        return len(self._writes)

    def get(self, of: ParkedId) -> ParkedWrite | None:
        return self._writes.get(of)

    def has_room(self, writes: int, size: int) -> bool:
        """For so many more, of so many bytes."""
        limits = self._limits
        return len(self._writes) + writes <= limits.parked_max and self.bytes + size <= limits.parked_bytes_max

    def counts(self) -> dict[str, int]:
        return dict(sorted(Counter(write.map for write in self._writes.values()).items()))

    def page(self, map_name: str, after: ParkedId, rows_max: int) -> tuple[list[ParkedWrite], bool]:
        """The next ones after `after`, of one map or (empty) of all; and whether there are more."""
        found = (w for w in self._writes.values() if w.id > after and (not map_name or w.map == map_name))
        page = list(islice(found, rows_max))
        return page, next(found, None) is not None

    # The log ------------------------------------------------------------------------------------------------------

    def landed(self, position: Position, effective: Epoch, record: Record) -> None:
        """A valid record with failures, or with what was redriven, is in the log."""
        failures = {failure.row: failure for failure in record.failures}
        if record.redriven:
            for row, done in enumerate(record.redriven):
                self._redriven(ParkedId(Position(done.position), done.row), failures.get(row))
            return
        first = 0
        for payload in record.sections[: record.write_sections]:
            section = decode_section(payload)
            for at in range(len(section.keys)):
                failure = failures.get(first + at)
                if failure is None or failure.veto:
                    continue
                self._park(
                    ParkedWrite(
                        ParkedId(position, first + at),
                        section.map,
                        section.keys[at],
                        None if section.ops[at] == DELETE else section.values[at],
                        section.ops[at],
                        section.schema,
                        section.versions[at],
                        effective,
                        record.time_ms,
                        failure.previous or None,
                        record.kind == ROUTED,
                        failure.trigger,
                        failure.module,
                        failure.line,
                        failure.message,
                    )
                )
            first += len(section.keys)

    def _park(self, write: ParkedWrite) -> None:
        if write.routed and not self.has_room(1, write.size):
            self.unparked += 1
            return
        self._writes[write.id] = write
        self.bytes += write.size

    def _redriven(self, of: ParkedId, failure: Failure | None) -> None:
        write = self._writes.get(of)
        if write is None:
            return
        self.bytes -= write.size
        if failure is None:
            del self._writes[of]
            return
        again = replace(
            write,
            trigger=failure.trigger,
            module=failure.module,
            line=failure.line,
            message=failure.message,
            tries=write.tries + 1,
        )
        self._writes[of] = again  # in its old place
        self.bytes += again.size

    # Checkpoints --------------------------------------------------------------------------------------------------

    def slices(self) -> Iterator[list[Any]]:
        """[unparked, rows] of bounded size, of what is parked now: the partition may go on between two of them."""
        writes, unparked = list(self._writes.values()), self.unparked
        return _slices(writes, unparked)

    def load(self, unparked: int, rows: list[list[Any]]) -> None:
        self.unparked = unparked
        for position, row, *facts in rows:
            write = ParkedWrite(ParkedId(Position(position), row), *facts)
            self._writes[write.id] = write
            self.bytes += write.size


def _slices(writes: list[ParkedWrite], unparked: int) -> Iterator[list[Any]]:
    rows: list[list[Any]] = []
    size = 0
    for write in writes:
        rows.append(_row(write))
        size += write.size
        if len(rows) >= ROWS_PER_CHUNK or size >= CHUNK_BYTES:
            yield [unparked, rows]
            rows, size = [], 0
    if rows or (unparked and not writes):
        yield [unparked, rows]


def _row(write: ParkedWrite) -> list[Any]:
    return [
        *write.id, write.map, write.key, write.value, write.op, write.schema, write.version, write.effective,
        write.time_ms, write.previous, write.routed, write.trigger, write.module, write.line, write.message, write.tries,
    ]  # fmt: skip


def redriven(of: ParkedId, *, dropped: bool = False) -> Redriven:
    return Redriven(position=of.position, row=of.row, dropped=dropped)
