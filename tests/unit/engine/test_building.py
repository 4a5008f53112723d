"""Other generations of derived maps: complete beside the live ones, whatever happens meanwhile, and shown at one close."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tidegrid.grid.engine.building import RETRY_SECONDS, TRIES
from tidegrid.grid.engine.checkpoint import checkpoint_chunks
from tidegrid.grid.engine.effects import LoadBase, ReadOutputs
from tidegrid.grid.engine.table_chunks import table_chunks
from tidegrid.grid.log.record import DELETE, MERGE, decode_record, decode_section
from tidegrid.grid.model.errors import UnavailableError
from tidegrid.grid.model.ids import Epoch, PartitionId, Position
from tidegrid.grid.ring.ownership import PartitionState
from tidegrid.grid.store.version import Version
from tidegrid.v1.control_pb2 import ControlRecord, Drop, Generation, MapGeneration, Switch

from tests.unit.engine.stand import Stand, key, pack

SOURCE = """
from tidegrid.triggers import Delete, Merge, Put, table, trigger
table("raw", key=("k",))
table("copy", like="raw")

def add(state, operand):
    return (state or 0) + operand

table("sums", like="raw", fold=add)

@trigger(on="raw", emits=("copy", "sums"))
def follow(write, grid):
    if write.op == "delete":
        yield Delete("copy", write.key)
    else:
        yield Put("copy", write.key, write.value)
        yield Merge("sums", write.key, write.value)
