"""What clients do while the grid suffers: the seam between the campaign and its workloads.

A workload keeps a model of its own, from what clients asked and were told, and never asks the grid what is true.

Lifecycle: `prepare` -> `run` until `Stage.stop` is set -> (faults end, the grid has settled) -> `check` -> the grid is
restarted over its log -> `check_again`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tidegrid.client import Grid

from tests.faults.grid.book import Book


@dataclass(slots=True)
class Stage:
    """What workloads share. `pause`: seconds between two operations of one client, on average.

    `hermits` are clients that ask seldom, and one owner only: nothing else tells them how time and owners have changed.
    """

    book: Book
    choose: random.Random
    clients: list[Grid]
    pause: float = 0.005
    stop: asyncio.Event | None = None
    hermits: Sequence[Grid] = ()

    def client(self) -> Grid:
        return self.choose.choice(self.clients)

    @property
    def stopped(self) -> bool:
        assert self.stop is not None
        return self.stop.is_set()

    def patience(self) -> float | None:
        """Seconds for one operation: now and then too few to live through a take-over, so that outcomes stay unknown."""
        return self.choose.uniform(0.2, 2.0) if self.choose.random() < 0.25 else None

    async def think(self) -> None:
        """Clients that do not think would only measure how busy this process is."""
        await asyncio.sleep(self.choose.uniform(0, 2 * self.pause))


class Workload(Protocol):
    async def prepare(self, stage: Stage) -> None: ...

    def run(self, stage: Stage) -> list[Awaitable[None]]:
        """Its clients; each returns when `stage.stop` is set."""
        ...

    async def check(self, stage: Stage) -> None:
        """Everything, on a grid that is whole again."""
        ...

    async def check_again(self, stage: Stage) -> None:
        """After a full restart; `stage` has new clients."""
        ...
