"""Segment files on disk: how a new one is born, and what a file that is there turns out to be."""

from __future__ import annotations

import contextlib

from tidegrid.grid.journal.files import File, Files
from tidegrid.grid.log.compacted import CompactedHeader, decode_compacted_header
from tidegrid.grid.log.index import SegmentIndex
from tidegrid.grid.log.segment import (
    COMPACTED_FORMAT,
    SEGMENT_HEADER_BYTES,
    TEMPORARY_SUFFIX,
    SegmentHeader,
    decode_segment_header,
    encode_segment_header,
    segment_format_of,
    segment_name,
)
from tidegrid.grid.model.errors import CorruptionError, FormatError


class Segment:
    """An open segment. Its batches lie at positions [base, limit); `index.end` is where they end."""

    __slots__ = ("base", "file", "index", "limit", "name")

    def __init__(self, file: File, base: int, limit: int, index: SegmentIndex) -> None:
        self.file = file
        self.base = base
        self.limit = limit
        self.index = index
        self.name = segment_name(base)

    def read(self, position: int, length: int) -> bytes:
        return self.file.pread(length, offset_of(self.base, position))


def offset_of(base: int, position: int) -> int:
    """Where a position lies in the file of its segment."""
    return position - base + SEGMENT_HEADER_BYTES


def create_segment(files: Files, header: SegmentHeader, *, sync: bool) -> File:
    """A segment with all its space reserved and its header durable, under its final name; the directory is not synced yet.

    Raises OSError, and then there is no such segment.
    """
    name = segment_name(header.base)
    temporary = name + TEMPORARY_SUFFIX
    file = files.create(temporary)
    try:
        file.allocate(SEGMENT_HEADER_BYTES + header.capacity)
        file.pwritev([encode_segment_header(header)], 0)
        if sync:
            file.sync()
        files.rename(temporary, name)
    except BaseException:
        file.close()
        with contextlib.suppress(OSError):
            files.remove(temporary)
        raise
    return file


def read_header(files: Files, file: File, base: int) -> SegmentHeader | CompactedHeader:
    """The header of the segment that is named by `base`. Raises CorruptionError, FormatError."""
    name = segment_name(base)
    data = file.pread(SEGMENT_HEADER_BYTES, 0)
    header: SegmentHeader | CompactedHeader
    try:
        compacted = segment_format_of(data) == COMPACTED_FORMAT
        header = decode_compacted_header(data) if compacted else decode_segment_header(data)
    except FormatError as error:
        if "version" in error.fields:
            raise FormatError(f"{files.path(name)}: {error.message}", **error.fields) from None
        raise corruption(files, name, 0, error.message) from None
    if header.base != base:
        raise corruption(files, name, 0, f"its header belongs to {segment_name(header.base)}")
    return header


def check_sealed(files: Files, file: File, base: int, end: int) -> CompactedHeader | int:
    """What a sealed segment is: its header if it is compacted, else how many spare bytes a crash left in it.

    Raises CorruptionError when it is not one of [base, end).
    """
    size, used = file.size(), offset_of(base, end)
    if size == used:  # and so not compacted: that makes shorter
        return 0
    header = read_header(files, file, base)
    if isinstance(header, CompactedHeader):
        whole = size == header.file_bytes
        if whole and header.end == end:
            return header
    elif used <= size <= offset_of(base, base + header.capacity):
        return size - used
    reason = f"it does not end at position {end}, where {segment_name(end)} begins; is a file missing?"
    if isinstance(header, CompactedHeader) and header.end == end:
        reason = f"it has {size:,} bytes, its header says {header.file_bytes:,}"
    raise corruption(files, segment_name(base), min(size, used), reason)


def open_sealed(files: Files, base: int, identity: bytes, *, compacted: bool) -> File:
    """For reading. Raises CorruptionError when it is not the segment that it was at the start."""
    name = segment_name(base)
    file = files.open(name)
    try:
        header = read_header(files, file, base)
        if header.identity != identity:
            raise corruption(files, name, 0, "it belongs to another log")
        if isinstance(header, CompactedHeader) != compacted:
            raise corruption(files, name, 0, "it was replaced by something else than this log")
    except BaseException:
        file.close()
        raise
    return file


def corruption(files: Files, name: str, offset: int, reason: str) -> CorruptionError:
    path = files.path(name)
    return CorruptionError(
        f"{path} is damaged at offset {offset:,}: {reason}. Nothing was changed; restore the file from a copy",
        file=path,
        offset=offset,
    )
