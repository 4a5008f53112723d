"""A client process that writes at an even rate over all partitions until it is ended.

Begun when it is connected; ended by its id when the block is left. Puts are not waited for in turn: a slow answer
does not lower the rate, up to IN_FLIGHT_MAX of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import time
from collections.abc import Iterator
from typing import Any, Final

import uvloop
from tidegrid.client import Ack, Map, connect
from tidegrid.grid.model.errors import GridError

from bench.process import START_SECONDS_MAX

STEP_SECONDS: Final = 0.005  # what is due by then goes out together: one message per node
IN_FLIGHT_MAX: Final = 4_000
KEYS: Final = 20_000
VALUE: Final = {"carrier": "UA", "flight": 1545, "origin": "EWR", "dest": "IAH", "dep_delay": 2.0, "tailnum": "N14228"}


@contextlib.contextmanager
def steady_writer(address: str, map_name: str, writes_per_second: float) -> Iterator[None]:
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Event()
    process = spawn.Process(target=write, args=(address, map_name, writes_per_second, ready), daemon=True)
    process.start()
    try:
        if not ready.wait(START_SECONDS_MAX):
            raise GridError("the process that writes did not start; see the messages above")
        yield
        if not process.is_alive():
            raise GridError("the process that writes ended before it was told to; see the messages above")
    finally:
        process.terminate()
        process.join()


def write(address: str, map_name: str, writes_per_second: float, ready: Any) -> None:
    uvloop.run(_write(address, map_name, writes_per_second, ready))


async def _write(address: str, map_name: str, writes_per_second: float, ready: Any) -> None:
    async with connect(address, deadline=START_SECONDS_MAX) as grid:
        target = grid.map(map_name)
        await target.put(0, VALUE)
        ready.set()
        await _evenly(target, writes_per_second)


async def _evenly(target: Map, writes_per_second: float) -> None:
    waiting: set[asyncio.Task[Ack]] = set()
    started = time.perf_counter()
    made = 0
    while True:
        due = int((time.perf_counter() - started) * writes_per_second)
        for number in range(made, min(due, made + IN_FLIGHT_MAX - len(waiting))):
            task = asyncio.create_task(target.put(number % KEYS, VALUE))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
        made = due
        await asyncio.sleep(STEP_SECONDS)
