"""What is on its way to another node, when that does not take it."""

from __future__ import annotations

from tidegrid.grid.model.ids import Epoch, Incarnation, NodeId, Position
from tidegrid.grid.ring.messages import Envelope
from tidegrid.grid.rpc.peers import OUTBOX_BYTES_MAX, OUTBOX_MAX, Outbox
from tidegrid.v1 import ring_pb2


def message(number: int, size: int) -> bytes:
    body = ring_pb2.Routed()
    body.deliver.add(time_ms=number, outbox=bytes(size))
    return Envelope(b"g" * 16, Position(1), Epoch(1), Position(1), NodeId(0), Incarnation(1), body).to_bytes()


async def test_what_is_not_taken_is_dropped_oldest_first_by_count_and_by_bytes() -> None:
    outbox = Outbox()
    for number in range(2 * OUTBOX_MAX):
        outbox.put(message(number, 1))
    assert len(outbox) == OUTBOX_MAX and await outbox.next() == message(OUTBOX_MAX, 1)
    large = OUTBOX_BYTES_MAX // 4
    for number in range(6):
        outbox.put(message(number, large))
    assert len(outbox) == 3, "each is a little more than a quarter"
    assert [await outbox.next() for _ in range(3)] == [message(number, large) for number in (3, 4, 5)]
    outbox.put(message(7, 4 * large))
    outbox.put(message(8, large))
    assert await outbox.next() == message(8, large)
