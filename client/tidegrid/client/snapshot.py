"""Several maps as of one closed epoch: every read of a snapshot sees the same consistent cut.

    async with grid.snapshot() as snapshot:
        seats = await snapshot.map("planes").get("N14228")
        async for entry in snapshot.map("flights").scan(prefix=(2013, 1)): ...

A snapshot costs the grid nothing and holds nothing back: once its epoch is older than the history that the grid keeps
(an hour, unless configured), reads of it raise EpochTooOldError.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING

from tidegrid.client.entry import Entry
from tidegrid.grid.model.ids import Epoch

if TYPE_CHECKING:
    from tidegrid.client.grid import Grid
    from tidegrid.client.map import Map


class Snapshot:
    """Made by `Grid.snapshot`. `epoch` is closed, and never changes."""

    def __init__(self, grid: Grid, epoch: Epoch) -> None:
        self.epoch = epoch
        self._grid = grid

    def map(self, name: str) -> SnapshotMap:
        return SnapshotMap(self._grid.map(name), self.epoch)


class SnapshotMap:
    """One map as of the snapshot's epoch. Methods raise as those of `Map`."""

    def __init__(self, of_map: Map, epoch: Epoch) -> None:
        self.epoch = epoch
        self._map = of_map

    @property
    def name(self) -> str:
        return self._map.name

    async def get(self, key: object, *, deadline: float | None = None) -> Entry | None:
        return await self._map.get(key, as_of=self.epoch, deadline=deadline)

    async def get_many(self, keys: Iterable[object], *, deadline: float | None = None) -> list[Entry | None]:
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
        return self._map.scan(
            prefix, begin=begin, end=end, as_of=self.epoch, limit=limit, reverse=reverse, deadline=deadline
        )
