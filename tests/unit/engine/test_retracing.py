"""Which trigger made an output: the code run again on the logged row, over the state of then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from tidegrid.grid.engine.delivery import origin_of
from tidegrid.grid.engine.lineage import Place, Walk
from tidegrid.grid.engine.retracing import retrace
from tidegrid.grid.log.record import PUT, SourceId, encode_routed, encode_section
from tidegrid.grid.model.ids import Epoch, PartitionId, Position, Term
from tidegrid.grid.store.table import Table
from tidegrid.triggers.loader import load_modules
from tidegrid.triggers.runtime import FrameContext
from tidegrid.triggers.seeded import named_by_key
from tidegrid.triggers.tracing import Tracing
from tidegrid.v1.grid_pb2 import LineageStep

from tests.unit.engine.stand import GRID_ID, NOWHERE, Stand, key, named_session, pack

HEAD = "from tidegrid.triggers import *\ntable('out', key=('k',))\nstream('log')\n"
SEED = int.from_bytes(GRID_ID[:8], "big")
ZERO = PartitionId(0)


def stand_with(*bodies: str, tail: str = "") -> Stand:
    """A trigger t0, t1, ... on table t for each body."""
    source = HEAD
    for number, body in enumerate(bodies):
        source += f"@trigger(on='t', emits=('out', 'log'))\ndef t{number}(write, grid):\n    {body}\n"
    return Stand(source=source + tail)


def tracing_of(stand: Stand) -> Tracing:
    control = stand.node.control
    deployed = control.deployments[-1]
    loaded = load_modules(deployed.modules, control.declared)
    return Tracing(loaded, dict(control.declared), control.partitions, stand.limits)


def last_step(stand: Stand, of: Any = "a", name: str = "out", version: int | None = None) -> tuple[LineageStep, Walk]:
    """The step to the newest version of a key."""
    position = stand.log.tail(0)  # type: ignore[arg-type]
    if name in stand.partition().tables:
        latest = stand.partition().tables[name].latest(key(of))
        assert latest is not None
        version, position = version or latest[1], latest[2][1]
    walk = Walk(Place(ZERO, position), name, key(of), version or 1)
    while walk.wanted is not None:
        wanted = walk.wanted
        walk.give(next(r.payload for r in stand.log_of(0) if r.position == wanted.position))
    (step,) = walk.lineage.steps
    return step, walk


def told(
    stand: Stand, of: Any = "a", name: str = "out", *, tables: Mapping[str, Table] | bool | None = True,
    tracing: Tracing | None = None, version: int | None = None,
) -> LineageStep:  # fmt: skip
    step, walk = last_step(stand, of, name, version)
    held = stand.partition().tables if tables is True else None
    retrace(step, next(iter(walk.views.values())), tracing or tracing_of(stand), held, stand.node.copies, SEED)
    return step


def names(step: LineageStep) -> list[str]:
    assert bool(step.triggers) != bool(step.untold), step
    return [run.name for run in step.triggers]


def test_of_several_triggers_the_one_that_put_it_out() -> None:
    stand = stand_with(
        "yield Put('out', 'b', write.value)",
        "yield Put('out', write.key, write.value + 1)",
        "yield Event('log', 'a', 1)",
    )
    stand.put_now({"a": 1})
    step = told(stand)
    assert names(step) == ["t1"] and not step.candidates
    (run,) = step.triggers
    assert (run.module, run.line, run.yielded_line) == ("module", 7, 9)
    assert (run.output.map, run.output.key, run.output.value) == ("out", key("a"), pack(2))
    assert names(told(stand, "b")) == ["t0"] and names(told(stand, "a", "log")) == ["t2"]


def test_equal_outputs_are_told_apart_by_their_order() -> None:
    stand = stand_with("yield Put('out', write.key, 1)", "yield Put('out', write.key, 1)")
    stand.put_now({"a": 1})
    assert [names(told(stand, version=version)) for version in (1, 2)] == [["t0"], ["t1"]]


def test_a_chain_within_the_record() -> None:
    tail = "table('end', key=('k',))\n@trigger(on='out', emits='end')\ndef on(write):\n    yield Put('end', write.key, 1)\n"
    stand = stand_with("yield Put('out', write.key, write.value)", tail=tail)
    stand.put_now({"a": 5})
    step = told(stand, name="end")
    assert names(step) == ["t0", "on"]
    assert [run.output.map for run in step.triggers] == ["out", "end"]


def test_the_value_before_is_that_of_then() -> None:
    stand = stand_with("yield Put('out', write.key, [write.previous, grid.get('t', 'b')])")
    stand.put_now([("b", 10)])
    stand.put_now([("a", 1), ("b", 11), ("a", 2), ("b", 12), ("a", 3)])
    stand.put_now([("b", 13), ("t", 1)])
    for version, value in ((3, [2, 12]), (2, [1, 11]), (1, [None, 10])):
        step = told(stand, version=version)
        assert names(step) == ["t0"] and step.made.value == pack(value)


def test_rows_of_other_sections_may_have_come_first() -> None:
    stand = stand_with("yield Put('out', write.key, grid.get('r2', write.key))", tail="table('r2', key=('k',))\n")
    for first, second in (("r2", "t"), ("t", "r2")):
        for name in (first, second):
            stand.node.submit(stand.instant, stand.batch({"a": first}, map_name=name), NOWHERE, 10.0)
        stand.land_all()
        step, walk = last_step(stand)
        assert {"t", "r2"} <= {section.map for section in walk.views[Place(ZERO, Position(step.position))].sections}
        assert names(told(stand)) == ["t0"]


def test_chance_comes_out_as_it_did() -> None:
    stand = stand_with("yield Put('out', write.key, grid.random.random())")
    stand.put_now([("a", 1), ("a", 2), ("b", 1)])
    assert all(names(told(stand, version=version)) == ["t0"] for version in (1, 2))
    drawn = told(stand, version=1).made.value, told(stand, version=2).made.value
    assert drawn[0] != drawn[1]


def test_reference_maps_are_read_as_of_the_frame() -> None:
    stand = stand_with("yield Put('out', write.key, grid.get('r', 'x'))")

    def look(value: int) -> None:
        stand.put_now({"x": value}, map_name="r")
        stand.close()
        fetch_references(stand)

    look(1)
    stand.put_now({"a": 1})
    before = told(stand)
    look(2)
    assert names(before) == ["t0"] and before.made.value == pack(1)
    again = told(stand)
    assert names(again) == ["t0"] and again.made.value == pack(1)


def fetch_references(stand: Stand) -> None:
    """The node's questions to itself, answered."""
    for _ in range(4):
        letters, stand.told = stand.told, []
        for letter in letters:
            stand.node.message(stand.instant, letter.envelope)
            stand.collect()


