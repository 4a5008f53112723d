from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from tidegrid.client import Ack, Grid
from tidegrid.client.moment import LATEST, moment_of, time_ms_of
from tidegrid.grid.model.errors import CallerError, ConflictError, DeadlineError

from tests.unit.client.fake_grid import FakeGrid, until


def test_times_are_milliseconds_of_any_zone() -> None:
    noon = datetime(2026, 1, 2, 12, 0, 0, 1_999, tzinfo=UTC)
    assert time_ms_of(noon) == 1_767_355_200_001
    assert time_ms_of(noon.astimezone(timezone(timedelta(hours=-7)))) == 1_767_355_200_001
    assert time_ms_of(datetime(1950, 1, 1, tzinfo=UTC)) == 0
    with pytest.raises(CallerError, match="time zone"):
        time_ms_of(datetime(2026, 1, 2))


@pytest.mark.parametrize(
    "options",
    [
        {"as_of": 0},
        {"as_of": True},
        {"as_of": "812"},
        {"as_of": 1 << 64},
        {"at_least": -1},
        {"at_least": 1.5},
        {"max_staleness": 0},
        {"max_staleness": -1.0},
        {"max_staleness": 1e12},
        {"max_staleness": "1"},
        {"consistency": "eventual"},
        {"as_of": 3, "consistency": "linearizable"},
        {"as_of": 3, "at_least": 2},
        {"as_of": 3, "max_staleness": 1},
        {"as_of": datetime.now(UTC), "at_least": 2},
        {"as_of": datetime(2026, 1, 2)},
    ],
)
async def test_options_that_are_refused(fake: FakeGrid, grid: Grid, options: dict[str, Any]) -> None:
    m = grid.map("m")
    with pytest.raises(CallerError):
        await m.get("a", **options)
    with pytest.raises(CallerError):
        await m.get_many(["a"], **options)
    with pytest.raises(CallerError):
        [entry async for entry in m.scan(**options)]
    assert not fake.requests


