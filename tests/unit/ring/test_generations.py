"""Which generation of a derived map readers see: a function of the epoch, and of what the control log has said of it."""

from __future__ import annotations

from tidegrid.grid.model.ids import Epoch, Position
from tidegrid.grid.model.maps import MapKind, MapSpec
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.control_events import GenerationsChanged
from tidegrid.grid.ring.declarations import spec_message
from tidegrid.v1.control_pb2 import (
    Close,
    ControlRecord,
    Drop,
    Generation,
    GridCreated,
    MapDeclared,
    MapGeneration,
    Switch,
)

K = 10
VIEW = MapSpec("view", derived=True)
RAW = MapSpec("raw")
SAID = MapSpec("said", MapKind.STREAM, derived=True)


def grid() -> ControlState:
    state = ControlState()
    state.apply(Position(1), ControlRecord(created=GridCreated(grid_id=b"g" * 16, partitions=2, limit=K)))
    for spec in (VIEW, RAW, SAID):
        apply(state, ControlRecord(map=MapDeclared(spec=spec_message(spec))))
    return state


def apply(state: ControlState, record: ControlRecord) -> tuple[str, ...]:
    """The maps that it changed the generations of."""
    events = state.apply(Position(state.position + 1), record)
    return tuple(name for event in events if isinstance(event, GenerationsChanged) for name in event.maps)


def declare(state: ControlState, *maps: str, since: int = 5) -> tuple[str, ...]:
    return apply(state, ControlRecord(generation=Generation(maps=maps, since=since, base="b", time_ms=7, by="who")))


def switch(state: ControlState, number: int, name: str = "view") -> tuple[str, ...]:
    return apply(state, ControlRecord(switch=Switch(to=[MapGeneration(map=name, number=number)])))


def drop(state: ControlState, number: int, name: str = "view") -> tuple[str, ...]:
    return apply(state, ControlRecord(drop=Drop(of=[MapGeneration(map=name, number=number)])))


def close(state: ControlState, epoch: int) -> None:
    apply(state, ControlRecord(close=Close(epoch=epoch)))


def test_only_derived_maps_with_a_state_have_generations() -> None:
    state = grid()
    assert declare(state, "view", "raw", "said", "nowhere") == ("view",)
    assert state.generations.kept("view") == (1, 2) and state.generations.kept("raw") == (1,)
    found = state.generations.generation("view", 2)
    assert found is not None and (found.since, found.base, found.by) == (5, "b", "who")


def test_readers_see_it_from_the_limit_in_force_on() -> None:
    state = grid()
    declare(state, "view")
    close(state, 20)
    assert switch(state, 2) == ("view",)
    at = 20 + K
    assert state.highest_activation == at and state.activation_pending
    assert [state.generations.at("view", Epoch(epoch)) for epoch in (0, at - 1, at, at + 99)] == [1, 1, 2, 2]
    pending = state.generations.switch_after("view", Epoch(at - 1))
    assert pending is not None and pending.acts_at == at
    assert state.generations.switch_after("view", Epoch(at)) is None
    close(state, at)
    assert switch(state, 1) == ("view",), "and back"
    assert state.generations.at("view", Epoch(at + K)) == 1


def test_a_switch_to_what_is_seen_or_not_there_is_nothing() -> None:
    state = grid()
    declare(state, "view")
    assert switch(state, 1) == switch(state, 3) == switch(state, 2, "raw") == ()
    assert switch(state, 2) == ("view",) and switch(state, 2) == ()
    assert switch(state, 1) == ("view",), "of two that act at one epoch the later wins"
    assert state.generations.at("view", Epoch(10**6)) == 1


def test_what_readers_see_or_will_see_is_not_let_go_of() -> None:
    state = grid()
    declare(state, "view")
    declare(state, "view")
    assert drop(state, 1) == () and drop(state, 9) == ()
    switch(state, 2)
    assert drop(state, 1) == drop(state, 2) == ()
    assert drop(state, 3) == ("view",)
    close(state, int(state.highest_activation))
    assert drop(state, 1) == ("view",) and drop(state, 1) == ()
    assert state.generations.kept("view") == (2,) and switch(state, 1) == ()
    declare(state, "view")
    assert state.generations.kept("view") == (2, 4), "a number is never taken again"


def test_what_readers_will_see_between_two_switches_is_kept() -> None:
    state = grid()
    declare(state, "view")
    declare(state, "view")
    close(state, 20)
    switch(state, 2)
    close(state, 21)
    switch(state, 3)
    assert drop(state, 2) == (), "seen for an epoch"
    close(state, int(state.highest_activation) - 1)
    assert state.generations.at("view", state.closed) == 2
    close(state, int(state.highest_activation))
    assert drop(state, 2) == ("view",)


def test_it_is_part_of_a_checkpoint() -> None:
    state = grid()
    declare(state, "view")
    switch(state, 2)
    close(state, int(state.highest_activation))
    drop(state, 1)
    loaded = ControlState.from_bytes(state.to_bytes())
    assert loaded == state and loaded.generations.kept("view") == (2,)
    assert declare(loaded, "view") == declare(state, "view") and loaded == state