"""
KEYS = ("a", "b", "c")
MAPS = ("copy", "sums")


ELSEWHERE = 1 << 30


class Regenerated(Stand):
    """A base says 1,000 for every key that had anything before `since`; of b, what the log of another partition led to."""

    def __init__(self) -> None:
        super().__init__(source=SOURCE)

    def declare_generation(self, *maps: str) -> Epoch:
        since = Epoch(self.node.control.closed + 1)
        for name in maps:
            rows: list[tuple[bytes, list[Version]]] = []
            for of in KEYS:
                held = [stamp for _, _, stamp in self.versions(name, of) if stamp[0] < since]
                if held:
                    epoch, position, time_ms = held[-1]
                    place = Position(position + ELSEWHERE * (of == "b"))
                    rows.append((key(of), [(pack(1_000), 1, (epoch, place, time_ms))]))
            self.bases["base", PartitionId(0), name] = list(table_chunks(name, rows))
        self.declare(ControlRecord(generation=Generation(maps=maps, since=since, base="base")))
        self.read_control()
        return since

    def switch(self, number: int, *maps: str) -> None:
        to = [MapGeneration(map=name, number=number) for name in maps]
        self.declare(ControlRecord(switch=Switch(to=to)))
        self.read_control()

    def drop(self, number: int, *maps: str) -> None:
        self.declare(ControlRecord(drop=Drop(of=[MapGeneration(map=name, number=number) for name in maps])))
        self.read_control()

    def versions(self, name: str, of: str, number: int = 1) -> list[Version]:
        table = self.partition().tables.generation(name, number)
        assert table is not None, f"generation {number} of {name!r} is not complete"
        return table.chain(key(of))

    def states(self, name: str, of: str, number: int) -> list[tuple[int, object]]:
        return [(stamp[0], None if value is None else msgpack.unpackb(value)) for value, _, stamp in self.versions(name, of, number)]  # fmt: skip

    def expected(self, name: str, of: str, since: Epoch) -> list[tuple[int, object]]:
        """From the log: 1,000 for what was before `since`, then what the records from there on say."""
        before: int | None = None
        found: list[tuple[int, object]] = []
        state: object = None
        for item in self.log_of():
            record = decode_record(item.payload)
            for map_name, payload in zip(record.maps, record.sections, strict=True):
                if map_name != name:
                    continue
                section = decode_section(payload)
                for op, mine, value in zip(section.ops, section.keys, section.values, strict=True):
                    if mine != key(of):
                        continue
                    if record.effective < since:
                        before, state = record.effective, 1_000
                        continue
                    given = None if op == DELETE else msgpack.unpackb(value)
                    state = (state or 0) + given if op == MERGE else given  # type: ignore[operator]
                    found.append((record.effective, state))
        return [*([(before, 1_000)] if before is not None else []), *found]


STEPS = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(KEYS), st.integers(1, 9)),
    st.tuples(st.just("delete"), st.sampled_from(KEYS), st.just(0)),
    st.tuples(st.sampled_from(("land", "close", "build", "build", "restart", "checkpoint")), st.just(""), st.just(0)),
)


@given(st.lists(STEPS, max_size=12), st.lists(STEPS, max_size=30), st.booleans())
@settings(max_examples=150)
def test_a_generation_is_its_base_and_then_the_log(
    before: list[tuple[str, str, int]], after: list[tuple[str, str, int]], little: bool
) -> None:
    stand = Regenerated()
    stand.outputs_max = 1 if little else 1 << 30
    for step in before:
        play(stand, *step)
    stand.land_all()
    stand.close()
    since = stand.declare_generation(*MAPS)
    for step in after:
        play(stand, *step)
    stand.land_all()
    stand.build_all()
    while stand.opening or stand.building:
        stand.open_all()
        stand.build_all()
    for name in MAPS:
        for of in KEYS:
            assert stand.states(name, of, 2) == stand.expected(name, of, since)
    for _, table in stand.partition().tables.every():
        table._check()


def play(stand: Regenerated, step: str, name: str, value: int) -> None:
    opened = stand.partition().state is PartitionState.OPEN
    if step == "put" and opened:
        stand.put({name: value}, map_name="raw")
    elif step == "delete" and opened:
        stand.put({name: None}, map_name="raw")
    elif step == "land" and stand.frames:
        stand.land()
    elif step == "close" and opened:
        stand.land_all()
        stand.close()
    elif step == "build" and stand.building:
        stand.build_one()
    elif step == "checkpoint" and opened:
        stand.checkpoints[PartitionId(0)] = (stand.partition().tail, list(checkpoint_chunks(stand.partition())))
    elif step == "restart":
        stand.land_all()
        stand.building.clear()
        stand.start()
        while stand.opening or stand.building:
            stand.open_all()
            stand.build_all()


@pytest.fixture
def stand() -> Regenerated:
    stand = Regenerated()
    for value in (1, 2):
        stand.put_now({"a": value, "b": value}, map_name="raw")
        stand.close()
    return stand


def seen(stand: Regenerated, of: str, as_of: int = 0, name: str = "sums") -> object:
    request = stand.get(of, map_name=name, as_of=as_of)
    assert request.error is None
    return msgpack.unpackb(request.values[0]) if request.values[0] else None


def test_readers_see_it_when_the_epoch_of_the_switch_is_closed_and_in_the_past_too(stand: Regenerated) -> None:
    past = stand.node.control.closed
    stand.declare_generation("sums")
    stand.build_all()
    stand.put_now({"a": 5}, map_name="raw")
    stand.switch(2, "sums")
    at = stand.node.control.generations.highest_activation
    stand.close(at - 1)
    assert seen(stand, "a") == 8 and seen(stand, "a", as_of=past) == 3
    stand.close(at)
    assert seen(stand, "a") == 1_005 and seen(stand, "a", as_of=past) == 1_000
    stand.put_now({"a": 1}, map_name="raw")
    assert seen(stand, "a") == 1_006
    stand.switch(1, "sums")
    stand.close(stand.node.control.generations.highest_activation)
    assert seen(stand, "a") == 9 and seen(stand, "a", as_of=past) == 3, "and back, with all that came meanwhile"


def test_a_frame_in_flight_is_in_it_once(stand: Regenerated) -> None:
    """It may be in the log already, and be read there, before the node is told that it has landed."""
    stand.declare_generation("sums")
    stand.build_one()
    stand.put({"a": 5}, map_name="raw")
    frame = stand.frames[0]
    (position,) = stand.log.append([frame.entry])
    stand.build_all()
    assert stand.states("sums", "a", 2)[-1][1] == 1_000
    stand.node.landed(stand.instant, frame.slot, position)
    assert stand.states("sums", "a", 2)[-1][1] == 1_005


def test_a_partition_opens_with_all_of_them(stand: Regenerated) -> None:
    stand.declare_generation("sums")
    stand.build_all()
    stand.switch(2, "sums")
    stand.close(stand.node.control.generations.highest_activation)
    stand.start()
    stand.open_all()
    assert stand.partition().state is PartitionState.OPENING and isinstance(stand.building[0], LoadBase)
    stand.build_all()
    stand.open_all()
    assert stand.partition().state is PartitionState.OPEN and seen(stand, "a") == 1_000


def test_a_checkpoint_has_it_and_the_base_is_not_needed_again(stand: Regenerated) -> None:
    stand.declare_generation("sums")
    stand.build_all()
    stand.switch(2, "sums")
    stand.put_now({"a": 5}, map_name="raw")
    stand.checkpoints[PartitionId(0)] = (stand.partition().tail, list(checkpoint_chunks(stand.partition())))
    stand.put_now({"a": 6}, map_name="raw")
    stand.close(stand.node.control.generations.highest_activation)
    stand.bases.clear()
    stand.restart()
    assert not stand.building and seen(stand, "a") == 1_011 and seen(stand, "b") == 1_000
    stand.drop(1, "sums")
    assert stand.partition().tables.generation("sums", 1) is None and seen(stand, "a") == 1_011
    stand.checkpoints[PartitionId(0)] = (stand.partition().tail, list(checkpoint_chunks(stand.partition())))
    stand.restart()
    stand.put_now({"a": 1}, map_name="raw")
    assert seen(stand, "a") == 1_012 and stand.partition().tables.generation("sums", 1) is None


def test_a_log_that_cannot_be_read_for_once_is_read_from_where_the_base_ends(stand: Regenerated) -> None:
    stand.outputs_max = 1
    stand.declare_generation("sums")
    for value in (10, 20, 30):
        stand.put_now({"a": value}, map_name="raw")
    for _ in range(3):
        stand.build_one()
    failed = stand.building.pop(0)
    assert isinstance(failed, ReadOutputs) and failed.after is not None
    stand.node.tenure.builds.failed(stand.instant.now, failed.build, UnavailableError("the disk is slow", address=""))
    stand.pass_time(RETRY_SECONDS)
    stand.build_all()
    assert [state for _, state in stand.states("sums", "a", 2)] == [1_000, 1_010, 1_030, 1_060]


def test_a_base_that_cannot_be_loaded_is_told_of_and_tried_again(stand: Regenerated) -> None:
    stand.declare_generation("sums")
    chunks = stand.bases.pop(("base", PartitionId(0), "sums"))
    stand.build_one()
    (problem,) = stand.node.tenure.builds.problems.values()
    assert isinstance(problem, UnavailableError) and not stand.building
    stand.bases["base", PartitionId(0), "sums"] = chunks
    stand.pass_time(2.0)
    stand.build_all()
    assert not stand.node.tenure.builds.problems and stand.states("sums", "b", 2)[-1][1] == 1_000


@pytest.mark.parametrize("when", ["loading", "reading"])
def test_one_that_is_dropped_meanwhile_is_let_go_of(stand: Regenerated, when: str) -> None:
    stand.declare_generation("sums")
    if when == "reading":
        stand.build_one()
    stand.drop(2, "sums")
    stand.build_all()
    assert not stand.node.tenure.builds.pending and stand.partition().tables.generation("sums", 2) is None


def test_maps_of_one_generation_cost_nothing(stand: Regenerated) -> None:
    stand.declare_generation("sums")
    stand.build_all()
    names = [name for name, _ in stand.partition().tables.every()]
    assert sorted(names) == sorted([*stand.partition().tables, "sums@2"])


def test_a_partition_opens_without_what_nobody_sees_and_cannot_be_built(stand: Regenerated) -> None:
    stand.declare_generation("sums")
    stand.build_all()
    chunks = stand.bases.pop(("base", PartitionId(0), "sums"))
    stand.start()
    stand.open_all()
    for _ in range(TRIES):
        assert stand.partition().state is PartitionState.OPENING
        stand.pass_time(RETRY_SECONDS)
        stand.build_one()
        stand.open_all()
    assert stand.partition().state is PartitionState.OPEN and seen(stand, "a") == 3
    assert stand.partition().tables.generation("sums", 2) is None and stand.node.tenure.builds.stuck() is None
    stand.put_now({"a": 5}, map_name="raw")
    stand.bases["base", PartitionId(0), "sums"] = chunks
    stand.pass_time(RETRY_SECONDS)
    stand.build_all()
    assert [state for _, state in stand.states("sums", "a", 2)] == [1_000, 1_005]


def test_a_partition_waits_for_what_readers_see_until_it_is_dropped_or_there(stand: Regenerated) -> None:
    stand.declare_generation("sums")
    stand.build_all()
    stand.switch(2, "sums")
    stand.close(stand.node.control.generations.highest_activation)
    chunks = stand.bases.pop(("base", PartitionId(0), "sums"))
    stand.start()
    stand.open_all()
    for _ in range(TRIES):
        assert stand.node.tenure.builds.stuck() is None
        stand.build_one()
        stand.open_all()
        stand.pass_time(RETRY_SECONDS)
        assert stand.partition().state is PartitionState.OPENING
    assert isinstance(stand.node.tenure.builds.stuck(), UnavailableError)
    stand.bases["base", PartitionId(0), "sums"] = chunks
    stand.build_all()
    stand.open_all()
    assert stand.partition().state is PartitionState.OPEN and seen(stand, "a") == 1_000


def test_what_is_dropped_while_a_partition_waits_for_it_is_waited_for_no_longer(stand: Regenerated) -> None:
    stand.declare_generation("sums")
    stand.build_all()
    stand.start()
    stand.open_all()
    assert stand.partition().state is PartitionState.OPENING and stand.building
    stand.drop(2, "sums")
    stand.open_all()
    assert stand.partition().state is PartitionState.OPEN and not stand.node.tenure.builds.pending
