"""Claim: events/s delivered to 8 subscribers in total, beside one nats-py subscriber on JetStream.

Two figures, both against what one JetStream subscriber does at best, which is with a stream that was filled before:

  filled  typed flights are in the map before 8 subscribers ask for all of them: the conditions of the yardstick
  live    8 subscribers follow while a client in another process writes raw flights, as fast as it can

The subscribers are SUBSCRIBERS feeds spread over PROCESSES client processes, apart from the node; each looks at the
stored bytes of every event, as the callback of the yardstick has them, and decodes nothing. Every one must get every
event, or there is no figure.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from typing import Any

import uvloop
from tidegrid.client import Grid, connect
from tidegrid.grid.model.errors import GridError

from bench import jetstream
from bench.flights_rows import flight_rows, key_of
from bench.process import START_SECONDS_MAX, GridServer, grid_server, opened
from bench.report import Figure, Progress

SUBSCRIBERS = 8
PROCESSES = 2
FILLED_EVENTS = 200_000
LIVE_EVENTS = 200_000
DONE_SECONDS_MAX = 180.0
MAP = "bench.events"


def run(progress: Progress) -> list[Figure]:
    yardstick = jetstream.delivery_rate(progress)
    with grid_server(triggers=None) as server:
        filled, live = uvloop.run(_measure(server, progress))
    name = "one nats-py subscriber on JetStream, filled stream"
    spread = f"{SUBSCRIBERS} subscribers in {PROCESSES} processes, every event looked at"
    return [
        Figure("fan_out", filled, "events/s", name, yardstick, at_least=5, note=f"filled: {spread}"),
        Figure("fan_out", live, "events/s", name, yardstick, at_least=5, note=f"live, written meanwhile: {spread}"),
    ]


async def _measure(server: GridServer, progress: Progress) -> tuple[float, float]:
    async with opened(server) as grid:
        await grid.create_map(MAP)
        progress(f"filling a map with {FILLED_EVENTS:,} events")
        filled_to = await _write(grid, FILLED_EVENTS)
        progress(f"{SUBSCRIBERS} subscribers take {FILLED_EVENTS:,} events each")
        subscribers = Subscribers(server.address, 0, FILLED_EVENTS)
        filled = await subscribers.rate(subscribers.begin())
        progress(f"{SUBSCRIBERS} subscribers follow {LIVE_EVENTS:,} events as they are written")
        subscribers = Subscribers(server.address, filled_to, LIVE_EVENTS)
        started = subscribers.begin()
        await _write(grid, LIVE_EVENTS)
        return filled, await subscribers.rate(started)


async def _write(grid: Grid, count: int) -> int:
    """Returns an epoch that is closed and holds them all."""
    rows = [(key_of(row), row) for row in flight_rows(count)]
    highest = 0
    async for outcomes in grid.map(MAP).put_stream(rows):
        for error in outcomes.errors.values():
            raise error
        highest = max(highest, outcomes.epoch)
    return await grid.wait_closed(highest)


class Subscribers:
    """The client processes, each feed after epoch `after`. Made, then begun when all are connected; `rate` ends them."""

    def __init__(self, address: str, after: int, count: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._count = count
        self._go = spawn.Event()
        self._results = spawn.Queue()
        self._ready = spawn.Semaphore(0)
        each = SUBSCRIBERS // PROCESSES
        self._processes = [
            spawn.Process(
                target=follow, args=(address, after, count, each, self._ready, self._go, self._results), daemon=True
            )
            for _ in range(PROCESSES)
        ]
        for process in self._processes:
            process.start()

    def begin(self) -> float:
        for _ in self._processes:
            if not self._ready.acquire(timeout=START_SECONDS_MAX):
                self._end()
                raise GridError("the subscribers did not start; see the messages above")
        self._go.set()
        return time.time()

    async def rate(self, started: float) -> float:
        """Events per second of all subscribers together, from `started` to the last event of the last one."""
        try:
            take = asyncio.get_running_loop().run_in_executor
            ends = [await take(None, self._results.get, True, DONE_SECONDS_MAX) for _ in self._processes]
        except Exception as error:
            raise GridError(f"the subscribers did not get all events within {DONE_SECONDS_MAX:.0f} s") from error
        finally:
            self._end()
        return float(self._count * SUBSCRIBERS / (max(ends) - started))

    def _end(self) -> None:
        for process in self._processes:
            process.terminate()
            process.join()


def follow(address: str, after: int, count: int, feeds: int, ready: Any, go: Any, results: Any) -> None:
    """One client process: `feeds` feeds, until each has `count` events. Reports the time of the last one."""
    uvloop.run(_follow(address, after, count, feeds, ready, go, results))


async def _follow(address: str, after: int, count: int, feeds: int, ready: Any, go: Any, results: Any) -> None:
    async with connect(address, deadline=START_SECONDS_MAX) as grid:
        ready.release()
        await asyncio.get_running_loop().run_in_executor(None, go.wait)
        await asyncio.gather(*[_take(grid, after, count) for _ in range(feeds)])
        results.put(time.time())


async def _take(grid: Grid, after: int, count: int) -> None:
    seen = size = 0
    async with grid.map(MAP).subscribe(after) as feed:
        async for batch in feed:
            for change in batch.changes:
                size += len(change.raw_value)
                seen += 1
            if seen >= count:
                break
    if seen != count:
        raise GridError(f"a subscriber got {seen:,} events instead of {count:,}")
