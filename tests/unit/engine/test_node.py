"""The node as its shell sees it: what waits for what, what is refused, and in which order effects come."""

from __future__ import annotations

import pytest
from tidegrid.grid.engine.intake import Carry
from tidegrid.grid.engine.reads import ReadRequest
from tidegrid.grid.model.errors import (
    ConfigurationError,
    DeadlineError,
    DerivedMapError,
    EpochTooNewError,
    LogFailedError,
    StoppingError,
    StorageFullError,
    TooLargeError,
    TriggerModuleError,
    UnavailableError,
    UnknownMapError,
    WrongGridError,
    WrongKindError,
    WrongOwnerError,
)
from tidegrid.grid.model.ids import Epoch, Incarnation, NodeId, Position
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.maps import KeyField, MapSpec
from tidegrid.grid.ring.declarations import spec_message
from tidegrid.grid.ring.messages import Envelope, TokenReceived, Wake
from tidegrid.v1.control_pb2 import Close, ControlRecord, MapDeclared
from tidegrid.v1.ring_pb2 import ReferenceReply, ReferenceRequest

from tests.unit.engine.stand import GRID_ID, TABLE, Stand, client_session, key

LATER = MapSpec("later", key=(KeyField("k"),))
DERIVES = """
from tidegrid.triggers import Put, table, trigger
table("raw", key=("k",))
table("seen", like="raw")

@trigger(on="raw", emits=("seen",))
def see(write, grid):
    yield Put("seen", write.key, grid.get("r", write.key))
"""


# Reads -----------------------------------------------------------------------------------------------------------


def test_reads_as_of_and_at_least_wait_for_the_close() -> None:
    stand = Stand()
    stand.put_now({"a": 1})
    epoch = stand.node.epoch
    as_of, at_least = stand.get("a", as_of=epoch), stand.get("a", at_least=epoch)
    closed = stand.wait_closed(epoch)
    assert not {as_of, at_least, closed} & set(stand.answered) and stand.node.standing.waiting_for() == epoch
    stand.close()
    assert {as_of, at_least, closed} <= set(stand.answered) and as_of.versions == at_least.versions == [1]
    assert stand.node.standing.waiting_for() == 0
    stand.put_now([("a", 2), ("b", None)])
    assert stand.value("a", as_of=epoch) == 1 and stand.value("a") == 2 and stand.value("b") is None
    assert stand.value("nobody", as_of=epoch) is None and stand.wait_closed(epoch) in stand.answered


def test_a_wait_ends_with_its_deadline_and_says_for_what() -> None:
    stand = Stand()
    epoch = stand.node.epoch
    request, other = stand.get("a", as_of=epoch, seconds=0.5), stand.wait_closed(epoch, seconds=5.0)
    assert stand.node.deadline() == 0.5
    stand.pass_time(0.4)
    assert request not in stand.answered
    stand.pass_time(0.2)
    assert isinstance(request.error, DeadlineError) and "a close" in request.error.message
    assert other not in stand.answered
    stand.close()
    assert other.error is None and stand.answered.count(request) == 1


@pytest.mark.parametrize("beyond", [0, 5])
def test_epochs_at_or_above_the_limit_are_refused(beyond: int) -> None:
    stand = Stand()
    limit = stand.node.control.limit
    refused = [stand.get("a", as_of=limit + beyond), stand.wait_closed(limit + beyond)]
    for _ in range(2):
        assert not any(request in stand.answered for request in refused), "it may be this node that is behind"
        stand.node.control_at_tail(stand.instant)
        stand.collect()
    assert all(isinstance(request.error, EpochTooNewError) for request in refused)
    assert stand.get("a", as_of=limit - 1) not in stand.answered


def test_a_node_that_is_behind_reads_on_before_it_refuses_an_epoch() -> None:
    """Found by seed 2948: it had been paused, and its limit lay below what had long been closed."""
    stand = Stand()
    stand.put_now({"a": 1})
    epoch, limit = stand.node.epoch, stand.node.control.limit
    for closed in (limit - 1, limit + 5):
        stand.declare(ControlRecord(close=Close(epoch=closed, time_ms=stand.time_ms)))
    read, waiting = stand.get("a", as_of=limit + 5), stand.wait_closed(limit + 5)
    assert read not in stand.answered and waiting not in stand.answered and stand.readings == 1
    stand.read_control()
    stand.node.control_at_tail(stand.instant)
    stand.collect()
    assert read.error is None and waiting.error is None and epoch < limit


