"""Start of a local log: from the files of a directory to a writer that stands at the end.

In this order, and nothing is changed on disk before the log is known to be sound:
  1. find the segments; each must begin where the one before it ends;
  2. verify the sealed segments from the oldest checkpoint on that has records after it;
  3. scan the active segment to its end; a bad place there is a tear, and is cut, or corruption, and is refused (scan.py);
     a checkpoint, too, proves that what it covers was durable;
  4. write again what no batch calls durable yet, put zeros over what was cut, and sync: a process that died may have
     left batches that are in the machine's memory only, and a failed sync may have left pages that only look written.
"""

from __future__ import annotations

import contextlib
import logging
import os
from bisect import bisect_right
from itertools import pairwise
from typing import NamedTuple

from tidegrid.grid.journal import checkpoints
from tidegrid.grid.journal.files import FULL_ERRORS, File, Files
from tidegrid.grid.journal.history import History
from tidegrid.grid.journal.options import LocalLogOptions
from tidegrid.grid.journal.segments import (
    Segment,
    check_sealed,
    corruption,
    create_segment,
    offset_of,
    read_header,
)
from tidegrid.grid.journal.writer import SegmentWriter, log_failed, storage_full
from tidegrid.grid.log.batch import Flaw, salt_of
from tidegrid.grid.log.compacted import CompactedHeader
from tidegrid.grid.log.index import SegmentIndex
from tidegrid.grid.log.scan import find_batches, scan, written_spans
from tidegrid.grid.log.segment import (
    IDENTITY_BYTES,
    SEGMENT_HEADER_BYTES,
    TEMPORARY_SUFFIX,
    SegmentHeader,
    checkpoint_of,
    index_base_of,
    index_name,
    segment_base_of,
    segment_name,
)
from tidegrid.grid.model.ids import BEFORE_FIRST, LogId, Position

logger = logging.getLogger(__name__)

_COPY_BYTES = 1 << 20


class Recovered(NamedTuple):
    identity: bytes
    salt: int
    history: History
    writer: SegmentWriter


class ActiveScan(NamedTuple):
    """The active segment as found. `synced`: proven durable; `torn`: spans past the end to be zeros."""

    segment: Segment
    synced: int
    torn: list[tuple[int, int]]


def recover(files: Files, options: LocalLogOptions) -> Recovered:
    """Raises CorruptionError, FormatError, StorageFullError, LogFailedError. The directory is locked by the caller."""
    names = files.list()
    bases = segment_bases(files, names)
    if not bases:
        create_first(files, options, names)
        bases = [0]
    with contextlib.ExitStack() as opened:
        try:
            active_file = files.open(segment_name(bases[-1]), write=True)
            opened.callback(active_file.close)
            header = checked_header(files, active_file, bases[-1])
            salt = salt_of(header.identity)
            history = History(files, options, header.identity, salt)
            opened.callback(history.close)
            spare = add_sealed(files, history, bases)
            proven = checkpoints.positions(files, salt)
            for at in spare:
                history.index_of(at)  # before anything is changed: an index or the bytes must say that it ends there
            _verify_history(history, proven)
            found = scan_active(files, active_file, header, history, max(proven.values(), default=BEFORE_FIRST))
            _repair(files, options, names, history, found)
            for at in spare:
                _trim(files, history, at)
        except OSError as error:
            raise log_failed(files.path(""), error) from error
        opened.pop_all()
    writer = SegmentWriter(files, options, header.identity, found.segment, found.segment.index.end)
    return Recovered(header.identity, salt, history, writer)


def segment_bases(files: Files, names: list[str]) -> list[int]:
    """Bases of all segments, ascending. Raises CorruptionError when the first or the last one must be missing."""
    bases = sorted(base for name in names if (base := segment_base_of(name)) is not None)
    indexed = sorted(base for name in names if (base := index_base_of(name)) is not None)
    if bases and bases[0] != 0:
        raise corruption(files, segment_name(0), 0, "the first segment is missing")
    if indexed and (not bases or indexed[-1] >= bases[-1]):
        base = indexed[-1]
        raise corruption(
            files, segment_name(base), 0, "a segment after the one with this index, or it itself, is missing"
        )
    if not bases and any(checkpoint_of(name) for name in names):
        raise corruption(files, segment_name(0), 0, "there are checkpoints, but no segments")
    return bases


def create_first(files: Files, options: LocalLogOptions, names: list[str]) -> None:
    for name in names:
        if name.endswith(TEMPORARY_SUFFIX):
            files.remove(name)
    header = SegmentHeader(0, options.segment_bytes - SEGMENT_HEADER_BYTES, os.urandom(IDENTITY_BYTES))
    try:
        create_segment(files, header, sync=options.sync).close()
        if options.sync:
            files.sync_directory()
    except OSError as error:
        if error.errno in FULL_ERRORS:
            raise storage_full(files, error) from error
        raise log_failed(files.path(segment_name(0)), error) from error


