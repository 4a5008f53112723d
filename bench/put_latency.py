"""Claim: the median time of one durable put() at a time.

Raw flights into a map without triggers, beside redis.asyncio (AOF always). Both servers stay up and the windows
alternate, so that both see the same disk; the median over all windows counts.
"""

from __future__ import annotations

import statistics

import uvloop

from bench.callers import endless_rows, latencies
from bench.process import GridServer, grid_server, opened
from bench.redis_puts import redis_put
from bench.redis_server import RedisServer, redis_server
from bench.report import Figure, Progress

WINDOWS = 6
WINDOW_SECONDS = 1.0
MAP = "bench.puts"


def run(progress: Progress) -> list[Figure]:
    with redis_server() as redis, grid_server(triggers=None) as grid:
        ours, theirs = uvloop.run(_measure(grid, redis, progress))
    p99 = sorted(ours)[len(ours) * 99 // 100] * 1e6
    note = f"{len(ours):,} puts in {WINDOWS} alternating windows; p99 {p99:,.0f} us"
    return [
        Figure(
            "put_latency",
            statistics.median(ours) * 1e6,
            "us (p50)",
            "redis.asyncio, AOF always, p50",
            statistics.median(theirs) * 1e6,
            at_most=1.5,
            note=note,
        )
    ]


async def _measure(server: GridServer, redis: RedisServer, progress: Progress) -> tuple[list[float], list[float]]:
    rows = endless_rows()
    async with opened(server) as grid, redis_put(redis, 1) as redis_set:
        target = await grid.create_map(MAP)
        for put in (target.put, redis_set):
            await latencies(put, rows, WINDOW_SECONDS)
        ours: list[float] = []
        theirs: list[float] = []
        for window in range(WINDOWS):
            progress(f"one put at a time, window {window + 1} of {WINDOWS}")
            theirs += await latencies(redis_set, rows, WINDOW_SECONDS)
            ours += await latencies(target.put, rows, WINDOW_SECONDS)
        return ours, theirs
