"""The history of one key: its versions oldest first, of any age, a page at a time.

    cursor := (epoch, position)    all up to there has been handed out; position 0: the whole epoch
    page   := versions of whole frames, the cursor after them, and whether there is more

At or below the horizon the partition's log has the versions, above it memory does: `HistoryRequest` says which one the
cursor is at, so a page needs nothing but the cursor, and the horizon may move between two of them. All durable
versions count, those that no close covers yet too.

In the log of a map that receives outputs, versions may lie after others of later epochs, but by no more than the span
of the stamping limit: such a page reads that much further on, and begins that much earlier.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Final, NamedTuple

from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.log.entry import LogRecord
from tidegrid.grid.log.record import DATA, DELETE, ROUTED, decode_record, decode_section
from tidegrid.grid.model.ids import BEFORE_FIRST, Epoch, Position, Term
from tidegrid.grid.store.version import Version, order_of, weight_of

READ_BYTES: Final = 256 * 1024  # of one read of the log
SCAN_BYTES: Final = 4 * 1024 * 1024  # looked at for one page, found or not: bounds how long a page takes
PAGE_BYTES: Final = 512 * 1024
PAGE_VERSIONS: Final = 1_000


class Cursor(NamedTuple):
    epoch: Epoch
    position: Position = BEFORE_FIRST


class HistoryPage(NamedTuple):
    versions: Sequence[Version]
    cursor: Cursor
    more: bool


def page_from_memory(versions: Sequence[Version], cursor: Cursor, through: Epoch | None) -> HistoryPage:
    """The first of `versions`, which are all above `cursor` in order; `through` is inclusive, None: no end."""
    taken: list[Version] = []
    size = 0
    for stamp, group in groupby(versions, key=_stamp):
        if through is not None and stamp[0] > through:
            break
        if taken and (size >= PAGE_BYTES or len(taken) >= PAGE_VERSIONS):
            return HistoryPage(taken, cursor, True)
        frame = list(group)
        taken += frame
        size += sum(map(weight_of, frame))
        cursor = Cursor(stamp[0], stamp[1])
    return HistoryPage(taken, cursor, False)


def _stamp(version: Version) -> tuple[Epoch, Position]:
    return version[2][0], version[2][1]


class LogPage:
    """Collects one page from the log, for what has an epoch of at most `through`. `lag`: how much later than its epoch a
    record may be stamped; 0: not at all.

    Lifecycle: while `wanted`, the shell reads the log after `position` and gives what it has found. It begins at the
    cursor's position, or, where that is 0 or there is a lag, before everything above `begins_above`.
    """

    def __init__(
        self, partition: Partition, map_name: str, key: bytes, cursor: Cursor, through: Epoch, lag: int = 0
    ) -> None:
        self.begins_above = Epoch(cursor.epoch - 1) if cursor.position else cursor.epoch
        self.position = cursor.position if not lag else BEFORE_FIRST
        self.complete = False  # nothing at or below `through` is left
        self._partition = partition
        self._map = map_name
        self._key = key
        self._after = cursor
        self._through = through
        self._lag = lag
        self._seen = self.begins_above  # everything at or below it has been read
        self._read = cursor
        self._found: list[Version] = []
        self._scanned = 0
        self._size = 0

    @property
    def wanted(self) -> bool:
        full = self._size >= PAGE_BYTES or len(self._found) >= PAGE_VERSIONS or self._scanned >= SCAN_BYTES
        return not self.complete and not (full and self.cursor > self._after)

    @property
    def versions(self) -> list[Version]:
        """In order, and final."""
        return sorted(self._ready(), key=order_of)

    @property
    def cursor(self) -> Cursor:
        if self._lag:
            return Cursor(self._seen) if self._seen > self._after.epoch else self._after
        return self._read

    def _ready(self) -> list[Version]:
        if self.complete or not self._lag:
            return self._found
        return [version for version in self._found if version[2][0] <= self._seen]

    def give(self, records: Sequence[LogRecord]) -> None:
        """The next records of the log; none: it ends here. Most are passed over without being parsed."""
        if not records:
            self.complete = True
        for item in records:
            self._seen = max(self._seen, Epoch(item.epoch - max(self._lag, 1)))
            if self._seen >= self._through:
                self.complete = True
                return
            self._scanned += len(item.payload)
            self.position = item.position
            self._read = Cursor(item.epoch, item.position)
            if self._key in item.payload:
                self._look(item)

    def _look(self, item: LogRecord) -> None:
        record = decode_record(item.payload)
        if record.kind not in (DATA, ROUTED) or not self._partition.valid(item.position, Term(record.term)):
            return
        stamp = (Epoch(record.effective), item.position, record.time_ms)
        after = self._after
        handed_out = stamp[:2] <= after if after.position else stamp[0] <= after.epoch
        if handed_out or stamp[0] > self._through:
            return
        for name, payload in zip(record.maps, record.sections, strict=True):
            if name != self._map or self._key not in payload:
                continue
            section = decode_section(payload)
            columns = zip(section.keys, section.values, section.ops, section.versions, strict=True)
            for key, value, op, number in columns:
                if key == self._key:
                    version: Version = (None if op == DELETE else value, number, stamp)
                    self._found.append(version)
                    self._size += weight_of(version)
