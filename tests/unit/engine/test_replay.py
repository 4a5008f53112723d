"""Replays with other code than that of the time: what comes out is what a person would say that it makes of those writes."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from tidegrid.grid.engine.catalog import Catalog
from tidegrid.grid.engine.generation import difference
from tidegrid.grid.engine.parking import ParkedId
from tidegrid.grid.engine.redrive import RedriveRequest
from tidegrid.grid.log.record import DATA, ROUTED, decode_record
from tidegrid.grid.model.ids import Epoch, Position
from tidegrid.grid.model.partitioner import partition_of
from tidegrid.triggers.loader import load_modules
from tidegrid.triggers.runtime import TriggerRuntime

from tests.unit.engine.regenerated import Regenerated
from tests.unit.engine.stand import Stand, client_session, key, pack

BASE = """
from tidegrid.triggers import *

def add(state, operand):
    return (state or []) + [operand]

table("raw", key=("n:int",))
table("other", key=("n:int",))
table("out", key=("n:int",))
table("far", key=("n:int",))
table("lists", key=("n:int",), fold=add)
reference("r", key=("n:int",))
"""
OLD = (
    BASE
    + """
@trigger(on="raw", emits=("out", "far", "lists"), on_error="park")
def make(write, grid):
    if write.op == "delete":
        yield Delete("out", write.key)
        return
    yield Put("out", write.key, {"is": 100 // write.value})
    yield Put("far", THERE, write.value)
    yield Merge("lists", THERE, write.value)
"""
)
HERE = [number for number in range(200) if partition_of(key(number), 2) == 0]
THERE = next(number for number in range(200) if partition_of(key(number), 2) == 1)


def code(text: str) -> str:
    return text.replace("THERE", str(THERE))


def with_code(stand: Stand, text: str) -> Catalog:
    """As if that had been deployed on top, and were in force."""
    specs = {name: entry.spec for name, entry in stand.node.catalog.maps.items()}
    loaded = load_modules([("module", code(text))], specs)
    specs |= {spec.name: spec for spec in loaded.maps}
    runtime = TriggerRuntime(loaded, specs, stand.control.partitions, stand.limits)
    return Catalog(Epoch(0), specs, runtime, stand.control.partitions)


def replayed(stand: Stand, text: str) -> Regenerated:
    return Regenerated(stand.log_of, stand.node.control, with_code(stand, text), stand.limits, stand.node.epoch + 1)


def rows(again: Regenerated, name: str, partition: int = 0) -> dict[int, Any]:
    table = again.table(name, partition, 1 << 40)
    return {
        number: msgpack.unpackb(latest[0])
        for number in (*HERE, THERE)
        if (latest := table.latest(key(number))) is not None and latest[0] is not None
    }


@pytest.fixture
def stand() -> Stand:
    return Stand(maps=(), source=code(OLD), partitions=2)


def put(stand: Stand, at: int, value: Any, map_name: str = "raw") -> None:
    stand.put_now([(HERE[at], value)], map_name=map_name)


def redrive(stand: Stand) -> None:
    (write,), _ = stand.partition().parking.page("", ParkedId(Position(0), 0), 9)
    stand.submit(RedriveRequest(stand.partition().id, (write.id,), False, False, "to the test"))
    stand.land_all()


def test_new_columns_over_old_writes(stand: Stand) -> None:
    for at, value in enumerate((5, 20, 50)):
        put(stand, at, value)
    put(stand, 1, None)
    put(stand, 2, 25)
    again = replayed(
        stand, OLD.replace('{"is": 100 // write.value}', '{"is": 100 // write.value, "was": write.previous}')
    )
    assert rows(again, "out") == {HERE[0]: {"is": 20, "was": None}, HERE[2]: {"is": 4, "was": 50}}
    assert rows(again, "far", 1) == {THERE: 25} and rows(again, "lists", 1) == {THERE: [5, 20, 50, 25]}
    assert (again.tally.writes, again.tally.rejected, again.passes) == (5, 0, 1)
    found = difference(stand.partition().tables["out"], again.table("out", 0, 1 << 40), stand.node.epoch)
    assert (found.before, found.after, found.added, found.removed, found.changed) == (2, 2, 0, 0, 2)
    assert dict(found.columns) == {"was": 2}
    assert found.examples[0][1:] == ("{}", "{'was': None}")


def test_what_is_read_is_what_was_there_just_before(stand: Stand) -> None:
    put(stand, 0, 1)
    put(stand, 0, "a", "other")
    put(stand, 0, 2)
    put(stand, 0, "b", "other")
    text = BASE + (
        '@trigger(on="raw", emits="out")\ndef make(write, grid):\n'
        '    seen = (grid.get("out", write.key) if 0 else None, grid.get("other", write.key), write.previous, write.version)\n'
        '    yield Put("out", write.key, [*seen, write.epoch, write.time_ms])\n'
    )
    stand.now += 5
    again = replayed(stand, text)
    chain = [msgpack.unpackb(value) for value, _, _ in again.table("out", 0, 1 << 40).chain(key(HERE[0])) if value]
    stamps = [stamp for _, _, stamp in stand.partition().tables["raw"].chain(key(HERE[0]))]
    assert chain == [
        [None, None, None, 1, stamps[0][0], stamps[0][2]],
        [None, "a", 1, 2, stamps[1][0], stamps[1][2]],
    ]


def test_references_are_those_of_the_record(stand: Stand) -> None:
    put(stand, 0, "one", "r")
    stand.close()
    stand.node.ring.carry(stand.now, stand.node.control.position, Epoch(stand.node.epoch + 1))
    put(stand, 1, 4)
    put(stand, 0, "two", "r")  # not closed yet, so the next write does not see it
    put(stand, 2, 5)
    stand.close()
    stand.node.ring.carry(stand.now, stand.node.control.position, Epoch(stand.node.epoch + 1))
    put(stand, 3, 5)
    text = BASE + (
        '@trigger(on="raw", emits="out")\ndef make(write, grid):\n'
        f'    yield Put("out", write.key, grid.get("r", {HERE[0]}))\n'
    )
    again = replayed(stand, text)
    assert rows(again, "out") == {HERE[1]: "one", HERE[2]: "one", HERE[3]: "two"}


def test_what_todays_code_refuses_has_no_outputs(stand: Stand) -> None:
    for at, value in enumerate((5, 7, 10)):
        put(stand, at, value)
    refusing = OLD.replace('    yield Put("out"', '    if write.value == 5:\n        raise Reject("five")\n    {}[write.value % 7 or "x"] if write.value == 7 else 0\n    yield Put("out"')  # fmt: skip
    again = replayed(stand, refusing)
    assert rows(again, "out") == {HERE[2]: {"is": 10}} and rows(again, "lists", 1) == {THERE: [10]}
    assert (again.tally.writes, again.tally.rejected, again.tally.failed) == (3, 1, 1)
    assert [(one.failed, "five" in one.message) for one in again.tally.samples] == [(False, True), (True, False)]


def test_a_write_of_another_schema_is_counted(stand: Stand) -> None:
    put(stand, 0, 5)
    again = replayed(stand, OLD.replace('on="raw", ', 'on="raw", schema=3, '))
    assert rows(again, "out") == {} and again.tally.failed == 1 and "schema" in again.tally.samples[0].message


def test_what_was_parked_stays_so_though_the_code_is_mended(stand: Stand) -> None:
    put(stand, 0, 5)
    put(stand, 1, 0)
    again = replayed(stand, OLD.replace("100 // write.value", "write.value"))
    assert rows(again, "out") == {HERE[0]: {"is": 5}} and (again.tally.writes, again.tally.parked) == (2, 1)


def test_what_was_redriven_is_run_at_its_redrive() -> None:
    weekday = "import builtins\n"  # a switch outside of the grid, so that a redrive succeeds with the same code
    text = weekday + OLD.replace("100 // write.value", "100 // (write.value or builtins.mended)")
    import builtins

    builtins.mended = 0  # type: ignore[attr-defined]
    try:
        stand = Stand(maps=(), source=code(text), partitions=2)
        put(stand, 0, 0)
        put(stand, 1, 20)
        builtins.mended = 50  # type: ignore[attr-defined]
        stand.now += 7
        redrive(stand)
        assert not len(stand.partition().parking)
        seen = OLD.replace(
            '{"is": 100 // write.value}', "[write.value, write.previous, write.version, write.time_ms, write.epoch]"
        )
        again = replayed(stand, seen)
        made = rows(again, "out")
        assert made[HERE[0]][:4] == [0, None, 1, 1_000_000] and made[HERE[1]][0] == 20
        chain = again.table("out", 0, 1 << 40).chain(key(HERE[0]))
        assert [stamp for _, _, stamp in chain] == [
            s for _, _, s in stand.partition().tables["out"].chain(key(HERE[0]))
        ]
        assert rows(again, "lists", 1) == {THERE: [20, 0]} and (again.tally.writes, again.tally.redriven) == (3, 1)
    finally:
        del builtins.mended  # type: ignore[attr-defined]


def test_redriven_writes_with_outputs_elsewhere_have_a_record_each(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    monkeypatch.setattr(builtins, "mended", 0, raising=False)
    text = (
        "import builtins\n"
        + BASE
        + """
@trigger(on="raw", emits="far", on_error="park")
def make(write):
    100 // builtins.mended
    yield Put("far", THERE, write.value)

@trigger(on="far", emits="lists", on_error="park")
def go_on(write):
    100 // write.value
    yield Merge("lists", THERE, write.value)
"""
    )
    stand = Stand(maps=(), source=code(text), partitions=2)
    for at, value in enumerate((0, 20, 0, 50)):
        put(stand, at, value)
    monkeypatch.setattr(builtins, "mended", 1)
    parked, _ = stand.partition().parking.page("", ParkedId(Position(0), 0), 9)
    stand.submit(RedriveRequest(stand.partition().id, tuple(one.id for one in parked), False, False, "to the test"))
    stand.land_all()
    stand.node.ring.carry(stand.now, stand.node.control.position, Epoch(stand.node.epoch + 1))
    stand.turn()  # chains run at the end of the epoch
    stand.land_all()
    assert not len(stand.partition().parking) and len(stand.partition(1).parking) == 2
    records = [decode_record(item.payload) for item in stand.log_of(0)]
    assert [len(one.redriven) for one in records if one.redriven] == [1] * 4
    again = replayed(stand, text)
    assert rows(again, "lists", 1) == {THERE: [20, 50]} and again.tally.parked == 6


def test_a_redrive_sees_the_value_that_was_before_its_write(stand: Stand) -> None:
    for value in (5, 0, 50):
        put(stand, 0, value)
    (parked,), _ = stand.partition().parking.page("", ParkedId(Position(0), 0), 9)
    stand.deploy(code(OLD.replace("100 // write.value", "write.value")))
    stand.read_control()
    acts_at = stand.node.control.highest_activation
    stand.close(acts_at - 1)
    stand.node.ring.carry(stand.now, stand.node.control.position, acts_at)
    stand.submit(RedriveRequest(stand.partition().id, (parked.id,), True, False, "to the test"))
    stand.land_all()
    assert not len(stand.partition().parking)
    again = replayed(stand, OLD.replace('{"is": 100 // write.value}', "[write.value, write.previous]"))
    assert rows(again, "out") == {HERE[0]: [0, 5]}


def test_routed_rows_set_off_what_todays_code_says(stand: Stand) -> None:
    """Nothing was delivered to `far` of the new kind at the time, so it lies where its source does."""
    put(stand, 0, 5)
    stand.put_now([(THERE, "there")], map_name="other", partition=1, session=client_session(7))
    put(stand, 1, 10)
    chain = (
        OLD
        + """
@trigger(on="far", emits=("lists", "out"))
def go_on(write, grid):
    yield Merge("lists", HERE, [write.value, grid.get("other", THERE)])
    yield Put("out", THERE, write.version)
""".replace("HERE)", "HERE)").replace("HERE", str(HERE[9]), 1)
    )
    again = replayed(stand, chain.replace(f"T{HERE[9]}", "THERE"))
    assert again.passes == 2 and again.tally.writes == 4
    assert rows(again, "out", 1) == {THERE: 0}
    # One epoch, so what is delivered at its end has seen what was written in the meantime.
    assert rows(again, "lists", 0) == {HERE[9]: [[5, "there"], [10, "there"]]}


def test_new_routed_outputs_overtake_nothing_of_their_epoch(stand: Stand) -> None:
    """The first write was delivered there at the time, so it lies at its delivery; the second, of a record that came before
    that delivery, was not."""
    stand.put([(HERE[0], 5)], map_name="raw")
    stand.land()
    stand.put([(HERE[0], None)], map_name="raw")
    stand.frames.reverse()  # its delivery lands last
    stand.land_all()
    kinds = [(item.position, decode_record(item.payload).kind) for number in (0, 1) for item in stand.log_of(number)]
    (second, delivered) = sorted(position for position, kind in kinds if kind in (DATA, ROUTED))[-2:]
    assert (second, ROUTED) not in kinds and (delivered, ROUTED) in kinds
    text = BASE + (
        '@trigger(on="raw", emits="far")\ndef make(write):\n    yield Put("far", THERE, [write.version, write.value])\n'
    )
    again = replayed(stand, text)
    assert rows(again, "far", 1) == {THERE: [2, None]}


def test_only_what_leads_to_a_wanted_map_is_run(stand: Stand) -> None:
    put(stand, 0, 5)
    catalog = with_code(stand, OLD + '\n@trigger(on="other", emits="out")\ndef more(write):\n    yield Put("out", write.key, 1)\n')  # fmt: skip
    put(stand, 1, 5, "other")
    wanted = Regenerated(stand.log_of, stand.node.control, catalog, stand.limits, stand.node.epoch + 1, ["far"])
    assert wanted.tally.writes == 1 and wanted.code.programs.keys() == {"raw"}
    assert not any(one.map == "out" for streams in wanted.rows.values() for rows_ in streams for one in rows_)


def test_what_is_too_heavy_for_a_record_is_refused(stand: Stand) -> None:
    put(stand, 0, 5)
    heavy = OLD.replace('yield Put("out", write.key, {"is": 100 // write.value})', 'yield from (Put("out", (i,), "x" * 300000) for i in (HERE0, HERE1, HERE2, HERE3))')  # fmt: skip
    for at in range(4):
        heavy = heavy.replace(f"HERE{at}", str(HERE[at]))
    again = replayed(stand, heavy)
    assert rows(again, "out") == {} and again.tally.failed == 1 and "weigh" in again.tally.samples[0].message


def test_a_value_that_does_not_change_is_no_difference(stand: Stand) -> None:
    one, other = stand.partition().tables["out"], stand.node.partitions[stand.partition().id].tables["far"]
    one.insert(key(1), msgpack.packb({"a": 1, "b": 2}), 1, (Epoch(1), Position(1), 0))
    other.insert(key(1), msgpack.packb({"b": 2, "a": 1}), 1, (Epoch(1), Position(1), 0))
    other.insert(key(2), pack("new"), 1, (Epoch(2), Position(2), 0))
    assert difference(one, other, Epoch(1)).same
    found = difference(one, other, Epoch(2))
    assert (found.added, found.removed, found.changed) == (1, 0, 0) and found.examples[0].after == "'new'"
