"""Recent writes through two codes: what is sampled, what state they see, what counts as a difference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.engine.recent import LandedFrame
from tidegrid.grid.engine.rehearsal import EXAMPLES_MAX, Rehearsal, Sample, rehearse
from tidegrid.grid.log.record import DELETE, PUT, encode_section
from tidegrid.grid.model.ids import Epoch, PartitionId, Position
from tidegrid.grid.model.keys import encode_key
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.values import encode_value
from tidegrid.grid.ring.ownership import PartitionState
from tidegrid.grid.store.table import Table
from tidegrid.triggers.loader import load_modules
from tidegrid.triggers.runtime import TriggerRuntime
from tidegrid.v1.grid_pb2 import SampleDifference

HEAD = (
    "from tidegrid.triggers import *\ntable('raw', key=('k',))\ntable('typed', like='raw')\nstream('late')\n"
    "reference('r', key=('k',))\n"
)


def code(body: str, emits: str = "('typed', 'late')", schema: int | None = None) -> TriggerRuntime:
    source = f"{HEAD}@trigger(on='raw', emits={emits}, schema={schema})\ndef f(write, grid):\n    {body}\n"
    deployment = load_modules([("m", source)])
    return TriggerRuntime(deployment, {spec.name: spec for spec in deployment.maps}, 1, Limits())


class NoReferences:
    through = changed = Epoch(0)

    def get(self, map_name: str, key: bytes, as_of: Epoch) -> bytes | None:
        return encode_value({"told": map_name}, Limits())


class Shelf:
    """A partition with what was written to `raw`."""

    def __init__(self, number: int = 0) -> None:
        self.partition = Partition(PartitionId(number), Limits(), 1000, 1 << 20)
        self.partition.state = PartitionState.OPEN
        self._position = 0

    def write(
        self, epoch: int, *rows: tuple[str, Any], schema: int = 0, name: str = "raw", in_frames: bool = True
    ) -> None:
        self._position += 1
        stamp = (Epoch(epoch), Position(self._position), epoch * 1000)
        table = self.partition.tables.setdefault(name, Table())
        columns: list[tuple[bytes, bytes, int, int]] = []
        for text, value in rows:
            key = encode_key(text)
            version = table.latest_version(key) + 1
            data = None if value is None else encode_value(value, Limits())
            table.insert(key, data, version, stamp)
            columns.append((key, data or b"", DELETE if data is None else PUT, version))
        if in_frames:
            keys, values, ops, versions = zip(*columns, strict=True)
            section = encode_section(name, keys, values, bytes(ops), versions, schema=schema)
            self.partition.recent.add(
                LandedFrame(*stamp[:1], self.partition.id, stamp[1], stamp[2], (name,), (section,))
            )


def sampled(*shelves: Shelf, count: int = 100) -> list[tuple[bytes, int]]:
    sample = Sample([shelf.partition for shelf in shelves], "raw", count)
    list(sample.take())
    return [(write.key, write.version) for write in sample.writes]


def difference(
    shelf: Shelf, active: TriggerRuntime | None, coming: TriggerRuntime | None, schema: int = 0
) -> SampleDifference | None:
    made = Rehearsal("raw", schema, active, coming, NoReferences(), 7)
    *_, last = rehearse([shelf.partition], made, "raw", 100)
    return last


def outputs(found: SampleDifference | None) -> Mapping[str, Any]:
    assert found is not None
    return {change.map: change for change in found.outputs}


# The sample -----------------------------------------------------------------------------------------------------------


def test_the_newest_of_all_partitions_oldest_first() -> None:
    one, other = Shelf(0), Shelf(1)
    one.write(1, ("a", 1))
    other.write(2, ("b", 1), ("c", 1))
    one.write(3, ("a", 2))
    one.write(4, ("x", 1), name="elsewhere")
    assert sampled(one, other) == [
        (encode_key("a"), 1), (encode_key("b"), 1), (encode_key("c"), 1), (encode_key("a"), 2),
    ]  # fmt: skip
    assert sampled(one, other, count=2) == [(encode_key("c"), 1), (encode_key("a"), 2)]


def test_what_frames_no_longer_hold_is_in_the_table() -> None:
    shelf = Shelf()
    shelf.write(1, *[(f"k{number}", number) for number in range(10)], in_frames=False)
    shelf.write(2, ("k3", 33), in_frames=False)
    shelf.write(3, ("k4", 44), ("k5", 55))
    newest = [(encode_key("k3"), 2), (encode_key("k4"), 2), (encode_key("k5"), 2)]
    assert sampled(shelf, count=3) == newest
    assert sampled(shelf)[-3:] == newest and len(sampled(shelf)) == 10


def test_a_partition_that_is_not_open_is_left_out() -> None:
    shelf = Shelf()
    shelf.write(1, ("a", 1))
    shelf.partition.state = PartitionState.OPENING
    assert sampled(shelf) == []
    assert difference(shelf, None, code("yield Put('typed', write.key, 1)")) is None


# What differs ---------------------------------------------------------------------------------------------------------


def test_the_same_code_makes_no_difference() -> None:
    shelf = Shelf()
    shelf.write(1, ("a", {"n": 1, "m": 2}), ("b", {"n": 2}))
    shelf.write(2, ("a", None))
    same = "yield Put('typed', write.key, write.value)"
    found = difference(shelf, code(same), code(same + "  # said otherwise"))
    assert found is not None and (found.writes, found.same) == (3, 3) and not found.examples
    turned = "yield Put('typed', write.key, write.value and dict(reversed(write.value.items())))"
    found = difference(shelf, code(same), code(turned))
    assert found is not None and found.same == 3, "the order of a dict is no difference"


def test_columns_that_change_and_examples() -> None:
    shelf = Shelf()
    shelf.write(1, *[(f"k{number}", {"n": number, "same": "x"}) for number in range(5)])
    coming = code("yield Put('typed', write.key, {**write.value, 'n': float(write.value['n']), 'more': 1})")
    found = difference(shelf, code("yield Put('typed', write.key, write.value)"), coming)
    change = outputs(found)["typed"]
    assert (change.before, change.after, change.changed, change.added, change.removed) == (5, 5, 5, 0, 0)
    assert dict(change.columns) == {"n": 5, "more": 5}, "1 and 1.0 differ"
    assert found is not None and len(found.examples) == EXAMPLES_MAX
    first = found.examples[0]
    assert (first.map, first.key, first.before, first.after) == (
        "typed",
        "('k0',)",
        "{'n': 0}",
        "{'n': 0.0, 'more': 1}",
    )


def test_outputs_that_come_and_go() -> None:
    shelf = Shelf()
    shelf.write(1, ("a", 1), ("b", 2))
    active = code("yield Put('typed', write.key, 1)\n    yield Event('late', write.key, 1)")
    coming = code("if write.value == 1: yield Put('typed', write.key, 1)\n    yield Put('typed', 'z', 1)")
    found = outputs(difference(shelf, active, coming))
    assert (found["typed"].before, found["typed"].after, found["typed"].added, found["typed"].removed) == (2, 3, 2, 1)
    assert (found["late"].before, found["late"].after, found["late"].removed) == (2, 0, 2)
    assert outputs(difference(shelf, None, active))["late"].added == 2
    assert outputs(difference(shelf, active, None))["late"].removed == 2


def test_rejections_old_and_new() -> None:
    shelf = Shelf()
    shelf.write(1, ("a", 1), ("b", 2), ("c", 3))
    active = code("if write.value == 1: raise Reject('one')\n    if write.value == 2: raise Reject('two')")
    coming = code("if write.value == 1: raise Reject('one')\n    if write.value == 3: 1 / 0")
    found = difference(shelf, active, coming)
    assert found is not None and (found.writes, found.rejected_before, found.rejected_after, found.same) == (3, 2, 2, 1)
    told = [(example.map, example.before, example.after) for example in found.examples]
    assert told == [
        ("", "rejected: two", "0 outputs"),
        ("", "0 outputs", "failed, f, line 9: ZeroDivisionError: division by zero"),
    ]
    assert (found.failed_before, found.failed_after) == (0, 1)
    failing = difference(shelf, coming, coming)
    assert failing is not None and (failing.same, failing.failed_before, failing.failed_after) == (3, 1, 1)
    (one,) = failing.examples
    assert one.before == one.after == told[1][2], "why it fails is told, though it did before"


def test_writes_of_a_schema_that_nothing_handles() -> None:
    shelf = Shelf()
    shelf.write(1, ("a", 1), schema=1)
    shelf.write(2, ("b", 1), schema=2)
    shelf.write(3, ("old", 1), in_frames=False)  # of the map's own, as far as anybody knows
    found = difference(shelf, None, code("yield Put('typed', write.key, 1)", schema=2), schema=2)
    assert found is not None and found.unhandled == 1
    assert outputs(found)["typed"].after == 2


# The state they see ---------------------------------------------------------------------------------------------------


def test_state_is_that_of_just_before_the_write() -> None:
    shelf = Shelf()
    shelf.write(1, ("a", 10))
    shelf.write(2, ("a", 20), ("a", 21))
    shelf.write(3, ("b", 1))
    shelf.write(4, ("a", 30))
    look = "yield Put('typed', write.key, [write.previous, grid.get('raw', 'a'), grid.get('raw', 'b'), write.epoch, grid.time_ms])"
    found = difference(shelf, None, code(look))
    assert found is not None
    assert [example.after for example in found.examples[:3]] == [
        "[None, 10, None, 1, 1000]",
        "[10, 20, None, 2, 2000]",
        "[20, 21, None, 2, 2000]",
    ]


def test_reference_maps_are_there_and_nothing_is_stored() -> None:
    shelf = Shelf()
    shelf.write(1, ("a", 1))
    found = difference(shelf, None, code("yield Put('typed', write.key, grid.get('r', 'x')['told'])"))
    assert found is not None and found.examples[0].after == "'r'"
    assert set(shelf.partition.tables) == {"raw"} and shelf.partition.tables["raw"].version_count == 1


@pytest.mark.parametrize("body", ["raise KeyError('x')", "yield 3", "yield Put('nowhere', 1, 1)"])
def test_code_that_fails_is_a_rejection(body: str) -> None:
    shelf = Shelf()
    shelf.write(1, ("a", 1))
    found = difference(shelf, None, code(body))
    assert found is not None and found.rejected_after == 1
