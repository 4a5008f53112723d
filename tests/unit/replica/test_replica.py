from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tidegrid.client import FeedBatch, connect
from tidegrid.grid.model.errors import CallerError, ConfigurationError, DeadlineError, UnknownMapError
from tidegrid.grid.model.ids import Epoch
from tidegrid.grid.model.values import decode_value
from tidegrid.replica import Progress, Replica, Source, SqliteSink

from tests.unit.client.fake_grid import FakeGrid, until


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/r.db"


def made(nodes: int = 1) -> FakeGrid:
    fake = FakeGrid(partitions=4, nodes=nodes)
    fake.add_map("m", key=("id:int",))
    fake.add_map("s", kind=2, key=("id:int",))
    return fake


def select(url: str, sql: str) -> list[Any]:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def model(fake: FakeGrid, map_name: str = "m") -> list[Any]:
    from tidegrid.grid.model.keys import decode_key

    rows = []
    for (name, key), chain in fake.chains.items():
        version, epoch, _, value = chain[-1]
        if name == map_name and value is not None:
            rows.append((decode_key(key)[0], version, epoch, decode_value(value)["n"]))
    return sorted(rows)


ALL = "SELECT id, _version, _epoch, n FROM m ORDER BY id"


async def test_snapshot_changes_and_a_restart(url: str) -> None:
    fake = made(nodes=2)
    reports: list[Progress] = []
    async with connect("node0:1", transport=fake.transport()) as grid:
        m = grid.map("m")
        await m.put_many((index, {"n": index}) for index in range(500))
        fake.tick()
        async with Replica(grid, "m", url, progress=reports.append) as replica:
            await replica.wait(fake.closed, deadline=30)
            assert select(url, ALL) == model(fake)
            ack = await m.put(3, {"n": -3})
            await m.delete(4)
            with pytest.raises(DeadlineError):
                await replica.wait(ack.epoch, deadline=0.05)
            fake.tick()
            assert await replica.wait(ack.epoch, deadline=30) >= ack.epoch
            assert select(url, ALL) == model(fake) and replica.rows == 502
        await m.put_many((index, {"n": index + 1}) for index in range(100, 700))
        ack = await m.put(5, {"n": 55})
        fake.tick(3)
        subscriptions = len(fake.subscriptions)
        async with Replica(grid, "m", url) as replica:
            await replica.wait(ack.epoch, deadline=30)
            assert not any(request.snapshot for request in fake.subscriptions[subscriptions:])
            assert select(url, ALL) == model(fake) and replica.rows == 601
            fake.tick()
            await replica.wait(fake.closed, deadline=30)  # a quiet epoch
            assert select(url, "SELECT epoch FROM tidegrid_position") == [(fake.closed,)]
    assert reports[-1].live and reports[-1].rows == 502 and reports[-1].lag == 0


async def test_a_stream_from_its_beginning(url: str) -> None:
    fake = made()
    async with connect("node0:1", transport=fake.transport()) as grid:
        s = grid.map("s")
        await asyncio.gather(*(s.put(index % 3, {"n": index}) for index in range(50)))
        fake.tick()
        async with Replica(grid, "s", url) as replica:
            await replica.wait(fake.closed, deadline=30)
        assert sorted(select(url, "SELECT n FROM s")) == [(index,) for index in range(50)]


async def test_errors_reach_who_waits(url: str) -> None:
    fake = made()
    async with connect("node0:1", transport=fake.transport()) as grid:
        with pytest.raises(UnknownMapError):
            async with Replica(grid, "mm", url) as replica:
                await replica.wait(1, deadline=5)
        await grid.map("m").put(1, {"n": 1, "N": 1})
        fake.tick()
        with pytest.raises(ConfigurationError, match="rename"):
            async with Replica(grid, "m", url) as replica:
                await replica.finished()
        with pytest.raises(ConfigurationError, match="sqlite:///"):
            Replica(grid, "m", "flights.db")
        with pytest.raises(CallerError):
            await Replica(grid, "m", url).wait(1)
        async with Replica(grid, "m", url, table="t", rename={"N": "n2"}) as replica:
            await replica.wait(fake.closed, deadline=30)
        assert select(url, "SELECT n, n2 FROM t") == [(1, 1)]


class Killed(Exception):
    pass


class KilledSink:
    """A SqliteSink whose process dies before or after some transaction."""

    def __init__(self, path: str, at: int, after: bool) -> None:
        self._sink = SqliteSink(path)
        self._at, self._after = at, after

    async def open(self, source: Source) -> Epoch | None:
        return await self._sink.open(source)

    async def apply(self, batches: Sequence[FeedBatch]) -> int:
        self._at -= 1
        if self._at < 0 and not self._after:
            raise Killed
        rows = await self._sink.apply(batches)
        if self._at < 0:
            raise Killed
        return rows

    async def close(self) -> None:
        await self._sink.close()


@pytest.mark.parametrize("seed", range(6))
async def test_killed_at_random_with_breaks_and_moves(url: str, seed: int) -> None:
    rng = random.Random(seed)
    fake = made(nodes=3)
    fake.entries_per_message = 5
    async with connect("node0:1", transport=fake.transport()) as grid:
        m = grid.map("m")
        number = 0

        async def load() -> None:
            nonlocal number
            for _ in range(rng.randrange(1, 4)):
                for _ in range(rng.randrange(15)):
                    number += 1
                    await (
                        m.delete(rng.randrange(30)) if rng.random() < 0.2 else m.put(rng.randrange(30), {"n": number})
                    )
                fake.tick()

        await load()
        for _ in range(6):
            fake.cut_feeds_after = rng.choice([None, 2, 5])
            sink = KilledSink(url.removeprefix("sqlite:///"), rng.randrange(4), rng.random() < 0.5)
            with pytest.raises(Killed):
                async with Replica(grid, "m", sink) as replica:
                    while True:
                        await load()
                        if rng.random() < 0.3:
                            fake.move(rng.randrange(4), rng.randrange(3))
                        await replica.wait(fake.closed, deadline=30)
        fake.cut_feeds_after = None
        async with Replica(grid, "m", url) as replica:
            await replica.wait(fake.closed, deadline=30)
        assert select(url, ALL) == model(fake)


async def test_a_grid_that_goes_away_and_comes_back(url: str) -> None:
    fake = made()
    async with connect("node0:1", transport=fake.transport()) as grid, Replica(grid, "m", url) as replica:
        await grid.map("m").put(1, {"n": 1})
        fake.tick()
        await replica.wait(fake.closed, deadline=30)
        fake.kill(0)
        hellos = fake.hellos
        await until(lambda: fake.hellos > hellos + 2)
        fake.down.clear()
        await grid.map("m").put(2, {"n": 2})
        fake.tick()
        await replica.wait(fake.closed, deadline=30)
        assert select(url, ALL) == model(fake)