def test_maps_that_cannot_be_read() -> None:
    stand = Stand()
    unknown = stand.get("a", map_name="tt")
    assert isinstance(unknown.error, UnknownMapError) and "t" in unknown.error.near
    assert isinstance(stand.get("a", map_name="s").error, WrongKindError)
    assert isinstance(stand.scan("s").error, WrongKindError)


def test_scans_stop_at_rows_and_at_bytes() -> None:
    stand = Stand(limits=Limits(answer_bytes_max=100))
    stand.put_now([(name, "x" * 40) for name in "abcde"])
    assert stand.scan(rows_max=1).more and len(stand.scan(rows_max=1).keys) == 1
    cut = stand.scan()
    assert cut.keys == [key("a"), key("b")] and cut.more
    many = ReadRequest("t", [key(name) for name in "abcde"], Epoch(0), Epoch(0), "to the test")
    assert isinstance(stand.submit(many).error, TooLargeError)
    stand.put_now([("0", "x" * 200)])
    assert stand.scan().keys == [key("0")] and stand.scan().more, "one row at least"
    assert stand.scan(partition=7).error is not None


def test_a_map_declared_elsewhere_has_no_rows_yet() -> None:
    stand = Stand()
    stand.partition().tables.pop("t")
    assert stand.value("a") is None and stand.scan().keys == []


# Carried time ------------------------------------------------------------------------------------------------------


def test_a_request_that_knows_more_of_the_control_log_waits_for_it_to_be_read() -> None:
    stand = Stand()
    position = stand.declare(ControlRecord(map=MapDeclared(spec=spec_message(LATER))))
    carry = Carry(GRID_ID, position, Epoch(0))
    request = stand.submit(stand.batch({"k": 1}), carry)
    assert request not in stand.answered and stand.readings == 1 and not stand.frames
    stand.read_control()
    stand.node.control_at_tail(stand.instant)
    stand.land_all()
    assert request in stand.answered and not request.errors


def test_a_position_beyond_the_log_is_refused_after_a_reading_that_began_after_it_came() -> None:
    stand = Stand()
    forged = stand.wait_closed(0, carry=Carry(b"", Position(10**9), Epoch(0)))
    assert forged not in stand.answered and stand.readings == 1
    stand.node.control_at_tail(stand.instant)
    stand.collect()
    assert forged not in stand.answered and stand.readings == 2, "that reading may have begun before it came"
    late = stand.wait_closed(0, carry=Carry(b"", Position(10**9), Epoch(0)))
    stand.node.control_at_tail(stand.instant)
    stand.collect()
    assert isinstance(forged.error, EpochTooNewError) and late not in stand.answered


def test_a_carried_epoch_raises_the_stamp_and_one_beyond_the_limit_is_refused() -> None:
    stand = Stand()
    limit = stand.node.control.limit
    request = stand.submit(stand.batch({"a": 1}), Carry(b"", Position(0), Epoch(limit - 1)))
    stand.land_all()
    assert request.epochs == [limit - 1] and stand.node.epoch == limit - 1
    refused = stand.submit(stand.batch({"a": 2}), Carry(b"", Position(0), limit))
    for _ in range(2):
        stand.node.control_at_tail(stand.instant)
        stand.collect()
    assert isinstance(refused.errors[0], EpochTooNewError) and stand.node.epoch == limit - 1
    assert stand.value("a") == 1


def test_another_grid_is_another_grid() -> None:
    stand = Stand()
    request = stand.submit(stand.batch({"a": 1}), Carry(b"elsewhere", Position(0), Epoch(0)))
    assert isinstance(request.errors[0], WrongGridError)
    before = stand.node.epoch
    stand.node.message(stand.instant, envelope(stand, Wake(Epoch(0)), grid_id=b"elsewhere", epoch=before + 1))
    stand.collect()
    assert not stand.told and stand.node.epoch == before


