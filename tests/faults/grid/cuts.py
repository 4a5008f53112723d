"""A closed epoch never changes: whoever reads all maps as of it, whenever, gets the same bytes, also after a restart."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Sequence

from tidegrid.client import Grid

from tests.faults.grid.book import NoAnswer
from tests.faults.grid.workloads import Stage

KEPT_MAX = 400


class Cuts:
    def __init__(self, maps: Sequence[str], readers: int = 2) -> None:
        self._maps = maps
        self._readers = readers
        self.hashes: dict[int, str] = {}

    async def prepare(self, stage: Stage) -> None:
        """The maps are those of others."""

    def run(self, stage: Stage) -> list[Awaitable[None]]:
        return [self._read(stage) for _ in range(self._readers)]

    async def _read(self, stage: Stage) -> None:
        while not stage.stopped:
            await stage.think()
            grid, epochs = stage.client(), list(self.hashes)
            if epochs and (stage.choose.random() < 0.5 or len(epochs) >= KEPT_MAX):
                epoch = stage.choose.choice(epochs)
            else:
                epoch = int(grid.closed) - min(stage.choose.randint(0, 3), int(grid.closed) - 1)
            try:
                self._compare(stage, epoch, await stage.book.read(f"cut {epoch}", self._hash(grid, epoch)))
            except NoAnswer:
                continue

    async def _hash(self, grid: Grid, epoch: int) -> str:
        digest = hashlib.sha256()
        for name in self._maps:
            async for entry in grid.map(name).scan(as_of=epoch):
                digest.update(repr((name, entry.raw_key, entry.raw_value, entry.version, entry.epoch)).encode())
        return digest.hexdigest()

    def _compare(self, stage: Stage, epoch: int, found: str) -> None:
        known = self.hashes.setdefault(epoch, found)
        stage.book.expect(known == found, f"the cut as of {epoch} reads otherwise than before")

    async def check(self, stage: Stage) -> None:
        for number, epoch in enumerate(sorted(self.hashes)):
            grid = stage.clients[number % len(stage.clients)]
            self._compare(stage, epoch, await self._hash(grid, epoch))

    async def check_again(self, stage: Stage) -> None:
        await self.check(stage)
