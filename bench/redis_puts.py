"""Yardstick: durable SETs through redis.asyncio with hiredis, AOF always.

redis.asyncio sends one command per connection at a time, so concurrent callers share a pool. The pool sizes tried are
those that users would try, and the best counts.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import AsyncIterator

import msgpack
import redis.asyncio
import uvloop

from bench.callers import CONCURRENT, Put, concurrent_rate, endless_rows, latencies
from bench.redis_server import RedisServer, redis_server
from bench.report import Progress
from examples.flights.data import Row

POOLS = (32, 64, 256)
SECONDS = 5.0
WARM_UP_SECONDS = 1.0


@contextlib.asynccontextmanager
async def redis_put(server: RedisServer, connections: int) -> AsyncIterator[Put]:
    """A put through a pool of so many connections."""
    pool = redis.asyncio.BlockingConnectionPool.from_url(server.url, max_connections=connections, timeout=None)
    client = redis.asyncio.Redis(connection_pool=pool)

    async def put(key: tuple[str | int, ...], row: Row) -> None:
        await client.set(":".join(map(str, key)), msgpack.packb(row))

    try:
        yield put
    finally:
        await client.aclose()
        await pool.aclose()


async def best_pool(server: RedisServer, progress: Progress) -> int:
    """The pool size that does most on this machine just now; found in short windows, which also warm up."""
    rates = {}
    rows = endless_rows()
    for pool in POOLS:
        progress(f"redis: {CONCURRENT} callers, {pool} connections")
        async with redis_put(server, pool) as put:
            await concurrent_rate(put, rows, WARM_UP_SECONDS / 2)
            rates[pool] = await concurrent_rate(put, rows, WARM_UP_SECONDS)
    return max(rates, key=lambda pool: rates[pool])


def concurrent(progress: Progress) -> float:
    """SETs per second of 256 callers."""

    async def measure(server: RedisServer) -> float:
        async with redis_put(server, await best_pool(server, progress)) as put:
            progress(f"redis: {CONCURRENT} callers, {SECONDS:.0f} s")
            return await concurrent_rate(put, endless_rows(), SECONDS)

    with redis_server() as server:
        return uvloop.run(measure(server))


def single_p50(progress: Progress) -> float:
    """Seconds of the median SET of one caller."""

    async def measure(server: RedisServer) -> float:
        rows = endless_rows()
        async with redis_put(server, 1) as put:
            await latencies(put, rows, WARM_UP_SECONDS)
            progress(f"redis: one SET at a time, {SECONDS:.0f} s")
            return statistics.median(await latencies(put, rows, SECONDS))

    with redis_server() as server:
        return uvloop.run(measure(server))
