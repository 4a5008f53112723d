"""Rule X at one node: what is sent when, what is answered when, and what holds time back."""

from __future__ import annotations

from typing import Any

import msgpack
from tidegrid.grid.engine.checkpoint import checkpoint_chunks
from tidegrid.grid.engine.routing import PACE_SECONDS, PATIENCE_SECONDS, PATIENCE_SECONDS_MAX, SAID_AGAIN_BYTES
from tidegrid.grid.log.record import DATA, MERGE, PUT, ROUTED, Record, decode_record, encode_outbox, encode_section
from tidegrid.grid.model.errors import StorageFullError
from tidegrid.grid.model.ids import Epoch, Incarnation, NodeId, PartitionId, Position
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.partitioner import partition_of
from tidegrid.grid.ring.messages import Envelope
from tidegrid.grid.ring.promise import PartitionPromise
from tidegrid.v1 import ring_pb2
from tidegrid.v1.control_pb2 import Close, ControlRecord

from tests.unit.engine.stand import GRID_ID, Stand, key, pack

NAMES = [f"k{number}" for number in range(40)]
HERE, THERE = (next(name for name in NAMES if partition_of(key(name), 2) == place) for place in (0, 1))
BACK = next(name for name in NAMES if partition_of(key(name), 2) == 0 and name != HERE)
OTHER = NodeId(1)

SOURCE = """
from tidegrid.triggers import Event, Merge, Put, Reject, stream, table, trigger
table("raw", key=("k",)); table("out", key=("k",)); table("end", key=("k",)); table("beside", key=("k",))
table("sums", key=("k",), fold=lambda state, operand: (state or "") + operand)

@trigger(on="raw", emits=("out", "sums"))
def first(write):
    for name in write.value:
        if write.value[name] is not None:
            yield Put("out", name, write.value[name])
        yield Merge("sums", name, write.key[0])

@trigger(on="out", emits=("end",))
def second(write, grid):
    if write.value == "bad":
        raise ValueError("bad")
    if write.value:
        yield Put("end", write.value, grid.get("beside", write.key))
"""


def stand_of(nodes: int = 1, **options: Any) -> Stand:
    return Stand(source=SOURCE, partitions=2, nodes=range(nodes), maps=(), **options)


def records(stand: Stand, partition: int) -> list[Record]:
    found = [decode_record(item.payload) for item in stand.log_of(partition)]
    return [record for record in found if record.kind in (DATA, ROUTED)]


def promise(stand: Stand, partition: int = 0) -> PartitionPromise:
    return next(one for one in stand.node.standing.promises() if one.partition == partition)


def deliveries(stand: Stand) -> list[ring_pb2.Deliver]:
    return [one for letter in letters(stand) for one in letter.deliver]


def answers(stand: Stand) -> list[ring_pb2.Delivered]:
    return [one for letter in letters(stand) for one in letter.delivered]


def letters(stand: Stand) -> list[ring_pb2.Routed]:
    return [t.message.body for t in stand.told if isinstance(t.message.body, ring_pb2.Routed)]


def write(stand: Stand, outputs: dict[str, str | None], name: str = HERE) -> Epoch:
    epoch = stand.node.epoch
    stand.put({name: outputs}, map_name="raw", partition=partition_of(key(name), 2))
    return epoch


def raise_epoch(stand: Stand) -> None:
    """As a token does."""
    stand.node.ring.carry(stand.now, stand.node.control.position, Epoch(stand.node.epoch + 1))
    stand.turn()


def test_nothing_is_sent_before_the_source_is_in_the_log() -> None:
    stand = stand_of()
    epoch = write(stand, {THERE: ""})
    raise_epoch(stand)
    assert len(stand.frames) == 1 and promise(stand).in_flight == epoch and promise(stand).undelivered is None
    stand.land()
    assert promise(stand).in_flight is None and promise(stand).undelivered == epoch, "held without a gap"
    assert [frame.slot.partition for frame in stand.frames] == [1]
    stand.land()
    assert promise(stand).undelivered is None
    (routed,) = records(stand, 1)
    assert (routed.kind, routed.effective, routed.term) == (ROUTED, epoch, 1) and routed.stamp == stand.node.epoch
    assert stand.value(THERE, map_name="out") == "" and stand.value(THERE, map_name="sums") == HERE


def test_what_sets_off_triggers_waits_until_its_epoch_is_over_there() -> None:
    """X6: what they look up is the same in every replay."""
    stand = stand_of()
    epoch = write(stand, {THERE: BACK})
    stand.land()
    assert not stand.frames and promise(stand).undelivered == epoch
    stand.put_now({THERE: "as of then"}, map_name="beside", partition=1)
    raise_epoch(stand)
    assert len(stand.frames) == 1
    stand.put({THERE: "later"}, map_name="beside", partition=1)
    stand.land_all()
    raise_epoch(stand)
    stand.land_all()
    assert promise(stand).undelivered is None
    assert stand.value(BACK, map_name="end") == "as of then"
    _, chained = records(stand, 0)
    assert (chained.kind, chained.effective) == (ROUTED, epoch), "at the epoch of the root"


