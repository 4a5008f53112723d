"""Verifying a whole log directory that nobody writes to: every batch, record, index and checkpoint. Changes nothing.

Unlike a start, which stops at the first bad place, this goes on past it and reports all it finds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tidegrid.grid.journal import checkpoints
from tidegrid.grid.journal.files import File, Files, PosixFiles
from tidegrid.grid.journal.history import load_index
from tidegrid.grid.journal.recovery import segment_bases
from tidegrid.grid.journal.segments import Segment, corruption, offset_of, read_header
from tidegrid.grid.log.batch import Flaw, Row, salt_of
from tidegrid.grid.log.compacted import CompactedHeader, scan_compacted
from tidegrid.grid.log.index import NO_TAIL, SegmentIndex, Tail
from tidegrid.grid.log.scan import find_batches, scan, written_spans
from tidegrid.grid.log.segment import (
    LOCK_NAME,
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    checkpoint_of,
    index_name,
    segment_base_of,
    segment_name,
)
from tidegrid.grid.model.errors import ConfigurationError, CorruptionError, FormatError
from tidegrid.grid.model.ids import LogId

Progress = Callable[[int, int], None]
"""(bytes done, bytes in all)"""


@dataclass(frozen=True, slots=True)
class Problem:
    file: str
    offset: int
    reason: str


@dataclass(slots=True)
class LogCount:
    records: int = 0
    payload_bytes: int = 0
    tail: Tail = NO_TAIL


@dataclass(slots=True)
class VerifyReport:
    segments: int = 0
    compacted: int = 0  # of the segments
    batches: int = 0
    records: int = 0
    bytes_read: int = 0
    logs: dict[LogId, LogCount] = field(default_factory=dict)
    indexes_unusable: int = 0  # missing or damaged; not a problem: rebuilt when needed
    checkpoints: int = 0
    torn_bytes: int = 0  # not a problem: of a write that was never acknowledged; the next start cuts it
    problems: list[Problem] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        return not self.problems


def verify(
    directory: str | os.PathLike[str], progress: Progress | None = None, *, files: Files | None = None
) -> VerifyReport:
    """Raises InUseError (a process has the log open), ConfigurationError (there is no log)."""
    where = files or PosixFiles(directory)
    try:
        names = where.list()
    except OSError as error:
        raise _no_log(where, error.strerror or str(error)) from error
    if not any(segment_base_of(name) is not None or checkpoint_of(name) for name in names):
        raise _no_log(where, "no segment is there")
    lock = where.lock(LOCK_NAME, shared=True)
    try:
        return _Verification(where, names, progress).run()
    finally:
        lock.release()


class _Verification:
    def __init__(self, files: Files, names: list[str], progress: Progress | None) -> None:
        self._files = files
        self._names = names
        self._progress = progress
        self._report = VerifyReport()
        self._identity: bytes | None = None
        self._tails: dict[LogId, Tail] = {}
        self._chained = True  # False past a bad place: what came before is not known any more
        self._total = 0

    def run(self) -> VerifyReport:
        bases = sorted(base for name in self._names if (base := segment_base_of(name)) is not None)
        try:
            segment_bases(self._files, self._names)
        except CorruptionError as error:
            self._problem_of(error)
            self._chained = False
        self._total = sum(self._size(segment_name(base)) for base in bases)
        for at, base in enumerate(bases):
            self._segment(base, bases[at + 1] if at + 1 < len(bases) else None)
        self._checkpoints()
        for log, tail in self._tails.items():
            self._report.logs.setdefault(log, LogCount()).tail = tail
        return self._report

    def _segment(self, base: int, next_base: int | None) -> None:
        name = segment_name(base)
        before = len(self._report.problems)
        try:
            file = self._files.open(name)
        except OSError as error:
            self._problem(name, 0, str(error))
            return
        try:
            header = read_header(self._files, file, base)
            if self._identity is None:
                self._identity = header.identity
            if header.identity != self._identity:
                raise corruption(self._files, name, 0, "it belongs to another log")
            if isinstance(header, CompactedHeader):
                self._report.compacted += 1
                index = self._placed(file, header, next_base)
            else:
                index = self._batches(file, header, next_base)
        except (CorruptionError, FormatError) as error:
            self._problem_of(error, name)
            index = None
        except OSError as error:
            self._problem(name, 0, str(error))
            index = None
        finally:
            file.close()
        self._report.segments += 1
        if len(self._report.problems) > before or index is None:
            self._chained = False
        elif next_base is not None and self._chained:
            self._index(index)

    def _batches(self, file: File, header: SegmentHeader, next_base: int | None) -> SegmentIndex:
        salt, base = salt_of(header.identity), header.base
        limit = next_base if next_base is not None else base + header.capacity
        size = file.size()
        if size < offset_of(base, limit):
            self._problem(segment_name(base), size, "the file was cut short")
        index = SegmentIndex(base, dict(self._tails))
        segment = Segment(file, base, limit, index)
        begun = self._report.bytes_read

        def read(position: int, length: int) -> bytes:
            data = segment.read(position, length)
            self._reached(begun + position + len(data) - base)
            return data

        cursor: int | None = base
        while cursor is not None:
            flaw, synced = self._scan(read, cursor, limit, salt, index)
            cursor = None
            if flaw is None:
                break
            found = list(find_batches(segment.read, max(flaw.position, index.end), limit, salt))
            synced = max([synced, *(said for _, said in found)])
            if next_base is None and synced <= index.end and not self._checkpoint_beyond(index.end, salt):
                spans = written_spans(read, index.end, limit)
                self._report.torn_bytes += sum(stop - begin for begin, stop in spans)
                break
            self._problem(segment.name, offset_of(base, flaw.position), flaw.reason)
            self._chained = False
            cursor = next((begin for begin, _ in found if begin > flaw.position), None)
        self._tails = index.tails
        return index

    def _placed(self, file: File, header: CompactedHeader, next_base: int | None) -> SegmentIndex:
        base, size, begun = header.base, file.size(), self._report.bytes_read
        name = segment_name(base)
        if next_base is None:
            self._problem(name, 0, "it is compacted, so there was a segment after it, which is missing")
        if size != header.file_bytes:
            self._problem(
                name, min(size, header.file_bytes), f"its header says that it has {header.file_bytes:,} bytes"
            )
        index = SegmentIndex(base, dict(self._tails), compacted=True)

        def read(length: int, offset: int) -> bytes:
            data = file.pread(length, offset)
            self._reached(begun + offset + len(data) - SEGMENT_HEADER_BYTES)
            return data

        for item in scan_compacted(read, header, salt_of(header.identity)):
            if isinstance(item, Flaw):
                self._problem(name, item.position, item.reason)
                self._chained = False
                break
            flaw = index.flaw_of((item.row,)) if self._chained else None
            if flaw is not None:
                self._problem(name, item.offset, flaw.reason)
                self._chained = False
            self._count((item.row,))
            index.add_placed(*item)
        index.end = header.end
        self._tails = index.tails
        return index

    def _reached(self, done: int) -> None:
        """Windows overlap, so progress is told by place."""
        if done > self._report.bytes_read:
            self._report.bytes_read = done
            if self._progress is not None:
                self._progress(done, self._total)

    def _scan(
        self, read: Callable[[int, int], bytes], start: int, limit: int, salt: int, index: SegmentIndex
    ) -> tuple[Flaw | None, int]:
        """Takes in valid batches up to the first bad place. Returns it, and what they call durable."""
        synced = 0
        for item in scan(read, start, limit, salt):
            flaw = item if isinstance(item, Flaw) else index.flaw_of(item.rows) if self._chained else None
            if flaw is not None:
                return flaw, synced
            assert not isinstance(item, Flaw)
            self._report.batches += 1
            self._count(item.rows)
            index.add(item.rows, item.end)
            synced = max(synced, item.synced)
        return None, synced

    def _count(self, rows: Sequence[Row]) -> None:
        report = self._report
        report.records += len(rows)
        for row in rows:
            count = report.logs.setdefault(row.log, LogCount())
            count.records += 1
            count.payload_bytes += row.length

    def _index(self, index: SegmentIndex) -> None:
        name = index_name(index.base)
        assert self._identity is not None
        found = load_index(self._files, index.base, index.end, salt_of(self._identity), compacted=index.compacted)
        if found is None:
            self._report.indexes_unusable += 1
        elif not found.same_as(index):
            self._problem(name, 0, "the index does not fit its segment; remove it, it will be built again")

    def _checkpoints(self) -> None:
        if self._identity is None:
            return
        for name in sorted(name for name in self._names if checkpoint_of(name)):
            try:
                header = checkpoints.check(self._files, salt_of(self._identity), name)
            except CorruptionError as error:
                self._problem_of(error)
                continue
            self._report.checkpoints += 1
            if header.position > self._tails.get(header.log, NO_TAIL).position:
                self._problem(name, 0, "the checkpoint covers records that are not in the log")

    def _checkpoint_beyond(self, end: int, salt: int) -> bool:
        return any(position >= end for position in checkpoints.positions(self._files, salt).values())

    def _size(self, name: str) -> int:
        try:
            file = self._files.open(name)
        except OSError:
            return 0
        try:
            return max(0, file.size() - SEGMENT_HEADER_BYTES)
        finally:
            file.close()

    def _problem(self, name: str, offset: int, reason: str) -> None:
        self._report.problems.append(Problem(self._files.path(name), offset, reason))

    def _problem_of(self, error: CorruptionError | FormatError, name: str = "") -> None:
        offset = error.fields.get("offset", 0)
        where = str(error.fields.get("file", self._files.path(name)))
        self._report.problems.append(Problem(where, offset if isinstance(offset, int) else 0, error.message))


def _no_log(files: Files, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"there is no log in {files.path('')} ({reason}); give the directory that holds the *.wal files"
    )