async def test_the_options_reach_the_node(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")
    await m.get("a", at_least=2, wait=False, max_staleness=1.5, consistency="linearizable")
    read = fake.requests[-1].reads[0]
    assert (read.as_of, read.at_least, read.at_once, read.staleness_ms_max, read.linearizable) == (
        0,
        2,
        True,
        1500,
        True,
    )
    assert moment_of(None, None, True, None, "causal") == LATEST
    await m.get("a")
    assert fake.requests[-1].reads[0].ByteSize() == read.__class__(map="m", keys=read.keys).ByteSize()


async def test_linearizable_reads_share_messages_with_each_other_only(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")
    fake.requests.clear()
    await asyncio.gather(*(m.get(0, consistency="linearizable") for _ in range(50)), *(m.get(0) for _ in range(50)))
    reads = [read for request in fake.requests for read in request.reads]
    assert sorted((read.linearizable, len(read.keys)) for read in reads) == [(False, 50), (True, 50)]


async def test_a_time_is_resolved_once_a_call(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")
    await m.put_many((index, 1) for index in range(40))
    before = fake.tick()
    await m.put_many((index, 2) for index in range(40))
    fake.tick()
    fake.close_times = [(before, 1_000), (fake.closed, 2_000)]
    early, late = (datetime.fromtimestamp(ms / 1000, UTC) for ms in (1_999, 5_000))
    for when, value in ((early, 1), (late, 2)):
        fake.asked_times.clear()
        assert [entry and entry.value for entry in await m.get_many(range(40), as_of=when)] == [value] * 40
        assert [entry.value async for entry in m.scan(as_of=when)] == [value] * 40
        assert len(fake.asked_times) == 2
    async with grid.snapshot(as_of=early) as snapshot:
        assert snapshot.epoch == before


# Acknowledgements that wait for the close -----------------------------------------------------------------------------


async def test_ack_closed_returns_once_the_epoch_is_closed(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")
    writing = [asyncio.ensure_future(m.put(index, 1, ack="closed")) for index in range(20)]
    writing.append(asyncio.ensure_future(m.delete("b", ack="closed")))
    await until(lambda: len(fake.applied) == 21 and fake.waits)
    assert not any(write.done() for write in writing)
    asked = fake.waits
    fake.tick()
    acks = await asyncio.gather(*writing)
    assert {ack.epoch for ack in acks} == {fake.closed} and grid.closed == fake.closed
    assert asked == 1, "who waits for the same epoch shares a question"


async def test_ack_closed_of_many(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")
    writing = asyncio.ensure_future(m.put_many(((index, 1) for index in range(100)), ack="closed"))
    await until(lambda: fake.waits)
    assert len(fake.applied) == 100 and not writing.done()
    fake.tick()
    assert all(isinstance(outcome, Ack) and outcome.epoch == fake.closed for outcome in await writing)
    assert await m.put_many([], ack="closed") == []


async def test_ack_closed_that_comes_too_late_says_what_was_stored(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")
    with pytest.raises(DeadlineError, match="durable") as caught:
        await m.put("a", 1, ack="closed", deadline=0.05)
    assert (caught.value.version, caught.value.epoch) == (1, fake.epoch)
    outcomes = await m.put_many([("b", 1), ("c", 1)], ack="closed", deadline=0.05)
    assert [isinstance(outcome, DeadlineError) and outcome.version for outcome in outcomes] == [1, 1]
    entry = await m.get("a")
    assert entry is not None and entry.value == 1


async def test_ack_closed_and_a_refused_write(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")
    await m.put("a", 1)
    with pytest.raises(ConflictError):
        await m.put("a", 2, if_absent=True, ack="closed")
    for call in (m.put("a", 2, ack="soon"), m.delete("a", ack="soon"), m.put_many([("a", 2)], ack="soon")):  # type: ignore[arg-type]
        with pytest.raises(CallerError, match="'durable' or 'closed'"):
            await call
    assert len(fake.applied) == 1


async def test_a_short_deadline_does_not_end_a_longer_wait(fake: FakeGrid, grid: Grid) -> None:
    epoch = fake.epoch
    short = asyncio.ensure_future(grid.wait_closed(epoch, deadline=0.05))
    await until(lambda: fake.waits)
    long = asyncio.ensure_future(grid.wait_closed(epoch, deadline=5))
    with pytest.raises(DeadlineError):
        await short
    await until(lambda: fake.waits == 2)
    fake.tick()
    assert await long == epoch


async def test_a_wait_that_nobody_waits_for_is_left_behind_nowhere(fake: FakeGrid, grid: Grid) -> None:
    waiting = asyncio.ensure_future(grid.wait_closed(fake.epoch, deadline=3_600))
    await until(lambda: fake.waits)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await grid.close()
    assert not [task for task in asyncio.all_tasks() if "_ask" in repr(task.get_coro())]


# Snapshots ------------------------------------------------------------------------------------------------------------------


async def test_a_snapshot_is_the_newest_close(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")
    await m.put("a", 1)
    fake.tick()
    await m.put("a", 2)
    async with grid.snapshot() as snapshot:
        assert snapshot.epoch == fake.closed
        of_map = snapshot.map("m")
        fake.tick()
        await m.put("b", 3)
        entry = await of_map.get("a")
        assert entry is not None and entry.value == 1
        assert [found and found.value for found in await of_map.get_many(["a", "b"])] == [1, None]
        assert [found.value async for found in of_map.scan()] == [1]
    ack = await m.put("a", 4)
    opening = asyncio.ensure_future(_epoch(grid, at_least=ack.epoch))
    await until(lambda: fake.waits)
    fake.tick()
    assert await opening == ack.epoch
    with pytest.raises(CallerError, match="either"):
        await _epoch(grid, as_of=3, at_least=3)


async def _epoch(grid: Grid, **options: Any) -> int:
    async with grid.snapshot(**options) as snapshot:
        return snapshot.epoch
