"""The history of one key: its versions oldest first, of any age, a page at a time.

    cursor := (epoch, position)    all up to there has been handed out; position 0: the whole epoch
    page   := versions of whole frames, the cursor after them, and whether there is more

At or below the horizon the partition's log has the versions, above it memory does: `HistoryRequest` says which one the
cursor is at, so a page needs nothing but the cursor, and the horizon may move between two of them. All durable
versions count, those that no close covers yet too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Final, NamedTuple

from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.log.entry import LogRecord
from tidegrid.grid.log.record import DATA, DELETE, ROUTED, decode_record, decode_section
from tidegrid.grid.model.ids import BEFORE_FIRST, Epoch, Position, Term
from tidegrid.grid.store.version import Version, weight_of

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
    """Collects one page from the log, for what has an epoch of at most `through`.

    Lifecycle: while `wanted`, the shell reads the log after `cursor.position` and gives what it has found.
    """

    def __init__(self, partition: Partition, map_name: str, key: bytes, cursor: Cursor, through: Epoch) -> None:
        self.cursor = cursor
        self.versions: list[Version] = []
        self.complete = False  # nothing at or below `through` is left
        self._partition = partition
        self._map = map_name
        self._key = key
        self._through = through
        self._scanned = 0
        self._size = 0

    @property
    def wanted(self) -> bool:
        full = self._size >= PAGE_BYTES or len(self.versions) >= PAGE_VERSIONS or self._scanned >= SCAN_BYTES
        return not self.complete and not full

    def give(self, records: Sequence[LogRecord]) -> None:
        """The next records of the log; none: it ends here. Most are passed over without being parsed."""
        if not records:
            self.complete = True
        for item in records:
            if item.epoch > self._through:
                self.complete = True
                return
            self._scanned += len(item.payload)
            self.cursor = Cursor(item.epoch, item.position)
            if self._key in item.payload:
                self._look(item)

    def _look(self, item: LogRecord) -> None:
        record = decode_record(item.payload)
        if record.kind not in (DATA, ROUTED) or not self._partition.valid(item.position, Term(record.term)):
            return
        stamp = (Epoch(record.effective), item.position, record.time_ms)
        for name, payload in zip(record.maps, record.sections, strict=True):
            if name != self._map or self._key not in payload:
                continue
            section = decode_section(payload)
            columns = zip(section.keys, section.values, section.ops, section.versions, strict=True)
            for key, value, op, number in columns:
                if key == self._key:
                    version: Version = (None if op == DELETE else value, number, stamp)
                    self.versions.append(version)
                    self._size += weight_of(version)
