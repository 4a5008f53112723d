"""Several maps as of one closed epoch: every read of a snapshot sees the same consistent cut.

    async with grid.snapshot() as snapshot:
        seats = await snapshot.map("planes").get("N14228")
        async for entry in snapshot.map("flights").scan(prefix=(2013, 1)): ...

A snapshot that lives for longer than a second takes a hold on history (holds.py), so that its epoch stays readable; a
short one costs the grid nothing. If the grid ends the hold, the next read raises HoldLostError.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Final

from tidegrid.client.entry import Entry
from tidegrid.client.holds import Hold
from tidegrid.grid.model.errors import GridError
from tidegrid.grid.model.ids import Epoch

if TYPE_CHECKING:
    from tidegrid.client.grid import Grid
    from tidegrid.client.map import Map


HOLD_AFTER_SECONDS: Final = 1.0  # a hold is two records of the control log: not for a few reads


class Snapshot:
    """Made by `Grid.snapshot`. `epoch` is closed, and never changes; nor do generations, which are those that readers saw
    when `seen_at` was the highest closed. `hold`: what keeps it readable, if there is one."""

    def __init__(self, grid: Grid, epoch: Epoch, seen_at: Epoch, hold: Hold | None = None) -> None:
        self.epoch = epoch
        self.seen_at = seen_at
        self.hold = hold
        self._grid = grid

    def map(self, name: str) -> SnapshotMap:
        return SnapshotMap(self._grid.seen_at(name, self.seen_at), self)

    def check(self) -> None:
        """Raises HoldLostError."""
        if self.hold is not None:
            self.hold.check()


@asynccontextmanager
async def held_later(snapshot: Snapshot, take: Callable[[], AbstractAsyncContextManager[Hold]]) -> AsyncIterator[None]:
    """The snapshot has a hold once the block has run for a while. Without one it is as good as the history is long."""

    async def keep() -> None:
        await asyncio.sleep(HOLD_AFTER_SECONDS)
        with contextlib.suppress(GridError):
            async with take() as snapshot.hold:
                await asyncio.Event().wait()  # to be cancelled

    keeping = asyncio.create_task(keep())
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


class SnapshotMap:
    """One map as of the snapshot's epoch. Methods raise as those of `Map`, and HoldLostError."""

    def __init__(self, of_map: Map, snapshot: Snapshot) -> None:
        self.epoch = snapshot.epoch
        self._map = of_map
        self._check = snapshot.check

    @property
    def name(self) -> str:
        return self._map.name

    async def get(self, key: object, *, deadline: float | None = None) -> Entry | None:
        self._check()
        return await self._map.get(key, as_of=self.epoch, deadline=deadline)

    async def get_many(self, keys: Iterable[object], *, deadline: float | None = None) -> list[Entry | None]:
        self._check()
        return await self._map.get_many(keys, as_of=self.epoch, deadline=deadline)

    def scan(
        self,
        prefix: object = None,
        *,
        begin: object = None,
        end: object = None,
        limit: int | None = None,
        reverse: bool = False,
        deadline: float | None = None,
    ) -> AsyncIterator[Entry]:
        self._check()
        return self._map.scan(
            prefix, begin=begin, end=end, as_of=self.epoch, limit=limit, reverse=reverse, deadline=deadline
        )
