"""The horizon: who proposes it when, and what goes once it has moved."""

from __future__ import annotations

import pytest
from tidegrid.grid.engine.retention import RetentionOptions
from tidegrid.grid.model.errors import ConfigurationError, EpochTooOldError, StorageFullError, WrongTailError

from tests.unit.engine.stand import Stand, client_session


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


def test_options_are_checked() -> None:
    for wrong in (RetentionOptions(history_seconds=-1), RetentionOptions(history_bytes_max=-1)):
        with pytest.raises(ConfigurationError):
            Stand(retention=wrong)
