"""Copies of derived maps across switches of generations: a replica and a resumed feed are, at every epoch that they say they
have reached, what the grid is as of it: before the switch, at it, and back again."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tidegrid import embedded
from tidegrid.client import FeedBatch
from tidegrid.embedded import EmbeddedGrid
from tidegrid.grid.model.errors import EpochTooOldError
from tidegrid.grid.model.ids import Epoch
from tidegrid.grid.runtime.opening import append_control, fold_control
from tidegrid.replica import Replica, Source, SqliteSink
from tidegrid.v1.control_pb2 import ControlRecord, Horizon

SOURCE = """
from tidegrid.triggers import Merge, Put, table, trigger
table("raw", key=("n:int",))
table("rows", key=("n:int",))
table("spread", key=("digit:int", "n:int"))

def add(state, amount):
    state = state or {"count": 0, "sum": 0}
    return {"count": state["count"] + 1, "sum": state["sum"] + amount}

table("sums", key=("digit:int",), fold=add)

@trigger(on="raw", emits=("rows", "spread", "sums"))
def follow(write):
    (n,) = write.key
    if OLD and write.value == 3:
        return
    if n % LEFT_OUT:
        changed = {"value": write.value, "was": "old"} if OLD else {"value": 2 * write.value, "became": "new"}
        yield Put("rows", write.key, {"value": write.value} if n % 5 == 0 else changed)
        yield Put("spread", (n % 10, n), changed)
    yield Merge("sums", n % 10, write.value if OLD else 2 * write.value)
