"""The index of one segment: per log, the columns (position, epoch, length) of its records, in order.

It also knows the tail of *every* log at the end of the segment, whether or not the log has records in it; so a
search over segments is a bisection. It is a cache: whatever is missing or damaged is built again from the segment.

    index file (little endian)
        magic     8   "TIDEIDX" 00
        format    u32 1; of a compacted segment 2
        logs      u32 how many log rows follow
        base, end u64 positions of the segment's first byte and of the end of its last batch
        log row   (log i32, records u32, tail position u64, tail epoch u64)*
        columns   per log row, in the same order: positions u64*, epochs u64*, payload lengths u32*;
                  of a compacted segment also offsets u64*: where in the file the record's header begins
        checksum  u32 CRC-32 of all the above, from seed(salt, base)

In a segment as it was written, a position tells the place; in a compacted one (compacted.py) it does not. The index of
one format is never taken for a segment of the other, so one that outlived the compaction of its segment does no harm.

Invariants (`check()`): positions of a log strictly increase, epochs never decrease, both end in the log's tail.
Complexity: one record costs 20 bytes, in a compacted segment 28; look-ups are O(log n).
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable
from struct import Struct
from typing import NamedTuple
from zlib import crc32

from tidegrid.grid.log.batch import RECORD_HEADER_BYTES, Flaw, Row, seed
from tidegrid.grid.model.ids import BEFORE_FIRST, Epoch, LogId, Position

INDEX_MAGIC = b"TIDEIDX\0"
INDEX_FORMAT = 1
COMPACTED_INDEX_FORMAT = 2

_SUM_ROWS = 16_384
_HEADER = Struct("<8sIIQQ")
_LOG_ROW = Struct("<iIQQ")
_CHECKSUM = Struct("<I")


class Tail(NamedTuple):
    """The last record of a log."""

    position: Position
    epoch: Epoch


NO_TAIL = Tail(BEFORE_FIRST, Epoch(0))


class Columns:
    """The records of one log in one segment. `offsets` are told, and used, in a compacted one only."""

    __slots__ = ("epochs", "lengths", "offsets", "positions")

    def __init__(self) -> None:
        self.positions = array("Q")
        self.epochs = array("Q")
        self.lengths = array("I")
        self.offsets = array("Q")

    def add(self, position: Position, epoch: Epoch, length: int) -> None:
        self.positions.append(position)
        self.epochs.append(epoch)
        self.lengths.append(length)

    def arrays(self, *, compacted: bool) -> tuple[array[int], ...]:
        """As they are stored, in order."""
        plain = (self.positions, self.epochs, self.lengths)
        return (*plain, self.offsets) if compacted else plain

    def span(self, after: Position, bytes_max: int) -> tuple[int, int]:
        """The rows [first, stop) after `after`: one if there is one, then as many as fit in `bytes_max`."""
        first = stop = bisect_right(self.positions, after)
        lengths, left = self.lengths, bytes_max
        while stop < len(lengths):
            left -= lengths[stop] + RECORD_HEADER_BYTES
            if left < 0 and stop > first:
                break
            stop += 1
        return first, stop

    def position_before(self, epoch: Epoch) -> Position | None:
        """The last position at or below `epoch`; None when every record is above it."""
        at = bisect_right(self.epochs, epoch)
        return Position(self.positions[at - 1]) if at else None


class SegmentIndex:
    __slots__ = ("base", "columns", "compacted", "end", "tails")

    def __init__(self, base: int, tails: dict[LogId, Tail], *, compacted: bool = False) -> None:
        """`tails`: of every log, where the segment begins. Owned by the index from here on."""
        self.base = base
        self.end = base
        self.compacted = compacted
        self.columns: dict[LogId, Columns] = {}
        self.tails = tails

    def add(self, rows: Iterable[Row], end: int) -> None:
        """Takes in the records of one batch that ends at `end`."""
        columns, tails = self.columns, self.tails
        for log, position, epoch, _, length in rows:
            column = columns.get(log)
            if column is None:
                column = columns[log] = Columns()
            column.add(position, epoch, length)
            tails[log] = Tail(position, epoch)
        self.end = end

    def add_placed(self, row: Row, offset: int) -> None:
        """Takes in a record of a compacted segment, the end of which is told apart from its records."""
        self.add((row,), self.end)
        self.columns[row.log].offsets.append(offset)

    def flaw_of(self, rows: Iterable[Row]) -> Flaw | None:
        """What speaks against these rows coming next: a chain or an order that is broken."""
        ahead: dict[LogId, Tail] = {}
        for log, position, epoch, previous, _ in rows:
            tail = ahead.get(log) or self.tails.get(log, NO_TAIL)
            if previous != tail.position:
                return Flaw(
                    position, f"the record follows position {previous} of its log, whose tail is {tail.position}"
                )
            if epoch < tail.epoch:
                return Flaw(position, f"the record's epoch {epoch} is below its predecessor's {tail.epoch}")
            ahead[log] = Tail(position, epoch)
        return None

    def tail(self, log: LogId) -> Tail:
        return self.tails.get(log, NO_TAIL)

    def bytes_of(self, log: LogId) -> int:
        """What the records of a log take, without the headers of their batches."""
        return _bytes_of(self.columns.get(log, Columns()).lengths)

    @property
    def records(self) -> int:
        return sum(len(column.positions) for column in self.columns.values())

    @property
    def size_bytes(self) -> int:
        """About what it costs in memory."""
        return (28 if self.compacted else 20) * self.records + 200 * len(self.tails)

    def same_as(self, other: SegmentIndex) -> bool:
        return self.encode(0) == other.encode(0)

    def check(self) -> None:
        for log, column in self.columns.items():
            positions, epochs = list(column.positions), list(column.epochs)
            assert positions == sorted(set(positions)), f"positions of log {log} do not increase"
            assert epochs == sorted(epochs), f"epochs of log {log} decrease"
            assert self.tails[log] == (positions[-1], epochs[-1]), f"log {log} does not end in its tail"
            assert len(positions) == len(epochs) == len(column.lengths)
            assert len(column.offsets) == (len(positions) if self.compacted else 0)
            assert self.base < positions[0] <= positions[-1] < self.end

    def encode(self, salt: int) -> bytes:
        logs = sorted(self.tails)
        version = COMPACTED_INDEX_FORMAT if self.compacted else INDEX_FORMAT
        parts = [_HEADER.pack(INDEX_MAGIC, version, len(logs), self.base, self.end)]
        empty = Columns()
        parts += [_LOG_ROW.pack(log, len(self.columns.get(log, empty).positions), *self.tails[log]) for log in logs]
        for log in logs:
            column = self.columns.get(log, empty)
            parts += [_little(values) for values in column.arrays(compacted=self.compacted)]
        data = b"".join(parts)
        return data + _CHECKSUM.pack(crc32(data, seed(salt, self.base)))

    @classmethod
    def decode(cls, data: bytes, salt: int, base: int, end: int, *, compacted: bool = False) -> SegmentIndex | None:
        """None when it is damaged, or not the index of the segment [base, end) as it is now, compacted or not."""
        if len(data) < _HEADER.size + _CHECKSUM.size:
            return None
        body = len(data) - _CHECKSUM.size
        if _CHECKSUM.unpack_from(data, body)[0] != crc32(memoryview(data)[:body], seed(salt, base)):
            return None
        magic, version, logs, found_base, found_end = _HEADER.unpack_from(data)
        wanted = COMPACTED_INDEX_FORMAT if compacted else INDEX_FORMAT
        if (magic, version, found_base, found_end) != (INDEX_MAGIC, wanted, base, end):
            return None
        index = cls(base, {}, compacted=compacted)
        index.end = end
        offset = _HEADER.size
        counts: list[tuple[LogId, int]] = []
        for _ in range(logs):
            log, records, position, epoch = _LOG_ROW.unpack_from(data, offset)
            offset += _LOG_ROW.size
            index.tails[LogId(log)] = Tail(Position(position), Epoch(epoch))
            counts.append((LogId(log), records))
        for log, records in counts:
            if not records:
                continue
            column = index.columns[log] = Columns()
            for values in column.arrays(compacted=compacted):
                stop = offset + records * values.itemsize
                values.frombytes(memoryview(data)[offset:stop])
                if sys.byteorder == "big":
                    values.byteswap()
                offset = stop
        return index


def bytes_claimed(read: Callable[[int, int], bytes], base: int, end: int, log: LogId) -> int | None:
    """What `bytes_of(log)` is if the index file of [base, end) tells the truth; None if it is no such index.

    A hint: only what it takes is read, by `read(length, offset)`, so no checksum is checked. Of a few records among many
    that is very little.
    """
    head = read(_HEADER.size, 0)
    if len(head) < _HEADER.size:
        return None
    magic, version, logs, found_base, found_end = _HEADER.unpack(head)
    if (magic, version, found_base, found_end) != (INDEX_MAGIC, INDEX_FORMAT, base, end):
        return None
    offset = _HEADER.size + logs * _LOG_ROW.size
    for row in _LOG_ROW.iter_unpack(read(logs * _LOG_ROW.size, _HEADER.size)):
        records = row[1]
        if row[0] == log:
            lengths = array("I")
            data = read(records * lengths.itemsize, offset + records * 16)
            if len(data) < records * lengths.itemsize:
                return None
            lengths.frombytes(data)
            if sys.byteorder == "big":
                lengths.byteswap()
            return _bytes_of(lengths)
        offset += records * 20
    return 0


def _bytes_of(lengths: array[int]) -> int:
    """In pieces, so that another thread may come in between."""
    pieces = (lengths[at : at + _SUM_ROWS] for at in range(0, len(lengths), _SUM_ROWS))
    return sum(map(sum, pieces)) + RECORD_HEADER_BYTES * len(lengths)


def _little(values: array[int]) -> bytes:
    if sys.byteorder == "big":
        values = array(values.typecode, values)
        values.byteswap()
    return values.tobytes()
