"""Follows one map into one sink: from where the sink is, through any break, as fast as the sink takes it.

    open sink -> snapshot (an empty sink of a table), from the beginning (an empty sink of a stream), or resume
    loop: everything that is ready, up to a size -> one `apply`
    the grid no longer has what comes next (a horizon or a generation is gone) -> a table begins anew, with a snapshot

While behind, many epochs share a transaction; when live, each closed epoch is applied as it comes. Reading goes on
while the sink works, bounded by the feed's buffer. Marks of quiet epochs move the sink's position too.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final, NamedTuple

from tidegrid.client.change import FeedBatch
from tidegrid.client.feed import Feed
from tidegrid.client.grid import Grid
from tidegrid.client.map import Map
from tidegrid.grid.model.errors import DeadlineError, EpochTooOldError
from tidegrid.grid.model.ids import Epoch
from tidegrid.replica.sink import Sink, Source

GROUP_BYTES: Final = 4 * 1024 * 1024  # of sections in one transaction


class Progress(NamedTuple):
    """`rows` applied since the start; `lag` in epochs behind the highest closed one that was heard of."""

    rows: int
    epoch: Epoch
    lag: int
    live: bool


class Follower:
    def __init__(
        self, grid: Grid, map_name: str, sink: Sink, progress: Callable[[Progress], None] | None = None
    ) -> None:
        self._grid = grid
        self._map = map_name
        self._sink = sink
        self._progress = progress
        self._waiters: dict[asyncio.Future[None], int] = {}
        self._live = False
        self.epoch = Epoch(0)
        self.rows = 0

    async def run(self) -> None:
        """Goes on until it is cancelled, or raises what ends it."""
        map_ = self._grid.map(self._map)
        spec = await map_.spec()
        position = await self._sink.open(Source(self._grid.id, spec))
        if position is not None:
            self._arrived(position, live=True)
        if position is None and not spec.stateful:
            position = Epoch(0)
        while True:
            try:
                await self._follow(map_, position)
            except EpochTooOldError:
                if not (self._live and spec.stateful):
                    raise
            position = None

    async def _follow(self, map_: Map, after: Epoch | None) -> None:
        feed = map_.subscribe(after, snapshot=after is None, marks=True, patience=math.inf)
        async with feed:
            async for batch in feed:
                group = _group(batch, feed)
                self.rows += await self._sink.apply(group)
                last = group[-1]
                self._arrived(last.epoch, live=not last.snapshot or last.live)

    def _arrived(self, epoch: Epoch, live: bool) -> None:
        self.epoch, self._live = epoch, live
        if live:
            for waiter, wanted in list(self._waiters.items()):
                if wanted <= epoch and not waiter.done():
                    waiter.set_result(None)
        if self._progress is not None:
            self._progress(Progress(self.rows, epoch, max(0, self._grid.closed - epoch), live))

    async def wait(self, epoch: int, deadline: float | None = None) -> Epoch:
        """Returns once the sink has everything up to `epoch`, with its position. Raises DeadlineError."""
        if not (self._live and self.epoch >= epoch):
            waiter = asyncio.get_running_loop().create_future()
            self._waiters[waiter] = epoch
            try:
                async with asyncio.timeout(deadline):
                    await self._grid.wait_closed(epoch, deadline=deadline)  # wakes a grid at rest
                    await waiter
            except TimeoutError:
                raise DeadlineError(
                    f"the replica is at epoch {self.epoch}, not yet at {epoch}; wait longer", epoch=epoch
                ) from None
            finally:
                del self._waiters[waiter]
        return self.epoch


def _group(first: FeedBatch, feed: Feed) -> list[FeedBatch]:
    """What is ready, as far as one transaction goes."""
    group, weight = [first], first.size
    while weight < GROUP_BYTES:
        batch = feed.ready()
        if batch is None:
            break
        group.append(batch)
        weight += batch.size
    return group
