"""Batches, segments, indexes and checkpoints as bytes: what is encoded decodes, anything else is noticed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tidegrid.grid.log.batch import (
    BATCH_HEADER_BYTES,
    RECORD_HEADER_BYTES,
    BatchHeader,
    Flaw,
    Row,
    decode_batch_header,
    decode_payload,
    decode_rows,
    encode_batch_header,
    encode_record_header,
    salt_of,
)
from tidegrid.grid.log.checkpoint import (
    CHECKPOINT_HEADER_BYTES,
    CheckpointEncoder,
    CheckpointHeader,
    decode_checkpoint_header,
    decode_chunks,
)
from tidegrid.grid.log.index import SegmentIndex, Tail
from tidegrid.grid.log.scan import WholeBatch, find_batches, scan, written_spans
from tidegrid.grid.log.segment import (
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    checkpoint_name,
    checkpoint_of,
    decode_segment_header,
    encode_segment_header,
    index_base_of,
    index_name,
    segment_base_of,
    segment_name,
)
from tidegrid.grid.model.errors import FormatError
from tidegrid.grid.model.ids import CONTROL_LOG, Epoch, LogId, Position

SALT = salt_of(b"identity of a log")
RECORDS = st.lists(
    st.tuples(st.integers(-1, 99), st.integers(0, 2**63), st.integers(0, 2**63), st.binary(max_size=80)), max_size=5
)


def batch(position: int, synced: int, records: list[tuple[int, int, int, bytes]], salt: int = SALT) -> bytes:
    body = b""
    for log, epoch, previous, payload in records:
        place = position + BATCH_HEADER_BYTES + len(body)
        body += encode_record_header(salt, place, LogId(log), Epoch(epoch), Position(previous), payload) + payload
    return encode_batch_header(salt, position, len(records), len(body), synced) + body


@given(st.integers(0, 2**50), st.integers(0, 2**50), RECORDS)
def test_a_batch_decodes_to_what_was_encoded(
    position: int, synced: int, records: list[tuple[int, int, int, bytes]]
) -> None:
    data = b"before" + batch(position, synced, records) + b"after"
    header = decode_batch_header(data, 6, SALT, position)
    assert header == BatchHeader(len(records), len(data) - 11 - BATCH_HEADER_BYTES, synced)
    body = position + BATCH_HEADER_BYTES
    rows = decode_rows(data, 6 + BATCH_HEADER_BYTES, header, SALT, body)
    assert isinstance(rows, list)
    for row, (log, epoch, previous, payload) in zip(rows, records, strict=True):
        assert row == Row(LogId(log), row.position, Epoch(epoch), Position(previous), len(payload))
        offset = row.position - position + 6
        assert decode_payload(data, offset, SALT, row.position, row.log, row.epoch, row.length) == payload


@given(RECORDS, st.data())
@settings(max_examples=200)
def test_every_flipped_bit_of_a_batch_is_noticed(
    records: list[tuple[int, int, int, bytes]], data: st.DataObject
) -> None:
    whole = bytearray(batch(1000, 900, records))
    at = data.draw(st.integers(0, len(whole) * 8 - 1))
    whole[at // 8] ^= 1 << at % 8
    items = list(
        scan(
            lambda position, length: bytes(whole[position - 1000 : position - 1000 + length]),
            1000,
            1000 + len(whole),
            SALT,
        )
    )
    assert isinstance(items[-1], Flaw)
    assert 1000 <= items[-1].position <= 1000 + at // 8


def test_a_batch_is_valid_only_where_and_in_the_log_it_was_written() -> None:
    data = batch(5000, 4000, [(1, 2, 3, b"payload")])
    assert decode_batch_header(data, 0, SALT, 5000) is not None
    assert decode_batch_header(data, 0, SALT, 5001) is None
    assert decode_batch_header(data, 0, SALT, 5000 + (1 << 32)) is None
    assert decode_batch_header(data, 0, salt_of(b"another"), 5000) is None
    assert isinstance(decode_rows(data, BATCH_HEADER_BYTES, BatchHeader(1, 35, 0), SALT, 5029), Flaw)


def test_records_that_do_not_fill_their_batch_are_noticed() -> None:
    data = batch(0, 0, [(1, 2, 3, b"payload")])
    for records, length in ((0, 35), (2, 35), (1, 34), (1, 20)):
        assert isinstance(
            decode_rows(data, BATCH_HEADER_BYTES, BatchHeader(records, length, 0), SALT, BATCH_HEADER_BYTES), Flaw
        )
    assert isinstance(decode_rows(data[:-1], BATCH_HEADER_BYTES, BatchHeader(1, 35, 0), SALT, BATCH_HEADER_BYTES), Flaw)


def test_a_record_that_is_not_what_the_index_says_is_noticed() -> None:
    data = batch(0, 0, [(1, 2, 3, b"payload")])[BATCH_HEADER_BYTES:]
    place = BATCH_HEADER_BYTES
    assert decode_payload(data, 0, SALT, place, LogId(1), 2, 7) == b"payload"
    for log, epoch, length in ((2, 2, 7), (1, 3, 7), (1, 2, 6), (1, 2, 8)):
        assert isinstance(decode_payload(data, 0, SALT, place, LogId(log), epoch, length), Flaw)
    assert isinstance(decode_payload(data, 0, SALT, place + 1, LogId(1), 2, 7), Flaw)


@given(st.lists(RECORDS, max_size=6), st.integers(0, 300))
def test_a_scan_gives_every_batch_and_stops_at_the_end(
    parts: list[list[tuple[int, int, int, bytes]]], zeros: int
) -> None:
    data, starts = b"", []
    for records in parts:
        starts.append(len(data))
        data += batch(len(data), len(data), records)
    end = len(data)
    padded = data + bytes(zeros)

    def read(position: int, length: int) -> bytes:
        return padded[position : position + length]

    items = list(scan(read, 0, len(padded), SALT))
    found = [item for item in items if isinstance(item, WholeBatch)]
    assert [item.start for item in found] == [item.synced for item in found] == starts
    assert [item.end for item in found] == [*starts, end][1:]
    assert items[len(found) :] == ([Flaw(end, "there is no valid batch header")] if zeros else [])
    assert list(find_batches(read, 0, len(padded), SALT)) == [(start, start) for start in starts]
    spans = list(written_spans(read, end, len(padded)))
    assert spans == []


def test_batches_are_found_past_a_bad_place_and_across_windows() -> None:
    first, step = b"\xff" * 100, 1 << 20
    position = step - 10  # its header lies across two windows
    data = first.ljust(position, b"\0") + batch(position, 77, [(1, 1, 0, b"x")]) + b"TGB1" * 20
    assert list(find_batches(lambda at, length: data[at : at + length], 0, len(data), SALT)) == [(position, 77)]
    spans = list(written_spans(lambda at, length: data[at : at + length], 0, len(data)))
    assert [begin for begin, _ in spans] == [0, position // 65536 * 65536, step]


def test_segment_headers() -> None:
    header = SegmentHeader(1 << 40, 64 << 20, bytes(range(16)))
    data = encode_segment_header(header)
    assert len(data) == SEGMENT_HEADER_BYTES and decode_segment_header(data) == header
    for at in range(SEGMENT_HEADER_BYTES):
        with pytest.raises(FormatError):
            decode_segment_header(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(FormatError, match="cut short"):
        decode_segment_header(data[:-1])
    with pytest.raises(FormatError) as caught:
        decode_segment_header(data[:8] + b"\x07" + data[9:])
    assert caught.value.version == 7


def test_file_names() -> None:
    assert segment_base_of(segment_name(4096)) == index_base_of(index_name(4096)) == 4096
    assert segment_name(4096) == "0000000000001000.wal"
    for log in (CONTROL_LOG, LogId(0), LogId(12)):
        assert checkpoint_of(checkpoint_name(log, Position(77))) == (log, 77)
    for other in ("LOCK", "0000000000001000.wal.tmp", "1000.wal", "partition-1.checkpoint", ""):
        assert segment_base_of(other) is index_base_of(other) is checkpoint_of(other) is None


ROWS = st.lists(st.tuples(st.integers(-1, 5), st.integers(0, 9), st.integers(0, 2000)), max_size=60)


def index_of(rows: list[tuple[int, int, int]], tails: dict[LogId, Tail]) -> SegmentIndex:
    index = SegmentIndex(10_000, dict(tails))
    position = 10_000
    for log, epoch_step, length in rows:
        position += BATCH_HEADER_BYTES
        tail = index.tail(LogId(log))
        row = Row(LogId(log), Position(position), Epoch(tail.epoch + epoch_step), tail.position, length)
        assert index.flaw_of([row]) is None
        position += RECORD_HEADER_BYTES + length
        index.add([row], position)
    return index


@given(ROWS, st.integers(0, 2**32 - 1))
def test_an_index_decodes_to_what_was_encoded(rows: list[tuple[int, int, int]], salt: int) -> None:
    index = index_of(rows, {LogId(77): Tail(Position(5), Epoch(6))})
    index.check()
    data = index.encode(salt)
    found = SegmentIndex.decode(data, salt, index.base, index.end)
    assert found is not None
    found.check()
    assert found.same_as(index) and found.tails == index.tails and found.records == len(rows)
    assert SegmentIndex.decode(data, salt ^ 1, index.base, index.end) is None
    assert SegmentIndex.decode(data, salt, index.base, index.end + 1) is None
    assert SegmentIndex.decode(data[:-1], salt, index.base, index.end) is None
    assert SegmentIndex.decode(b"", salt, index.base, index.end) is None


@given(ROWS, st.integers(0, 6000), st.integers(0, 60))
def test_look_ups_in_an_index_agree_with_a_list(rows: list[tuple[int, int, int]], bytes_max: int, epoch: int) -> None:
    for log, column in index_of(rows, {}).columns.items():
        positions, lengths = list(column.positions), list(column.lengths)
        for after in [0, *positions]:
            first, stop = column.span(Position(after), bytes_max)
            assert first == sum(position <= after for position in positions)
            taken = sum(lengths[first:stop]) + RECORD_HEADER_BYTES * (stop - first)
            assert stop - first == 1 or taken <= bytes_max or first == len(positions)
            assert stop == len(positions) or taken + lengths[stop] + RECORD_HEADER_BYTES > bytes_max
        below = [position for position, of in zip(positions, column.epochs, strict=True) if of <= epoch]
        assert column.position_before(Epoch(epoch)) == (Position(below[-1]) if below else None), log


def test_a_broken_chain_or_order_is_a_flaw() -> None:
    index = index_of([(1, 5, 10)], {})
    tail = index.tail(LogId(1))
    good = Row(LogId(1), Position(20_000), Epoch(5), tail.position, 1)
    assert index.flaw_of([good]) is None
    assert index.flaw_of([good._replace(previous=Position(3))]) is not None
    assert index.flaw_of([good._replace(epoch=Epoch(4))]) is not None
    assert index.flaw_of([good, good._replace(position=Position(20_100))]) is not None
    assert index.flaw_of([good, good._replace(position=Position(20_100), previous=Position(20_000))]) is None


def checkpoint(chunks: list[bytes]) -> bytes:
    encoder = CheckpointEncoder(SALT, CheckpointHeader(LogId(3), Position(99)))
    return encoder.header() + b"".join(encoder.chunk(chunk) + chunk for chunk in chunks) + encoder.footer()


def decode(data: bytes) -> list[bytes]:
    assert decode_checkpoint_header(data[:CHECKPOINT_HEADER_BYTES], SALT) == (3, 99)
    return list(decode_chunks(lambda length, offset: data[offset : offset + length], SALT))


@given(st.lists(st.binary(max_size=50), max_size=6))
def test_a_checkpoint_decodes_to_what_was_encoded(chunks: list[bytes]) -> None:
    assert decode(checkpoint(chunks)) == chunks


@given(st.lists(st.binary(max_size=50), max_size=4), st.data())
@settings(max_examples=200)
def test_every_change_of_a_checkpoint_is_noticed(chunks: list[bytes], data: st.DataObject) -> None:
    whole = checkpoint(chunks)
    at = data.draw(st.integers(0, len(whole) * 8 - 1))
    flipped = whole[: at // 8] + bytes([whole[at // 8] ^ 1 << at % 8]) + whole[at // 8 + 1 :]
    for damaged in (flipped, whole[: at // 8], whole + b"x"):
        with pytest.raises(FormatError):
            decode(damaged)


def test_chunks_that_change_places_are_noticed() -> None:
    whole = checkpoint([b"one", b"two"])
    one = whole[CHECKPOINT_HEADER_BYTES : CHECKPOINT_HEADER_BYTES + 11]
    two = whole[CHECKPOINT_HEADER_BYTES + 11 : CHECKPOINT_HEADER_BYTES + 22]
    with pytest.raises(FormatError):
        decode(whole.replace(one + two, two + one))
    with pytest.raises(FormatError):
        decode(whole.replace(one + two, one))
