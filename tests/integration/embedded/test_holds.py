"""Holds through the client, three nodes in this process, time stepped by hand or as it goes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tidegrid import embedded
from tidegrid.client import snapshot as snapshots
from tidegrid.embedded import EmbeddedGrid
from tidegrid.grid.journal.memory import MemoryLog
from tidegrid.grid.model.errors import CallerError, EpochTooNewError, EpochTooOldError, HoldLostError, TooManyHoldsError
from tidegrid.grid.model.ids import Position
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.ring.holds import Hold, HoldEnd
from tidegrid.grid.runtime.local_grid import GridOptions
from tidegrid.grid.runtime.opening import append_control, fold_control
from tidegrid.v1.control_pb2 import ControlRecord, HoldReleased, Horizon

from tests.unit.client.fake_grid import until


@pytest.fixture
async def grid() -> AsyncIterator[EmbeddedGrid]:
    options = GridOptions(limits=Limits(holds_max=3))
    async with embedded.open(nodes=3, tick=None, options=options) as opened:
        yield opened


async def move_horizon(grid: EmbeddedGrid, epoch: int, dropped: str = "") -> None:
    log = grid.local.log
    ends = [HoldReleased(name=dropped, cause=HoldEnd.TOO_LARGE)] if dropped else []
    record = ControlRecord(horizon=Horizon(epoch=epoch, dropped=ends))
    await append_control(log, await fold_control(log), lambda _: record)
    await grid.tick()


async def held(grid: EmbeddedGrid) -> list[Hold]:
    return list((await fold_control(grid.local.log)).holds)


async def test_a_held_epoch_stays_readable(grid: EmbeddedGrid) -> None:
    table = await grid.create_map("t")
    await table.put("a", 1)
    first = await grid.tick()
    await table.put("a", 2)
    second = await grid.tick()
    async with grid.hold(name="report", epoch=first, seconds=60) as hold:
        assert (hold.name, hold.epoch, hold.lost) == ("report", first, False)
        (found,) = await held(grid)
        assert (found.name, found.epoch) == ("report", first) and "process" in found.owner
        assert 50_000 < found.expires_ms - found.since_ms <= 60_000
        await move_horizon(grid, second)
        entry = await table.get("a", as_of=first)
        assert entry is not None and entry.value == 1
        with pytest.raises(CallerError, match="forward"):
            await hold.move(first - 1)
        await hold.move(second)
        await move_horizon(grid, second)
        with pytest.raises(EpochTooOldError):
            await table.get("a", as_of=first)
    assert await held(grid) == []
    with pytest.raises(EpochTooOldError):
        async with grid.hold(epoch=first):
            pytest.fail("it is below the horizon")


async def test_without_an_epoch_the_newest_close_is_held(grid: EmbeddedGrid) -> None:
    closed = await grid.tick()
    async with grid.hold() as hold:
        assert hold.epoch == closed


async def test_what_cannot_be_held_is_refused(grid: EmbeddedGrid) -> None:
    with pytest.raises(EpochTooNewError):
        await grid.hold(epoch=1 << 40).__aenter__()
    with pytest.raises(CallerError):
        await grid.hold(seconds=0).__aenter__()
    async with grid.hold(), grid.hold(), grid.hold():
        with pytest.raises(TooManyHoldsError):
            await grid.hold().__aenter__()
    assert await held(grid) == []


async def test_a_hold_that_is_ended_says_so_at_its_next_use(grid: EmbeddedGrid) -> None:
    table = await grid.create_map("t")
    await table.put("a", 1)
    await grid.tick()
    async with grid.hold(name="mine", seconds=0.05) as hold, grid.snapshot(hold=True) as snapshot:
        assert snapshot.hold is not None
        await grid.release_hold("mine")
        await move_horizon(grid, 0, dropped=snapshot.hold.name)
        await until(lambda: hold.lost)
        with pytest.raises(HoldLostError, match="released"):
            hold.check()
        with pytest.raises(HoldLostError):
            await hold.move(hold.epoch)
        with pytest.raises(HoldLostError, match="outgrew"):
            await snapshot.hold.move(snapshot.epoch)
        with pytest.raises(HoldLostError, match="outgrew"):
            await snapshot.map("t").get("a")
        with pytest.raises(HoldLostError):
            snapshot.map("t").scan()
    await grid.release_hold("nobody's")


async def test_a_hold_renews_itself(grid: EmbeddedGrid) -> None:
    async with grid.hold(name="kept", seconds=0.1) as hold:
        (first,) = await held(grid)
        holds = grid.local.drivers[0].node.control.holds
        await until(lambda: next(iter(holds)).expires_ms >= first.expires_ms + 100)
        (found,) = holds
        assert found.taken == first.taken and found.since_ms == first.since_ms and not hold.lost


async def test_a_snapshot_that_lives_long_is_held(grid: EmbeddedGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "HOLD_AFTER_SECONDS", 0.01)
    table = await grid.create_map("t")
    await table.put("a", 1)
    await grid.tick()
    async with grid.snapshot() as snapshot:
        assert snapshot.hold is None and await held(grid) == []
        await until(lambda: snapshot.hold is not None)
        await table.put("a", 2)
        await move_horizon(grid, await grid.tick())
        entry = await snapshot.map("t").get("a")
        assert entry is not None and entry.value == 1
    assert await held(grid) == []
    monkeypatch.setattr(snapshots, "HOLD_AFTER_SECONDS", 0)
    async with grid.snapshot(hold=False) as snapshot:
        for _ in range(5):
            await grid.tick()
        assert snapshot.hold is None and await held(grid) == []


async def test_the_horizon_stands_at_a_hold_while_time_goes_on() -> None:
    """Nothing of it by hand: history as short as can be, against a snapshot."""
    options = GridOptions(history_seconds=0.0)
    async with embedded.open(nodes=3, tick=0.005, options=options) as grid:
        table = await grid.create_map("t")
        ack = await table.put("a", 0, ack="closed")
        async with grid.snapshot(hold=True) as snapshot:
            number = 0
            while True:
                number += 1
                ack = await table.put("a", number, ack="closed")
                (status, *_) = [member.status for member in await grid.status() if member.status is not None]
                if status.horizon == snapshot.epoch and any(hold.holds_back for hold in status.holds):
                    break
            entry = await snapshot.map("t").get("a")
            assert entry is not None and entry.value == 0
        while True:
            ack = await table.put("a", "later", ack="closed")
            (status, *_) = [member.status for member in await grid.status() if member.status is not None]
            if status.horizon > snapshot.epoch:
                break
        with pytest.raises(EpochTooOldError):
            await table.get("a", as_of=snapshot.epoch)
        assert ack.epoch > snapshot.epoch


async def test_holds_outlive_a_restart() -> None:
    first = MemoryLog()
    async with embedded.open(nodes=1, tick=None, log=first) as grid:
        epoch = await grid.tick()
        await grid.hold(name="kept", epoch=epoch).__aenter__()
    async with embedded.open(nodes=1, tick=None, log=MemoryLog(first.state)) as grid:
        (found,) = await held(grid)
        assert (found.name, found.epoch) == ("kept", epoch) and found.taken > Position(0)