def checked_header(files: Files, file: File, base: int) -> SegmentHeader:
    """The header of the active segment, whose file must have all of its reserved length."""
    header = read_header(files, file, base)
    if isinstance(header, CompactedHeader):
        raise corruption(
            files, segment_name(base), 0, "it is compacted, so there was a segment after it, which is missing"
        )
    size = file.size()
    if size < SEGMENT_HEADER_BYTES + header.capacity:
        raise corruption(files, segment_name(base), size, "the file was cut short")
    return header


def add_sealed(files: Files, history: History, bases: list[int]) -> list[int]:
    """All but the last segment, each checked to end where the next begins. Raises CorruptionError.

    Returns the numbers of those that a crash left with spare space, whose length says nothing.
    """
    spare: list[int] = []
    for at, (base, end) in enumerate(pairwise(bases)):
        file = files.open(segment_name(base))
        try:
            found = check_sealed(files, file, base, end)
        finally:
            file.close()
        if isinstance(found, CompactedHeader):
            history.add(base, end, folded=found.log)
            continue
        if found:
            spare.append(at)
        history.add(base, end)
    return spare


def _verify_history(history: History, proven: dict[LogId, Position]) -> None:
    """Sealed segments that hold records after a checkpoint: they are about to be replayed."""
    if not history.bases:
        return
    tails = history.index_of(len(history.bases) - 1).tails
    starts = [
        proven.get(log, BEFORE_FIRST) for log, tail in tails.items() if tail.position > proven.get(log, BEFORE_FIRST)
    ]
    if not starts:
        return
    oldest = min(starts)
    for at in range(max(0, bisect_right(history.bases, oldest) - 1), len(history.bases)):
        history.verify(at)


def scan_active(files: Files, file: File, header: SegmentHeader, history: History, proven: Position) -> ActiveScan:
    """Raises CorruptionError for a bad place below what is proven durable."""
    salt, base = salt_of(header.identity), header.base
    segment = Segment(file, base, base + header.capacity, SegmentIndex(base, history.tails_before(len(history.bases))))
    synced = max(base, proven + 1 if proven else 0)
    flaw: Flaw | None = None
    for item in scan(segment.read, base, segment.limit, salt):
        flaw = item if isinstance(item, Flaw) else segment.index.flaw_of(item.rows)
        if flaw is not None:
            break
        assert not isinstance(item, Flaw)
        segment.index.add(item.rows, item.end)
        synced = max(synced, item.synced)
    end = segment.index.end
    spans = list(written_spans(segment.read, end, segment.limit)) if flaw is not None else []
    if spans:
        for _, said in find_batches(segment.read, end, spans[-1][1], salt):
            synced = max(synced, said)
    if synced > end:
        flaw = flaw or Flaw(end, "the log ends")
        reason = f"{flaw.reason}, yet everything before position {synced} was durable"
        raise corruption(files, segment.name, offset_of(base, flaw.position), reason)
    return ActiveScan(segment, synced, spans)


def _repair(files: Files, options: LocalLogOptions, names: list[str], history: History, found: ActiveScan) -> None:
    segment = found.segment
    end = segment.index.end
    cut = 0
    for begin, stop in found.torn:
        segment.file.pwritev([bytes(stop - begin)], offset_of(segment.base, begin))
        cut += stop - begin
    if cut:
        path, offset = files.path(segment.name), offset_of(segment.base, end)
        logger.warning("%s: a write torn by a crash was cut at offset %d; it was never acknowledged", path, offset)
    begin = max(found.synced, segment.base)
    while begin < end:
        data = segment.read(begin, min(_COPY_BYTES, end - begin))
        segment.file.pwritev([data], offset_of(segment.base, begin))
        begin += len(data)
    if options.sync:
        segment.file.sync()
        files.sync_directory()
    for name in names:
        if name.endswith(TEMPORARY_SUFFIX):
            with contextlib.suppress(OSError):
                files.remove(name)
    history.write_indexes()
    for at in range(max(0, len(history.bases) - 1), len(history.bases)):
        if index_name(history.bases[at]) not in names:  # a crash came between the birth of a segment and this
            history.rebuild(at, history.tails_before(at))


def _trim(files: Files, history: History, at: int) -> None:
    """Gives back the space that a sealed segment does not use."""
    index = history.index_of(at)
    file = files.open(segment_name(index.base), write=True)
    try:
        file.truncate(offset_of(index.base, index.end))
    finally:
        file.close()
