"""Holds in the fold of the control log: what takes, renews and ends one, and the horizon that does not pass it."""

from __future__ import annotations

import pytest
from tidegrid.grid.model.ids import Epoch, Position
from tidegrid.grid.ring import holds as holds_module
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.control_events import HorizonMoved
from tidegrid.grid.ring.holds import Hold, HoldEnd
from tidegrid.v1 import control_pb2
from tidegrid.v1.control_pb2 import ControlRecord, HoldReleased

from tests.unit.ring.test_control import close, folded


def take(name: str, epoch: int, *, owner: str = "me", expires_ms: int = 500, taken: int = 0) -> ControlRecord:
    hold = control_pb2.Hold(name=name, owner=owner, epoch=epoch, since_ms=100, expires_ms=expires_ms, taken=taken)
    return ControlRecord(hold=hold)


def release(name: str, *, taken: int = 0, cause: int = HoldEnd.RELEASED) -> ControlRecord:
    return ControlRecord(hold_released=HoldReleased(name=name, taken=taken, cause=cause))


def horizon(epoch: int, **dropped: HoldEnd) -> ControlRecord:
    ends = [HoldReleased(name=name, cause=cause) for name, cause in dropped.items()]
    return ControlRecord(horizon=control_pb2.Horizon(epoch=epoch, time_ms=900, dropped=ends))


def closed(*records: ControlRecord) -> ControlState:
    return folded(*(close(epoch, 10 * epoch) for epoch in range(1, 10)), *records)


def test_a_hold_is_named_by_the_position_of_the_record_that_took_it() -> None:
    state = closed()
    assert state.apply(Position(50), take("a", 4)) == ()
    assert list(state.holds) == [Hold("a", "me", Epoch(4), 100, 500, Position(50))]
    state.apply(Position(60), take("a", 6, expires_ms=800, taken=50))
    assert list(state.holds) == [Hold("a", "me", Epoch(6), 100, 800, Position(50))]
    for position, gone in ((61, take("a", 7, taken=60)), (62, take("b", 7, taken=50)), (63, release("a", taken=60))):
        before = list(state.holds)
        state.apply(Position(position), gone)
        assert list(state.holds) == before, "it is of another hold"
    state.apply(Position(70), release("a", taken=50))
    assert len(state.holds) == 0 and state.holds.end_of(Position(50)) is HoldEnd.RELEASED
    state.apply(Position(80), take("a", 6, taken=50))
    assert len(state.holds) == 0, "what is gone is not renewed"


def test_who_takes_a_name_ends_the_other_hold() -> None:
    state = closed()
    state.apply(Position(50), take("a", 4, owner="one"))
    state.apply(Position(60), take("a", 7, owner="two"))
    assert [(hold.owner, hold.epoch, hold.taken) for hold in state.holds] == [("two", 7, 60)]
    assert state.holds.end_of(Position(50)) is HoldEnd.TAKEN_OVER
    state.apply(Position(70), release("a", taken=50))
    assert len(state.holds) == 1, "a late release of the first ends nothing"
    state.apply(Position(71), release("a"))
    assert len(state.holds) == 0


def test_the_horizon_does_not_pass_a_hold() -> None:
    state = closed(take("a", 6), take("b", 4))
    assert state.apply(Position(90), horizon(9)) == (HorizonMoved(Epoch(4)),)
    assert state.apply(Position(91), horizon(9)) == ()
    assert state.apply(Position(92), release("b")) == ()
    assert state.apply(Position(93), horizon(9)) == (HorizonMoved(Epoch(6)),)
    state.apply(Position(94), take("low", 5))
    assert state.holds.get("low") is None, "below the horizon nothing is held"
    assert state.apply(Position(95), horizon(9, a=HoldEnd.EXPIRED)) == (HorizonMoved(Epoch(9)),)
    assert len(state.holds) == 0


def test_a_horizon_drops_what_its_proposer_found_to_count_no_longer() -> None:
    state = closed(take("a", 4), take("b", 4), take("c", 8))
    assert state.apply(Position(90), horizon(0, a=HoldEnd.EXPIRED)) == ()
    assert [hold.name for hold in state.holds] == ["b", "c"]
    assert state.apply(Position(91), horizon(9, b=HoldEnd.TOO_LARGE, other=HoldEnd.EXPIRED)) == (
        HorizonMoved(Epoch(8)),
    )
    ends = [state.holds.end_of(Position(at)) for at in (31, 34, 37)]
    assert ends == [HoldEnd.EXPIRED, HoldEnd.TOO_LARGE, None]
    for end in HoldEnd:
        assert end.words
    state.apply(Position(92), release("c", cause=77))
    assert state.holds.end_of(Position(37)) is HoldEnd.RELEASED, "a cause of a later version"


def test_ends_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds_module, "ENDS_REMEMBERED", 3)
    state = closed(*(take("a", 5) for _ in range(6)))
    known = [at for at in range(200) if state.holds.end_of(Position(at)) is not None]
    assert len(known) == 3 and max(known) < next(iter(state.holds)).taken
    assert ControlState.from_bytes(state.to_bytes()) == state
