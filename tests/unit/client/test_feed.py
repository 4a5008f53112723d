from __future__ import annotations

import asyncio
import random

import pytest
from tidegrid.client import FeedBatch, Grid, connect
from tidegrid.client.feed_merge import FeedMerge
from tidegrid.grid.model.errors import CallerError, GridError, UnavailableError, UnknownMapError, WrongGridError
from tidegrid.grid.model.keys import encode_key
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.values import encode_value

from tests.unit.client.fake_grid import FakeGrid, until


def fill(fake: FakeGrid, epochs: int, per_epoch: int = 6, start: int = 0, map_name: str = "m", op: int = 1) -> None:
    for epoch in range(epochs):
        for row in range(per_epoch):
            number = start + epoch * per_epoch + row
            key = encode_key(number)
            fake.append(fake.partition_of(map_name, key), map_name, [(key, encode_value({"n": number}, Limits()), op)])
        fake.tick()


def expected(fake: FakeGrid, after: int = 0) -> list[tuple[int, int, int]]:
    rows = [(epoch, partition, position) for partition, log in fake.log.items() for position, epoch, _, _ in log]
    return sorted(row for row in rows if row[0] > after)


def seen(batch: FeedBatch) -> list[tuple[int, int, int]]:
    return [(change.epoch, change.partition, change.position) for change in batch.changes]


async def collect(feed: object, count: int) -> list[tuple[int, int, int]]:
    got: list[tuple[int, int, int]] = []
    while len(got) < count:
        batch = await feed.__anext__()  # type: ignore[attr-defined]
        assert not got or batch.epoch > got[-1][0]
        got += seen(batch)
    return got


async def test_from_now_on(fake: FakeGrid, grid: Grid) -> None:
    fill(fake, 2)
    m = grid.map("m")
    async with m.subscribe() as feed:
        await until(lambda: fake.feeds)
        await m.put("a", {"x": 1})
        await m.delete("a")
        fake.tick()
        batch = await anext(feed)
        first, second = batch.changes
        assert (first.op, first.key, first.value, first.version, first.epoch) == (
            "put",
            ("a",),
            {"x": 1},
            1,
            batch.epoch,
        )
        assert (second.op, second.key, second.value, second.version) == ("delete", ("a",), None, 2)
        assert feed.mark == batch.epoch and len(batch) == 2 and first.time_ms


@pytest.mark.parametrize("only_at_end", [False, True])
async def test_all_of_the_past_in_order(only_at_end: bool) -> None:
    fake = FakeGrid(partitions=7, nodes=3)
    fake.mark_only_at_end = only_at_end
    fake.add_map("m")
    fill(fake, 30)
    async with connect("node0:1", transport=fake.transport()) as grid, grid.map("m").subscribe(after=0) as feed:
        assert await collect(feed, 180) == expected(fake)
        fill(fake, 3, start=500)
        assert await collect(feed, 18) == expected(fake)[180:]


@pytest.mark.parametrize("seed", range(8))
async def test_breaks_and_moves_lose_and_double_nothing(seed: int) -> None:
    rng = random.Random(seed)
    fake = FakeGrid(partitions=6, nodes=3)
    fake.add_map("m")
    fill(fake, 10)
    fake.cut_feeds_after = 2
    async with (
        connect("node0:1", transport=fake.transport()) as grid,
        grid.map("m").subscribe(after=6, buffer_bytes=rng.choice([1, 400, 10**6])) as feed,
    ):
        got: list[tuple[int, int, int]] = []
        for round_ in range(12):
            if rng.random() < 0.5:
                fake.move(rng.randrange(6), rng.randrange(3))
            if rng.random() < 0.3:
                fake.kill(node := rng.randrange(3))
                asyncio.get_running_loop().call_later(0.01, fake.down.discard, node)
            fill(fake, 2, start=1_000 * (round_ + 1))
            got += await collect(feed, len(expected(fake, 6)) - len(got) - rng.randrange(6))
        fake.cut_feeds_after = None
        got += await collect(feed, len(expected(fake, 6)) - len(got))
        assert got == expected(fake, 6)


