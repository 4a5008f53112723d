"""The rows of one key before a given one, from the log, newest first: what memory no longer holds.

A log is read forwards, so it is searched in windows of epochs that go back in time, each twice as wide as the one before:
what is recent is found soon, and all of it is looked at about twice at most. Bounded by the bytes looked at.

Lifecycle: while `window` is not None, the shell reads the log from where the window begins and gives what it finds, until
`window` is another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.log.entry import LogRecord
from tidegrid.grid.log.record import DATA, ROUTED, decode_record, decode_section
from tidegrid.grid.model.ids import Epoch, Term
from tidegrid.grid.model.stamp import Stamp

READ_BYTES: Final = 256 * 1024  # of one read of the log
SEARCH_BYTES: Final = 16 * 1024 * 1024  # looked at in all
_WINDOW_EPOCHS: Final = 256


class FoundRow(NamedTuple):
    stamp: Stamp
    number: int
    op: int
    value: bytes


class Window(NamedTuple):
    """Epochs above `after`, up to and including `through`."""

    after: Epoch
    through: Epoch


class RowSearch:
    """`lag`: how much later than its epoch a record may be stamped. `complete`: there are no more."""

    def __init__(
        self, partition: Partition, map_name: str, key: bytes, before: tuple[Stamp, int], wanted: int, lag: int
    ) -> None:
        self.rows: list[FoundRow] = []
        self.complete = False
        self._partition = partition
        self._map = map_name
        self._key = key
        self._before = before
        self._wanted = wanted
        self._lag = lag
        self._width = _WINDOW_EPOCHS
        self._looked_at = 0
        self._found: list[FoundRow] = []  # in this window
        through = before[0][0]
        self.window: Window | None = Window(Epoch(max(0, through - self._width)), through)
        if wanted <= 0:
            self.window = None

    def give(self, records: Sequence[LogRecord]) -> None:
        """The next records of the log; none: it ends here."""
        window = self.window
        assert window is not None
        for item in records:
            if item.epoch > window.through + self._lag:
                self._next(window)
                return
            self._looked_at += len(item.payload)
            if self._key in item.payload:
                self._look(item, window)
        if not records:
            self._next(window)
        elif self._looked_at >= SEARCH_BYTES:  # newer ones of this window may be missing: none of it counts
            self.window = None

    def _next(self, window: Window) -> None:
        """This window has been read."""
        self.window = None
        self._found.sort(key=lambda row: row[:2], reverse=True)
        self.rows += self._found
        self._found = []
        if len(self.rows) >= self._wanted:
            del self.rows[self._wanted :]
        elif window.after == 0:
            self.complete = True
        else:
            self._width *= 2
            self.window = Window(Epoch(max(0, window.after - self._width)), window.after)

    def _look(self, item: LogRecord, window: Window) -> None:
        record = decode_record(item.payload)
        if record.kind not in (DATA, ROUTED) or not self._partition.valid(item.position, Term(record.term)):
            return
        if not window.after < record.effective <= window.through:
            return
        stamp: Stamp = (Epoch(record.effective), item.position, record.time_ms)
        for name, payload in zip(record.maps, record.sections, strict=True):
            if name == self._map and self._key in payload:
                section = decode_section(payload)
                columns = zip(section.keys, section.versions, section.ops, section.values, strict=True)
                self._found.extend(
                    FoundRow(stamp, number, op, value)
                    for key, number, op, value in columns
                    if key == self._key and (stamp, number) < self._before
                )