def test_state_that_is_past_memory_is_no_guess() -> None:
    stand = stand_with("yield Put('out', write.key, [write.previous])", "yield Put('out', 'plain', write.value)")
    for value in range(4):
        stand.put_now({"a": value}, session=named_session())
        stand.close()
    step, walk = old_step(stand, version=2)
    stand.horizon(stand.node.control.closed)
    while stand.node.reclaim(100):
        pass
    retrace(step, next(iter(walk.views.values())), tracing_of(stand), stand.partition().tables, stand.node.copies, SEED)
    assert not step.triggers and "past the history" in step.untold and not step.elsewhere
    assert [run.name for run in step.candidates] == ["t0", "t1"]
    stand.put_now({"a": 5})
    assert names(told(stand)) == ["t0"], "what is above the horizon is told"


def old_step(stand: Stand, version: int) -> tuple[LineageStep, Walk]:
    chain = stand.partition().tables["out"].chain(key("a"))
    position = next(stamp[1] for _, number, stamp in chain if number == version)
    walk = Walk(Place(ZERO, position), "out", key("a"), version)
    walk.give(next(r.payload for r in stand.log_of(0) if r.position == position))
    return walk.lineage.steps[0], walk


def test_tables_of_another_node_are_left_to_it() -> None:
    stand = stand_with("yield Put('out', write.key, [write.previous])")
    stand.put_now({"a": 1})
    step = told(stand, tables=None)
    assert step.elsewhere and not step.triggers and "owner of that partition" in step.untold
    plain = stand_with("yield Put('out', write.key, 1)")
    plain.put_now({"a": 1})
    assert names(told(plain, tables=None)) == ["t0"]


def test_code_that_puts_out_something_else_is_not_believed() -> None:
    stand = stand_with("yield Put('out', write.key, 1)")
    stand.put_now({"a": 1})
    for body, says in (
        ("yield Put('out', write.key, 2)", "something else"),
        ("yield Put('out', 'b', 1)", "something else"),
        ("raise Reject('no')", "refused: trigger 't0' rejected"),
    ):
        step = told(stand, tracing=tracing_of(stand_with(body)))
        assert not step.triggers and says in step.untold and [run.name for run in step.candidates] == ["t0"]
    step = told(stand, tracing=tracing_of(Stand(source=HEAD)))
    assert "has no trigger on 't'" in step.untold


