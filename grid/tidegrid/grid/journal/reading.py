"""Reading the logs of a directory that another process is writing to: partition logs, up to what is known durable.

Nothing is locked, written or repaired. Segments are listed once: what is at or below a position that was durable when
the reader was made lies in them, and never changes. One that is compacted meanwhile is another file under the same name,
with the same records of partition logs: the reader then looks at the directory anew, and goes on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import pairwise

from tidegrid.grid.journal.files import File, Files
from tidegrid.grid.journal.history import History, read_rows
from tidegrid.grid.journal.options import LocalLogOptions
from tidegrid.grid.journal.recovery import segment_bases
from tidegrid.grid.journal.segments import Segment, check_sealed, corruption, read_header
from tidegrid.grid.log.batch import Flaw, salt_of
from tidegrid.grid.log.compacted import CompactedHeader
from tidegrid.grid.log.entry import LogRecord
from tidegrid.grid.log.index import Columns, SegmentIndex
from tidegrid.grid.log.scan import scan
from tidegrid.grid.log.segment import segment_name
from tidegrid.grid.model.errors import CorruptionError
from tidegrid.grid.model.ids import BEFORE_FIRST, LogId, Position

READ_BYTES = 1 << 20
_TRIES = 3


class LogReader:
    """Positions that are asked for were durable before this was made. Close it."""

    def __init__(self, files: Files, options: LocalLogOptions | None = None) -> None:
        """Raises CorruptionError, FormatError, OSError."""
        self._files = files
        self._options = options or LocalLogOptions()
        self._look()

    def _look(self) -> None:
        files = self._files
        bases = segment_bases(files, files.list())
        if not bases:
            raise corruption(files, segment_name(0), 0, "the first segment is missing")
        with contextlib.ExitStack() as opened:
            file = files.open(segment_name(bases[-1]))
            opened.callback(file.close)
            header = read_header(files, file, bases[-1])
            if isinstance(header, CompactedHeader):
                raise corruption(files, segment_name(bases[-1]), 0, "it is compacted, so one after it is missing")
            salt = salt_of(header.identity)
            history = History(files, self._options, header.identity, salt)
            opened.callback(history.close)
            for base, end in pairwise(bases):
                with contextlib.closing(files.open(segment_name(base))) as sealed:
                    found = check_sealed(files, sealed, base, end)
                history.add(base, end, folded=found.log if isinstance(found, CompactedHeader) else None)
            index = SegmentIndex(bases[-1], history.tails_before(len(history.bases)))
            active = Segment(file, bases[-1], bases[-1] + header.capacity, index)
            for item in scan(active.read, active.base, active.limit, salt):
                if isinstance(item, Flaw) or index.flaw_of(item.rows) is not None:
                    break  # it is being written, or of no concern: whoever starts the log will see to it
                index.add(item.rows, item.end)
            opened.pop_all()
        self._history, self._active, self._salt = history, active, salt

    def close(self) -> None:
        self._history.close()
        self._active.file.close()

    def read(self, log: LogId, after: Position, through: Position) -> Iterator[LogRecord]:
        """The records in (after, through]. Raises CorruptionError: also when `through` is not there."""
        tries = _TRIES
        while True:
            try:
                for record in self._read(log, after):
                    if record.position > through:
                        return
                    yield record
                    after = record.position
                break
            except CorruptionError:
                tries -= 1
                if not tries:
                    raise
                self.close()
                self._look()
        if after < through:
            raise corruption(
                self._files, self._active.name, 0, f"log {log} ends at position {after}, not at {through} as it should"
            )

    def _read(self, log: LogId, after: Position) -> Iterator[LogRecord]:
        ended = False
        while not ended:
            records, ended = self._history.read(log, after, READ_BYTES)
            yield from records
            after = records[-1].position if records else after
        column = self._active.index.columns.get(log)
        file: File = self._active.file
        while column is not None:
            first, stop = column.span(after, READ_BYTES)
            if first == stop:
                return
            records = read_rows(self._files, file, self._active.base, self._salt, log, column, first, stop)
            yield from records
            after = records[-1].position

    def bytes_of(self, log: LogId, through: Position) -> int:
        """What the payloads of its records at or below `through` take."""
        indexes = [self._history.index_of(at) for at in range(len(self._history.bases))]
        columns = [index.columns.get(log) for index in (*indexes, self._active.index)]
        return sum(_bytes_of(column, through) for column in columns if column is not None)


def _bytes_of(column: Columns, through: Position) -> int:
    _, stop = column.span(BEFORE_FIRST, 1 << 62)
    if stop and column.positions[stop - 1] <= through:
        return sum(column.lengths)
    pairs = zip(column.positions, column.lengths, strict=True)
    return sum(length for position, length in pairs if position <= through)
