"""Commit groups (rule G) on one node that is coordinator and owner at once, and as an owner for another coordinator."""

from __future__ import annotations

from typing import Any

import pytest
from tidegrid.grid.engine.effects import Append, AppendGroup, Purpose
from tidegrid.grid.engine.group import GroupRequest
from tidegrid.grid.engine.intake import Carry
from tidegrid.grid.engine.lending import PATIENCE_SECONDS
from tidegrid.grid.log.record import FILL, decode_record
from tidegrid.grid.model.errors import ConflictError, LogTimeoutError, StorageFullError
from tidegrid.grid.model.ids import Epoch, Incarnation, NodeId, PartitionId, Position
from tidegrid.grid.model.maps import KeyField, MapSpec
from tidegrid.grid.model.partitioner import partition_of
from tidegrid.grid.ring.declarations import spec_message
from tidegrid.grid.ring.messages import Body, Envelope
from tidegrid.v1 import grid_pb2, ring_pb2
from tidegrid.v1.control_pb2 import ControlRecord, MapDeclared

from tests.unit.engine.stand import GRID_ID, Stand, client_session, key, pack

PARTITIONS = 2
OTHER = NodeId(1)


def key_in(partition: int) -> str:
    return next(name for name in "abcdefgh" if partition_of(key(name), PARTITIONS) == partition)


A, B = key_in(0), key_in(1)


def batch(name: str, value: Any, sequence: int = 1, if_version: int | None = None) -> grid_pb2.WriteBatch:
    made = grid_pb2.WriteBatch(
        partition=partition_of(key(name), PARTITIONS),
        session=client_session(7),
        first_sequence=sequence,
        map="t",
        keys=[key(name)],
        values=[pack(value)],
        ops=b"\x01",
    )
    if if_version is not None:
        made.conditions.add(index=0, version=if_version)
    return made


def commit(stand: Stand, *writes: grid_pb2.WriteBatch, name: bytes = b"g1", seconds: float = 10.0) -> GroupRequest:
    request = GroupRequest(name, list(writes), "reply")
    stand.node.submit(stand.instant, request, Carry(b"", Position(0), Epoch(0)), stand.now + seconds)
    stand.turn()
    return request


def append(stand: Stand) -> AppendGroup:
    """The log takes the append; what it answers is for the test to say."""
    (effect,) = stand.group_appends
    stand.group_appends.clear()
    stand.log.append(effect.entries)
    return effect


def fills(stand: Stand) -> list[Append]:
    return [frame for frame in stand.frames if frame.slot.purpose is Purpose.FILL]


def read_slots(stand: Stand) -> None:
    while stand.reads:
        stand.read_slot()


def stand_of_two() -> Stand:
    stand = Stand(partitions=PARTITIONS)
    stand.put_now({A: 1})
    stand.put_now({B: 1}, partition=1)
    return stand


def test_a_group_is_one_append_at_one_epoch() -> None:
    stand = stand_of_two()
    request = commit(stand, batch(A, 2), batch(B, 2))
    assert stand.value(A) == 1 and request not in stand.answered
    effect = append(stand)
    positions = [stand.log.tail(entry.log) for entry in effect.entries]
    stand.node.group_landed(stand.instant, effect.group, positions)
    stand.turn()
    assert request in stand.answered and request.versions == [[2], [2]]
    assert [decode_record(entry.payload).stamp for entry in effect.entries] == [request.epoch] * 2
    assert stand.value(A) == stand.value(B) == 2
    assert stand.node.drained


def test_a_conflict_in_one_part_stores_nothing_and_frees_the_others() -> None:
    stand = stand_of_two()
    request = commit(stand, batch(A, 2), batch(B, 2, if_version=9))
    assert isinstance(request.errors[1, 0], ConflictError) and request in stand.answered
    assert not stand.group_appends and stand.node.drained
    stand.put_now({A: 3})
    assert stand.value(A) == 3 and stand.value(B) == 1


def test_the_same_group_again_is_told_its_outcome() -> None:
    stand = stand_of_two()
    request = commit(stand, batch(A, 2), batch(B, 2))
    effect = append(stand)
    stand.node.group_landed(stand.instant, effect.group, [stand.log.tail(entry.log) for entry in effect.entries])
    again = commit(stand, batch(A, 2), batch(B, 2))
    assert (again.epoch, again.versions) == (request.epoch, request.versions) and not stand.group_appends


def test_writes_of_a_lent_partition_wait() -> None:
    stand = stand_of_two()
    commit(stand, batch(A, 2), batch(B, 2))
    put = stand.put({A: 3})
    assert not stand.frames
    effect = append(stand)
    stand.node.group_landed(stand.instant, effect.group, [stand.log.tail(entry.log) for entry in effect.entries])
    stand.land_all()
    assert put in stand.answered and put.versions == [3]


def test_a_full_storage_refuses_the_group_and_nothing_else() -> None:
    stand = stand_of_two()
    request = commit(stand, batch(A, 2), batch(B, 2))
    (effect,) = stand.group_appends
    stand.node.group_failed(stand.instant, effect.group, StorageFullError("full"))
    stand.turn()
    assert isinstance(request.error, StorageFullError) and stand.node.drained
    stand.put_now({A: 3})
    assert stand.value(A) == 3


