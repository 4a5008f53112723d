"""A checkpoint file: the state of one log at one position, as the opaque chunks that its owner saved.

    checkpoint := header, chunk*, footer                       (little endian)
    header    magic 8 "TIDECKP" 00, format u32 1, log i32, position u64, checksum u32 of the above
    chunk     length u32 (below FFFFFFFF), checksum u32 of the length and the bytes, bytes
    footer    FFFFFFFF u32, chunks u32, length u64 of all chunks' bytes, checksum u32 of the above

Checksums are CRC-32s; the header's starts from the log's salt, the others from seed(salt, number), where number counts
the chunks from 1 and goes on to the footer. So a chunk that is missing, doubled or out of place shows. The file is
valid only with its footer, and gets its name only when it is durable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct
from typing import NamedTuple
from zlib import crc32

from tidegrid.grid.log.batch import seed
from tidegrid.grid.model.errors import FormatError
from tidegrid.grid.model.ids import LogId, Position

CHECKPOINT_MAGIC = b"TIDECKP\0"
CHECKPOINT_FORMAT = 1
CHUNK_BYTES_MAX = 0xFFFFFFFE

_HEADER = Struct("<8sIiQ")
_CHUNK = Struct("<II")
_LENGTH = Struct("<I")
_FOOTER = Struct("<IIQ")
_CHECKSUM = Struct("<I")
_END = 0xFFFFFFFF

CHECKPOINT_HEADER_BYTES = _HEADER.size + _CHECKSUM.size

Read = Callable[[int, int], bytes]
"""(length, offset) -> bytes, fewer only at the end of the file."""


class CheckpointHeader(NamedTuple):
    log: LogId
    position: Position


class CheckpointEncoder:
    """Lifecycle: `header` once, `chunk` as often as wanted, `footer` once."""

    def __init__(self, salt: int, header: CheckpointHeader) -> None:
        self._salt = salt
        self._header = header
        self._chunks = 0
        self._length = 0

    def header(self) -> bytes:
        head = _HEADER.pack(CHECKPOINT_MAGIC, CHECKPOINT_FORMAT, *self._header)
        return head + _CHECKSUM.pack(crc32(head, self._salt))

    def chunk(self, data: bytes) -> bytes:
        """What goes before `data`."""
        assert len(data) <= CHUNK_BYTES_MAX
        self._chunks += 1
        self._length += len(data)
        return _CHUNK.pack(len(data), _chunk_checksum(self._salt, self._chunks, data))

    def footer(self) -> bytes:
        foot = _FOOTER.pack(_END, self._chunks, self._length)
        return foot + _CHECKSUM.pack(crc32(foot, seed(self._salt, self._chunks + 1)))


def decode_checkpoint_header(data: bytes, salt: int) -> CheckpointHeader:
    """Raises FormatError."""
    if len(data) < CHECKPOINT_HEADER_BYTES:
        raise FormatError("the checkpoint's header is cut short", offset=0)
    magic, version, log, position = _HEADER.unpack_from(data)
    if magic != CHECKPOINT_MAGIC or _CHECKSUM.unpack_from(data, _HEADER.size)[0] != crc32(data[: _HEADER.size], salt):
        raise FormatError("the checkpoint's header is damaged, or of another log", offset=0)
    if version != CHECKPOINT_FORMAT:
        raise FormatError(f"the checkpoint has format {version}, this version reads {CHECKPOINT_FORMAT}", offset=0)
    return CheckpointHeader(LogId(log), Position(position))


def decode_chunks(read: Read, salt: int) -> Iterator[bytes]:
    """The chunks after the header, each checked before it is given out. Raises FormatError with field `offset`."""
    offset, number, total = CHECKPOINT_HEADER_BYTES, 0, 0
    while True:
        number += 1
        head = read(_FOOTER.size + _CHECKSUM.size, offset)
        if len(head) < _CHUNK.size:
            raise FormatError("the checkpoint ends without a footer", offset=offset)
        length, checksum = _CHUNK.unpack_from(head)
        if length == _END:
            break
        data = read(length, offset + _CHUNK.size)
        if len(data) < length or checksum != _chunk_checksum(salt, number, data):
            raise FormatError("a chunk's checksum does not fit", offset=offset)
        total += length
        offset += _CHUNK.size + length
        yield data
    foot = head[: _FOOTER.size]
    whole = len(head) == _FOOTER.size + _CHECKSUM.size
    if not whole or _CHECKSUM.unpack_from(head, _FOOTER.size)[0] != crc32(foot, seed(salt, number)):
        raise FormatError("the checkpoint's footer is damaged", offset=offset)
    if _FOOTER.unpack(foot) != (_END, number - 1, total) or read(1, offset + len(head)):
        raise FormatError("the checkpoint's footer does not fit its chunks", offset=offset)


def _chunk_checksum(salt: int, number: int, data: bytes) -> int:
    return crc32(data, crc32(_LENGTH.pack(len(data)), seed(salt, number)))
