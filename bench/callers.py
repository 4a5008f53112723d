"""Callers that put: many at once, or one at a time. The same code drives the grid and Redis.

A `Put` stores one raw flight under its key and returns when it is durable; encoding the value is part of it.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from bench.flights_rows import flight_rows, key_of
from examples.flights.data import Row

Put = Callable[[tuple[str | int, ...], Row], Awaitable[Any]]
KeyedRow = tuple[tuple[str | int, ...], Row]

CONCURRENT = 256
DISTINCT_ROWS = 50_000


def endless_rows() -> Iterator[KeyedRow]:
    """Real flights with their keys, over and over."""
    return itertools.cycle([(key_of(row), row) for row in flight_rows(DISTINCT_ROWS)])


async def concurrent_rate(put: Put, rows: Iterator[KeyedRow], seconds: float) -> float:
    """Puts per second of CONCURRENT callers, each of which waits for its own put."""
    done = 0
    started = time.perf_counter()
    until = started + seconds

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < until:
            key, row = next(rows)
            await put(key, row)
            done += 1

    await asyncio.gather(*[caller() for _ in range(CONCURRENT)])
    return done / (time.perf_counter() - started)


async def latencies(put: Put, rows: Iterator[KeyedRow], seconds: float) -> list[float]:
    """Seconds of each put of one caller, in order."""
    took: list[float] = []
    until = time.perf_counter() + seconds
    while (started := time.perf_counter()) < until:
        key, row = next(rows)
        await put(key, row)
        took.append(time.perf_counter() - started)
    return took