# Writes that wait ----------------------------------------------------------------------------------------------------


def test_a_map_that_does_not_act_yet_is_waited_for() -> None:
    stand = Stand()
    stand.declare(ControlRecord(map=MapDeclared(spec=spec_message(LATER))))
    stand.read_control()
    write, read = stand.put({"k": 1}, map_name="later"), stand.get("k", map_name="later")
    assert not stand.frames and read not in stand.answered
    acts_at = stand.node.control.map_activation("later")
    assert acts_at is not None
    stand.close(acts_at - 1)
    stand.land_all()
    assert read in stand.answered and write.versions == [1] and write.epochs[0] >= acts_at


def test_writes_with_look_ups_wait_for_the_copies() -> None:
    stand = Stand(source=DERIVES)
    stand.put_now({"k": 7}, map_name="r")
    raw = stand.batch({"k": 0}, map_name="raw")
    stand.node.copies.advance = lambda *facts: []  # type: ignore[method-assign,assignment]  # the owners are silent
    stand.close()
    stand.submit(raw, seconds=1.0)
    plain = stand.put({"k": 0}, session=client_session(2))
    stand.land_all()
    assert plain in stand.answered and raw not in stand.answered
    stand.pass_time(2.0)
    assert isinstance(raw.errors[0], DeadlineError) and "reference" in raw.errors[0].message
    del stand.node.copies.advance
    again = stand.put({"k": 0}, map_name="raw", first=2)
    stand.pass_time(0.1)
    stand.land_all()
    assert not again.errors and stand.value("k", map_name="seen") == 7


def test_a_derived_map_refuses_writers() -> None:
    stand = Stand(source=DERIVES)
    assert isinstance(stand.put({"k": 1}, map_name="seen").errors[0], DerivedMapError)


def test_code_that_does_not_load_here_refuses_its_writers() -> None:
    stand = Stand(source=DERIVES)
    stand.node._catalogs.forget()
    stand.node._catalogs._newest = None
    stand.node._catalogs._loaded.clear()
    broken = stand.node.control.deployments[-1]
    object.__setattr__(broken, "modules", (("module", "import nowhere_at_all"),))
    request = stand.put({"k": 1}, map_name="raw")
    assert isinstance(request.errors[0], TriggerModuleError)


# Owners --------------------------------------------------------------------------------------------------------------


def test_a_partition_of_another_node_is_named_with_its_owner() -> None:
    stand = Stand(partitions=2, nodes=(0, 1))
    (mine,) = stand.node.partitions
    theirs = 1 - mine
    names = {stand.node.catalog.map("t").partitioner.of(key(name)): name for name in "abcdef"}
    other = stand.put({names[theirs]: 1}, partition=theirs)
    assert isinstance(other.errors[0], WrongOwnerError) and other.errors[0].owner == 1
    assert isinstance(stand.get(names[theirs]).error, WrongOwnerError)
    assert isinstance(stand.scan(partition=theirs).error, WrongOwnerError)
    assert not stand.put_now({names[mine]: 1}, partition=mine).errors and stand.node.standing.ready()


def test_a_partition_that_is_being_recovered_is_not_there_yet() -> None:
    stand = Stand()
    stand.put_now({"a": 1})
    stand.answered.clear()
    stand.start()
    assert isinstance(stand.put({"a": 2}).errors[0], UnavailableError) and not stand.node.standing.ready()
    assert [promise.open for promise in stand.node.standing.promises()] == [False] and not stand.node.standing.tails()
    stand.open_all()
    assert stand.partition().memory.closed == stand.node.control.closed
    assert stand.node.standing.ready() and stand.value("a") == 1 and list(stand.node.standing.tails()) == [0]


def test_after_a_failure_of_the_log_everybody_is_told_of_it() -> None:
    stand = Stand()
    stand.node.fail(LogFailedError("gone"))
    assert isinstance(stand.get("a").error, LogFailedError)
    assert isinstance(stand.put({"a": 1}).errors[0], LogFailedError)