def test_the_root_holds_its_epoch_until_the_whole_subtree_is_there() -> None:
    stand = stand_of()
    epoch = write(stand, {THERE: BACK})
    stand.land()
    raise_epoch(stand)
    stand.land()  # ROUTED in partition 1, which sends on
    assert promise(stand).undelivered == epoch and promise(stand, 1).undelivered is None
    stand.land_all()
    assert promise(stand).undelivered is None
    assert stand.node.standing.tails()[PartitionId(0)] == stand.partition(0).tail


def test_a_trigger_that_fails_on_what_was_delivered_is_written_down() -> None:
    """X8: a write elsewhere is accepted; refusing what follows from it would hold time back for ever."""
    stand = stand_of()
    write(stand, {THERE: "bad"})
    stand.land()
    raise_epoch(stand)
    stand.land_all()
    (routed,) = records(stand, 1)
    assert promise(stand).undelivered is None and stand.value(THERE, map_name="out") == "bad"
    (failure,) = routed.failures
    assert (failure.row, failure.trigger) == (0, "second") and "ValueError: bad" in failure.message


def test_a_full_storage_loses_nothing() -> None:
    stand = stand_of()
    epoch = write(stand, {THERE: ""})
    stand.land()
    raise_epoch(stand)
    stand.fail(StorageFullError("no space"))
    assert promise(stand).undelivered == epoch and not stand.frames
    stand.pass_time(PATIENCE_SECONDS)
    stand.land_all()
    assert promise(stand).undelivered is None and len(records(stand, 1)) == 1


def test_a_new_life_sends_what_is_not_known_to_be_delivered_and_takes_nothing_twice() -> None:
    for checkpoint in (False, True):
        stand = stand_of()
        epoch = write(stand, {THERE: ""})
        stand.land()
        raise_epoch(stand)
        stand.frames.clear()  # what was on its way is lost with the node
        if checkpoint:
            for number in (0, 1):
                chunks = list(checkpoint_chunks(stand.partition(number)))
                stand.checkpoints[PartitionId(number)] = (stand.partition(number).tail, chunks)
        stand.restart()
        assert promise(stand).undelivered == epoch
        raise_epoch(stand)
        stand.land_all()
        assert promise(stand).undelivered is None and len(records(stand, 1)) == 1
        stand.restart()
        stand.turn()
        raise_epoch(stand)
        stand.land_all()
        assert promise(stand).undelivered is None and len(records(stand, 1)) == 1
        assert stand.value(THERE, map_name="sums") == HERE


def test_several_sources_of_one_epoch_share_a_record_where_they_set_nothing_off() -> None:
    stand = stand_of()
    stand.put({THERE: "in the way"}, map_name="beside", partition=1)
    blocking = stand.frames.pop(0)
    names = [name for name in NAMES if partition_of(key(name), 2) == 0][:3]
    for name in names:
        write(stand, {THERE: None}, name)
        stand.land()
    assert not stand.frames and len(stand.partition(1).deliveries) == 3
    stand.frames.append(blocking)
    stand.land_all()
    assert [len(record.sources) for record in records(stand, 1) if record.kind == ROUTED] == [3]
    assert stand.value(THERE, map_name="sums") == "".join(names) and promise(stand).undelivered is None


# With another node --------------------------------------------------------------------------------------------------


def stand_of_two() -> Stand:
    stand = stand_of(nodes=2)
    owned = {number for number, owner in stand.node.control.view.owners.items() if owner.node == 0}
    assert len(owned) == 1
    return stand


def say(
    stand: Stand, said: ring_pb2.Deliver | ring_pb2.Delivered, epoch: int, control: int = 0
) -> list[ring_pb2.Delivered]:
    stand.told.clear()
    body = ring_pb2.Routed()
    (body.deliver if isinstance(said, ring_pb2.Deliver) else body.delivered).add().CopyFrom(said)  # type: ignore[attr-defined]
    view, position = stand.node.control.view.position, Position(control or stand.node.control.position)
    envelope = Envelope(GRID_ID, position, Epoch(epoch), view, OTHER, Incarnation(1), body)
    stand.node.message(stand.instant, envelope)
    stand.turn()
    return answers(stand)


def deliver(
    mine: int, theirs: int, epoch: int, name: str, *, position: int = 1000, into: str = "sums"
) -> ring_pb2.Deliver:
    section = encode_section(into, [key(name)], [pack("!")], bytes((MERGE if into == "sums" else PUT,)), (), [0])
    message = ring_pb2.Deliver(
        effective=epoch, time_ms=5, outbox=encode_outbox(PartitionId(mine), 1, [into], [section])
    )
    message.source.partition, message.source.position, message.partition = theirs, position, mine
    return message