async def test_a_feed_that_is_ahead_is_not_read() -> None:
    fake = FakeGrid(partitions=2, nodes=2)
    fake.add_map("m")
    fake.entries_per_message = 1
    fill(fake, 200, per_epoch=10)
    slow = asyncio.Event()
    transport = fake.transport()
    subscribe = transport.subscribe

    def held(member: object, request: object) -> object:
        feed = subscribe(member, request)  # type: ignore[arg-type]
        if member.node == 1:  # type: ignore[attr-defined]
            following = feed.__anext__

            async def later() -> object:
                await slow.wait()
                return await following()

            class Held:
                def __aiter__(self) -> object:
                    return self

                async def __anext__(self) -> object:
                    return await later()

                def cancel(self) -> None:
                    feed.cancel()

            return Held()
        return feed

    transport.subscribe = held  # type: ignore[method-assign,assignment]
    async with (
        connect("node0:1", transport=transport) as grid,
        grid.map("m").subscribe(after=0, buffer_bytes=2_000) as feed,
    ):
        first = asyncio.ensure_future(anext(feed))
        for _ in range(3_000):
            await asyncio.sleep(0)
        assert not first.done()
        ahead = next(feed for feed in fake.feeds if feed.node == 0)
        assert ahead.sent < 50 and feed.buffered_bytes < 2_500  # of 1,000
        slow.set()
        got = seen(await first)
        got += await collect(feed, 2_000 - len(got))
        assert got == expected(fake)


async def test_who_does_not_iterate_stops_the_nodes(fake: FakeGrid, grid: Grid) -> None:
    fake.entries_per_message = 1
    fill(fake, 500, per_epoch=4)
    async with grid.map("m").subscribe(after=0, buffer_bytes=3_000) as feed:
        for _ in range(5_000):
            await asyncio.sleep(0)
        assert fake.feeds[0].sent < 60 and feed.buffered_bytes < 3_500
        assert await collect(feed, 2_000) == expected(fake)


async def test_snapshot_then_changes() -> None:
    fake = FakeGrid(partitions=5, nodes=2)
    fake.add_map("m")
    fill(fake, 4)
    async with connect("node0:1", transport=fake.transport()) as grid:
        m = grid.map("m")
        await m.delete(3)
        fake.tick()
        closed = fake.closed
        await m.put(100, {"n": "later"})
        async with m.subscribe(snapshot=True) as feed:
            rows = []
            begins = []
            async for batch in feed:
                assert batch.snapshot and batch.epoch == closed
                begins.append(batch.begins)
                rows += [(change.key[0], change.value["n"], change.version, change.epoch) for change in batch.changes]
                if batch.live:
                    break
            assert begins == [True] + [False] * (len(begins) - 1) and feed.live
            assert sorted(row[0] for row in rows) == [number for number in range(24) if number != 3]
            assert all(epoch <= closed for *_, epoch in rows)
            fake.tick()
            batch = await anext(feed)
            assert not batch.snapshot and [change.key for change in batch.changes] == [(100,)]


async def test_who_does_not_take_a_snapshot_stops_the_nodes(fake: FakeGrid, grid: Grid) -> None:
    fake.entries_per_message = 1
    fill(fake, 20, per_epoch=50)
    async with grid.map("m").subscribe(snapshot=True, buffer_bytes=3_000) as feed:
        for _ in range(3_000):
            await asyncio.sleep(0)
        assert fake.feeds[0].sent < 60 and feed.buffered_bytes < 3_500
        rows = 0
        while not feed.live:
            rows += len(await anext(feed))
        assert rows == 1_000


async def test_the_snapshot_of_an_empty_map(fake: FakeGrid, grid: Grid) -> None:
    async with grid.map("m").subscribe(snapshot=True) as feed:
        batch = await anext(feed)
        assert batch.snapshot and batch.begins and batch.live and len(batch) == 0


