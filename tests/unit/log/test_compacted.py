"""Compacted segments as bytes: what is encoded is read again, and damage, cuts and other logs are noticed."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tidegrid.grid.log.batch import Flaw, Row, encode_record_header, salt_of
from tidegrid.grid.log.compacted import (
    CompactedHeader,
    PlacedRow,
    decode_compacted_header,
    encode_compacted_header,
    encode_place,
    scan_compacted,
)
from tidegrid.grid.log.index import SegmentIndex, Tail, bytes_claimed
from tidegrid.grid.log.segment import (
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    decode_segment_header,
    encode_segment_header,
    segment_format_of,
)
from tidegrid.grid.model.errors import FormatError
from tidegrid.grid.model.ids import CONTROL_LOG, Epoch, LogId, Position

IDENTITY = b"identity of logs"
SALT = salt_of(IDENTITY)
BASE, END = 5000, 90_000
RECORDS = st.lists(st.tuples(st.integers(-1, 9), st.integers(0, 2**63), st.binary(max_size=60)), min_size=1, max_size=6)


def segment(records: list[tuple[int, int, bytes]], salt: int = SALT) -> tuple[CompactedHeader, bytes, list[PlacedRow]]:
    body, rows, position = b"", [], BASE
    for log, epoch, payload in records:
        position += 28 + len(payload) + 28
        offset = SEGMENT_HEADER_BYTES + len(body) + 8
        rows.append(PlacedRow(Row(LogId(log), Position(position), Epoch(epoch), Position(7), len(payload)), offset))
        head = encode_record_header(salt, position, LogId(log), Epoch(epoch), Position(7), payload)
        body += encode_place(position) + head + payload
    header = CompactedHeader(BASE, END, CONTROL_LOG, len(records), len(body), IDENTITY)
    return header, encode_compacted_header(header) + body, rows


def scanned(data: bytes, salt: int = SALT) -> list[PlacedRow | Flaw]:
    header = decode_compacted_header(data[:SEGMENT_HEADER_BYTES])
    return list(scan_compacted(lambda length, offset: data[offset : offset + length], header, salt))


@given(RECORDS)
def test_a_segment_reads_as_what_was_written(records: list[tuple[int, int, bytes]]) -> None:
    header, data, rows = segment(records)
    assert decode_compacted_header(data) == header and header.file_bytes == len(data)
    assert scanned(data) == rows


def test_records_across_windows_are_read_whole() -> None:
    records = [(1, 2, bytes([size % 251]) * size) for size in (900_000, 300_000, 10, 1_100_000, 0, 77)]
    body, position, places = b"", BASE, []
    for log, epoch, payload in records:
        position += 1
        places.append(position)
        head = encode_record_header(SALT, position, LogId(log), Epoch(epoch), Position(0), payload)
        body += encode_place(position) + head + payload
    data = encode_compacted_header(CompactedHeader(BASE, END, CONTROL_LOG, len(records), len(body), IDENTITY)) + body
    found = scanned(data)
    assert [item.row.position for item in found if isinstance(item, PlacedRow)] == places


@given(RECORDS, st.data())
@settings(max_examples=200)
def test_every_flipped_bit_is_noticed(records: list[tuple[int, int, bytes]], data: st.DataObject) -> None:
    _, whole, _ = segment(records)
    damaged = bytearray(whole)
    damaged[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = scanned(bytes(damaged))
    except FormatError:
        return
    assert isinstance(found[-1], Flaw)
    assert SEGMENT_HEADER_BYTES <= found[-1].position <= len(whole)


def test_the_flaw_lies_where_the_damage_is() -> None:
    _, whole, rows = segment([(1, 1, b"one"), (2, 1, b"two"), (3, 1, b"three")])
    damaged = bytearray(whole)
    damaged[rows[1].offset + 28] ^= 1
    found = scanned(bytes(damaged))
    assert found[0] == rows[0] and isinstance(found[1], Flaw) and len(found) == 2
    assert found[1].position == rows[1].offset - 8


def test_every_cut_is_noticed() -> None:
    _, whole, _ = segment([(1, 1, b"one"), (-1, 1, b""), (3, 1, b"three")])
    for length in range(SEGMENT_HEADER_BYTES, len(whole)):
        found = scanned(whole[:length])
        assert isinstance(found[-1], Flaw) and "cut short" in found[-1].reason
    for length in (0, 11, 100, SEGMENT_HEADER_BYTES - 1):
        with pytest.raises(FormatError, match="cut short"):
            decode_compacted_header(whole[:length])


def test_records_that_are_missing_doubled_or_swapped_are_noticed() -> None:
    header, whole, rows = segment([(1, 1, b"one"), (2, 1, b"two"), (3, 1, b"ten")])
    size = 8 + 28 + 3
    one, two, three = (whole[row.offset - 8 : row.offset - 8 + size] for row in rows)
    for body in (one + two, one + three, one + two + two, two + one + three, one + two + three + one):
        changed = encode_compacted_header(header._replace(length=len(body))) + body
        assert isinstance(scanned(changed)[-1], Flaw)
    outside = encode_compacted_header(header._replace(end=rows[2].row.position)) + one + two + three
    assert isinstance(scanned(outside)[-1], Flaw)


def test_records_of_another_log_are_no_records() -> None:
    _, whole, _ = segment([(1, 1, b"one")], salt=salt_of(b"another log"))
    assert isinstance(scanned(whole)[0], Flaw)


def test_the_two_formats_are_told_apart() -> None:
    _, compacted, _ = segment([(1, 1, b"one")])
    plain = encode_segment_header(SegmentHeader(BASE, 100, IDENTITY))
    assert (segment_format_of(plain), segment_format_of(compacted)) == (1, 2)
    with pytest.raises(FormatError):
        decode_segment_header(compacted)
    with pytest.raises(FormatError):
        decode_compacted_header(plain)
    newer = plain[:8] + b"\x03" + plain[9:]
    with pytest.raises(FormatError, match="format 3") as caught:
        segment_format_of(newer)
    assert caught.value.fields["version"] == 3


def test_an_index_of_one_format_is_not_taken_for_the_other() -> None:
    _, _, rows = segment([(1, 1, b"one"), (-1, 4, b"two"), (1, 5, b"three")])
    plain = SegmentIndex(BASE, {LogId(4): Tail(Position(3), Epoch(1))})
    plain.add([item.row for item in rows], END)
    placed = SegmentIndex(BASE, {LogId(4): Tail(Position(3), Epoch(1))}, compacted=True)
    for row, offset in rows:
        placed.add_placed(row, offset)
    placed.end = END
    for index in (plain, placed):
        index.check()
        data = index.encode(SALT)
        found = SegmentIndex.decode(data, SALT, BASE, END, compacted=index.compacted)
        assert found is not None and found.same_as(index)
        assert list(found.columns[LogId(1)].offsets) == list(index.columns[LogId(1)].offsets)
        assert SegmentIndex.decode(data, SALT, BASE, END, compacted=not index.compacted) is None
    assert not plain.same_as(placed)
    assert plain.bytes_of(LogId(1)) == 2 * 28 + 8 and plain.bytes_of(LogId(2)) == 0
    assert placed.size_bytes > plain.size_bytes


@given(RECORDS, st.integers(-1, 9), st.integers(0, 200))
def test_the_head_of_an_index_tells_how_much_a_log_takes(
    records: list[tuple[int, int, bytes]], asked: int, cut: int
) -> None:
    _, _, rows = segment(records)
    index = SegmentIndex(BASE, {})
    index.add([item.row for item in rows], END)
    data = index.encode(SALT)
    log = LogId(asked)
    assert bytes_claimed(lambda length, offset: data[offset : offset + length], BASE, END, log) == index.bytes_of(log)
    assert index.bytes_of(log) == sum(28 + len(payload) for name, _, payload in records if name == asked)
    short = data[:cut]
    with contextlib.suppress(struct.error):
        claimed = bytes_claimed(lambda length, offset: short[offset : offset + length], BASE, END, log)
        assert claimed in (None, 0, index.bytes_of(log))
    for base, end in ((BASE + 1, END), (BASE, END + 1)):
        assert bytes_claimed(lambda length, offset: data[offset : offset + length], base, end, log) is None
