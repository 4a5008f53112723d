"""What a batch has to pass, and how one that overlaps what is known is taken apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from tidegrid.grid.engine.intake import Carry
from tidegrid.grid.engine.write import WriteRequest
from tidegrid.grid.model.errors import (
    BusyError,
    ClosingLagError,
    ConfigurationError,
    DerivedMapError,
    InvalidKeyError,
    InvalidValueError,
    OutcomeUnknownError,
    RejectedError,
    StorageFullError,
    TooLargeError,
    UnknownMapError,
    WrongKindError,
    WrongOwnerError,
)
from tidegrid.grid.model.ids import PartitionId
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.ring.declarations import spec_message
from tidegrid.v1.control_pb2 import ControlRecord, Deploy, Module

from tests.unit.engine.stand import NOWHERE, TABLE, Stand, client_session, key, named_session, pack

DERIVES = """
from tidegrid.triggers import Put, Reject, table, trigger
table("raw", key=("k",))
table("seen", like="raw")

@trigger(on="raw", emits=("seen",))
def see(write):
    if write.value == "no":
        raise Reject("it says no")
    yield Put("seen", write.key, write.value)
"""
SMALL = Limits(key_bytes_max=20, value_bytes_max=50, value_depth_max=3, batch_writes_max=4)


def change(**fields: object) -> Callable[[WriteRequest], None]:
    def apply(request: WriteRequest) -> None:
        for name, value in fields.items():
            setattr(request, name, value)

    return apply


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        (change(keys=[], values=[], ops=b""), InvalidValueError),
        (change(first_sequence=0), InvalidValueError),
        (change(values=[]), InvalidValueError),
        (change(ops=b"\1\1"), InvalidValueError),
        (change(ops=b"\7"), InvalidValueError),
        (change(keys=[key("k")] * 5, values=[pack(1)] * 5, ops=b""), TooLargeError),
        (change(map="nowhere"), UnknownMapError),
        (change(map="seen"), DerivedMapError),
        (change(map="s", ops=b"\2"), WrongKindError),
        (change(map="s", conditions={0: 1}), WrongKindError),
        (change(conditions={5: 1}), WrongKindError),
        (change(partition=PartitionId(9)), WrongOwnerError),
        (change(session=b"short"), InvalidValueError),
    ],
)
def test_a_wrong_batch_is_refused_as_a_whole(broken: Callable[[WriteRequest], None], error: type[Exception]) -> None:
    stand = Stand(source=DERIVES, limits=SMALL)
    request = stand.batch({"k": 1})
    broken(request)
    stand.submit(request)
    assert request in stand.answered and not stand.frames
    assert set(request.errors) == set(range(len(request.keys)))
    assert all(isinstance(found, error) for found in request.errors.values())


def test_a_key_of_another_partition_is_the_fault_of_the_batch() -> None:
    stand = Stand(partitions=4)
    wrong = next(name for name in "abcdefgh" if stand.node.catalog.map("t").partitioner.of(key(name)) != 0)
    request = stand.put({wrong: 1})
    assert isinstance(request.errors[0], ConfigurationError)


def test_a_bad_row_fails_alone() -> None:
    stand = Stand(limits=Limits(key_bytes_max=20, value_bytes_max=50, value_depth_max=3))
    request = stand.batch([("a", 1), ("b", 1), ("c", 1), ("d", 1), ("e", 1), ("f", 1)])
    request.keys = [*request.keys[:1], key("x" * 30), key(7), b"\xff", *request.keys[4:]]
    request.values = [*request.values[:4], b"\xc1", pack("y" * 60)]
    stand.submit(request)
    stand.land_all()
    wanted = [TooLargeError, InvalidKeyError, InvalidKeyError, InvalidValueError, TooLargeError]
    assert [type(request.errors[row]) for row in range(1, 6)] == wanted
    assert request.versions == [1, 0, 0, 0, 0, 0] and stand.value("a") == 1


def test_a_batch_of_bad_rows_alone_is_answered_at_once() -> None:
    stand = Stand(limits=SMALL)
    request = stand.batch({"a": 1})
    request.values = [b"\xc1"]
    stand.submit(request)
    assert request in stand.answered and not stand.frames


def test_a_retry_in_flight_joins_and_one_after_is_answered_from_memory() -> None:
    stand = Stand()
    original = stand.put({"a": 1, "b": 2})
    joined = stand.put({"a": 1, "b": 2}, first=1)
    assert not stand.answered and len(stand.frames) == 1
    stand.land_all()
    repeated = stand.put({"a": 1, "b": 2}, first=1)
    assert [original, joined, repeated] == stand.answered
    assert original.versions == joined.versions == repeated.versions == [1, 1]
    assert original.epochs == joined.epochs == repeated.epochs
    assert original.repeated == [] and joined.repeated == repeated.repeated == [0, 1]


def test_a_batch_that_overlaps_is_taken_apart() -> None:
    """Rows 1-2 are known, 3-4 in flight, 5 is new, 6 is bad, 7-8 are new."""
    stand = Stand(limits=Limits(value_bytes_max=50))
    stand.put_now([("a", 1), ("b", 2)])
    flying = stand.put([("c", 3), ("d", 4)], first=3)
    rows = [(name, at + 1) for at, name in enumerate("abcdefgh")]
    whole = stand.batch(rows, first=1, conditions={6: 0, 4: 99})
    whole.values[5] = pack("z" * 60)
    stand.submit(whole)
    assert whole not in stand.answered
    stand.land_all()
    assert flying.versions == [1, 1]
    assert whole.versions == [1, 1, 1, 1, 0, 0, 1, 1] and sorted(whole.errors) == [4, 5]
    assert sorted(whole.repeated) == [0, 1, 2, 3] and whole.unanswered == 0
    assert stand.answered.count(whole) == 1
    again = stand.put(rows, first=1, conditions={6: 0, 4: 99})
    stand.land_all()
    assert again.versions[:4] == [1] * 4 and type(again.errors[4]) is type(whole.errors[4])


def test_a_named_session_has_no_conditions() -> None:
    stand = Stand()
    refused = stand.put({"k": 1}, session=named_session(), conditions={0: 0})
    assert isinstance(refused.errors[0], InvalidValueError) and stand.value("k") is None


def test_a_refusal_is_remembered_for_a_client_and_recomputed_for_a_named_session() -> None:
    stand = Stand(source=DERIVES)
    client = stand.put_now({"k": "no"}, map_name="raw")
    named = stand.put_now({"k": "no"}, map_name="raw", session=named_session())
    assert isinstance(client.errors[0], RejectedError) and isinstance(named.errors[0], RejectedError)
    again = stand.put_now({"k": "yes"}, map_name="raw", first=1)
    assert again.errors[0] is client.errors[0] and not again.repeated
    named_again = stand.put_now({"k": "yes"}, map_name="raw", session=named_session(), first=1)
    assert not named_again.errors


def test_below_the_watermark_nothing_is_applied() -> None:
    stand = Stand()
    stand.put_now({"a": 1}, first=10, lowest=10)
    late = stand.put_now({"a": 2}, first=9)
    assert isinstance(late.errors[0], OutcomeUnknownError) and stand.value("a") == 1
    early = stand.put_now({"b": 2}, session=client_session(2), first=3, lowest=9)
    assert isinstance(early.errors[0], OutcomeUnknownError) and stand.value("b") is None


def test_an_ended_session_is_told_so() -> None:
    stand = Stand(session_epochs=5)
    old = client_session(created=1)
    request = stand.put_now({"a": 1}, session=old)
    assert stand.node.epoch > 6 and isinstance(request.errors[0], OutcomeUnknownError)


def test_windows_and_queues_are_bounded() -> None:
    stand = Stand(limits=Limits(session_writes_max=3))
    stand.put([("a", 1), ("b", 1)])
    assert isinstance(stand.put([("c", 1), ("d", 1)]).errors[0], BusyError)
    assert not stand.put([("c", 1)], first=3).errors

    full = Stand(limits=Limits(queue_bytes_max=100))
    full.node.submit(full.instant, full.batch({"a": "x" * 200}), NOWHERE, 10.0)
    over = full.batch({"b": 1})
    full.node.submit(full.instant, over, NOWHERE, 10.0)
    assert isinstance(over.errors[0], BusyError)
    full.land_all()
    assert not full.put_now({"b": 1}, first=5).errors


def test_writers_are_slowed_when_epochs_do_not_close() -> None:
    stand = Stand(limits=Limits(unclosed_bytes_max=300))
    for name in "ab":
        assert not stand.put_now({name: "x" * 200}).errors
    lagging = stand.put({"c": 1})
    assert isinstance(lagging.errors[0], ClosingLagError)
    stand.close()
    assert not stand.put_now({"c": 1}, first=9).errors


def test_a_full_storage_forgets_the_attempt() -> None:
    stand = Stand()
    request = stand.put({"a": 1})
    stand.fail(StorageFullError("no space"))
    assert isinstance(request.errors[0], StorageFullError) and stand.node.writes.storage_full
    again = stand.put_now({"a": 1}, first=1)
    assert again.versions == [1] and not again.repeated and not stand.node.writes.storage_full


def test_a_deployment_while_a_batch_waits_is_asked_again() -> None:
    """The map becomes derived between admission and computing."""
    stand = Stand(source=DERIVES, limits=Limits(frame_writes_max=1))
    first = stand.put([("a", 1), ("b", 1)])
    waits = stand.put([("c", 1)])
    deploy = Deploy(
        hash=b"later",
        modules=[Module(name="module", source=DERIVES)],
        maps=[spec_message(replace(TABLE, derived=True))],
    )
    stand.declare(ControlRecord(deploy=deploy))
    stand.read_control()
    acts_at = stand.node.control.highest_activation
    stand.close(stand.node.control.closed + 1)
    stand.wait_closed(0, carry=Carry(b"", NOWHERE.control, acts_at))
    stand.land_all()
    assert not first.errors and isinstance(waits.errors[0], DerivedMapError)
    assert stand.value("c") is None and not stand.partition().queued_bytes


def test_a_bad_value_of_a_map_with_triggers_fails_alone_and_stays_refused() -> None:
    stand = Stand(source=DERIVES, limits=SMALL)
    request = stand.batch([("a", 1), ("b", 1), ("c", 1)], map_name="raw")
    request.values = [request.values[0], b"\xc1", pack("y" * 60)]
    stand.submit(request)
    stand.land_all()
    assert request.versions == [1, 0, 0] and stand.value("a", map_name="seen") == 1
    assert [type(request.errors[row]) for row in (1, 2)] == [InvalidValueError, TooLargeError]
    again = stand.put_now([("a", 1), ("b", 1), ("c", 1)], map_name="raw", first=1)
    assert sorted(again.errors) == [1, 2] and again.repeated == [0]
