"""A compacted segment: a sealed one written anew, in which one record stands for all records of one log.

    compacted segment := header, record*
    header (4,096 bytes, little endian; the rest zeros)
        magic     8   "TIDEWAL" 00, as in any segment
        format    u32 2
        header    u32 4096
        base, end u64 positions of the first byte of the segment and of the end of its last batch, as they were
        log       i32 whose records were folded into one
        reserved  u32 0
        records   u64 how many records follow
        length    u64 bytes after this header; the file ends there
        identity  16  of the log
        checksum  u32 CRC-32 of the above
    record := position u64, record header, payload        the latter two as in batch.py, byte for byte

Records lie in the order of their positions. All logs but one keep every record as it was; of that one there is a single
record, at the position and with the epoch of its last one in the segment, and `previous` is the tail before the
segment. So positions, tails and chains are those of the segment that was there before. What the payload of that record
says is known to whoever folded. A segment is compacted at most once, and only if it gets shorter: a file whose length
is that of its positions is not compacted, so a start need not read its header.

A record's checksum starts from its position (batch.py), so the position in front is covered by it; a record that is
missing, doubled or out of order shows in the counts of the header or in the order, and so does a file that was cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct
from typing import NamedTuple
from zlib import crc32

from tidegrid.grid.log.batch import RECORD_HEADER_BYTES, BatchHeader, Flaw, Row, decode_length, decode_rows
from tidegrid.grid.log.segment import COMPACTED_FORMAT, SEGMENT_HEADER_BYTES, SEGMENT_MAGIC, check_segment_header
from tidegrid.grid.model.ids import LogId

_HEADER = Struct("<8sIIQQiIQQ16s")
_CHECKSUM = Struct("<I")
_PLACE = Struct("<Q")
_WINDOW_BYTES = 1 << 20

PLACE_BYTES = _PLACE.size

Read = Callable[[int, int], bytes]
"""(length, offset in the file) -> bytes, fewer only at its end."""


class CompactedHeader(NamedTuple):
    base: int
    end: int
    log: LogId
    records: int
    length: int  # bytes after the header
    identity: bytes

    @property
    def file_bytes(self) -> int:
        return SEGMENT_HEADER_BYTES + self.length


class PlacedRow(NamedTuple):
    """A record, and where in the file its header begins."""

    row: Row
    offset: int


def encode_compacted_header(header: CompactedHeader) -> bytes:
    base, end, log, records, length, identity = header
    head = _HEADER.pack(
        SEGMENT_MAGIC, COMPACTED_FORMAT, SEGMENT_HEADER_BYTES, base, end, log, 0, records, length, identity
    )
    return (head + _CHECKSUM.pack(crc32(head))).ljust(SEGMENT_HEADER_BYTES, b"\0")


def decode_compacted_header(data: bytes) -> CompactedHeader:
    """Raises FormatError, as `decode_segment_header` does."""
    check_segment_header(data, COMPACTED_FORMAT, _HEADER.size)
    _, _, _, base, end, log, _, records, length, identity = _HEADER.unpack_from(data)
    return CompactedHeader(base, end, LogId(log), records, length, identity)


def encode_place(position: int) -> bytes:
    """What goes before a record header."""
    return _PLACE.pack(position)


def scan_compacted(read: Read, header: CompactedHeader, salt: int) -> Iterator[PlacedRow | Flaw]:
    """Every record, checked. A Flaw, whose position is an offset in the file, comes last."""
    window, window_start = b"", 0
    cursor, stop = SEGMENT_HEADER_BYTES, header.file_bytes
    last, count = header.base, 0
    while cursor < stop:
        offset, length = 0, PLACE_BYTES + RECORD_HEADER_BYTES
        for _ in range(2):  # first the record's header, then, with the length that it tells, all of it
            if stop - cursor < length:
                yield Flaw(cursor, "the record reaches past its segment")
                return
            if not window_start <= cursor <= cursor + length <= window_start + len(window):
                window, window_start = read(min(max(length, _WINDOW_BYTES), stop - cursor), cursor), cursor
            if len(window) + window_start < cursor + length:
                yield Flaw(cursor, "the file was cut short")
                return
            offset = cursor - window_start + PLACE_BYTES
            length = PLACE_BYTES + RECORD_HEADER_BYTES + decode_length(window, offset)
        (position,) = _PLACE.unpack_from(window, offset - PLACE_BYTES)
        if not last < position < header.end:
            yield Flaw(cursor, f"the record's position {position} is out of order")
            return
        rows = decode_rows(window, offset, BatchHeader(1, length - PLACE_BYTES, 0), salt, position)
        if isinstance(rows, Flaw):
            yield Flaw(cursor, rows.reason)
            return
        yield PlacedRow(rows[0], cursor + PLACE_BYTES)
        last, count = position, count + 1
        cursor += length
    if count != header.records:
        yield Flaw(stop, f"the segment has {count:,} records, its header says {header.records:,}")
