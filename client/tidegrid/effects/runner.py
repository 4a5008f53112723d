"""Runs one effect: its map's feed in, calls out, the cursor behind them.

    feed -> ledger (what is new) -> lineup (what may begin) -> a task per call -> state file -> lineup, ledger

A task lasts from the first call for a change until what became of it is on disk, so after a crash at most
`concurrency` changes are given again, and never one whose end was written. Reading is ahead of the cursor by a bounded
number of changes; beyond that the feed waits, and costs the grid a cursor.

Parked changes that somebody wants to be driven again are looked for in the state file now and then; they take their
turn in the lineup, after what is there.

Lifecycle: `begin` finds the cursor, `run` goes on until `stop` (what is under way ends, nothing begins) or until
something ends it: the feed, the state file, or an effect that gives up and is to stop then.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from tidegrid.client.change import FeedBatch
from tidegrid.client.feed import Feed
from tidegrid.client.grid import Grid
from tidegrid.effects.clock import Clock
from tidegrid.effects.ledger import Ledger
from tidegrid.effects.lineup import Lineup
from tidegrid.effects.performing import Failure, Performer
from tidegrid.effects.place import Waiting, waiting_of
from tidegrid.effects.state import State
from tidegrid.effects.state_file import Entry, Parked
from tidegrid.grid.model.errors import EffectFailedError
from tidegrid.grid.model.ids import Epoch
from tidegrid.triggers.effect import EffectDeclaration

AHEAD_CHANGES_MAX: Final = 10_000  # above the cursor, settled or not; what a restart reads again
AGAIN_CHANGES_MAX: Final = 1_000
LOOK_SECONDS: Final = 1.0  # between two looks for parked changes, and at which the cursor of a quiet map is written


class Progress(NamedTuple):
    """`done`, `skipped`: over the life of the state; `failed`: calls since the start; `lag` in epochs; `parked` now."""

    effect: str
    map: str
    done: int
    skipped: int
    parked: int
    failed: int
    waiting: int
    running: int
    epoch: Epoch
    lag: int


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all effects of a run share."""

    grid: Grid
    state: State
    namespace: dict[str, Any]
    clock: Clock
    chance: random.Random
    progress: Callable[[Progress], None]
    failure: Callable[[Failure], None]