def test_a_delivery_of_another_node_is_answered_when_it_is_in_the_log_and_again_whenever_asked() -> None:
    stand = stand_of_two()
    (mine,) = stand.node.partitions
    name = HERE if mine == 0 else THERE
    epoch = stand.node.epoch
    message = deliver(mine, 1 - mine, epoch, name)
    assert say(stand, message, epoch) == [] and len(stand.frames) == 1
    assert say(stand, message, epoch) == [] and len(stand.frames) == 1, "on its way"
    stand.told.clear()
    stand.land()
    (body,) = answers(stand)
    assert {tell.node for tell in stand.told} == {OTHER} and body.source == message.source and body.partition == mine
    assert [(tail.partition, tail.position) for tail in body.tails] == [(mine, stand.partition(mine).tail)]
    assert say(stand, message, epoch) == [body] and not stand.frames
    stand.close(epoch)
    (late,) = say(stand, message, epoch)
    assert late.source == message.source and not late.tails, "closed, so it was delivered"
    assert len(records(stand, mine)) == 1


def test_a_letter_that_is_ahead_waits_for_the_control_log_to_be_read_on() -> None:
    """Its sender has applied a close that this node has not; to wait until it is said again would take long."""
    stand = stand_of_two()
    (mine,) = stand.node.partitions
    message = deliver(mine, 1 - mine, stand.node.epoch + 1, HERE if mine == 0 else THERE)
    position = stand.declare(ControlRecord(close=Close(epoch=stand.node.epoch)))
    before = stand.readings
    say(stand, message, stand.node.epoch + 1, position)
    assert not stand.frames and stand.readings > before
    stand.read_control()
    stand.turn()
    assert [frame.slot.partition for frame in stand.frames] == [mine]


def test_what_no_node_of_this_grid_says_leaves_no_trace() -> None:
    stand = stand_of_two()
    (mine,) = stand.node.partitions
    name, wrong = (HERE, THERE) if mine == 0 else (THERE, HERE)
    epoch = stand.node.epoch
    direct = encode_section("raw", [key(name)], [pack(1)], bytes((PUT,)), (), [0])
    strange = [
        deliver(mine, 1 - mine, epoch, wrong),  # a key of another partition
        deliver(1 - mine, mine, epoch, wrong),  # not for this node
        deliver(mine, 1 - mine, stand.node.control.limit + 5, name),
        deliver(mine, 1 - mine, epoch + 1, name),  # ahead of the epoch that came with it
    ]
    strange.append(deliver(mine, 1 - mine, epoch, name))
    strange[-1].outbox = encode_outbox(PartitionId(mine), 1, ["raw"], [direct])  # into a map that clients write
    strange.append(deliver(mine, 1 - mine, epoch, name))
    strange[-1].outbox = b"\xff\xff"
    for message in strange:
        assert say(stand, message, epoch) == [] and not stand.frames
    assert not stand.partition(mine).delivering and not stand.partition(mine).deliveries


def test_a_parcel_is_said_again_with_patience_and_its_tails_go_into_the_token() -> None:
    stand = stand_of_two()
    (mine,) = stand.node.partitions
    name, there = (HERE, THERE) if mine == 0 else (THERE, HERE)
    stand.told.clear()
    epoch = stand.node.epoch
    stand.put({name: {there: ""}}, map_name="raw", partition=mine)
    stand.land()
    (message,) = deliveries(stand)
    assert (message.partition, message.effective, message.source.position) == (
        1 - mine,
        epoch,
        stand.partition(mine).tail,
    )
    stand.told.clear()
    for _ in range(2):
        stand.pass_time(PATIENCE_SECONDS * 2)
    assert deliveries(stand) == [message, message]
    answer = ring_pb2.Delivered(source=message.source, partition=1 - mine)
    answer.tails.add(partition=1 - mine, position=777)
    say(stand, answer, epoch)
    assert promise(stand, mine).undelivered is None and stand.node.standing.tails()[PartitionId(1 - mine)] == 777
    stand.told.clear()
    stand.pass_time(100)
    assert not deliveries(stand)


def test_each_says_what_was_sent_there_before_it_in_its_epoch_and_is_not_answered() -> None:
    stand = stand_of_two()
    (mine,) = stand.node.partitions
    name, there = (HERE, THERE) if mine == 0 else (THERE, HERE)
    stand.told.clear()
    for _number in (1, 2, 3):
        stand.put({name: {there: ""}}, map_name="raw", partition=mine)
        stand.land()
    first, second, third = deliveries(stand)
    assert not first.HasField("after") and (second.after, third.after) == (first.source, second.source)
    say(stand, ring_pb2.Delivered(source=first.source, partition=1 - mine), stand.node.epoch)
    raise_epoch(stand)
    stand.put({name: {there: ""}}, map_name="raw", partition=mine)
    stand.told.clear()
    stand.land()
    (later,) = deliveries(stand)
    assert not later.HasField("after"), "of another epoch"
    stand.told.clear()
    stand.pass_time(PATIENCE_SECONDS * 2)
    assert [one.HasField("after") for one in deliveries(stand)] == [False, True, False]


