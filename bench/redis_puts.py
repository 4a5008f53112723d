"""Yardstick: durable SETs through redis.asyncio with hiredis, AOF always: 256 at a time, and one at a time.

redis.asyncio sends one command per connection at a time, so concurrent callers share a pool. The pool sizes tried are
those that users would try, and the best counts. uvloop runs both sides of the comparison.
"""

from __future__ import annotations

import asyncio
import itertools
import time

import msgpack
import redis.asyncio
import uvloop

from bench.flights_rows import flight_rows, key_of
from bench.redis_server import RedisServer, redis_server
from bench.report import Progress

CONCURRENT = 256
POOLS = (32, 64, 256)
SECONDS = 5.0
WARM_UP_SECONDS = 1.0


def concurrent_rate(progress: Progress, seconds: float = SECONDS) -> float:
    """SETs per second of 256 callers; the best pool."""
    with redis_server() as server:
        rates = []
        for pool in POOLS:
            progress(f"redis: {CONCURRENT} callers, {pool} connections, {seconds:.0f} s")
            rates.append(uvloop.run(_concurrent(server, pool, seconds)))
        return max(rates)


def single_latencies(progress: Progress, seconds: float = SECONDS) -> list[float]:
    """Seconds of each SET of one caller, in order."""
    with redis_server() as server:
        progress(f"redis: one SET at a time, {seconds:.0f} s")
        return uvloop.run(_single(server, seconds))


def _values() -> list[tuple[str, bytes]]:
    return [(":".join(map(str, key_of(row))), msgpack.packb(row)) for row in flight_rows(20_000)]


async def _concurrent(server: RedisServer, pool: int, seconds: float) -> float:
    connections = redis.asyncio.BlockingConnectionPool.from_url(server.url, max_connections=pool, timeout=None)
    client = redis.asyncio.Redis(connection_pool=connections)
    values = itertools.cycle(_values())
    done = 0
    until = 0.0

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < until:
            key, value = next(values)
            await client.set(key, value)
            done += 1

    try:
        until = time.perf_counter() + WARM_UP_SECONDS
        await asyncio.gather(*[caller() for _ in range(CONCURRENT)])
        done = 0
        started = time.perf_counter()
        until = started + seconds
        await asyncio.gather(*[caller() for _ in range(CONCURRENT)])
        return done / (time.perf_counter() - started)
    finally:
        await client.aclose()
        await connections.aclose()


async def _single(server: RedisServer, seconds: float) -> list[float]:
    client = redis.asyncio.Redis.from_url(server.url)
    values = itertools.cycle(_values())
    took: list[float] = []
    try:
        until = time.perf_counter() + WARM_UP_SECONDS
        while time.perf_counter() < until:
            await client.set(*next(values))
        until = time.perf_counter() + seconds
        while (started := time.perf_counter()) < until:
            key, value = next(values)
            await client.set(key, value)
            took.append(time.perf_counter() - started)
    finally:
        await client.aclose()
    return took
