"""Batches and records as bytes: what one write-ahead write consists of.

    batch  := batch header, record*            written by one write, made durable by one sync, valid whole or not at all
    batch header (28 bytes, little endian)
        magic     4   "TGB1"
        format    u16 1
        reserved  u16 0
        records   u32 how many records follow
        length    u32 bytes after this header
        synced    u64 everything before this position was durable when the batch was written
        checksum  u32 of the 24 bytes above
    record := record header, payload
    record header (28 bytes, little endian)
        log       i32 partition, -1 for the control log
        length    u32 bytes of payload
        epoch     u64 by which it is found again; never decreases within one log
        previous  u64 position of the record before it in the same log; 0: none (what the writer expected as tail)
        checksum  u32 of the 24 bytes above and the payload

A position is the place of a record header (or batch header) in the one sequence of bytes that all segments make up.
Every checksum is a CRC-32 that starts from `seed(salt, position)`: the salt is drawn from the log's identity, so bytes
of another log, bytes at another place, and a payload that imitates a batch are never taken for valid.

A batch of no records is lawful: it only says that all before it is durable.

Prior art: LevelDB's log format (checksum per record, tears found by it), SQLite's WAL (a salt in every checksum).
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple
from zlib import crc32

from tidegrid.grid.model.ids import Epoch, LogId, Position

BATCH_MAGIC = b"TGB1"
BATCH_FORMAT = 1

_BATCH = Struct("<4sHHIIQ")
_RECORD = Struct("<iIQQ")
_RECORD_WHOLE = Struct("<iIQQI")
_BATCH_WHOLE = Struct("<4sHHIIQI")
_CHECKSUM = Struct("<I")

BATCH_HEADER_BYTES = _BATCH_WHOLE.size
RECORD_HEADER_BYTES = _RECORD_WHOLE.size

Bytes = bytes | bytearray | memoryview


class BatchHeader(NamedTuple):
    records: int
    length: int  # bytes after the header
    synced: int


class Row(NamedTuple):
    """Where one record lies, without its payload."""

    log: LogId
    position: Position
    epoch: Epoch
    previous: Position
    length: int  # bytes of payload


class Flaw(NamedTuple):
    """Bytes that are not what a writer wrote, at `position`."""

    position: int
    reason: str


def salt_of(identity: bytes) -> int:
    return crc32(identity)


def seed(salt: int, position: int) -> int:
    return (salt ^ position ^ (position >> 32)) & 0xFFFFFFFF


def encode_batch_header(salt: int, position: int, records: int, length: int, synced: int) -> bytes:
    head = _BATCH.pack(BATCH_MAGIC, BATCH_FORMAT, 0, records, length, synced)
    return head + _CHECKSUM.pack(crc32(head, seed(salt, position)))


def encode_record_header(
    salt: int, position: int, log: LogId, epoch: Epoch, previous: Position, payload: bytes
) -> bytes:
    head = _RECORD.pack(log, len(payload), epoch, previous)
    return head + _CHECKSUM.pack(crc32(payload, crc32(head, seed(salt, position))))


def decode_batch_header(data: Bytes, offset: int, salt: int, position: int) -> BatchHeader | None:
    """The header at `data[offset:]`, which lies at `position` of the log; None when it is not a valid one."""
    if len(data) - offset < BATCH_HEADER_BYTES:
        return None
    magic, version, _, records, length, synced, checksum = _BATCH_WHOLE.unpack_from(data, offset)
    if magic != BATCH_MAGIC or version != BATCH_FORMAT:
        return None
    if checksum != crc32(memoryview(data)[offset : offset + _BATCH.size], seed(salt, position)):
        return None
    return BatchHeader(records, length, synced)


def decode_rows(data: Bytes, offset: int, header: BatchHeader, salt: int, position: int) -> list[Row] | Flaw:
    """All records of the batch body at `data[offset:]`, each checked; `position` is that of the body's first byte."""
    view = memoryview(data)
    rows: list[Row] = []
    shift = position - offset
    end = offset + header.length
    if end > len(data):
        return Flaw(position, "the batch is cut short")
    for _ in range(header.records):
        if end - offset < RECORD_HEADER_BYTES:
            return Flaw(offset + shift, "the batch ends within a record header")
        log, length, epoch, previous, checksum = _RECORD_WHOLE.unpack_from(data, offset)
        place = offset + shift
        body = offset + RECORD_HEADER_BYTES
        stop = body + length
        if stop > end:
            return Flaw(place, "the record reaches past its batch")
        begun = crc32(view[offset : offset + _RECORD.size], seed(salt, place))
        if checksum != crc32(view[body:stop], begun):
            return Flaw(place, "the record's checksum does not fit")
        rows.append(Row(LogId(log), Position(place), Epoch(epoch), Position(previous), length))
        offset = stop
    if offset != end:
        return Flaw(offset + shift, "the batch has bytes after its last record")
    return rows


def decode_length(data: Bytes, offset: int) -> int:
    """How many bytes of payload the record header at `data[offset:]` claims."""
    length: int = _RECORD_WHOLE.unpack_from(data, offset)[1]
    return length


def decode_payload(
    data: bytes, offset: int, salt: int, position: int, log: LogId, epoch: int, length: int
) -> bytes | Flaw:
    """The payload of the one record at `data[offset:]` that an index promised there, checked whole."""
    body = offset + RECORD_HEADER_BYTES
    stop = body + length
    if stop > len(data):
        return Flaw(position, "the record is cut short")
    if _RECORD_WHOLE.unpack_from(data, offset)[:3] != (log, length, epoch):
        return Flaw(position, "the record's header does not fit its index")
    payload = data[body:stop]
    begun = crc32(data[offset : offset + _RECORD.size], seed(salt, position))
    if _CHECKSUM.unpack_from(data, body - _CHECKSUM.size)[0] != crc32(payload, begun):
        return Flaw(position, "the record's checksum does not fit")
    return payload