def test_what_comes_before_its_turn_waits_for_it_and_is_not_overtaken_by_what_failed() -> None:
    stand = stand_of_two()
    (mine,) = stand.node.partitions
    name, epoch = HERE if mine == 0 else THERE, stand.node.epoch
    first, second, third = (deliver(mine, 1 - mine, epoch, name, position=1000 + number) for number in range(3))
    second.after.CopyFrom(first.source)
    third.after.CopyFrom(second.source)
    say(stand, third, epoch)
    say(stand, second, epoch)
    assert not stand.frames and not stand.partition(mine).deliveries
    say(stand, first, epoch)
    stand.fail(StorageFullError("full"))
    assert not stand.frames and not stand.partition(mine).deliveries, "all of them are said again"
    say(stand, second, epoch)
    assert not stand.frames
    say(stand, first, epoch)
    say(stand, third, epoch)
    stand.land_all()
    sources = [source.position for record in records(stand, mine) for source in record.sources]
    assert sources == [1000, 1001, 1002] and not stand.partition(mine).early.bytes


def test_what_came_early_does_not_keep_out_what_it_waits_for() -> None:
    stand = stand_of(nodes=2, limits=Limits(delivery_bytes_max=1))
    (mine,) = stand.node.partitions
    name, epoch = HERE if mine == 0 else THERE, stand.node.epoch
    first, second = (deliver(mine, 1 - mine, epoch, name, position=1000 + number) for number in range(2))
    second.after.CopyFrom(first.source)
    say(stand, second, epoch)
    assert stand.partition(mine).early.bytes > stand.limits.delivery_bytes_max
    say(stand, first, epoch)
    stand.land_all()
    sources = [source.position for record in records(stand, mine) for source in record.sources]
    assert sources == [1000, 1001]


def test_whatever_is_lost_each_has_its_turn_to_be_said_again() -> None:
    """A link that loses the oldest of a flood would lose the same parcels each time, if all were said at once."""
    stand = stand_of_two()
    (mine,) = stand.node.partitions
    name, there = (HERE, THERE) if mine == 0 else (THERE, HERE)
    for number in range(5):
        stand.put({name: {there: str(number) * (SAID_AGAIN_BYTES // 3)}}, map_name="raw", partition=mine)
        stand.land()
    stand.told.clear()

    def said_after(seconds: float) -> list[int]:
        stand.told.clear()
        stand.pass_time(seconds)
        assert all(letter.ByteSize() < Limits().record_bytes_max for letter in letters(stand))
        return [message.source.position for message in deliveries(stand)]

    goes = [said_after(PATIENCE_SECONDS), said_after(PACE_SECONDS)]
    assert [len(said) for said in goes] == [3, 2] and len({*goes[0], *goes[1]}) == 5
    late = [said_after(PATIENCE_SECONDS_MAX), said_after(PATIENCE_SECONDS_MAX)]
    assert [len(said) for said in late] == [3, 3] and {*late[0], *late[1]} == {*goes[0], *goes[1]}


def test_what_waits_for_the_epoch_does_not_keep_out_what_the_epoch_waits_for() -> None:
    stand = stand_of(nodes=2, limits=Limits(delivery_bytes_max=20))
    (mine,) = stand.node.partitions
    name, old = HERE if mine == 0 else THERE, stand.node.epoch
    raise_epoch(stand)
    for number in range(3):
        waits = deliver(mine, 1 - mine, stand.node.epoch, name, position=1000 + number, into="out")
        say(stand, waits, stand.node.epoch)
    assert len(stand.partition(mine).deliveries) == 1, "there is no room for more, and no frame takes it in"
    assert 20 < stand.partition(mine).delivery_bytes < 40
    say(stand, deliver(mine, 1 - mine, old, name, position=900), stand.node.epoch)
    assert [frame.slot.partition for frame in stand.frames] == [mine]


def test_values_are_what_the_outputs_say() -> None:
    stand = stand_of()
    write(stand, {THERE: "", HERE: ""})
    stand.land_all()
    raise_epoch(stand)
    stand.land_all()
    (data,) = (record for record in records(stand, 0) if record.kind == DATA)
    assert len(data.outbox) == 1 and list(data.maps) == ["raw", "out", "sums"]
    assert msgpack.unpackb(msgpack.packb(stand.value(HERE, map_name="sums"))) == HERE