def test_an_output_told_before_is_told_anew() -> None:
    stand = stand_with("yield Put('out', write.key, [write.previous])")
    stand.put_now({"a": 1})
    step, walk = last_step(stand)
    view = next(iter(walk.views.values()))
    for tables in (None, stand.partition().tables):
        retrace(step, view, tracing_of(stand), tables, stand.node.copies, SEED)
    assert names(step) == ["t0"] and not step.elsewhere and not step.candidates


def test_a_trigger_that_cannot_look_up_does_not_stand_in_the_way_of_others() -> None:
    look = "yield Event('log', write.key, write.previous)"
    for bodies, maker in (
        (("yield Put('out', write.key, 1)", look), "t0"),
        (("yield Put('out', write.key, 1)\n    write.previous",), "t0"),
    ):
        stand = stand_with(*bodies)
        stand.put_now({"a": 1})
        assert names(told(stand, tables=None)) == [maker]
    first, second = (
        "if write.previous is None:\n        yield Put('out', write.key, 1)",
        "yield Put('out', write.key, 1)",
    )
    stand = stand_with(first, second)
    stand.put_now({"a": 1})
    for version, maker in ((1, "t0"), (2, "t1")):
        assert names(told(stand, version=version)) == [maker]
        step = told(stand, version=version, tables=None)
        assert step.elsewhere and not step.triggers, "t1 may look like the first one, when t0 was cut off"


def test_an_author_who_catches_everything_does_not_hide_it() -> None:
    body = "try:\n        before = write.previous\n    except Exception:\n        before = None\n    yield Put('out', write.key, [before])"
    stand = stand_with(body)
    stand.put_now({"a": 1})
    step = told(stand, tables=None)
    assert not step.triggers and step.elsewhere


@pytest.mark.parametrize("epoch", [1, 9])
def test_what_was_delivered_sees_the_tables_as_of_its_epoch(epoch: int) -> None:
    body = "yield Put('out', write.key, [grid.get('t', 'x'), grid.random.random()])"
    source = (
        HEAD
        + f"table('hop', key=('k',))\n@trigger(on='raw', emits='hop')\ndef _(write): ...\n@trigger(on='hop', emits='out')\ndef f(write, grid):\n    {body}\ntable('raw')\n"
    )
    stand = Stand(source=source)
    deployment = tracing_of(stand)
    table = Table()
    for version, at in enumerate((1, 5), 1):
        table.insert(key("x"), pack(version), version, (Epoch(at), Position(at), 0))
    origin = SourceId(PartitionId(3), Position(77), 2)
    frame = FrameContext(ZERO, Epoch(epoch), 5_000, Epoch(0), SEED)

    class Seen:
        def get(self, name: str, of: bytes, /) -> bytes | None:
            found = table.as_of(of, Epoch(epoch))
            return found[0] if found is not None else None

        reference = get

    session = deployment.bind(frame, Seen())
    program = deployment.program("hop")
    assert program is not None
    named = named_by_key(origin_of(origin), [key("a")] * 2)
    made = [deployment.run(session, program, PUT, key("a"), pack(1), 0, name, 0) for name in named]
    values = [found[0].value for found in made if isinstance(found, list)]
    assert len({*values}) == 2, "they draw different numbers"
    rows = encode_section("hop", [key("a"), key("a")], [pack(1)] * 2, bytes([PUT] * 2), [1, 2], [0, 0])
    out = encode_section("out", [key("a")] * 2, [value or b"" for value in values], bytes([PUT] * 2), [1, 2], [0, 1])
    payload = encode_routed(
        ZERO, Term(1), Epoch(12), Epoch(epoch), Epoch(0), 5_000, [origin], ["hop", "out"], [rows, out], 1, [], []
    )
    for version in (1, 2):
        walk = Walk(Place(ZERO, Position(90)), "out", key("a"), version)
        walk.give(payload)
        step = walk.lineage.steps[0]
        view = next(iter(walk.views.values()))
        retrace(step, view, deployment, {"t": table}, stand.node.copies, SEED)
        assert names(step) == ["f"] and walk.wanted == Place(PartitionId(3), Position(77))
