"""Claim: 256 concurrent put()s from one asyncio client, each waiting for its own durable acknowledgement.

Raw flights into a map without triggers, beside redis.asyncio (AOF always) doing SETs of the same values. Both servers
stay up and the windows alternate, so that both see the same machine; the median window of each counts.
"""

from __future__ import annotations

import statistics

import uvloop

from bench.callers import CONCURRENT, concurrent_rate, endless_rows
from bench.process import GridServer, grid_server, opened
from bench.redis_puts import best_pool, redis_put
from bench.redis_server import RedisServer, redis_server
from bench.report import Figure, Progress

WINDOWS = 5
WINDOW_SECONDS = 2.0
WARM_UP_SECONDS = 1.0
MAP = "bench.puts"


def run(progress: Progress) -> list[Figure]:
    with redis_server() as redis, grid_server(triggers=None) as grid:
        ours, theirs, pool = uvloop.run(_measure(grid, redis, progress))
    note = f"medians of {WINDOWS} alternating windows of {WINDOW_SECONDS:g} s; Redis with its best pool, {pool} connections"
    return [
        Figure("concurrent_puts", ours, "puts/s", "redis.asyncio, AOF always", theirs, at_least=4, note=note),
    ]


async def _measure(server: GridServer, redis: RedisServer, progress: Progress) -> tuple[float, float, int]:
    rows = endless_rows()
    pool = await best_pool(redis, progress)
    async with opened(server) as grid, redis_put(redis, pool) as redis_set:
        target = await grid.create_map(MAP)
        await concurrent_rate(target.put, rows, WARM_UP_SECONDS)
        ours, theirs = [], []
        for window in range(WINDOWS):
            progress(f"{CONCURRENT} callers, window {window + 1} of {WINDOWS}")
            theirs.append(await concurrent_rate(redis_set, rows, WINDOW_SECONDS))
            ours.append(await concurrent_rate(target.put, rows, WINDOW_SECONDS))
        return statistics.median(ours), statistics.median(theirs), pool
