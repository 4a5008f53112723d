"""A chain of causes: two clients take turns, each writes once it has read what the other wrote, with its token.

Step n is written under key n mod K, so that keys of neighbours are on different partitions. Whoever sees step n sees
step n - 1: the receiver of the token at once, and everybody in every cut.
"""

from __future__ import annotations

from collections.abc import Awaitable

from tidegrid.client import Grid

from tests.faults.grid.book import NoAnswer
from tests.faults.grid.workloads import Stage

CHAIN = "chain"


class Chain:
    def __init__(self, keys: int = 7) -> None:
        self._keys = keys
        self._step = 0
        self._epoch = 1

    async def prepare(self, stage: Stage) -> None:
        await stage.clients[0].create_map(CHAIN, key=("link:int",))

    def run(self, stage: Stage) -> list[Awaitable[None]]:
        return [self._turns(stage, stage.clients[0], stage.clients[-1]), self._watch(stage)]

    async def _turns(self, stage: Stage, *pair: Grid) -> None:
        while not stage.stopped:
            me, other = pair[self._step % 2], pair[(self._step + 1) % 2]
            me.advance(str(other.token()))
            try:
                if self._step:
                    key = self._step % self._keys
                    entry = await stage.book.read(f"get link {key}", me.map(CHAIN).get(key))
                    found = entry.value if entry is not None else 0
                    stage.book.expect(
                        found >= self._step,
                        f"link {key} is {found} to who holds the token of its writer, who wrote {self._step}",
                    )
                step = self._step + 1
                ack = await stage.book.write(f"put link {step}", me.map(CHAIN).put(step % self._keys, step))
                self._step, self._epoch = step, ack.epoch
            except NoAnswer:
                pass  # the same step again: it is the same value
            await stage.think()

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
        found = await stage.book.read("links", grid.map(CHAIN).get_many(range(self._keys), as_of=epoch))
        steps = sorted(entry.value for entry in found if entry is not None)
        if not steps:
            return
        highest = steps[-1]
        wanted = list(range(max(1, highest - self._keys + 1), highest + 1))
        stage.book.expect(steps == wanted, f"as of {epoch} the links are {steps}: not each with the one before it")

    async def check(self, stage: Stage) -> None:
        for grid in stage.clients:
            epoch = await grid.wait_closed(self._epoch)
            await self._cut(stage, grid, epoch)
            found = [entry.value async for entry in grid.map(CHAIN).scan(as_of=epoch)]
            stage.book.expect(
                max(found, default=0) >= self._step, f"the last link is {max(found, default=0)}, not {self._step}"
            )

    async def check_again(self, stage: Stage) -> None:
        await self.check(stage)
