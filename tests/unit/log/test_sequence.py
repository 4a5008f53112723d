"""The order of appends: compares, positions, batches, and what a refusal takes back."""

from __future__ import annotations

import pytest
from tidegrid.grid.log.batch import BATCH_HEADER_BYTES, RECORD_HEADER_BYTES
from tidegrid.grid.log.entry import Entry
from tidegrid.grid.log.index import Tail
from tidegrid.grid.log.scan import WholeBatch, scan
from tidegrid.grid.log.sequence import LogSequence, Undecided
from tidegrid.grid.model.errors import TooLargeError, WrongTailError
from tidegrid.grid.model.ids import BEFORE_FIRST, Epoch, LogId, Position

A, B = LogId(0), LogId(1)


def sequence(end: int = 1000, batch_bytes_max: int = 10_000, tails: dict[LogId, Tail] | None = None) -> LogSequence:
    return LogSequence(7, end, tails or {}, batch_bytes_max=batch_bytes_max, record_bytes_max=500)


def entry(log: LogId, expected: int, payload: bytes = b"x", epoch: int = 1) -> Entry:
    return Entry(log, Position(expected), Epoch(epoch), payload)


def test_positions_are_where_the_records_will_lie() -> None:
    order = sequence()
    first = order.add([entry(A, 0, b"abc"), entry(B, 0, b"")], "one")
    second = order.add([entry(LogId(2), 0, b"de")], "two")
    place = 1000 + BATCH_HEADER_BYTES
    assert first == (place, place + RECORD_HEADER_BYTES + 3)
    assert second == (first[1] + RECORD_HEADER_BYTES,)
    batch = order.take()
    data = b"".join([batch.header(7, 1000), *batch.body])
    assert (batch.tickets, batch.size_bytes, batch.start, batch.end) == (
        ["one", "two"],
        len(data),
        1000,
        1000 + len(data),
    )
    (found,) = scan(lambda at, length: data[at - 1000 : at - 1000 + length], 1000, batch.end, 7)
    assert found == WholeBatch(1000, batch.end, 1000, batch.rows)


def test_what_lands_becomes_the_tail() -> None:
    order = sequence(tails={A: Tail(Position(500), Epoch(3))})
    assert order.tail(A) == 500
    (position,) = order.add([entry(A, 500, epoch=3)], 1)
    assert order.tail(A) == 500 and not order.idle
    taken = order.take()
    (ahead,) = order.add([entry(A, position, epoch=4)], 2)
    assert order.landed() is taken
    assert order.tail(A) == position and order.durable_end == taken.end and order.collecting
    order.take()
    order.landed()
    assert order.tail(A) == ahead and order.idle


def test_a_compare_against_what_is_not_durable_is_undecided() -> None:
    order = sequence()
    order.add([entry(A, 0)], 1)
    with pytest.raises(Undecided):
        order.add([entry(A, 0)], 2)
    order.take()
    with pytest.raises(Undecided):
        order.add([entry(B, 0), entry(A, 0)], 2)
    order.landed()
    with pytest.raises(WrongTailError) as caught:
        order.add([entry(A, 0)], 2)
    assert (caught.value.log, caught.value.expected, caught.value.actual) == (A, 0, order.tail(A))
    assert order.idle and order.tail(B) == BEFORE_FIRST


def test_a_refusal_takes_back_all_that_is_not_durable() -> None:
    order = sequence(batch_bytes_max=1)
    order.add([entry(A, 0)], 1)
    order.take()
    order.landed()
    end, tail = order.durable_end, order.tail(A)
    order.add([entry(A, tail)], 2)
    order.take()
    order.add([entry(B, 0)], 3)
    order.add([entry(LogId(2), 0)], 4)
    lost = order.refused()
    assert [batch.tickets for batch in lost] == [[2], [3], [4]]
    assert order.idle and order.durable_end == end and order.tail(A) == tail
    (again,) = order.add([entry(A, tail)], 5)
    assert again == end + BATCH_HEADER_BYTES


def test_a_batch_takes_no_more_than_its_limit_unless_one_append_needs_it() -> None:
    order = sequence(batch_bytes_max=300)
    for number in range(5):
        order.add([entry(LogId(number), 0, bytes(80))], number)
    order.add([entry(LogId(8), 0, bytes(400)), entry(LogId(9), 0, bytes(400))], 8)
    tickets = []
    while order.collecting:
        tickets.append(order.take().tickets)
        order.landed()
    assert tickets == [[0, 1], [2, 3], [4], [8]]


def test_what_is_refused_leaves_no_trace() -> None:
    order = sequence(tails={A: Tail(Position(5), Epoch(9))})
    with pytest.raises(TooLargeError) as caught:
        order.add([entry(B, 0), entry(A, 5, bytes(501), epoch=9)], 1)
    assert (caught.value.what, caught.value.size, caught.value.limit) == ("record", 501, 500)
    with pytest.raises(WrongTailError):
        order.add([entry(B, 0), entry(A, 4, epoch=9)], 1)
    for wrong in ([entry(A, 5, epoch=8)], [entry(B, 0), entry(B, 0)], []):
        with pytest.raises(AssertionError):
            order.add(wrong, 1)
    assert order.idle
