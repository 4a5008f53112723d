"""Routed outputs between partitions of one node: taken in the same step, without a message, once; again when that failed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tidegrid.grid.engine.delivery import without
from tidegrid.grid.engine.routing import Routing
from tidegrid.grid.log.record import DATA, ROUTED, SourceId, decode_record, decode_section
from tidegrid.grid.model.errors import StorageFullError
from tidegrid.grid.model.ids import PartitionId, Position
from tidegrid.grid.model.partitioner import partition_of

from tests.unit.engine.stand import Stand, key

SOURCE = """
from tidegrid.triggers import Merge, Put, table, trigger

def add(state, operand):
    return (state or 0) + operand

table("raw", key=("n:int",))
table("copies", key=("n:int",))
table("sums", key=("n:int",), fold=add)

@trigger(on="raw", emits=("copies", "sums"))
def send(write):
    for to in write.value:
        yield Put("copies", to, write.key[0])
        yield Merge("sums", to, 1)
"""
HERE = [number for number in range(200) if partition_of(key(number), 3) == 0]
THERE, FURTHER = ([number for number in range(200) if partition_of(key(number), 3) == there] for there in (1, 2))


@pytest.fixture
def stand() -> Stand:
    return Stand(maps=(), source=SOURCE, partitions=3)


def put(stand: Stand, number: int, to: Sequence[int]) -> None:
    stand.put({HERE[number]: list(to)}, map_name="raw")


def kinds(stand: Stand, partition: int) -> list[int]:
    return [kind for item in stand.log_of(partition) if (kind := decode_record(item.payload).kind) in (DATA, ROUTED)]


def test_it_is_taken_in_where_it_belongs_without_a_message(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Routing, "received", lambda *_: pytest.fail("the node wrote to itself"))
    put(stand, 0, [*THERE[:3], THERE[0], FURTHER[0]])
    stand.land_all()
    assert [stand.value(to, map_name="copies") for to in (*THERE[:3], FURTHER[0])] == [HERE[0]] * 4
    assert [stand.value(to, map_name="sums") for to in (*THERE[:3], FURTHER[0])] == [2, 1, 1, 1]
    assert [kinds(stand, number) for number in range(3)] == [[DATA], [ROUTED], [ROUTED]]
    assert stand.partition(0).routes.undelivered is None


def test_rows_of_one_key_are_numbered_one_after_the_other(stand: Stand) -> None:
    put(stand, 0, [THERE[0], THERE[0]])
    stand.land_all()
    put(stand, 1, [THERE[0]])
    stand.land_all()
    sections = [decode_section(s) for item in stand.log_of(1) for s in decode_record(item.payload).sections]
    assert [(one.map, list(one.versions)) for one in sections] == [("copies", [1, 2]), ("sums", [1, 2]), ("copies", [3]), ("sums", [3])]  # fmt: skip


def test_what_is_on_its_way_to_the_log_is_not_taken_twice(stand: Stand) -> None:
    put(stand, 0, THERE[:1])
    stand.land()
    assert len(stand.frames) == 1  # the routed one
    for _ in range(3):
        stand.pass_time(5)
        stand.turn()
    assert stand.partition(0).routes.undelivered is not None
    stand.land_all()
    stand.pass_time(5)
    stand.turn()
    assert kinds(stand, 1) == [ROUTED] and stand.value(THERE[0], map_name="sums") == 1
    assert stand.partition(0).routes.undelivered is None


def test_what_did_not_reach_the_log_is_said_again(stand: Stand) -> None:
    put(stand, 0, THERE[:1])
    stand.land()
    stand.fail(StorageFullError("full"))
    stand.land_all()
    assert kinds(stand, 1) == [] and stand.partition(0).routes.undelivered is not None
    stand.pass_time(5)
    stand.land_all()
    assert kinds(stand, 1) == [ROUTED] and stand.value(THERE[0], map_name="sums") == 1
    assert stand.partition(0).routes.undelivered is None


def test_deliveries_taken_from_the_midst_of_the_queue_leave_the_others_in_order(stand: Stand) -> None:
    partition = stand.partition(1)
    for number in range(6):
        put(stand, number, THERE[:1])
        stand.frames.sort(key=lambda append: append.slot.partition)  # the routed frame stays where it is
        stand.land()
    waiting = list(partition.deliveries)
    assert len(waiting) >= 4
    partition.deliveries = without(partition.deliveries, {waiting[0].source, waiting[2].source})
    assert list(partition.deliveries) == [waiting[1], *waiting[3:]]
    partition.deliveries = without(partition.deliveries, {SourceId(PartitionId(9), Position(9), 9)})
    assert list(partition.deliveries) == [waiting[1], *waiting[3:]]
