"""The horizon: who proposes it when, and what goes once it has moved."""

from __future__ import annotations

import pytest
from tidegrid.grid.engine.retention import HELD_BYTES_FACTOR, RetentionOptions
from tidegrid.grid.model.errors import ConfigurationError, EpochTooOldError, StorageFullError, WrongTailError
from tidegrid.grid.ring.holds import HoldEnd
from tidegrid.v1.control_pb2 import ControlRecord, Hold, Horizon

from tests.unit.engine.stand import Stand, client_session


def hold(stand: Stand, name: str, epoch: int, expires_ms: int = 1 << 40) -> None:
    stand.declare(ControlRecord(hold=Hold(name=name, owner="o", epoch=epoch, expires_ms=expires_ms)))
    stand.read_control()


def proposed(stand: Stand, seconds: float = 2.0) -> Horizon | None:
    """What is proposed within some time; it lands."""
    stand.control_appends.clear()
    stand.pass_time(seconds)
    if not stand.control_appends:
        return None
    (effect,) = stand.control_appends
    assert effect.expected == stand.node.control.position
    stand.declare(effect.record)
    stand.read_control()
    return effect.record.horizon


def test_the_horizon_follows_the_clock() -> None:
    stand = Stand(retention=RetentionOptions(history_seconds=10.0))
    stand.put_now({"a": 1})
    first = stand.close()
    stand.now += 6
    stand.put_now({"a": 2})
    stand.close()
    stand.control_appends.clear()
    stand.pass_time(3.0)
    before = [one.record.horizon.epoch for one in stand.control_appends]
    assert all(epoch < first for epoch in before)
    stand.control_appends.clear()
    stand.pass_time(2.0)
    (proposal,) = stand.control_appends
    assert proposal.record.horizon.epoch == first and proposal.expected == stand.node.control.position
    stand.pass_time(0.5)
    assert len(stand.control_appends) == 1, "at most one in a second"
    stand.node.control_failed(stand.instant, proposal, WrongTailError("somebody was quicker"))
    stand.node.control_failed(stand.instant, proposal, StorageFullError("no space"))
    stand.pass_time(1.0)
    assert len(stand.control_appends) == 2, "proposed anew"
    stand.node.stop()
    stand.pass_time(5.0)
    assert len(stand.control_appends) == 2


def test_too_many_bytes_of_history_move_it_half_way() -> None:
    stand = Stand(retention=RetentionOptions(history_bytes_max=500))
    for number in range(10):
        stand.put_now({"a": "x" * 100 + str(number)})
        stand.close()
    assert stand.node.writes.history_bytes > 500
    horizon, closed = stand.node.control.horizon, stand.node.control.closed
    stand.pass_time(5.0)
    proposed = stand.control_appends[-1].record.horizon.epoch
    assert proposed == horizon + (closed - horizon + 1) // 2


def test_what_lies_before_the_horizon_goes_in_slices_and_reads_of_it_are_refused() -> None:
    stand = Stand(session_epochs=3)
    epochs, sessions = [], []
    for number in range(8):
        sessions.append(client_session(number, created=stand.node.epoch))
        stand.put_now([(f"k{row}", number) for row in range(5)], session=sessions[-1])
        epochs.append(stand.close())
    stand.horizon(epochs[5])
    assert stand.node.retention.pending
    slices = 0
    while stand.node.reclaim(7):
        slices += 1
    assert slices > 3 and not stand.node.retention.pending
    assert stand.partition().tables["t"].version_count == 5 * 3
    for number, epoch in enumerate(epochs):
        request = stand.get("k1", as_of=epoch)
        if number < 5:
            assert isinstance(request.error, EpochTooOldError)
        else:
            assert request.error is None and stand.value("k1", as_of=epoch) == number
    forgotten = [stand.partition().memory.get(session) is None for session in sessions]
    assert forgotten == [epochs[-1] > epoch + 3 for epoch in epochs] and any(forgotten) and not all(forgotten)


def test_a_hold_keeps_the_horizon_back_until_it_is_released_or_expires() -> None:
    stand = Stand(retention=RetentionOptions(history_seconds=10.0))
    epochs = []
    for number in range(6):
        stand.put_now({"a": number})
        epochs.append(stand.close())
    hold(stand, "low", epochs[2], expires_ms=stand.time_ms + 30_000)
    hold(stand, "high", epochs[4])
    moved = proposed(stand, 20.0)
    assert moved is not None and (moved.epoch, list(moved.dropped)) == (epochs[2], [])
    assert stand.node.control.horizon == epochs[2] and stand.node.retention.held_back_by == {"low"}
    assert proposed(stand, 9.0) is None, "nothing to say, every second"
    while stand.node.reclaim(100):
        pass
    assert stand.value("a", as_of=epochs[2]) == 2
    moved = proposed(stand)
    assert moved is not None and moved.epoch == epochs[4] and moved.time_ms == stand.time_ms
    assert [(end.name, end.cause) for end in moved.dropped] == [("low", HoldEnd.EXPIRED)]
    assert isinstance(stand.get("a", as_of=epochs[2]).error, EpochTooOldError)
    assert stand.node.retention.held_back_by == {"high"} and stand.value("a", as_of=epochs[4]) == 4


def test_an_expired_hold_goes_also_when_the_horizon_stays() -> None:
    stand = Stand()
    stand.put_now({"a": 1})
    hold(stand, "brief", stand.close(), expires_ms=stand.time_ms + 500)
    assert stand.node.control.horizon == 0 and proposed(stand, 0.4) is None
    moved = proposed(stand)
    assert moved is not None and moved.epoch == 0 and len(stand.node.control.holds) == 0


def test_who_holds_too_much_loses_the_hold_and_nobody_else_does() -> None:
    stand = Stand(retention=RetentionOptions(history_bytes_max=4_000), session_epochs=10_000)
    epochs: list[int] = []

    def write(times: int) -> None:
        for _ in range(times):
            stand.put_now({"a": "x" * 100})
            epochs.append(stand.close())

    def reclaim() -> int:
        while stand.node.reclaim(100):
            pass
        return stand.node.writes.history_bytes

    write(10)
    hold(stand, "first", epochs[2])
    hold(stand, "twin", epochs[2])
    hold(stand, "second", epochs[6])
    write(10)
    while reclaim() <= 4_000:
        write(1)
    while stand.node.control.horizon < epochs[2]:
        moved = proposed(stand)
        assert moved is not None and not moved.dropped, "holds are kept so far"
    while reclaim() <= 4_000 * HELD_BYTES_FACTOR:
        assert proposed(stand) is None
        write(1)
    moved = proposed(stand)
    assert moved is not None and moved.epoch == epochs[6], "as far as the next one"
    ends = [(end.name, end.cause) for end in moved.dropped]
    assert ends == [("first", HoldEnd.TOO_LARGE), ("twin", HoldEnd.TOO_LARGE)]
    assert stand.node.retention.pending and stand.node.writes.history_bytes > 4_000 * HELD_BYTES_FACTOR
    assert proposed(stand) is None, "first see what is gone now"
    assert reclaim() <= 4_000 * HELD_BYTES_FACTOR
    assert proposed(stand) is None and stand.node.control.holds.get("second") is not None


def test_options_are_checked() -> None:
    for wrong in (RetentionOptions(history_seconds=-1), RetentionOptions(history_bytes_max=-1)):
        with pytest.raises(ConfigurationError):
            Stand(retention=wrong)
