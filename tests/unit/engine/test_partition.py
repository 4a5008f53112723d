"""Frames on their way: what is computed on one in flight, what a failure undoes, and that nobody saw any of it."""

from __future__ import annotations

import pytest
from tidegrid.grid.engine import partition as partition_module
from tidegrid.grid.model.errors import (
    ConflictError,
    LogFailedError,
    RejectedError,
    StoppingError,
    StorageFullError,
    TooLargeError,
    WrongOwnerError,
)
from tidegrid.grid.model.ids import Epoch, Position, Term
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.ring.ownership import PartitionState

from tests.unit.engine.stand import Stand, client_session

COUNTS = """
from tidegrid.triggers import Delete, Event, Put, Reject, stream, table, trigger
table("raw", key=("k",))
table("counts", like="raw")
table("twice", like="raw")
stream("said", like="raw")

@trigger(on="raw", emits=("counts", "said"))
def count(write, grid):
    number = write.version
    if write.op == "delete":
        yield Delete("counts", write.key)
        return
    if grid.get("raw", write.key) != write.value:
        raise Reject("blind")
    if number > write.value:
        raise Reject("already %d" % (number - 1))
    yield Put("counts", write.key, number)
    yield Event("said", write.key, number)

@trigger(on="counts", emits=("twice",))
def double(write):
    if write.op == "put":
        yield Put("twice", write.key, 2 * write.value)
"""


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second frame is computed as soon as anything waits."""
    monkeypatch.setattr(partition_module, "_EAGER_BYTES", 1)


def test_versions_and_conditions_go_on_over_frames_in_flight() -> None:
    stand = Stand()
    stand.put_now({"k": "landed"})
    one = stand.put([("k", "a"), ("k", "b")])
    two = stand.put([("k", "c")], conditions={0: 3})
    wrong = stand.put([("k", "d")], conditions={0: 3}, session=client_session(2))
    gone = stand.put([("k", None)], conditions={0: 4})
    absent = stand.put([("k", "e")], conditions={0: 0})
    tombstone = stand.put([("k", "f"), ("k", "g")], conditions={0: 6, 1: 0})
    assert len(stand.frames) == 1 and stand.value("k") == "landed" and stand.answered[:1] != [one]
    stand.land_all()
    assert (one.versions, two.versions, gone.versions, absent.versions) == ([2, 3], [4], [5], [6])
    assert isinstance(wrong.errors[0], ConflictError) and wrong.errors[0].current == 4
    assert tombstone.versions == [7, 0] and tombstone.errors[1].current == 7
    assert stand.value("k") == "f"


def test_a_tombstone_answers_to_its_number_and_counts_as_absent() -> None:
    stand = Stand()
    stand.put_now([("k", 1), ("k", None)])
    assert not stand.put_now([("k", 2)], conditions={0: 2}).errors
    stand.put_now([("k", None)])
    assert not stand.put_now([("k", 3)], conditions={0: 0}).errors
    assert stand.put_now([("k", 4)], conditions={0: 0}).errors[0].current == 5


def test_nothing_of_a_failed_frame_was_seen_in_any_answer() -> None:
    stand = Stand(source=COUNTS)
    stand.put_now({"k": 9}, map_name="raw")
    before = list(stand.answered)
    doomed = stand.put([("k", 9), ("k", 9)], map_name="raw")
    rejected = stand.put([("k", 2)], map_name="raw", session=client_session(2))  # refused only because of `doomed`
    conflict = stand.put([("k", 9)], map_name="raw", session=client_session(3), conditions={0: 1})
    joined = stand.put([("k", 9)], map_name="raw", first=2)
    assert stand.answered == before, "answers wait for the frame that they rest on"
    assert stand.value("k", map_name="counts") == 1 and stand.value("k", map_name="raw") == 9
    stand.fail(StorageFullError("no space"))
    assert isinstance(doomed.errors[0], StorageFullError) and isinstance(joined.errors[0], StorageFullError)
    assert rejected not in stand.answered and conflict not in stand.answered, "computed anew"
    stand.land_all()
    assert rejected.versions == [2] and not rejected.errors
    assert conflict.errors[0].current == 2
    assert stand.value("k", map_name="counts") == 2 and stand.value("k", map_name="twice") == 4
    assert stand.node.writes._queued_bytes == stand.partition().queued_bytes == 0
    again = stand.put_now([("k", 9), ("k", 9)], map_name="raw", first=2)
    assert again.versions == [3, 4] and stand.value("k", map_name="counts") == 4


def test_a_refusal_rests_on_what_has_landed() -> None:
    stand = Stand(source=COUNTS)
    flying = stand.put({"k": 1}, map_name="raw")
    refused = stand.put({"k": 1}, map_name="raw", session=client_session(2))
    assert not stand.answered
    stand.land()
    assert stand.answered == [flying, refused] and not stand.frames, "a frame of refusals needs no record"
    assert isinstance(refused.errors[0], RejectedError) and "already 1" in refused.errors[0].message


def test_a_batch_split_over_a_failed_and_a_good_frame_is_answered_row_by_row() -> None:
    stand = Stand(limits=Limits(frame_writes_max=2))
    request = stand.put([(name, name) for name in "abcde"])
    stand.fail(StorageFullError("no space"))
    stand.land_all()
    assert sorted(request.errors) == [0, 1] and request.versions[2:] == [1, 1, 1]
    assert [stand.value(name) for name in "abcde"] == [None, None, "c", "d", "e"]
    again = stand.put_now([(name, name) for name in "abcde"], first=1)
    assert again.versions == [1] * 5 and again.repeated == [2, 3, 4] and not again.errors
    assert stand.node.writes._queued_bytes == stand.partition().queued_bytes == 0


def test_a_lost_log_closes_the_partition_and_ends_what_is_on_its_way() -> None:
    """Rule F3."""
    stand = Stand(limits=Limits(frame_writes_max=2))
    requests = [stand.put([(f"{name}{row}", 1) for row in range(3)]) for name in "ab"]
    slot = stand.frames[0].slot
    stand.fail(LogFailedError("gone"))
    assert all(request in stand.answered for request in requests)
    assert all(set(request.errors) == {0, 1, 2} for request in requests)
    assert stand.partition().state is PartitionState.CLOSED and not stand.node.standing.ready()
    assert isinstance(stand.put({"z": 1}).errors[0], LogFailedError)
    stand.node.landed(stand.instant, slot, Position(10**6))  # somebody's late success changes nothing
    stand.node.append_failed(stand.instant, slot, StorageFullError("late"))
    assert [promise.open for promise in stand.node.standing.promises()] == [False]


def test_a_dead_log_ends_every_partition_of_the_node() -> None:
    stand = Stand(partitions=3)
    names = {stand.node.catalog.map("t").partitioner.of(b"0" + name.encode() + b"\0"): name for name in "abcdefghij"}
    flying = stand.put({names[0]: 1}, partition=0)
    stand.node.fail(LogFailedError("gone"))
    stand.collect()
    assert isinstance(flying.errors[0], LogFailedError)
    for number in (0, 1, 2):
        assert stand.partition(number).state is PartitionState.CLOSED
        later = stand.put({names[number]: 1}, partition=number, session=client_session(9))
        assert isinstance(later.errors[0], LogFailedError)
    assert stand.node.drained


def test_a_record_that_the_log_finds_too_large_is_refused_and_the_partition_goes_on() -> None:
    stand = Stand()
    request = stand.put({"a": 1})
    stand.fail(TooLargeError.of("record", 10, 5))
    assert isinstance(request.errors[0], TooLargeError)
    assert not stand.put_now({"b": 1}).errors


def test_triggers_in_a_chain_see_their_own_frame_and_the_one_in_flight() -> None:
    stand = Stand(source=COUNTS)
    stand.put([("k", 9), ("k", 9)], map_name="raw")
    stand.put([("k", 9), ("m", 9)], map_name="raw")
    stand.put([("k", None), ("k", 9)], map_name="raw")
    stand.land_all()
    assert stand.value("k", map_name="counts") == 5 and stand.value("m", map_name="counts") == 1
    chain = stand.partition().tables["counts"].chain(b"0k\0")
    assert [(number, value) for value, number, _ in chain] == [
        (1, b"\1"),
        (2, b"\2"),
        (3, b"\3"),
        (4, None),
        (5, b"\5"),
    ]


def test_stopping_takes_nothing_new_and_finishes_what_is_in_flight() -> None:
    stand = Stand()
    flying = stand.put({"a": 1})
    waiting = stand.wait_closed(stand.node.epoch)
    stand.node.stop()
    stand.collect()
    assert isinstance(waiting.error, StoppingError) and not stand.node.drained
    assert isinstance(stand.put({"c": 1}).errors[0], StoppingError)
    stand.land_all()
    assert stand.node.drained and flying.versions == [1]


def test_promises_cover_every_frame_from_its_stamp_on() -> None:
    stand = Stand()
    assert [promise.in_flight for promise in stand.node.standing.promises()] == [None]
    stand.put({"a": 1})
    stamp = stand.node.epoch
    stand.node.ring._raise(Epoch(stamp + 1))
    stand.put({"b": 1})
    assert stand.partition().next is not None and stand.partition().highest_stamp == stamp + 1
    assert [promise.in_flight for promise in stand.node.standing.promises()] == [stamp]
    stand.land()
    assert [promise.in_flight for promise in stand.node.standing.promises()] == [stamp + 1]
    stand.land()
    assert [promise.in_flight for promise in stand.node.standing.promises()] == [None]
    assert stand.partition().highest_stamp == stamp + 1


def test_another_owner_ends_what_waits() -> None:
    stand = Stand()
    partition = stand.partition()
    request = stand.batch({"a": 1})
    partition.submit(request, stand.node.epoch)
    assert partition.close() == [request] and isinstance(request.errors[0], WrongOwnerError)


def test_validity_is_by_the_term_of_the_last_open() -> None:
    partition = Stand().partition()
    partition.opened = [(Position(10), Term(1)), (Position(20), Term(2))]
    assert partition.valid(Position(15), Term(1)) and not partition.valid(Position(15), Term(2))
    assert partition.valid(Position(25), Term(2)) and not partition.valid(Position(25), Term(1))
    assert not partition.valid(Position(5), Term(1))
