"""Segment files on disk: the active one, and how a new one is born."""

from __future__ import annotations

import contextlib

from tidegrid.grid.journal.files import File, Files
from tidegrid.grid.log.index import SegmentIndex
from tidegrid.grid.log.segment import (
    SEGMENT_HEADER_BYTES,
    TEMPORARY_SUFFIX,
    SegmentHeader,
    decode_segment_header,
    encode_segment_header,
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


def read_header(files: Files, file: File, base: int) -> SegmentHeader:
    """The header of the segment that is named by `base`. Raises CorruptionError, FormatError."""
    name = segment_name(base)
    try:
        header = decode_segment_header(file.pread(SEGMENT_HEADER_BYTES, 0))
    except FormatError as error:
        if "version" in error.fields:
            raise FormatError(f"{files.path(name)}: {error.message}", **error.fields) from None
        raise corruption(files, name, 0, error.message) from None
    if header.base != base:
        raise corruption(files, name, 0, f"its header belongs to {segment_name(header.base)}")
    return header


def corruption(files: Files, name: str, offset: int, reason: str) -> CorruptionError:
    path = files.path(name)
    return CorruptionError(
        f"{path} is damaged at offset {offset:,}: {reason}. Nothing was changed; restore the file from a copy",
        file=path,
        offset=offset,
    )
