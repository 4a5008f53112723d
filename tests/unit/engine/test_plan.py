"""What a deployment would change, by its declarations."""

from __future__ import annotations

import pytest
from tidegrid.grid.engine.plan import map_changes, plan_id, source_maps, touched_maps, trigger_changes
from tidegrid.grid.model.ids import Epoch, Position
from tidegrid.grid.model.maps import MapSpec
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.declarations import spec_message
from tidegrid.triggers.deployment import Deployment
from tidegrid.triggers.loader import load_modules
from tidegrid.v1.control_pb2 import Close, ControlRecord, Deploy, GridCreated, MapDeclared

HEAD = "from tidegrid.triggers import *\ntable('raw')\ntable('typed')\nstream('late')\n"
F = "@trigger(on='raw', emits='typed')\ndef f(write):\n    return Put('typed', write.key, 1)\n"
G = "@trigger(on='raw', emits='late')\ndef g(write): ...\n"


def load(source: str, known: tuple[MapSpec, ...] = ()) -> Deployment:
    return load_modules([("m", HEAD + source)], {spec.name: spec for spec in known})


def changes(before: str | None, after: str) -> dict[str, str]:
    active = load(before) if before is not None else None
    return {change.name: change.change for change in trigger_changes(active, load(after))}


def test_triggers_that_come_go_and_change() -> None:
    assert changes(None, F + G) == {"f": "added", "g": "added"}
    assert changes(F, G) == {"g": "added", "f": "removed"}
    assert changes(F + G, F + G) == {"f": "same", "g": "same"}
    assert changes(F + G, F.replace("1", "2") + G) == {"f": "changed", "g": "module"}
    assert changes(F, F.replace("emits='typed'", "emits=('typed', 'late')")) == {"f": "changed"}


def test_comments_and_layout_are_no_change_of_a_trigger() -> None:
    assert changes(F, "# more\n" + F.replace("return", "return  ")) == {"f": "module"}


def test_maps() -> None:
    known = {"raw": MapSpec("raw"), "typed": MapSpec("typed", derived=True), "late": MapSpec("x")}
    found = {
        change.spec.name: change for change in map_changes(load(F), load("table('new', schema=1)\n" + F + G), known)
    }
    assert {name: change.change for name, change in found.items()} == {
        "raw": "same", "typed": "same", "late": "derived", "new": "added",
    }  # fmt: skip
    assert list(found["raw"].read_by) == ["f", "g"] and list(found["typed"].written_by) == ["f"]
    schema = map_changes(None, load("table('other', schema=2)"), {"other": MapSpec("other", schema=1)})
    assert {change.spec.name: change.change for change in schema}["other"] == "schema"


def test_what_is_touched_and_what_can_be_sampled() -> None:
    active, coming = load(F + G), load(F.replace("1", "2") + G)
    assert touched_maps(active, active, trigger_changes(active, active)) == set()
    assert touched_maps(active, coming, trigger_changes(active, coming)) == {"raw", "typed", "late"}
    known = {"raw": MapSpec("raw"), "typed": MapSpec("typed", derived=True)}
    chained = load(F + "@trigger(on='typed', emits='late')\ndef h(write): ...\n")
    assert source_maps(None, chained, known) == ["raw"]
    assert source_maps(None, chained, {}) == []


def control(*records: ControlRecord) -> ControlState:
    state = ControlState()
    for at, record in enumerate(
        (ControlRecord(created=GridCreated(grid_id=b"g" * 16, partitions=1, limit=9)), *records), 1
    ):
        state.apply(Position(at), record)
    return state


def declared(name: str) -> ControlRecord:
    return ControlRecord(map=MapDeclared(spec=spec_message(MapSpec(name))))


def test_a_plan_is_for_this_content_on_these_declarations() -> None:
    first = control()
    known = plan_id(first, b"h")
    assert known == plan_id(control(), b"h") != plan_id(first, b"other")
    assert len(known) == 12
    for record in (declared("m"), ControlRecord(deploy=Deploy(hash=b"h"))):
        assert plan_id(control(record), b"h") != known


def test_time_that_goes_on_leaves_a_plan_as_it_is() -> None:
    state = control(declared("m"))
    known = plan_id(state, b"h")
    state.apply(Position(10), ControlRecord(close=Close(epoch=Epoch(3))))
    assert plan_id(state, b"h") == known


@pytest.mark.parametrize("again", [1, 2])
def test_the_same_content_deployed_twice_gives_other_plans(again: int) -> None:
    deploys = [ControlRecord(deploy=Deploy(hash=b"h"))] * again
    assert plan_id(control(*deploys), b"h") != plan_id(control(*deploys, deploys[0]), b"h")
