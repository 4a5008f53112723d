"""Three nodes in this process, time stepped by hand: what a user reads, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tidegrid import embedded
from tidegrid.client import Map, Version
from tidegrid.embedded import EmbeddedGrid
from tidegrid.grid.engine import history as pages
from tidegrid.grid.journal.memory import MemoryLog
from tidegrid.grid.model.errors import (
    DeadlineError,
    EpochTooOldError,
    NotClosedError,
    WrongGridError,
    WrongKindError,
)
from tidegrid.grid.model.maps import MapKind
from tidegrid.grid.runtime.opening import append_control, fold_control
from tidegrid.v1.control_pb2 import ControlRecord, Horizon

KEYS = [f"key {index}" for index in range(30)]  # in all partitions, so at all nodes


@pytest.fixture
async def grid() -> AsyncIterator[EmbeddedGrid]:
    async with embedded.open(nodes=3, tick=None) as opened:
        yield opened


@pytest.fixture
async def table(grid: EmbeddedGrid) -> Map:
    return await grid.create_map("t")


async def values(of_map: Map, **options: object) -> list[object]:
    entries = await of_map.get_many(KEYS, **options)  # type: ignore[arg-type]
    return [entry and entry.value for entry in entries]


async def put_all(table: Map, value: object) -> int:
    return max([(await table.put(key, value)).epoch for key in KEYS])


async def move_horizon(grid: EmbeddedGrid, epoch: int) -> None:
    log = grid.local.log
    await append_control(log, await fold_control(log), lambda _: ControlRecord(horizon=Horizon(epoch=epoch)))
    await grid.tick()


# Stepping time -----------------------------------------------------------------------------------------------------------


async def test_a_tick_closes_all_that_was_acknowledged(grid: EmbeddedGrid, table: Map) -> None:
    for value in range(5):
        highest = await put_all(table, value)
        epoch = await grid.tick()
        assert epoch >= highest
        await put_all(table, "later")
        assert await values(table, as_of=epoch) == [value] * len(KEYS)
    assert all(driver.node.control.closed == epoch for driver in grid.local.drivers)


async def test_each_tick_closes_a_new_epoch_also_where_nothing_happens(grid: EmbeddedGrid) -> None:
    first = await grid.tick()
    assert [await grid.tick() for _ in range(5)] == [first + 1, first + 2, first + 3, first + 4, first + 5]
    assert grid.closed == first + 5


async def test_time_stands_still_between_ticks(grid: EmbeddedGrid, table: Map) -> None:
    ack = await table.put("a", 1)
    waiting = asyncio.ensure_future(table.get("a", as_of=ack.epoch))
    for _ in range(50):
        await asyncio.sleep(0)
    assert not waiting.done()
    await grid.tick()
    assert (await waiting) == await table.get("a")


async def test_tick_until(grid: EmbeddedGrid, table: Map) -> None:
    ack = await grid.tick_until(table.put("a", 1, ack="closed"))
    assert grid.closed >= ack.epoch
    with pytest.raises(ZeroDivisionError):
        await grid.tick_until(_fails())


async def _fails() -> None:
    raise ZeroDivisionError


async def test_a_tick_that_something_holds_back() -> None:
    log = MemoryLog()
    async with embedded.open(nodes=3, tick=None, log=log) as grid:
        table = await grid.create_map("t")
        log.hold()
        writing = asyncio.ensure_future(table.put("a", 1))
        while not log.in_flight:  # noqa: ASYNC110
            await asyncio.sleep(0)
        with pytest.raises(DeadlineError, match="tidegrid status"):
            await grid.tick(deadline=0.05)
        log.release()
        assert await grid.tick() >= (await writing).epoch


# As of a time ----------------------------------------------------------------------------------------------------------------


async def test_as_of_a_time_reads_one_epoch_everywhere(grid: EmbeddedGrid, table: Map) -> None:
    moments = []
    for value in range(3):
        await put_all(table, value)
        await grid.tick()
        moments.append(datetime.now(UTC))
        closed_ms = max(driver.node.control.closed_time_ms for driver in grid.local.drivers)
        while datetime.now(UTC).timestamp() * 1000 < closed_ms + 2:  # noqa: ASYNC110 (a clock has no event)
            await asyncio.sleep(0)
    for value, moment in enumerate(moments):
        assert await values(table, as_of=moment) == [value] * len(KEYS)
        assert [entry.value async for entry in table.scan(as_of=moment)] == [value] * len(KEYS)
        async with grid.snapshot(as_of=moment.astimezone()) as snapshot:
            assert [entry.value async for entry in snapshot.map("t").scan()] == [value] * len(KEYS)
    await put_all(table, "not closed")
    assert await values(table, as_of=datetime.now(UTC) + timedelta(days=1)) == [2] * len(KEYS)
    long_ago = datetime.now(UTC) - timedelta(days=1)
    with pytest.raises(EpochTooOldError) as caught:
        await table.get("a", as_of=long_ago)
    assert long_ago.isoformat() in str(caught.value) and datetime.now(UTC).isoformat()[:11] in str(caught.value)


async def test_a_snapshot_is_a_consistent_cut_of_several_maps(grid: EmbeddedGrid, table: Map) -> None:
    other = await grid.create_map("u")
    await table.put("a", 1)
    await other.put("a", 1)
    epoch = await grid.tick()
    ack = await table.put("a", 2)
    async with grid.snapshot() as snapshot:
        assert snapshot.epoch == epoch
        found = [await snapshot.map(name).get("a") for name in "tu"]
        assert [entry and entry.value for entry in found] == [1, 1]
    newer = grid.snapshot(at_least=ack.epoch)
    snapshot = await grid.tick_until(newer.__aenter__())
    entry = await snapshot.map("t").get("a")
    assert snapshot.epoch >= ack.epoch and entry is not None and entry.value == 2
    await newer.__aexit__(None, None, None)
    await move_horizon(grid, grid.closed)
    with pytest.raises(EpochTooOldError):
        async with grid.snapshot(as_of=epoch) as old:
            await old.map("t").get("a")


async def test_without_waiting(grid: EmbeddedGrid, table: Map) -> None:
    ack = await table.put("a", 1)
    for option in ({"at_least": ack.epoch}, {"as_of": ack.epoch}):
        with pytest.raises(NotClosedError) as caught:
            await table.get("a", wait=False, **option)  # type: ignore[arg-type]
        assert (caught.value.requested, caught.value.closed) == (ack.epoch, grid.closed)
        with pytest.raises(NotClosedError):
            [entry async for entry in table.scan(wait=False, **option)]  # type: ignore[arg-type]
    await grid.tick()
    assert await values(table, at_least=ack.epoch, wait=False, max_staleness=60) == [None] * len(KEYS)


async def test_a_grid_at_rest_wakes_for_who_wants_it_fresh() -> None:
    async with embedded.open(nodes=3, tick=0.005) as grid:
        table = await grid.create_map("t")
        ack = await table.put("a", 1, ack="closed")
        closed = ack.epoch
        for _ in range(3):
            entry = await table.get("a", max_staleness=0.001)
            assert entry is not None
            await asyncio.wait_for(_older_than(grid, 6), 10)
            await table.get("a", max_staleness=0.005)
            newest = max(driver.node.control.closed for driver in grid.local.drivers)
            assert newest > closed
            closed = newest


async def _older_than(grid: EmbeddedGrid, age_ms: int) -> None:
    while any(  # noqa: ASYNC110
        datetime.now(UTC).timestamp() * 1000 - driver.node.control.closed_time_ms <= age_ms
        for driver in grid.local.drivers
    ):
        await asyncio.sleep(0)


# Linearizable ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_disk", [False, True])
async def test_linearizable_reads_beside_writes(tmp_path: Path, on_disk: bool) -> None:
    async with embedded.open(tmp_path if on_disk else None, nodes=3) as grid:
        table = await grid.create_map("t")
        acknowledged = dict.fromkeys(KEYS, 0)

        async def write(key: str) -> None:
            for number in range(1, 30):
                await table.put(key, number)
                acknowledged[key] = number

        async def read() -> None:
            while not writing.done():
                before = dict(acknowledged)
                entries = await table.get_many(KEYS, consistency="linearizable")
                found = {key: entry.value if entry else 0 for key, entry in zip(KEYS, entries, strict=True)}
                assert all(found[key] >= before[key] for key in KEYS)
                before = dict(acknowledged)
                scanned = {entry.key[0]: entry.value async for entry in table.scan(consistency="linearizable")}
                assert all(scanned.get(key, 0) >= before[key] for key in KEYS)

        writing = asyncio.gather(*map(write, KEYS))
        await asyncio.gather(writing, read(), read())
        assert await values(table, consistency="linearizable") == [29] * len(KEYS)


# History -----------------------------------------------------------------------------------------------------------------------


async def history(table: Map, key: str = "a", **options: int) -> list[Version]:
    return [version async for version in table.history(key, **options)]


async def test_history_from_memory_and_from_the_log(
    grid: EmbeddedGrid, table: Map, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PAGE_VERSIONS", 3)
    acks = []
    for value in range(10):
        acks.append(await (table.put("a", value) if value % 4 else table.delete("a")))
        await put_all(table, value)
        await grid.tick()
    acks.append(await table.put("a", "not closed"))
    whole = await history(table)
    assert [(version.version, version.epoch) for version in whole] == [(ack.version, ack.epoch) for ack in acks]
    assert [version.value for version in whole] == [None, 1, 2, 3, None, 5, 6, 7, None, 9, "not closed"]
    assert [version.deleted for version in whole] == [value % 4 == 0 for value in range(10)] + [False]
    assert [version.time_ms for version in whole] == sorted(version.time_ms for version in whole)
    for version in whole:
        entry = await table.get("a", as_of=version.epoch) if version.epoch <= grid.closed else await table.get("a")
        assert (entry.value if entry else None) == version.value
    for horizon in (acks[2].epoch, acks[5].epoch, acks[9].epoch, grid.closed):
        await move_horizon(grid, horizon)
        assert await history(table) == whole
        assert await history(table, after=acks[3].epoch, through=acks[7].epoch) == whole[4:8]
    assert await history(table, "nowhere") == []


async def test_history_outlives_a_restart(tmp_path: Path) -> None:
    whole: list[Version] = []
    for life in range(3):
        async with embedded.open(tmp_path, nodes=3, tick=None) as grid:
            table = await grid.create_map("t") if not life else grid.map("t")
            assert await history(table) == whole
            await table.put("a", life)
            await grid.tick()
            whole = await history(table)
            assert [version.value for version in whole] == list(range(life + 1))
            await move_horizon(grid, grid.closed)


async def test_a_stream_has_no_history(grid: EmbeddedGrid) -> None:
    events = await grid.create_map("s", kind=MapKind.STREAM)
    await events.put("a", 1)
    with pytest.raises(WrongKindError):
        await history(events)


# Tokens --------------------------------------------------------------------------------------------------------------------------


async def test_a_token_outlives_the_process(tmp_path: Path) -> None:
    async with embedded.open(tmp_path, nodes=3) as grid:
        table = await grid.create_map("t")
        await table.put("a", 1)
        text = str(grid.token())
    async with embedded.open(tmp_path, nodes=2, token=text) as grid:
        entry = await grid.map("t").get("a")
        assert entry is not None and grid.token().epoch >= entry.epoch
    with pytest.raises(WrongGridError):
        async with embedded.open(token=text):
            raise AssertionError("opened")