"""
MAPS = ("rows", "spread", "sums")
OLD = ("m", SOURCE.replace("OLD", "True").replace("LEFT_OUT", "7"))
NEW = ("m", SOURCE.replace("OLD", "False").replace("LEFT_OUT", "11"))
FIRST = [*((n, 3) for n in range(0, 200, 3)), *((n, n % 3) for n in range(200)), *((n, 8) for n in range(0, 200, 4))]

Rows = dict[tuple[Any, ...], tuple[int, Any]]
"""Key -> (version, value)."""


@pytest.fixture(params=["memory", "directory"])
async def grid(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EmbeddedGrid]:
    data = tmp_path / "data" if request.param == "directory" else None
    async with embedded.open(data, nodes=3, tick=0.005) as opened:
        yield opened


async def scanned(grid: EmbeddedGrid, name: str, epoch: int, generation: int | None = None) -> Rows:
    found = grid.map(name, generation=generation).scan(as_of=epoch)
    return {entry.key: (entry.version, entry.value) async for entry in found}


async def write(grid: EmbeddedGrid, pairs: Sequence[tuple[int, int]]) -> int:
    epoch = max(outcome.epoch for outcome in await grid.map("raw").put_many(pairs))
    return int(await grid.wait_closed(epoch))


async def show(grid: EmbeddedGrid, number: int) -> int:
    """The epoch from which readers see it."""
    await grid.show_generations(dict.fromkeys(MAPS, number))
    (epoch,) = {one.seen_from for one in await grid.generations() if one.seen}
    return epoch


def copied(path: Path, name: str) -> Rows:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        rows: Rows = {}
        for row in connection.execute(f"SELECT * FROM {name}"):
            values = {column: row[column] for column in row.keys() if column[0] != "_" and row[column] is not None}  # noqa: SIM118
            key = tuple(values.pop(column) for column in ("digit", "n") if column in values)
            rows[key] = (row["_version"], values)
        return rows


class WatchedSink:
    """A SqliteSink that is looked into after every transaction."""

    def __init__(self, path: Path, name: str, seen: dict[int, Rows]) -> None:
        self._sink = SqliteSink(str(path))
        self._path, self._name, self._seen = path, name, seen
        self.wiped = False

    async def open(self, source: Source) -> Epoch | None:
        return await self._sink.open(source)

    async def apply(self, batches: Sequence[FeedBatch]) -> int:
        count = await self._sink.apply(batches)
        self.wiped = self.wiped or any(batch.begins for batch in batches)
        if not batches[-1].snapshot or batches[-1].live:
            self._seen[int(batches[-1].epoch)] = copied(self._path, self._name)
        return count

    async def close(self) -> None:
        await self._sink.close()


class Copies:
    """A replica of each map, and what each was at every epoch that it said it had reached."""

    def __init__(self, grid: EmbeddedGrid, directory: Path) -> None:
        self._grid = grid
        directory.mkdir(exist_ok=True)
        self._paths = {name: directory / f"{name}.db" for name in MAPS}
        self.seen: dict[str, dict[int, Rows]] = {name: {} for name in MAPS}
        self.wiped: set[str] = set()

    @contextlib.asynccontextmanager
    async def running(self, through: int = 0) -> AsyncIterator[list[Replica]]:
        """Until they have reached that epoch, and the block has ended."""
        sinks = {name: WatchedSink(self._paths[name], name, self.seen[name]) for name in MAPS}
        async with contextlib.AsyncExitStack() as stack:
            replicas = [await stack.enter_async_context(Replica(self._grid, name, sinks[name])) for name in MAPS]
            for replica in replicas:
                await replica.wait(through, deadline=60)
            yield replicas
        self.wiped = {name for name in MAPS if sinks[name].wiped}

    async def check(self, switches: dict[int, int], least: int = 1, since: int = 0) -> None:
        """`switches`: generation by the epoch from which readers see it. `since`: what is before cannot be read any more."""
        for name, seen in self.seen.items():
            there = {epoch: rows for epoch, rows in seen.items() if epoch >= since}
            assert len(there) >= least
            for epoch, rows in there.items():
                generation = next((switches[at] for at in sorted(switches, reverse=True) if at <= epoch), 1)
                assert rows == await scanned(self._grid, name, epoch, generation), f"{name} as of {epoch}"


async def until(replicas: list[Replica], epoch: int) -> None:
    for replica in replicas:
        await replica.wait(epoch, deadline=60)


async def test_a_replica_is_at_every_epoch_what_the_grid_is(grid: EmbeddedGrid, tmp_path: Path) -> None:
    await grid.deploy(OLD)
    past = await write(grid, FIRST)
    copies = Copies(grid, tmp_path / "copies")
    async with copies.running(past) as replicas:
        await grid.deploy(NEW)
        await write(grid, [(n, 4) for n in range(150, 260)])
        to = (await grid.regenerate()).seen_from
        await until(replicas, to)
        assert await scanned(grid, "rows", to, 1) != await scanned(grid, "rows", to)
        await until(replicas, await write(grid, [(1, 100), (7, 5), (11, 5)]))
        back = await show(grid, 1)
        await until(replicas, await write(grid, [(2, 100), (14, 5)]))
    await copies.check({to: 2, back: 1}, least=4)  # a replica that is behind takes several epochs at once
    assert all(max(seen) > back for seen in copies.seen.values())


async def test_a_replica_that_was_stopped_before_the_switch(grid: EmbeddedGrid, tmp_path: Path) -> None:
    await grid.deploy(OLD)
    past = await write(grid, FIRST)
    copies, late = Copies(grid, tmp_path / "copies"), Copies(grid, tmp_path / "late")
    async with copies.running(past):
        pass
    await grid.deploy(NEW)
    await write(grid, [(n, 4) for n in range(150, 260)])
    to = (await grid.regenerate()).seen_from
    last = await write(grid, [(1, 100), (7, 5), (11, 5)])
    async with copies.running(last), late.running(last):
        pass
    assert not copies.wiped and late.wiped == set(MAPS)
    back = await show(grid, 1)
    last = await write(grid, [(2, 100), (14, 5)])
    async with copies.running(last), late.running(last):
        pass
    for one in (copies, late):
        assert not one.wiped
        await one.check({to: 2, back: 1}, least=2)


async def test_a_feed_is_resumed_from_before_the_switch(grid: EmbeddedGrid) -> None:
    await grid.deploy(OLD)
    past = await write(grid, FIRST)
    await grid.deploy(NEW)
    middle = await write(grid, [(n, 4) for n in range(150, 260)])
    begun = {name: {epoch: await scanned(grid, name, epoch) for epoch in (past, middle)} for name in MAPS}
    to = (await grid.regenerate()).seen_from
    back = await show(grid, 1)
    last = await write(grid, [(2, 100), (14, 5)])
    for name in MAPS:
        for after in (0, past, middle, to - 1, to, back - 1, back):
            state = dict(begun[name].get(after, {}))
            if after not in (0, past, middle):
                state = await scanned(grid, name, after, 2 if to <= after < back else 1)
            async with grid.map(name).subscribe(after, marks=True) as feed:
                async for batch in feed:
                    for change in batch.changes:
                        state.pop(change.key, None)
                        if change.value is not None:
                            state[change.key] = (change.version, change.value)
                    if batch.changes or batch.epoch >= last:
                        number = 2 if to <= batch.epoch < back else 1
                        wanted = await scanned(grid, name, batch.epoch, number)
                        assert state == wanted, f"{name} after {after}, as of {batch.epoch}"
                    if batch.epoch >= last:
                        break


async def move_horizon(grid: EmbeddedGrid, epoch: int) -> None:
    log = grid.local.log
    record = ControlRecord(horizon=Horizon(epoch=epoch))
    await append_control(log, await fold_control(log), lambda _: record)
    await write(grid, [(1000, 1)])
    await write(grid, [(1000, 2)])


async def test_what_history_no_longer_has_is_copied_anew(grid: EmbeddedGrid, tmp_path: Path) -> None:
    await grid.deploy(OLD)
    past = await write(grid, FIRST)
    copies = Copies(grid, tmp_path / "copies")
    async with copies.running(past):
        pass
    await grid.deploy(NEW)
    to = (await grid.regenerate()).seen_from
    await write(grid, [(n, 50 + n) for n in range(150, 210)])
    horizon = await write(grid, [(n, n) for n in range(0, 200, 2)])
    await move_horizon(grid, horizon)
    with pytest.raises(EpochTooOldError, match="history"):
        async with grid.map("rows").subscribe(past, marks=True) as feed:
            async for batch in feed:
                assert batch.epoch < to
    last = await write(grid, [(3, 1)])
    async with copies.running(last):
        pass
    assert copies.wiped == set(MAPS)
    await copies.check({to: 2}, since=horizon)


async def test_a_generation_that_was_let_go_of_is_copied_anew(grid: EmbeddedGrid, tmp_path: Path) -> None:
    await grid.deploy(OLD)
    past = await write(grid, FIRST)
    copies = Copies(grid, tmp_path / "copies")
    async with copies.running(past):
        pass
    await grid.deploy(NEW)
    to = (await grid.regenerate()).seen_from
    await grid.drop_generations(dict.fromkeys(MAPS, 1))
    last = await write(grid, [(3, 1)])
    async with copies.running(last):
        pass
    assert copies.wiped == set(MAPS)
    await copies.check({to: 2}, since=to)