@pytest.mark.parametrize("fill_is_heard_first", [True, False])
def test_no_answer_and_not_in_the_log(fill_is_heard_first: bool) -> None:
    """The FILL decides. What the coordinator reads in the slot does not free it before the owner has its FILL's answer."""
    stand = stand_of_two()
    request = commit(stand, batch(A, 2), batch(B, 2))
    (lost,) = stand.group_appends
    stand.group_appends.clear()
    stand.node.group_failed(stand.instant, lost.group, LogTimeoutError("no answer"))
    stand.turn()
    (fill,) = fills(stand)
    stand.frames.clear()
    (position,) = stand.log.append([fill.entry])
    if fill_is_heard_first:
        stand.node.landed(stand.instant, fill.slot, position)
    stand.turn()
    read_slots(stand)
    if not fill_is_heard_first:
        assert not stand.group_appends
        stand.node.landed(stand.instant, fill.slot, position)
    assert stand.partition(fill.slot.partition).tail == position
    while not stand.group_appends:  # its next try
        stand.pass_time(0.02)
        stand.turn()
    effect = append(stand)
    assert effect.group[1] != lost.group[1]
    stand.node.group_landed(stand.instant, effect.group, [stand.log.tail(entry.log) for entry in effect.entries])
    stand.turn()
    assert request in stand.answered and request.versions == [[2], [2]]


def test_no_answer_and_in_the_log() -> None:
    stand = stand_of_two()
    request = commit(stand, batch(A, 2), batch(B, 2))
    effect = append(stand)
    stand.node.group_failed(stand.instant, effect.group, LogTimeoutError("no answer"))
    stand.turn()
    for _ in range(3):
        stand.land_all()  # FILLs meet a taken slot
        read_slots(stand)
    assert request in stand.answered and request.epoch
    assert stand.value(A) == stand.value(B) == 2 and stand.node.drained


# For another coordinator --------------------------------------------------------------------------------------------


def say(stand: Stand, body: Body, epoch: int = 0) -> list[Any]:
    """A message of the other node; what is said in return."""
    stand.told.clear()
    control = stand.node.control
    envelope = Envelope(GRID_ID, control.position, Epoch(epoch), control.view.position, OTHER, Incarnation(1), body)
    stand.node.message(stand.instant, envelope)
    stand.turn()
    return [tell.message.body for tell in stand.told]


def borrow(stand: Stand, attempt: int = 1) -> Any:
    (reply,) = say(stand, ring_pb2.Borrow(group=b"g2", attempt=attempt, partition=0, writes=[batch(A, 5)]))
    return reply


def test_the_same_try_is_answered_the_same_and_another_waits() -> None:
    stand = stand_of_two()
    lent = borrow(stand)
    assert lent.tail == stand.partition(0).tail and lent.versions == [2]
    assert borrow(stand) == lent
    assert say(stand, ring_pb2.Borrow(group=b"g3", attempt=1, partition=0, writes=[batch(A, 6, 2)])) == []
    told = say(stand, ring_pb2.Settled(group=b"g2", attempt=1, partition=0))
    assert [type(body) for body in told] == [ring_pb2.SettledReceived, ring_pb2.Lent] or {
        type(body) for body in told
    } == {ring_pb2.SettledReceived, ring_pb2.Lent}


def test_a_try_that_is_decided_is_never_lent_to_again() -> None:
    stand = stand_of_two()
    borrow(stand)
    say(stand, ring_pb2.Settled(group=b"g2", attempt=1, partition=0))
    assert say(stand, ring_pb2.Borrow(group=b"g2", attempt=1, partition=0, writes=[batch(A, 5)])) == []
    assert borrow(stand, attempt=2).attempt == 2


def test_a_lender_that_hears_nothing_contends() -> None:
    stand = stand_of_two()
    lent = borrow(stand)
    assert not fills(stand)
    stand.pass_time(PATIENCE_SECONDS)
    (fill,) = fills(stand)
    assert fill.slot.after == lent.tail and decode_record(fill.entry.payload).kind == FILL
    stand.land_all()
    assert stand.node.drained and stand.value(A) == 1
    stand.put_now({A: 3})
    assert stand.value(A) == 3


def test_a_latest_read_that_has_seen_as_much_waits_while_the_slot_is_lent() -> None:
    """G6: the group may be in the log, and its client may have told the reader."""
    stand = stand_of_two()
    lent = borrow(stand)
    before = stand.get(A)
    assert before in stand.answered, "it carries nothing"
    after = stand.get(A, carry=Carry(b"", Position(0), Epoch(lent.stamp)))
    assert after not in stand.answered
    say(stand, ring_pb2.Settled(group=b"g2", attempt=1, partition=0))
    assert after in stand.answered and after.values == [pack(1)]


def test_a_promise_stays_below_what_is_lent() -> None:
    stand = stand_of_two()
    lent = borrow(stand)
    promises = {promise.partition: promise for promise in stand.node.standing.promises()}
    assert promises[PartitionId(0)].lowest == lent.stamp and promises[PartitionId(1)].lowest is None


def test_who_waits_for_an_activation_is_lent_to_when_it_acts() -> None:
    """And not when some timer comes by: an owner that is not the origin of rounds has none while it rests."""
    stand = stand_of_two()
    stand.declare(ControlRecord(map=MapDeclared(spec=spec_message(MapSpec("late", key=(KeyField("k"),))))))
    stand.read_control()
    acts_at = stand.node.control.map_activation("late")
    assert acts_at is not None and acts_at > stand.node.epoch
    write = batch(A, 5)
    write.map = "late"
    assert say(stand, ring_pb2.Borrow(group=b"g2", attempt=1, partition=0, writes=[write])) == []
    stand.told.clear()
    stand.close(acts_at - 1)
    stand.turn()
    assert [type(tell.message.body) for tell in stand.told] == [ring_pb2.Lent]
