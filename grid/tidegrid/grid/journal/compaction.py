"""Compaction: sealed segments are written anew, with one record for all records that a log has in them.

In a thread of its own, in slices with a rest after each, so that neither the event loop nor the readers wait for it. Per
segment, and never touching the old file:

    fold       all records of the log since the last folded one, that one first -> payload, which the caller's function makes
    write      a temporary file with the records of the other logs and the folded one, of its full length at once; sync
    verify     all of the temporary file, and that it has every record of the other logs
    replace    rename over the old segment and swap the open file and the index, both in the reader thread
    settle     sync the directory, and only then write the index

A crash leaves the old segment or the new one; both are whole, and say the same of all other logs. A temporary file goes
at the next start; an index of the old segment beside the new one is not believed (log/index.py). When space runs out the
segment stays as it is until a later call. Any other failed write or sync has the log stop, as everywhere (writer.py).

Segments are looked at in order, and each only once while the log is open: if it does not get shorter by enough it is left,
and read once more when a later one is folded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tidegrid.grid.journal.files import FULL_ERRORS, File, Files
from tidegrid.grid.journal.history import History, read_rows, scan_compacted_file
from tidegrid.grid.journal.options import LocalLogOptions
from tidegrid.grid.journal.seam import Fold
from tidegrid.grid.journal.segments import Segment, corruption, offset_of, open_sealed
from tidegrid.grid.log.batch import RECORD_HEADER_BYTES, Flaw, encode_record_header, salt_of
from tidegrid.grid.log.compacted import PLACE_BYTES, CompactedHeader, encode_compacted_header, encode_place
from tidegrid.grid.log.entry import LogRecord
from tidegrid.grid.log.index import NO_TAIL, Columns, SegmentIndex, Tail, bytes_claimed
from tidegrid.grid.log.scan import scan
from tidegrid.grid.log.segment import TEMPORARY_SUFFIX, index_name, segment_name
from tidegrid.grid.model.ids import LogId, Position

logger = logging.getLogger(__name__)

_SLICE_SECONDS = 0.001
_READ_BYTES = 16 * 1024
_WRITE_BYTES = 1 << 20

T = TypeVar("T")


class Compactor:
    """Lifecycle: `compact`, one at a time, as often as wanted; `stop` ends what is under way, and its thread."""

    def __init__(
        self, files: Files, options: LocalLogOptions, identity: bytes, history: History, reader: ThreadPoolExecutor
    ) -> None:
        self._files = files
        self._options = options
        self._identity = identity
        self._history = history
        self._reader = reader
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tidegrid-log-compact")
        self._turn = asyncio.Lock()
        self._stopping = threading.Event()
        self._looked_at: dict[LogId, int] = {}  # how many segments, from the first

    async def compact(self, log: LogId, through: Position, fold: Fold) -> int:
        """See `Log.compact`. Raises CorruptionError, OSError, and what `fold` raises."""
        async with self._turn:
            if self._stopping.is_set():
                return 0
            cancelled = threading.Event()
            run = asyncio.get_running_loop().run_in_executor(
                self._thread, self._run, log, through, fold, _Pace(self._options, self._stopping, cancelled)
            )
            try:
                return await run
            except asyncio.CancelledError:
                cancelled.set()
                raise

    def halt(self) -> None:
        """Nothing is begun any more, and what is under way is given up, soon."""
        self._stopping.set()

    def stop(self) -> None:
        self.halt()
        self._thread.shutdown()

    # In the thread -------------------------------------------------------------------------------------------------

    def _run(self, log: LogId, through: Position, fold: Fold, pace: _Pace) -> int:
        saved = 0
        history = self._history
        count = len(history.bases)
        if log not in self._looked_at:  # what lies before a folded one was looked at in another life
            self._looked_at[log] = max((at + 1 for at in range(count) if history.folded(at) == log), default=0)
        with contextlib.suppress(_Stopped):
            for at in range(self._looked_at[log], count):
                pace()
                if history.folded(at) is None and self._promising(at, log):
                    with self._reading(at):
                        index = self._ask(history.index_of, at)
                    if index.tail(log).position > through:
                        break
                    try:
                        saved += self._segment(at, index, log, fold, pace)
                    except OSError as error:
                        if error.errno not in FULL_ERRORS:
                            raise
                        name = self._files.path(segment_name(index.base))
                        logger.warning("there is no space to compact %s (%s); it is tried again later", name, error)
                        break
                self._looked_at[log] = at + 1
        return saved

    def _promising(self, at: int, log: LogId) -> bool:
        """By the head of the index file: of segments that hold much else, the whole index would be a lot to read."""
        base, end = self._history.span(at)
        claimed = None
        with contextlib.suppress(OSError, struct.error):
            file = self._files.open(index_name(base))
            try:
                claimed = bytes_claimed(file.pread, base, end, log)
            finally:
                file.close()
        return claimed is None or claimed >= self._options.compact_share * (end - base)

    def _segment(self, at: int, index: SegmentIndex, log: LogId, fold: Fold, pace: _Pace) -> int:
        """Bytes let go of; 0: the segment stays as it is."""
        used = index.end - index.base
        enough = self._options.compact_share * used
        if index.bytes_of(log) < enough or log not in index.columns:
            return 0
        payload = fold(self._records_to_fold(at, log, pace))
        kept = [other for other in index.columns if other != log]
        records = 1 + sum(len(index.columns[other].positions) for other in kept)
        length = sum(map(index.bytes_of, kept)) + RECORD_HEADER_BYTES + len(payload) + PLACE_BYTES * records
        saved = used - length
        if saved < max(enough, 1):
            return 0
        header = CompactedHeader(index.base, index.end, log, records, length, self._identity)
        temporary = segment_name(index.base) + TEMPORARY_SUFFIX
        before = self._ask(self._history.tails_before, at)
        try:
            self._write(at, index, header, temporary, encode_folded(header, index, before, payload), pace)
            compacted = self._verified(index, header, temporary, before, pace)
            pace()
            self._ask(self._history.replace, at, temporary, compacted)
        except BaseException:
            with contextlib.suppress(OSError):
                self._files.remove(temporary)
            raise
        if self._options.sync:
            self._files.sync_directory()
        self._ask(self._history.write_index, compacted)
        return saved

    def _records_to_fold(self, at: int, log: LogId, pace: _Pace) -> Iterator[LogRecord]:
        """From the last folded record on, if there is one, to the end of segment `at`."""
        history, salt = self._history, salt_of(self._identity)
        first = at
        while first > 0 and history.folded(first) != log:
            first -= 1
        for number in range(first, at + 1):
            with self._reading(number):
                index = self._ask(history.index_of, number)
                file = open_sealed(self._files, index.base, self._identity, compacted=index.compacted)
            try:
                column = index.columns.get(log, Columns())
                row = 0
                while row < len(column.positions):
                    _, stop = column.span(Position(column.positions[row] - 1), _READ_BYTES)
                    with self._reading(number):
                        records = read_rows(self._files, file, index.base, salt, log, column, row, stop)
                    for record in records:
                        yield record
                        pace()
                    row = stop
            finally:
                file.close()

    def _write(
        self, at: int, index: SegmentIndex, header: CompactedHeader, temporary: str, folded: bytes, pace: _Pace
    ) -> None:
        options, salt = self._options, salt_of(self._identity)
        last = index.tail(header.log).position
        file = self._files.create(temporary)
        try:
            file.allocate(header.file_bytes)  # if space runs out, then here
            written = _Buffer(file, options.checkpoint_sync_bytes if options.sync else None)
            written.put(encode_compacted_header(header))
            with self._reading(at):
                old = open_sealed(self._files, index.base, self._identity, compacted=False)
            try:
                segment = Segment(old, index.base, index.end, index)

                def read(position: int, length: int) -> bytes:
                    with self._reading(at):
                        return segment.read(position, length)

                for item in scan(read, index.base, index.end, salt):
                    if isinstance(item, Flaw):
                        raise corruption(self._files, segment.name, offset_of(index.base, item.position), item.reason)
                    data = read(item.start, item.end - item.start)
                    for row in item.rows:
                        if row.log != header.log:
                            begin = row.position - item.start
                            written.put(
                                encode_place(row.position), data[begin : begin + RECORD_HEADER_BYTES + row.length]
                            )
                        elif row.position == last:
                            written.put(folded)
                    pace()
            finally:
                old.close()
            written.end()
        finally:
            file.close()

    def _verified(
        self, index: SegmentIndex, header: CompactedHeader, temporary: str, before: dict[LogId, Tail], pace: _Pace
    ) -> SegmentIndex:
        """The index of what was written, every byte of it read again: it is about to replace all that there is."""
        file = self._files.open(temporary)
        try:
            found = scan_compacted_file(
                self._files, file, temporary, header.base, salt_of(self._identity), before, pace
            )
            assert file.size() == header.file_bytes, "what is written is as long as was reckoned"
        finally:
            file.close()
        assert (found.end, found.tails) == (index.end, index.tails), "a compacted segment ends as it did"
        for log, column in index.columns.items():
            one = found.columns[log]
            if log == header.log:
                assert len(one.positions) == 1
            else:
                assert one.arrays(compacted=False) == column.arrays(compacted=False), f"log {log} is not as it was"
        return found

    @contextlib.contextmanager
    def _reading(self, at: int) -> Iterator[None]:
        """What cannot be read of an old segment is no failure to write: the log goes on."""
        try:
            yield
        except OSError as error:
            name = segment_name(self._history.bases[at])
            raise corruption(self._files, name, 0, f"it cannot be read ({error})") from error

    def _ask(self, question: Callable[..., T], *arguments: object) -> T:
        """In the reader thread, which history belongs to."""
        return self._reader.submit(question, *arguments).result()


class _Buffer:
    """Writes one after the other, in large pieces; synced every so often, so that appends never wait for all of it."""

    def __init__(self, file: File, sync_bytes: int | None) -> None:
        self._file = file
        self._sync_bytes = sync_bytes
        self._parts: list[bytes] = []
        self._waiting = self._offset = self._synced = 0

    def put(self, *parts: bytes) -> None:
        self._parts += parts
        self._waiting += sum(map(len, parts))
        if self._waiting >= _WRITE_BYTES:
            self._flush()

    def end(self) -> None:
        self._flush()
        if self._sync_bytes is not None:
            self._file.sync()

    def _flush(self) -> None:
        self._file.pwritev([b"".join(self._parts)], self._offset)
        self._offset += self._waiting
        self._parts, self._waiting = [], 0
        if self._sync_bytes is not None and self._offset - self._synced >= self._sync_bytes:
            self._file.sync()
            self._synced = self._offset


class _Stopped(Exception):
    """Not an error: the log is closing, or nobody waits any more."""


class _Pace:
    """Called after each bit of work: rests when a slice is over. Raises _Stopped."""

    def __init__(self, options: LocalLogOptions, stopping: threading.Event, cancelled: threading.Event) -> None:
        self._rest = options.compact_rest_seconds
        self._stopping = stopping
        self._cancelled = cancelled
        self._began = 0.0

    def __call__(self) -> None:
        if self._cancelled.is_set() or self._stopping.is_set():
            raise _Stopped
        if time.perf_counter() - self._began < _SLICE_SECONDS:
            return
        if self._rest and self._stopping.wait(self._rest):
            raise _Stopped
        self._began = time.perf_counter()


def encode_folded(header: CompactedHeader, index: SegmentIndex, before: dict[LogId, Tail], payload: bytes) -> bytes:
    """The record that stands for all of its log in the segment."""
    log = header.log
    position, epoch = index.tail(log)
    previous = before.get(log, NO_TAIL).position
    head = encode_record_header(salt_of(header.identity), position, log, epoch, previous, payload)
    return encode_place(position) + head + payload