def test_a_view_that_gives_a_partition_away_ends_what_waits_there() -> None:
    stand = Stand(limits=Limits(frame_writes_max=1))
    flying, waiting = stand.put({"a": 1}), stand.put({"b": 1})
    life = stand.node
    frames = stand.frames
    stand.start()  # somebody else starts under the same name
    fresh, stand.node, stand.frames = stand.node, life, frames
    stand.read_control()
    assert not life.standing.ready() and not life.standing.tails()
    assert isinstance(waiting.errors[0], WrongOwnerError) and flying not in stand.answered
    assert isinstance(stand.put({"b": 1}).errors[0], WrongOwnerError)
    assert fresh.incarnation > life.incarnation


# Stopping, peers, time -----------------------------------------------------------------------------------------------


def test_stop_refuses_what_waits_for_anything_but_the_log() -> None:
    stand = Stand()
    waits = stand.get("a", as_of=stand.node.epoch)
    unread = stand.submit(stand.batch({"a": 1}), Carry(b"", Position(10**9), Epoch(0)))
    stand.node.stop()
    stand.collect()
    assert isinstance(waits.error, StoppingError) and isinstance(unread.errors[0], StoppingError)
    stand.node.control_at_tail(stand.instant)
    stand.turn()
    assert not stand.frames and stand.node.drained and stand.answered.count(unread) == 1


def envelope(stand: Stand, body: object, *, control: int = 0, epoch: int = 0, grid_id: bytes = GRID_ID) -> Envelope:
    view = stand.node.control.view.position
    return Envelope(grid_id, Position(control), Epoch(epoch), view, NodeId(1), Incarnation(1), body)  # type: ignore[arg-type]


def test_messages_carry_time_and_are_answered_to_their_sender() -> None:
    stand = Stand()
    limit = stand.node.control.limit
    stand.node.message(stand.instant, envelope(stand, TokenReceived(1, 1), epoch=limit - 2))
    assert stand.node.epoch == limit - 2
    stand.node.message(stand.instant, envelope(stand, Wake(Epoch(0)), control=10**9))
    stand.collect()
    assert stand.readings == 1 and stand.node.epoch == limit - 2
    closed = stand.node.control.closed
    stand.node.message(stand.instant, envelope(stand, ReferenceRequest(id=9, through=closed)))
    stand.node.message(stand.instant, envelope(stand, ReferenceReply(id=123)))
    stand.collect()
    (told,) = stand.told
    assert told.node == 1 and told.message.body.id == 9 and told.message.sender == 0
    assert told.message.control == stand.node.control.position and told.message.epoch == stand.node.epoch


def test_a_refused_close_goes_back_to_the_ring_and_comes_again() -> None:
    stand = Stand()
    stand.put_now({"a": 1})
    assert stand.node.ring.start_round(stand.now)
    stand.collect()
    (close,) = stand.control_appends
    assert close.record.close.epoch == stand.partition().last_stamp
    stand.node.control_failed(stand.instant, close, StorageFullError("no space"))
    stand.pass_time(1.0)
    assert [one.record.close.epoch for one in stand.control_appends if one.record.HasField("close")] == [
        close.record.close.epoch
    ] * 2


def test_an_epoch_may_weigh_only_so_much_and_closing_takes_it_off() -> None:
    stand = Stand()
    stand.put_now({"a": 1, "b": 2})
    assert stand.node.writes._unclosed_bytes > 0 and stand.node.writes.written == 2
    stand.close()
    assert stand.node.writes._unclosed_bytes == 0


def test_declared_maps_are_those_of_the_control_log() -> None:
    stand = Stand(maps=[TABLE])
    assert set(stand.node.catalog.maps) == {"t"} and stand.node.catalog.map("t").key_text == "k:str"
    stand.put_now([("k", 1)], schema=3)
    assert stand.value("k") == 1


def test_partitions_must_fit_the_keys() -> None:
    stand = Stand(partitions=3)
    names = [name for name in "abcdefghijkl" if stand.node.catalog.map("t").partitioner.of(key(name)) == 1]
    assert isinstance(stand.put({names[0]: 1}).errors[0], ConfigurationError)
    assert not stand.put_now({names[0]: 1}, partition=1).errors