class EffectRunner:
    def __init__(self, effect: EffectDeclaration, around: Surroundings) -> None:
        self.effect = effect
        self._around = around
        self._stopping = asyncio.Event()
        self._performer = Performer(
            effect, around.namespace, around.grid.id, around.clock, around.chance, self._stopping, self._failed
        )
        self._ledger = Ledger(0)
        self._lineup = Lineup(by_key=effect.order == "key")
        self._tasks: set[asyncio.Task[None]] = set()
        self._again: set[int] = set()  # numbers of parked changes that are in the lineup, or under way
        self._seen = -1  # of the state file's changes
        self._looking = asyncio.Lock()
        self._written = 0  # the cursor on disk
        self._settling = 0  # changes whose end is on its way to disk; the cursor may cover them already
        self._live = False
        self._room = asyncio.Event()
        self._waiters: dict[asyncio.Future[None], int] = {}
        self._problem: BaseException | None = None
        self._done = self._skipped = self._parked = self._failures = 0

    # Where it is --------------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> Epoch:
        """Everything at or below it is done, skipped or parked."""
        return Epoch(self._ledger.cursor)

    @property
    def progress(self) -> Progress:
        lag = max(0, self._around.grid.closed - self.epoch)
        return Progress(
            self.effect.name, self.effect.on, self._done, self._skipped, self._parked, self._failures,
            len(self._lineup), len(self._tasks), self.epoch, lag,
        )  # fmt: skip

    async def arrived(self, epoch: int) -> None:
        """Returns once everything at or below `epoch` is settled on disk, and nothing is being driven again."""
        if not self._is_at(epoch):
            waiter = asyncio.get_running_loop().create_future()
            self._waiters[waiter] = epoch
            try:
                await waiter
            finally:
                del self._waiters[waiter]

    def _is_at(self, epoch: int) -> bool:
        if self._ledger.cursor < epoch or self._again:
            return False
        return self._written >= epoch or not self._settling

    def _report(self) -> None:
        for waiter, epoch in list(self._waiters.items()):
            if not waiter.done() and self._is_at(epoch):
                waiter.set_result(None)
        self._around.progress(self.progress)

    # Life ---------------------------------------------------------------------------------------------------------

    async def begin(self, start: int) -> None:
        """Finds the cursor; it is at `start` if there is none yet, and from now on."""
        effect, state = self.effect, self._around.state
        cursor, beyond = await state.begin(effect.name, effect.on, start)
        self._ledger = Ledger(cursor.epoch, beyond)
        self._written = cursor.epoch
        self._done, self._skipped = cursor.done, cursor.skipped
        await self.look()

    def stop(self) -> None:
        self._stopping.set()
        self._room.set()

    async def run(self) -> None:
        """Returns when it was stopped and has ended what was under way; raises what ends it."""
        feed = self._around.grid.map(self.effect.on).subscribe(self.epoch, marks=True, patience=math.inf)
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            async with feed:
                work = [asyncio.ensure_future(self._read(feed)), asyncio.ensure_future(self._look_on()), stopping]
                try:
                    self._live = True
                    self._pump()
                    await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    self.stop()
                    for task in work:
                        task.cancel()
                    ended = await asyncio.gather(*work, return_exceptions=True)
            if self._tasks:
                await asyncio.wait(self._tasks)
            for problem in (self._problem, *ended):
                if isinstance(problem, BaseException) and not isinstance(problem, asyncio.CancelledError):
                    raise problem
            await self._write_cursor()
        finally:
            for task in list(self._tasks):  # only if this is being cancelled
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._performer.close()

    # Reading ------------------------------------------------------------------------------------------------------

    async def _read(self, feed: Feed) -> None:
        async for batch in feed:
            self._take(batch)
            while self._ledger.held >= AHEAD_CHANGES_MAX:
                self._room.clear()
                await self._room.wait()

    def _take(self, batch: FeedBatch) -> None:
        if batch.sections:
            written = (
                change for change in batch.changes if change.position
            )  # not what a switch of generations changes
            for change in self._ledger.take(batch.epoch, map(waiting_of, written)):
                self._lineup.add(change)
        else:
            self._ledger.mark(batch.epoch)
        self._pump()
        self._report()

    async def _look_on(self) -> None:
        while True:
            await self._around.clock.sleep(LOOK_SECONDS)
            await self.look()
            await self._write_cursor()

    async def look(self) -> None:
        """For parked changes that are to be driven again."""
        state, name = self._around.state, self.effect.name
        async with self._looking:
            seen = await state.changed_elsewhere()
            if seen == self._seen:
                return
            under_way = set(self._again)
            self._parked = await state.parked_count(name)
            found = await state.parked(name, again=True, limit=AGAIN_CHANGES_MAX)
            # What ended while the file was read may be found there as it was, so it is looked at once more.
            whole = len(found) < AGAIN_CHANGES_MAX and under_way <= self._again
            self._seen = seen if whole else -1
        for parked in found:
            if parked.number not in under_way and parked.number not in self._again:
                self._again.add(parked.number)
                self._lineup.add(parked.waiting)
        self._pump()
        self._report()

    def look_anew(self) -> None:
        """The next look is to find what this process itself has written."""
        self._seen = -1

    async def _write_cursor(self) -> None:
        """Of a map on which nothing happens: what is settled is written with what it settles."""
        if self.epoch > self._written and not self._settling:
            cursor = self.epoch
            await self._around.state.advance([(self.effect.name, cursor)])
            self._written = cursor

    # Working ------------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        while self._live and not self._stopping.is_set() and len(self._tasks) < self.effect.concurrency:
            change = self._lineup.take()
            if change is None:
                return
            task = asyncio.get_running_loop().create_task(
                self._work(change), name=f"tidegrid effect {self.effect.name}"
            )
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    async def _work(self, change: Waiting) -> None:
        outcome = await self._performer.perform(change)
        if outcome is None:
            return
        failure = outcome.failure
        if failure is not None and self.effect.on_give_up == "stop":
            raise self._gave_up(failure)
        park = None
        if failure is not None and self.effect.on_give_up == "park":
            tried = change._replace(tried=failure.tries)
            park = Parked(self.effect.name, failure.event, tried, failure.error, self._around.clock.time_ms())
        beyond = None
        if change.number is None:
            self._ledger.settle(change.place)
            beyond = change.place if change.place.epoch > self._ledger.cursor else None
        cursor = self._ledger.cursor
        self._settling += 1
        try:
            await self._around.state.settle(
                Entry(self.effect.name, cursor, beyond, failure is None, change.number, park)
            )
        finally:
            self._settling -= 1
        self._written = max(self._written, cursor)
        self._count(change, failure, park)
        self._lineup.finish(change)

    def _count(self, change: Waiting, failure: Failure | None, park: Parked | None) -> None:
        self._done += failure is None
        self._skipped += failure is not None and park is None
        self._parked += (park is not None) - (change.number is not None)
        if change.number is not None:
            self._again.discard(change.number)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        problem = None if task.cancelled() else task.exception()
        if problem is not None:
            self._problem = self._problem or problem
            self.stop()
        self._room.set()
        self._pump()
        self._report()

    def _failed(self, failure: Failure) -> None:
        self._failures += 1
        self._around.failure(failure)

    def _gave_up(self, failure: Failure) -> EffectFailedError:
        event = failure.event
        tries = "1 try" if failure.tries == 1 else f"{failure.tries} tries"
        return EffectFailedError(
            f"effect {self.effect.name!r} has given up on {event.key!r} of map {event.map!r}, epoch {event.epoch}, after "
            f"{tries}: {failure.error}; mend it and start again: it goes on with this change",
            effect=self.effect.name,
            map=event.map,
            epoch=event.epoch,
            id=event.id,
            tries=failure.tries,
        )
