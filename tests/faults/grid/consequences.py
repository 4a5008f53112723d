"""What follows from writes: routed outputs, a chain of triggers over three partitions, and folds.

In every cut, each move that is there has all of its consequences there, once, and nothing else is: that of a cut of
the raw map alone follows what every other map holds in it.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from tidegrid.client import Grid
from tidegrid.triggers.deployment import Module

from tests.faults.grid.book import NoAnswer
from tests.faults.grid.workloads import Stage

BUCKETS = 7
MOVES, MIRROR, AGAIN, TALLY, TALLY_AGAIN = "moves", "mirror", "again", "tally", "tally.again"

SOURCE = """
from tidegrid.triggers import Merge, Put, table, trigger


def add(state, amount):
    state = state or {"count": 0, "sum": 0}
    return {"count": state["count"] + 1, "sum": state["sum"] + amount}


table("moves", key=("id:int",))
table("mirror", key=("bucket:int", "id:int"))
table("again", key=("id:int", "bucket:int"))
table("tally", key=("bucket:int",), fold=add)
table("tally.again", key=("bucket:int",), fold=add)


@trigger(on="moves", emits=("mirror", "tally"))
def first(write):
    (number,) = write.key
    yield Put("mirror", (number % 7, number), write.value)
    if write.version == 1:
        yield Merge("tally", number % 7, write.value)


@trigger(on="mirror", emits=("again", "tally.again"))
def second(write):
    bucket, number = write.key
    yield Put("again", (number, bucket), write.value)
    yield Merge("tally.again", bucket, write.value)
"""
MODULE = Module("consequences", SOURCE)


class Consequences:
    def __init__(self) -> None:
        self._next = 0

    async def prepare(self, stage: Stage) -> None:
        """The maps come with the triggers."""

    def run(self, stage: Stage) -> list[Awaitable[None]]:
        return [self._move(stage) for _ in range(2)] + [self._watch(stage)]

    async def _move(self, stage: Stage) -> None:
        while not stage.stopped:
            await stage.think()
            self._next += 1
            number, amount = self._next, stage.choose.randint(1, 1000)
            more = {} if (patience := stage.patience()) is None else {"deadline": patience}
            try:
                await stage.book.write(f"move {number}", stage.client().map(MOVES).put(number, amount, **more))
            except NoAnswer:
                continue  # it may be stored, with all that follows, or nothing of it

    async def _watch(self, stage: Stage) -> None:
        while not stage.stopped:
            await stage.think()
            grid = stage.client()
            newest = max(1, int(grid.closed))
            try:
                await self._cut(stage, grid, stage.choose.randint(max(1, newest - 20), newest))
            except NoAnswer:
                continue

    async def _cut(self, stage: Stage, grid: Grid, epoch: int) -> None:
        held = {
            name: await stage.book.read(f"scan {name}", _rows(grid, name, epoch))
            for name in (MOVES, MIRROR, AGAIN, TALLY, TALLY_AGAIN)
        }
        moves = {key[0]: amount for key, amount in held[MOVES].items()}
        tally: dict[tuple[Any, ...], dict[str, int]] = {}
        for number, amount in moves.items():
            one = tally.setdefault((number % BUCKETS,), {"count": 0, "sum": 0})
            one["count"] += 1
            one["sum"] += amount
        wanted = {
            MIRROR: {(number % BUCKETS, number): amount for number, amount in moves.items()},
            AGAIN: {(number, number % BUCKETS): amount for number, amount in moves.items()},
            TALLY: tally,
            TALLY_AGAIN: tally,
        }
        for name, rows in wanted.items():
            missing = {key: row for key, row in rows.items() if held[name].get(key) != row}
            more = {key: row for key, row in held[name].items() if rows.get(key) != row}
            stage.book.expect(
                not missing and not more,
                f"as of {epoch}, {len(moves)} moves: {name} lacks {list(missing.items())[:3]}, has {list(more.items())[:3]}",
            )

    async def check(self, stage: Stage) -> None:
        for grid in stage.clients:
            await self._cut(stage, grid, int(grid.closed))

    async def check_again(self, stage: Stage) -> None:
        await self.check(stage)


async def _rows(grid: Grid, name: str, epoch: int) -> dict[tuple[Any, ...], Any]:
    return {entry.key: entry.value async for entry in grid.map(name).scan(as_of=epoch)}
