"""Segments: the files that hold the one write-ahead sequence, and the names of all files of a log.

    segment := segment header, batch*, zeros
    segment header (4,096 bytes, little endian; the rest zeros)
        magic     8   "TIDEWAL" 00
        format    u32 1
        header    u32 4096
        base      u64 position of the first byte after this header
        capacity  u64 bytes reserved for batches
        identity  16  of the log: the same in all of its segments; the salt of all checksums comes from it
        checksum  u32 CRC-32 of the above

Positions run on without a gap: the base of a segment is the end of the one before it, so a position finds its
segment by bisection, and a segment that is missing shows. A segment is born under a temporary name, with all its
space reserved and its header durable, and renamed only then; so one that exists has a whole header. The last segment
is *active*; the others are *sealed*: never written again, cut to the length they use, and known durable to their end.
A sealed one may be replaced, once, by a *compacted* one of the same name (format 2, compacted.py).

    0000000000000000.wal                          a segment, named by its base
    0000000000000000.idx                          its index; only sealed segments have one
    partition-3.00000000000a1b2c.checkpoint       a checkpoint, named by log and position
    control.00000000000a1b2c.checkpoint
    LOCK                                          held by the process that has the log open
    *.tmp                                         unfinished; removed at start
"""

from __future__ import annotations

import re
from struct import Struct
from typing import NamedTuple
from zlib import crc32

from tidegrid.grid.model.errors import FormatError
from tidegrid.grid.model.ids import CONTROL_LOG, LogId, Position

SEGMENT_MAGIC = b"TIDEWAL\0"
SEGMENT_FORMAT = 1
COMPACTED_FORMAT = 2
SEGMENT_HEADER_BYTES = 4096
IDENTITY_BYTES = 16
LOCK_NAME = "LOCK"
TEMPORARY_SUFFIX = ".tmp"

_HEADER = Struct("<8sIIQQ16s")
_START = Struct("<8sII")
_CHECKSUM = Struct("<I")

_SEGMENT_NAME = re.compile(r"([0-9a-f]{16})\.wal")
_INDEX_NAME = re.compile(r"([0-9a-f]{16})\.idx")
_CHECKPOINT_NAME = re.compile(r"(control|partition-(\d{1,9}))\.([0-9a-f]{16})\.checkpoint")


class SegmentHeader(NamedTuple):
    base: int
    capacity: int
    identity: bytes


def encode_segment_header(header: SegmentHeader) -> bytes:
    head = _HEADER.pack(
        SEGMENT_MAGIC, SEGMENT_FORMAT, SEGMENT_HEADER_BYTES, header.base, header.capacity, header.identity
    )
    return (head + _CHECKSUM.pack(crc32(head))).ljust(SEGMENT_HEADER_BYTES, b"\0")


def decode_segment_header(data: bytes) -> SegmentHeader:
    """Raises FormatError: with field `version` when another build wrote it, without when the bytes are damaged."""
    check_segment_header(data, SEGMENT_FORMAT, _HEADER.size)
    _, _, _, base, capacity, identity = _HEADER.unpack_from(data)
    return SegmentHeader(base, capacity, identity)


def segment_format_of(data: bytes) -> int:
    """Of the segment that begins with `data`: one of the two that are read here. Raises FormatError as above."""
    if len(data) < SEGMENT_HEADER_BYTES:
        raise FormatError("the segment header is cut short")
    magic, version, _ = _START.unpack_from(data)
    if magic != SEGMENT_MAGIC:
        raise FormatError("this is not a segment of a Tidegrid log")
    if version not in (SEGMENT_FORMAT, COMPACTED_FORMAT):
        raise FormatError(
            f"the segment has format {version}, this version of Tidegrid reads {SEGMENT_FORMAT} and {COMPACTED_FORMAT}; "
            "open it with the version that wrote it",
            version=version,
        )
    return int(version)


def check_segment_header(data: bytes, version: int, used: int) -> None:
    """What all segment headers have in common: `used` bytes, their checksum, zeros. Raises FormatError as above."""
    if segment_format_of(data) != version:
        raise FormatError(f"the segment is not of format {version}")
    checksum = _CHECKSUM.pack(crc32(data[:used]))
    if _START.unpack_from(data)[2] != SEGMENT_HEADER_BYTES or data[used:SEGMENT_HEADER_BYTES] != checksum.ljust(
        SEGMENT_HEADER_BYTES - used, b"\0"
    ):
        raise FormatError("the checksum of the segment header does not fit")


def segment_name(base: int) -> str:
    return f"{base:016x}.wal"


def index_name(base: int) -> str:
    return f"{base:016x}.idx"


def checkpoint_name(log: LogId, position: Position) -> str:
    assert log >= CONTROL_LOG, "a log is a partition or the control log"
    return f"{'control' if log == CONTROL_LOG else f'partition-{log}'}.{position:016x}.checkpoint"


def segment_base_of(name: str) -> int | None:
    match = _SEGMENT_NAME.fullmatch(name)
    return int(match[1], 16) if match else None


def index_base_of(name: str) -> int | None:
    match = _INDEX_NAME.fullmatch(name)
    return int(match[1], 16) if match else None


def checkpoint_of(name: str) -> tuple[LogId, Position] | None:
    match = _CHECKPOINT_NAME.fullmatch(name)
    if not match:
        return None
    return (CONTROL_LOG if match[2] is None else LogId(int(match[2])), Position(int(match[3], 16)))
