"""A piece file: what one step of a long work on the log has made, as opaque chunks under labels, whole or not there.

    piece     := header, chunk*, index, end                    (little endian)
    header    magic 8 "TIDEPCE\\0", format u32 1, length u32, identity, checksum u32 of the above
    chunk     length u32, checksum u32 of the bytes, bytes
    index     a chunk: msgpack [summary, [[label, [offset of a chunk, ...]], ...]]
    end       offset of the index u64, chunks u32, checksum u32 of these, magic 4 "TPEN"

Checksums are CRC-32s that start from seed(salt, offset), so a chunk out of place shows; the salt is the CRC-32 of the
identity, which says what work the piece is of. A label is a list of plain values. A file gets its name when it is
durable (journal/pieces.py); whoever finds one damaged does that step again. The same work makes the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct
from typing import Any, Final, NamedTuple
from zlib import crc32

import msgspec
from tidegrid.grid.model.errors import FormatError

PIECE_MAGIC: Final = b"TIDEPCE\0"
PIECE_FORMAT: Final = 1
END_MAGIC: Final = b"TPEN"

_HEADER = Struct("<8sII")
_CHUNK = Struct("<II")
_END = Struct("<QII4s")
_CHECKSUM = Struct("<I")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode

Label = tuple[Any, ...]
Read = Callable[[int, int], bytes]
"""(length, offset) -> bytes, fewer only at the end of the file."""


class PieceEncoder:
    """Lifecycle: `header` once, `chunk` as often as wanted, `end` once. The results lie one after the other."""

    def __init__(self, identity: bytes) -> None:
        self._identity = identity
        self._salt = crc32(identity)
        self._offset = 0
        self._places: dict[Label, list[int]] = {}
        self._chunks = 0

    def header(self) -> bytes:
        head = _HEADER.pack(PIECE_MAGIC, PIECE_FORMAT, len(self._identity)) + self._identity
        return self._grown(head + _CHECKSUM.pack(crc32(head)))

    def chunk(self, label: Label, data: bytes) -> bytes:
        self._places.setdefault(label, []).append(self._offset)
        self._chunks += 1
        return self._grown(self._framed(data))

    def end(self, summary: Any) -> bytes:
        at = self._offset
        places = [[list(label), offsets] for label, offsets in self._places.items()]
        index = self._grown(self._framed(_encode([summary, places])))
        facts = _END.pack(at, self._chunks, 0, END_MAGIC)[:12]
        return index + _END.pack(at, self._chunks, crc32(facts, self._salt), END_MAGIC)

    def _framed(self, data: bytes) -> bytes:
        return _CHUNK.pack(len(data), crc32(data, _seed(self._salt, self._offset))) + data

    def _grown(self, data: bytes) -> bytes:
        self._offset += len(data)
        return data


class PieceIndex(NamedTuple):
    summary: Any
    places: dict[Label, list[int]]
    salt: int


def read_index(read: Read, size: int, identity: bytes) -> PieceIndex:
    """Raises FormatError: it is damaged, not whole, or of another work."""
    head = _HEADER.pack(PIECE_MAGIC, PIECE_FORMAT, len(identity)) + identity
    if read(len(head) + _CHECKSUM.size, 0) != head + _CHECKSUM.pack(crc32(head)):
        raise FormatError("the header of a piece is damaged, or it is of another work", offset=0)
    salt, at_end = crc32(identity), size - _END.size
    tail = read(_END.size, max(0, at_end))
    if len(tail) < _END.size:
        raise FormatError("a piece is cut short", offset=size)
    at, chunks, checksum, magic = _END.unpack(tail)
    if magic != END_MAGIC or checksum != crc32(tail[:12], salt):
        raise FormatError("a piece has no end", offset=at_end)
    summary, places = _decoded(read_chunk(read, at, salt), at)
    index = PieceIndex(summary, {tuple(label): offsets for label, offsets in places}, salt)
    if sum(map(len, index.places.values())) != chunks:
        raise FormatError("the index of a piece does not fit its end", offset=at)
    return index


def read_chunk(read: Read, offset: int, salt: int) -> bytes:
    """Raises FormatError."""
    head = read(_CHUNK.size, offset)
    if len(head) == _CHUNK.size:
        length, checksum = _CHUNK.unpack(head)
        data = read(length, offset + _CHUNK.size)
        if len(data) == length and checksum == crc32(data, _seed(salt, offset)):
            return data
    raise FormatError(f"a chunk of a piece is damaged at offset {offset}", offset=offset)


def check(read: Read, index: PieceIndex) -> None:
    """Reads every chunk. Raises FormatError."""
    for offsets in index.places.values():
        for offset in offsets:
            read_chunk(read, offset, index.salt)


def chunks(read: Read, index: PieceIndex, label: Label) -> Iterator[bytes]:
    """Those of a label, in order. Raises FormatError."""
    for offset in index.places.get(label, ()):
        yield read_chunk(read, offset, index.salt)


def _decoded(data: bytes, offset: int) -> Any:
    try:
        summary, places = _decode(data)
    except (msgspec.DecodeError, ValueError, TypeError) as error:
        raise FormatError(f"the index of a piece does not parse: {error}", offset=offset) from error
    return summary, places


def _seed(salt: int, offset: int) -> int:
    return crc32(offset.to_bytes(8, "little"), salt)