async def test_a_break_in_a_snapshot_begins_it_anew() -> None:
    fake = FakeGrid(partitions=4, nodes=2)
    fake.add_map("m")
    fake.entries_per_message = 2
    fill(fake, 10)
    fake.cut_feeds_after = 4
    async with connect("node0:1", transport=fake.transport()) as grid, grid.map("m").subscribe(snapshot=True) as feed:
        begun = 0
        table: dict[object, object] = {}
        async for batch in feed:
            if batch.begins:
                begun += 1
                table = {}
                if begun == 3:
                    fake.cut_feeds_after = None
                fill(fake, 1, start=1_000 * begun)
            for change in batch.changes:
                assert change.key not in table
                table[change.key] = change.value
            if batch.live:
                break
        assert begun >= 3
        model = set(range(60))
        assert {key[0] for key in table if key[0] < 1_000} == model  # type: ignore[index]


async def test_a_snapshot_that_the_horizon_overtakes(fake: FakeGrid, grid: Grid) -> None:
    fill(fake, 3)
    fake.horizon = fake.closed + 1
    async with grid.map("m").subscribe(snapshot=True) as feed:
        asyncio.get_running_loop().call_soon(fill, fake, 1, 6, 100)
        rows = 0
        async for batch in feed:
            rows += len(batch)
            if batch.live:
                break
        assert rows == 24 and batch.epoch >= fake.horizon


async def test_marks(fake: FakeGrid, grid: Grid) -> None:
    async with grid.map("m").subscribe(after=fake.closed, marks=True) as feed:
        fake.tick()
        batch = await anext(feed)
        assert len(batch) == 0 and batch.epoch == fake.closed
        fill(fake, 1)
        batch = await anext(feed)
        assert len(batch) == 6 and batch.epoch == fake.closed == feed.mark
        assert feed.ready() is None


async def test_errors_end_the_feed(fake: FakeGrid, grid: Grid) -> None:
    async with grid.map("nope").subscribe() as feed:
        with pytest.raises(UnknownMapError):
            await anext(feed)
    feed = grid.map("m").subscribe()
    with pytest.raises(CallerError, match="async with"):
        await anext(feed)
    async with grid.map("m").subscribe(after=0, patience=0.05) as feed:
        await until(lambda: fake.feeds)
        fake.kill(0)
        with pytest.raises(UnavailableError):
            await anext(feed)
    fake.down.clear()
    async with grid.map("m").subscribe(after=0) as feed:
        pass
    with pytest.raises(StopAsyncIteration):
        await anext(feed)


async def test_whatever_ends_a_task_of_a_feed_ends_the_feed(
    fake: FakeGrid, grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidegrid.client.feed.UNANSWERED_SECONDS", 0.01)
    monkeypatch.setattr("tidegrid.client.patience.UNANSWERED_SECONDS", 0.01)
    async with grid.map("m").subscribe(after=0) as feed:
        await until(lambda: fake.feeds)
        fake.grid_id = b"H" * 16  # what hangs has no answer that would tell
        with pytest.raises(WrongGridError):
            await anext(feed)
    fake.grid_id = b"G" * 16

    def defect(*_: object) -> None:
        raise LookupError("odd")

    monkeypatch.setattr(FeedMerge, "offer", defect)
    async with grid.map("m").subscribe(after=0) as feed:
        with pytest.raises(GridError, match=r"a defect of the client \(LookupError\('odd'\)\)"):
            await anext(feed)


async def test_closing_the_grid_closes_its_feeds(fake: FakeGrid) -> None:
    async with connect("node0:1", transport=fake.transport()) as grid:
        feed = await grid.map("m").subscribe().__aenter__()
        waiting = asyncio.ensure_future(anext(feed))
        await asyncio.sleep(0)
    with pytest.raises(StopAsyncIteration):
        await waiting
