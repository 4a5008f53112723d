"""Followers that live through it all: every change once, in the order of epochs, and none that others do not see.

One per map, from the beginning on. A key's versions come one by one; so none is missing and none comes twice (what is
missing of a map that receives outputs shows in the end). In the
end the changes amount to what a scan reads, acknowledged writes came under the epoch that their writer was told, and a
second follower that begins now is told the same story.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, NamedTuple

from tidegrid.client import Grid
from tidegrid.grid.model.errors import GridError
from tidegrid.grid.model.keys import decode_key

from tests.faults.grid.consequences import AGAIN, MIRROR, TALLY, TALLY_AGAIN
from tests.faults.grid.registers import REGISTERS, Registers
from tests.faults.grid.workloads import Stage

PATIENCE = 120.0
NOT_COUNTED = (AGAIN, MIRROR, TALLY, TALLY_AGAIN)  # where outputs may come late: numbers tell versions apart, no more


class Told(NamedTuple):
    epoch: int
    version: int
    value: Any


class Story:
    """What one follower of one map was told. `mark`: all up to this epoch."""

    def __init__(self, name: str) -> None:
        self.map = name
        self.mark = 0
        self.keys: dict[bytes, list[Told]] = {}

    async def follow(self, stage: Stage, grid: Grid, moved: asyncio.Event | None, through: int | None = None) -> None:
        """Until it is cancelled, or `through` this epoch."""
        async with grid.map(self.map).subscribe(after=self.mark, marks=True, patience=PATIENCE) as feed:
            async for batch in feed:
                if batch.epoch < self.mark or (len(batch) and batch.epoch == self.mark):
                    stage.book.anomaly(f"a feed of {self.map} tells of {batch.epoch} after {self.mark}")
                for change in batch.changes:
                    told = self.keys.setdefault(change.raw_key, [])
                    last = told[-1].version if told else 0
                    counted = change.version == last + 1
                    if self.map in NOT_COUNTED:
                        counted = change.version not in {one.version for one in told}
                    if not counted or change.epoch != batch.epoch:
                        stage.book.anomaly(f"a feed of {self.map}: {change} at {batch.epoch} after version {last}")
                    told.append(Told(change.epoch, change.version, change.value))
                self.mark = batch.epoch
                if moved is not None:
                    moved.set()
                if through is not None and self.mark >= through:
                    return


class Followers:
    def __init__(self, maps: Sequence[str], registers: Registers) -> None:
        self._stories = [Story(name) for name in maps]
        self._registers = registers
        self._tasks: list[asyncio.Task[None]] = []
        self._moved = asyncio.Event()

    async def prepare(self, stage: Stage) -> None:
        """The maps are those of others."""

    def run(self, stage: Stage) -> list[Awaitable[None]]:
        for number, story in enumerate(self._stories):
            grid = stage.clients[number % len(stage.clients)]
            self._tasks.append(asyncio.create_task(story.follow(stage, grid, self._moved)))
        return []

    @property
    def marks(self) -> list[int]:
        return [story.mark for story in self._stories]

    async def check(self, stage: Stage) -> None:
        grid = stage.clients[0]
        closed = await grid.wait_closed(max(self._registers.epochs.values(), default=1))
        for story, task in zip(self._stories, self._tasks, strict=True):
            while story.mark < closed and not task.done():
                self._moved.clear()
                await asyncio.wait(
                    [task, asyncio.ensure_future(self._moved.wait())], return_when=asyncio.FIRST_COMPLETED
                )
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                if not isinstance(error, GridError):
                    raise error
                stage.book.anomaly(f"the feed of {story.map} ended: {error!r}")
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._compare(stage)

    async def _compare(self, stage: Stage) -> None:
        for story in self._stories:
            if not story.mark:
                continue
            rows = {
                entry.raw_key: (entry.version, entry.epoch, entry.value)
                async for entry in stage.client().map(story.map).scan(as_of=story.mark)
            }
            told = {key: (last[-1].version, last[-1].epoch, last[-1].value) for key, last in story.keys.items()}
            stage.book.expect(
                rows == told, f"what the feed of {story.map} told is not what is there as of {story.mark}"
            )
            if story.map == REGISTERS:
                self._compare_acknowledged(stage, story)
            again = Story(story.map)
            await again.follow(stage, stage.client(), None, story.mark)
            same = {key: [one for one in all_ if one.epoch <= story.mark] for key, all_ in again.keys.items()}
            same = {key: told_ for key, told_ in same.items() if told_}
            stage.book.expect(same == story.keys, f"a second feed of {story.map} tells another story")

    def _compare_acknowledged(self, stage: Stage, story: Story) -> None:
        epochs = {(decode_key(key)[0], told.version): told.epoch for key, all_ in story.keys.items() for told in all_}
        for raw_key, all_ in story.keys.items():
            values = [told.value for told in all_]  # which their writer never uses twice
            twice = f"a write of {decode_key(raw_key)} was done twice: {values}"
            stage.book.expect(len(set(values)) == len(values), twice)
        for (key, version), epoch in self._registers.epochs.items():
            if epoch <= story.mark:
                stage.book.expect(
                    epochs.get((key, version)) == epoch,
                    f"{key} at version {version} was acknowledged at {epoch}; the feed says {epochs.get((key, version))}",
                )

    async def check_again(self, stage: Stage) -> None:
        await self._compare(stage)
