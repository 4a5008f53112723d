"""Piece files: what is written comes back by its label; one flipped bit anywhere shows."""

from __future__ import annotations

import pytest
from tidegrid.grid.log.piece import PieceEncoder, PieceIndex, Read, check, chunks, read_index
from tidegrid.grid.model.errors import FormatError

WORK = b"of this work"


def made(identity: bytes = WORK) -> bytes:
    encoder = PieceEncoder(identity)
    parts = [encoder.header()]
    parts += [encoder.chunk(("rows", "ab"[at % 2]), b"chunk %d" % at) for at in range(4)]
    parts.append(encoder.chunk(("sent", 7), b""))
    return b"".join([*parts, encoder.end([1, "two"])])


def reader(data: bytes) -> Read:
    return lambda length, offset: data[offset : offset + length]


def opened(data: bytes, identity: bytes = WORK) -> PieceIndex:
    return read_index(reader(data), len(data), identity)


def test_chunks_come_back_by_label_in_order() -> None:
    data = made()
    index = opened(data)
    assert index.summary == [1, "two"]
    assert list(index.places) == [("rows", "a"), ("rows", "b"), ("sent", 7)]
    assert list(chunks(reader(data), index, ("rows", "b"))) == [b"chunk 1", b"chunk 3"]
    assert list(chunks(reader(data), index, ("sent", 7))) == [b""] and not list(
        chunks(reader(data), index, ("sent", 8))
    )
    check(reader(data), index)


def test_the_same_work_makes_the_same_bytes() -> None:
    assert made() == made() != made(b"of another one")
    with pytest.raises(FormatError):
        opened(made(b"of another one"))


def test_every_flipped_bit_shows() -> None:
    data = made()
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= 1
        with pytest.raises(FormatError):
            check(reader(bytes(broken)), opened(bytes(broken)))


def test_every_cut_shows() -> None:
    data = made()
    for length in range(len(data)):
        with pytest.raises(FormatError):
            check(reader(data[:length]), opened(data[:length]))
