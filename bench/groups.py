"""Claim: commit groups of two keys, durable, beside plain put()s of the same two keys at once, and Redis MULTI/EXEC.

Raw flights into a map without triggers. Groups whose keys are both on one node (a grid of one node), and groups whose
keys are on different nodes (a grid of three nodes, in one process and on one log); 64 committers in one client, and
one at a time. All servers stay up and the windows alternate, so that all see the same machine; medians count.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

import msgpack
import redis.asyncio
import uvloop
from tidegrid.client import Grid
from tidegrid.grid.model.keys import encode_key
from tidegrid.grid.model.partitioner import Partitioner

from bench.callers import DISTINCT_ROWS, KeyedRow
from bench.flights_rows import flight_rows, key_of
from bench.process import GridServer, grid_server, opened
from bench.redis_server import RedisServer, redis_server
from bench.report import Figure, Progress

COMMITTERS = 64
NODES = 3
WINDOWS = 5
WINDOW_SECONDS = 1.5
WARM_UP_SECONDS = 1.0
MAP = "bench.groups"

Pair = tuple[KeyedRow, KeyedRow]
Commit = Callable[[Pair], Awaitable[None]]


@dataclass(slots=True)
class Contender:
    """A way to store two keys, with what was measured of it."""

    commit: Commit
    pairs: Iterator[Pair]
    rates: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    @property
    def p50(self) -> float:
        return statistics.median(self.took) * 1e6


def run(progress: Progress) -> list[Figure]:
    over_nodes = ("--nodes", str(NODES))
    with (
        redis_server() as theirs,
        grid_server(triggers=None) as one,
        grid_server(triggers=None, options=over_nodes) as several,
    ):
        return _figures(uvloop.run(_measure(theirs, one, several, progress)))


def _figures(found: dict[str, Contender]) -> list[Figure]:
    figures = []
    for where, nodes in (("one_node", "1"), ("over_nodes", str(NODES))):
        groups, puts, redis_pairs = found[f"groups {nodes}"], found[f"puts {nodes}"], found["redis"]
        note = (
            f"{COMMITTERS} committers; medians of {WINDOWS} alternating windows of {WINDOW_SECONDS:g} s; "
            f"Redis MULTI/EXEC of 2 SETs, AOF always: {redis_pairs.rate:,.0f}/s"
        )
        figures.append(
            Figure(f"groups_{where}", groups.rate, "groups/s", "put() pairs", puts.rate, at_least=0.25, note=note)
        )
        note = f"one at a time, {len(groups.took):,} groups; Redis MULTI/EXEC p50 {redis_pairs.p50:,.0f} us"
        figures.append(
            Figure(f"groups_{where}_p50", groups.p50, "us", "a put() pair, p50", puts.p50, at_most=2.5, note=note)
        )
    return figures


async def _measure(server: RedisServer, one: GridServer, three: GridServer, progress: Progress) -> dict[str, Contender]:
    async with opened(one) as single, opened(three) as several, _redis_pairs(server) as redis_pair:
        contenders = {"redis": Contender(redis_pair, _pairs([_rows()]))}
        for name, grid in (("1", single), (str(NODES), several)):
            await grid.create_map(MAP)
            by_node = await _rows_by_node(grid)
            contenders[f"puts {name}"] = Contender(_put_pair(grid), _pairs(by_node))
            contenders[f"groups {name}"] = Contender(_group(grid), _pairs(by_node))
        for contender in contenders.values():
            await _concurrent(contender, WARM_UP_SECONDS)
        for window in range(WINDOWS):
            for name, contender in contenders.items():
                progress(f"window {window + 1} of {WINDOWS}: {name}")
                contender.rates.append(await _concurrent(contender, WINDOW_SECONDS))
                contender.took += await _one_at_a_time(contender, WINDOW_SECONDS / 2)
        return contenders


def _rows() -> list[KeyedRow]:
    return [(key_of(row), row) for row in flight_rows(DISTINCT_ROWS)]


async def _rows_by_node(grid: Grid) -> list[list[KeyedRow]]:
    owner = {
        partition.partition: member.member.node
        for member in await grid.status()
        if member.status is not None
        for partition in member.status.partitions
    }
    partition_of = Partitioner(grid.partitions).of
    rows: dict[int, list[KeyedRow]] = {}
    for key, row in _rows():
        rows.setdefault(owner[partition_of(encode_key(key))], []).append((key, row))
    return list(rows.values())


def _pairs(by_node: Sequence[list[KeyedRow]]) -> Iterator[Pair]:
    """Two rows of different nodes, or of the only one; over and over."""
    if len(by_node) == 1:
        (rows,) = by_node
        return itertools.cycle(zip(rows[::2], rows[1::2], strict=False))
    around = [zip(rows, by_node[(at + 1) % len(by_node)][::-1], strict=False) for at, rows in enumerate(by_node)]
    return itertools.cycle(pair for pairs in zip(*around, strict=False) for pair in pairs)


def _put_pair(grid: Grid) -> Commit:
    target = grid.map(MAP)

    async def put(pair: Pair) -> None:
        await asyncio.gather(*[target.put(key, row) for key, row in pair])

    return put


def _group(grid: Grid) -> Commit:
    async def commit(pair: Pair) -> None:
        async with grid.commit_group() as group:
            target = group.map(MAP)
            for key, row in pair:
                target.put(key, row)

    return commit


@contextlib.asynccontextmanager
async def _redis_pairs(server: RedisServer) -> AsyncIterator[Commit]:
    pool = redis.asyncio.BlockingConnectionPool.from_url(server.url, max_connections=COMMITTERS, timeout=None)
    client = redis.asyncio.Redis(connection_pool=pool)

    async def commit(pair: Pair) -> None:
        async with client.pipeline(transaction=True) as transaction:
            for key, row in pair:
                transaction.set(":".join(map(str, key)), msgpack.packb(row))
            await transaction.execute()

    try:
        yield commit
    finally:
        await client.aclose()
        await pool.aclose()


async def _concurrent(contender: Contender, seconds: float) -> float:
    """Pairs per second of COMMITTERS callers, each of which waits for its own."""
    done = 0
    started = time.perf_counter()
    until = started + seconds

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < until:
            await contender.commit(next(contender.pairs))
            done += 1

    await asyncio.gather(*[caller() for _ in range(COMMITTERS)])
    return done / (time.perf_counter() - started)


async def _one_at_a_time(contender: Contender, seconds: float) -> list[float]:
    took: list[float] = []
    until = time.perf_counter() + seconds
    while (started := time.perf_counter()) < until:
        await contender.commit(next(contender.pairs))
        took.append(time.perf_counter() - started)
    return took
