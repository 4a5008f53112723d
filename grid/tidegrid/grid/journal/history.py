"""Reading what is sealed: which segment holds what, their indexes and open files, both kept within bounds.

Runs in one reader thread; only `add` and the pure look-ups on bases are called from elsewhere. What sealed segments say
never changes, and their list only grows, so a reader's snapshot of it stays true. A segment that is compacted is swapped
here, in the reader thread (`replace`): a read that is under way has the file and the index that it began with, both of
the old one or both of the new.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock as ThreadLock

from tidegrid.grid.journal.files import File, Files, write_file
from tidegrid.grid.journal.options import LocalLogOptions
from tidegrid.grid.journal.segments import Segment, check_sealed, corruption, offset_of, open_sealed, read_header
from tidegrid.grid.log.batch import RECORD_HEADER_BYTES, Flaw, decode_payload
from tidegrid.grid.log.compacted import CompactedHeader, scan_compacted
from tidegrid.grid.log.entry import LogRecord
from tidegrid.grid.log.index import NO_TAIL, Columns, SegmentIndex, Tail
from tidegrid.grid.log.scan import scan
from tidegrid.grid.log.segment import index_name, segment_name
from tidegrid.grid.model.ids import BEFORE_FIRST, Epoch, LogId, Position

logger = logging.getLogger(__name__)

_GAP_BYTES_MAX = 16 * 1024  # reading over other logs' records this far is cheaper than another call
_RUN_BYTES_MAX = 1 << 20


class History:
    def __init__(self, files: Files, options: LocalLogOptions, identity: bytes, salt: int) -> None:
        self.bases: list[int] = []  # of the sealed segments, ascending
        self._ends: list[int] = []
        self._files = files
        self._options = options
        self._identity = identity
        self._salt = salt
        self._indexes: OrderedDict[int, SegmentIndex] = OrderedDict()
        self._indexes_bytes = 0
        self._open: OrderedDict[int, File] = OrderedDict()
        self._folded: dict[int, LogId] = {}  # compacted segments, by base: whose records were folded
        self._lock = ThreadLock()
        self._verified: set[int] = set()
        self._unwritten: list[SegmentIndex] | None = []  # None: indexes are written as they are rebuilt

    def add(self, base: int, end: int, index: SegmentIndex | None = None, folded: LogId | None = None) -> None:
        """A segment was sealed. `folded`: and compacted since, for this log."""
        assert not self._ends or self._ends[-1] == base
        if folded is not None:
            self._folded[base] = folded
        self._ends.append(end)
        self.bases.append(base)
        if index is not None:
            self._keep_index(index)

    def read(self, log: LogId, after: Position, bytes_max: int) -> tuple[list[LogRecord], bool]:
        """Also says whether that was all there is in sealed segments. Raises CorruptionError."""
        records: list[LogRecord] = []
        left, first_segment = bytes_max, 0
        while left > 0 or not records:
            begin = after
            at = self._first_segment(lambda index: index.tail(log).position > begin, first_segment)  # noqa: B023
            if at is None:
                return records, True
            column = self.index_of(at).columns[log]
            first, stop = column.span(after, left)
            base = self.bases[at]
            found = read_rows(self._files, self._file(base), base, self._salt, log, column, first, stop)
            records += found
            left -= sum(len(record.payload) + RECORD_HEADER_BYTES for record in found)
            if stop < len(column.positions):
                break
            after, first_segment = found[-1].position, at + 1
        return records, False

    def position_before(self, log: LogId, epoch: Epoch) -> Position:
        """Among sealed segments."""
        at = self._first_segment(lambda index: index.tail(log).epoch > epoch)
        if at is None:
            return self.tail(log).position
        column = self.index_of(at).columns.get(log)
        found = column.position_before(epoch) if column else None
        if found is not None:
            return found
        return self.index_of(at - 1).tail(log).position if at else BEFORE_FIRST

    def tail(self, log: LogId) -> Tail:
        return self.index_of(len(self.bases) - 1).tail(log) if self.bases else NO_TAIL

    def tails_before(self, at: int) -> dict[LogId, Tail]:
        """Where segment `at` begins."""
        return dict(self.index_of(at - 1).tails) if at else {}

    def index_of(self, at: int) -> SegmentIndex:
        """From memory, its file, or the segment itself. Raises CorruptionError."""
        known: SegmentIndex | None = None
        missing = at
        while missing >= 0 and (known := self._known_index(missing)) is None:
            missing -= 1
        while missing < at or known is None:
            missing += 1
            known = self.rebuild(missing, dict(known.tails) if known is not None else {})
        return known

    def rebuild(self, at: int, tails: dict[LogId, Tail]) -> SegmentIndex:
        """Verifies the whole segment on the way. Raises CorruptionError."""
        base = self.bases[at]
        index = self._scan(at, tails)
        self._keep_index(index)
        self._verified.add(base)
        if self._unwritten is None:
            self.write_index(index)
        else:
            self._unwritten.append(index)
        return index

    def write_indexes(self) -> None:
        """From here on, and those rebuilt before, indexes are written: until now nothing on disk was touched."""
        rebuilt, self._unwritten = self._unwritten or [], None
        for index in rebuilt:
            self.write_index(index)

    def verify(self, at: int) -> None:
        """Reads a sealed segment whole, once, and replaces an index that does not fit. Raises CorruptionError."""
        index = self.index_of(at)
        if self.bases[at] in self._verified:
            return
        base = self.bases[at]
        if not self._scan(at, self.tails_before(at)).same_as(index):
            logger.warning("the index of %s did not fit and is built again", segment_name(base))
            self.rebuild(at, self.tails_before(at))
        self._verified.add(base)

    def span(self, at: int) -> tuple[int, int]:
        """Where segment `at` begins and ends."""
        return self.bases[at], self._ends[at]

    def folded(self, at: int) -> LogId | None:
        """Whose records were folded in segment `at`; None: it is as it was written."""
        return self._folded.get(self.bases[at])

    def replace(self, at: int, temporary: str, index: SegmentIndex) -> None:
        """A compacted segment, durable and verified, takes the name of segment `at`. Raises OSError."""
        base, end = self.bases[at], self._ends[at]
        try:
            self._files.rename(temporary, segment_name(base))
        finally:  # whatever came of it: what is there under the name is what is read from now on
            self._drop(base)
            file = self._files.open(segment_name(base))
            try:
                found = check_sealed(self._files, file, base, end)
            finally:
                file.close()
            if isinstance(found, CompactedHeader):
                self._folded[base] = found.log
        self._keep_index(index)
        self._verified.add(base)

    def _drop(self, base: int) -> None:
        self._verified.discard(base)
        with self._lock:
            index, file = self._indexes.pop(base, None), self._open.pop(base, None)
            self._indexes_bytes -= index.size_bytes if index is not None else 0
        if file is not None:
            file.close()

    def write_index(self, index: SegmentIndex) -> None:
        try:
            write_file(self._files, index_name(index.base), [index.encode(self._salt)])
        except OSError as error:
            logger.warning("the index of %s was not written (%s)", segment_name(index.base), error)

    def close(self) -> None:
        with self._lock:
            for file in self._open.values():
                file.close()
            self._open.clear()
            self._indexes.clear()

    def _first_segment(self, holds: Callable[[SegmentIndex], bool], first: int = 0) -> int | None:
        """The first segment of which `holds` is true; it is false before that and true from there on."""
        low, high = first, len(self.bases)
        count = high
        while low < high:
            middle = (low + high) // 2
            if holds(self.index_of(middle)):
                high = middle
            else:
                low = middle + 1
        return low if low < count else None

    def _scan(self, at: int, tails: dict[LogId, Tail]) -> SegmentIndex:
        base, end = self.bases[at], self._ends[at]
        if base in self._folded:
            return scan_compacted_file(self._files, self._file(base), segment_name(base), base, self._salt, tails)
        return scan_sealed(self._files, self._file(base), base, end, self._salt, tails)

    def _known_index(self, at: int) -> SegmentIndex | None:
        base = self.bases[at]
        with self._lock:
            index = self._indexes.get(base)
            if index is not None:
                self._indexes.move_to_end(base)
                return index
        index = load_index(self._files, base, self._ends[at], self._salt, compacted=base in self._folded)
        if index is not None:
            self._keep_index(index)
        return index

    def _keep_index(self, index: SegmentIndex) -> None:
        with self._lock:
            known = self._indexes.pop(index.base, None)
            self._indexes_bytes += index.size_bytes - (known.size_bytes if known else 0)
            self._indexes[index.base] = index
            while self._indexes_bytes > self._options.index_cache_bytes_max and len(self._indexes) > 1:
                _, dropped = self._indexes.popitem(last=False)
                self._indexes_bytes -= dropped.size_bytes

    def _file(self, base: int) -> File:
        file = self._open.get(base)
        if file is not None:
            self._open.move_to_end(base)
            return file
        file = self._open[base] = open_sealed(self._files, base, self._identity, compacted=base in self._folded)
        while len(self._open) > self._options.open_segments_max:
            self._open.popitem(last=False)[1].close()
        return file


def load_index(files: Files, base: int, end: int, salt: int, *, compacted: bool = False) -> SegmentIndex | None:
    try:
        file = files.open(index_name(base))
    except OSError:
        return None
    try:
        return SegmentIndex.decode(file.pread(file.size(), 0), salt, base, end, compacted=compacted)
    except OSError:
        return None
    finally:
        file.close()


def scan_sealed(files: Files, file: File, base: int, end: int, salt: int, tails: dict[LogId, Tail]) -> SegmentIndex:
    """The index of a sealed segment, from its bytes, every one of them verified. Raises CorruptionError."""
    index = SegmentIndex(base, tails)
    segment = Segment(file, base, end, index)
    for item in scan(segment.read, base, end, salt):
        flaw = item if isinstance(item, Flaw) else index.flaw_of(item.rows)
        if flaw is not None:
            raise corruption(files, segment.name, offset_of(base, flaw.position), flaw.reason)
        assert not isinstance(item, Flaw)
        index.add(item.rows, item.end)
    return index


def scan_compacted_file(
    files: Files,
    file: File,
    name: str,
    base: int,
    salt: int,
    tails: dict[LogId, Tail],
    between: Callable[[], None] = lambda: None,
) -> SegmentIndex:
    """The index of a compacted segment, from its bytes, every one of them verified. Raises CorruptionError.

    `between` is called after each record.
    """
    header = read_header(files, file, base)
    assert isinstance(header, CompactedHeader)
    index = SegmentIndex(base, tails, compacted=True)
    for item in scan_compacted(file.pread, header, salt):
        if isinstance(item, Flaw):
            raise corruption(files, name, item.position, item.reason)
        flaw = index.flaw_of((item.row,))
        if flaw is not None:
            raise corruption(files, name, item.offset, flaw.reason)
        index.add_placed(*item)
        between()
    index.end = header.end
    return index


def read_rows(
    files: Files, file: File, base: int, salt: int, log: LogId, column: Columns, first: int, stop: int
) -> list[LogRecord]:
    """The records of rows [first, stop), each checked; records that lie close together are read in one piece."""
    positions, lengths, epochs = column.positions, column.lengths, column.epochs
    places: Sequence[int]
    if column.offsets:
        places = column.offsets[first:stop]
    else:
        shift = offset_of(base, 0)
        places = [position + shift for position in positions[first:stop]]
    records: list[LogRecord] = []
    at = first
    while at < stop:
        begin = places[at - first]
        end = begin + RECORD_HEADER_BYTES + lengths[at]
        until = at + 1
        while until < stop and places[until - first] - end <= _GAP_BYTES_MAX and end - begin < _RUN_BYTES_MAX:
            end = places[until - first] + RECORD_HEADER_BYTES + lengths[until]
            until += 1
        data = file.pread(end - begin, begin)
        for row in range(at, until):
            position, epoch, place = positions[row], epochs[row], places[row - first]
            payload = decode_payload(data, place - begin, salt, position, log, epoch, lengths[row])
            if isinstance(payload, Flaw):
                raise corruption(files, segment_name(base), place, payload.reason)
            records.append(LogRecord(Position(position), Epoch(epoch), payload))
        at = until
    return records
