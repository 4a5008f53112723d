"""Yardstick: Redis (AOF always) + Streams + a Python worker into SQLite, the stack that people build without a grid.

A producer XADDs raw flights; a worker process reads the stream, translates, and writes typed rows, delay events and
its place in the stream to SQLite, one transaction per read. Events/s counts from the first XADD to the last row, with
the producer at most BACKLOG events ahead: a steady state, not the draining of a queue. Three shapes of producer:

  batches     pipelines of 1,000 XADDs, one record each
  packed      1,000 records packed by hand into the one field of each entry
  concurrent  256 callers, each waiting for its own XADD
"""

from __future__ import annotations

import asyncio
import enum
import itertools
import multiprocessing
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgpack
import redis
import redis.asyncio
import uvloop
from tidegrid.grid.model.errors import UnavailableError

from bench.child import STOP_SECONDS_MAX, data_directory
from bench.flights_rows import KEY_NUMBERS, flight_rows, planes_by_tail, translated
from bench.redis_server import RedisServer, redis_server
from bench.report import Progress
from examples.flights.data import KEY, Row

T = TypeVar("T")

STREAM = "flights.raw"
BATCH = 1_000
CONCURRENT = 256
POOL = 64
BACKLOG = 20_000
DISTINCT_ROWS = 50_000
SECONDS = 6.0


class Shape(enum.Enum):
    BATCHES = "batches"
    PACKED = "packed"
    CONCURRENT = "concurrent"


def rate(shape: Shape, progress: Progress, seconds: float = SECONDS) -> float:
    """Events per second from the producer through the worker into SQLite."""
    progress(f"redis + streams + worker, {shape.value}: {seconds:.0f} s")
    spawn = multiprocessing.get_context("spawn")
    with redis_server() as server, data_directory("worker") as directory:
        done, ready = spawn.Value("Q", 0), spawn.Event()
        worker = spawn.Process(
            target=work, args=(server.url, directory / "flights.db", shape, done, ready), daemon=True
        )
        worker.start()
        try:
            if not ready.wait(STOP_SECONDS_MAX):
                raise UnavailableError("the Redis worker did not start")
            return uvloop.run(_produce(server, shape, seconds, worker, done))
        finally:
            worker.terminate()
            worker.join()


# The producer --------------------------------------------------------------------------------------------------


async def _produce(server: RedisServer, shape: Shape, seconds: float, worker: Any, done: Any) -> float:
    pool = redis.asyncio.BlockingConnectionPool.from_url(server.url, max_connections=POOL, timeout=None)
    client = redis.asyncio.Redis(connection_pool=pool)
    rows = flight_rows(DISTINCT_ROWS)
    sent = 0
    try:
        started = time.perf_counter()
        until = started + seconds
        match shape:
            case Shape.BATCHES:
                for batch in _while_time(_batches([msgpack.packb(row) for row in rows]), until):
                    pipeline = client.pipeline(transaction=False)
                    for row in batch:
                        pipeline.xadd(STREAM, {b"row": row})
                    await pipeline.execute()
                    sent += BATCH
                    await _until_done(worker, done, sent - BACKLOG)
            case Shape.PACKED:
                for entry in _while_time([msgpack.packb(batch) for batch in _batches(rows)], until):
                    await client.xadd(STREAM, {b"rows": entry})
                    sent += BATCH
                    await _until_done(worker, done, sent - BACKLOG)
            case Shape.CONCURRENT:
                single = _while_time([msgpack.packb(row) for row in rows], until)
                sent = sum(await asyncio.gather(*[_caller(client, single) for _ in range(CONCURRENT)]))
        await _until_done(worker, done, sent)
        return sent / (time.perf_counter() - started)
    finally:
        await client.aclose()
        await pool.aclose()


def _batches(rows: list[T]) -> list[list[T]]:
    return [rows[at : at + BATCH] for at in range(0, len(rows), BATCH)]


def _while_time(items: list[T], until: float) -> Iterator[T]:
    for item in itertools.cycle(items):
        if time.perf_counter() >= until:
            return
        yield item


async def _caller(client: Any, rows: Iterator[bytes]) -> int:
    sent = 0
    for row in rows:
        await client.xadd(STREAM, {b"row": row})
        sent += 1
    return sent


async def _until_done(worker: Any, done: Any, count: int) -> None:
    while done.value < count:
        if not worker.is_alive():
            raise UnavailableError("the Redis worker ended early")
        await asyncio.sleep(0.001)


# The worker, a process of its own ------------------------------------------------------------------------------


def work(url: str, path: Path, shape: Shape, done: Any, ready: Any) -> None:
    """Follows the stream until it is terminated. `done` counts the events that are in SQLite."""
    client = redis.Redis.from_url(url)
    planes = planes_by_tail()
    columns = [*flight_rows(1)[0], "seats"]
    database = _database(path, columns)
    insert = f"INSERT OR REPLACE INTO flights VALUES ({', '.join('?' * (len(columns) + 1))})"
    place = b"0"
    ready.set()
    while True:
        answer = client.xread({STREAM: place}, count=1 if shape is Shape.PACKED else BATCH, block=1000)
        if not answer:
            continue
        entries = _entries(answer)
        rows = _rows(entries, shape)
        flights, delays = _translate(rows, planes)
        place = entries[-1][0]
        with database:
            database.executemany(insert, flights)
            database.executemany("INSERT INTO delays VALUES (?, ?)", delays)
            database.execute("INSERT OR REPLACE INTO place VALUES (1, ?)", (place,))
        done.value += len(rows)


def _database(path: Path, columns: list[str]) -> sqlite3.Connection:
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=NORMAL")
    typed = [f"{name} {'INTEGER' if name in KEY_NUMBERS else ''}" for name in columns]
    database.execute(f"CREATE TABLE flights (_key TEXT PRIMARY KEY, {', '.join(typed)}) WITHOUT ROWID")
    database.execute("CREATE TABLE delays (_key TEXT, minutes INTEGER)")
    database.execute("CREATE TABLE place (one INTEGER PRIMARY KEY, id BLOB)")
    return database


def _entries(answer: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """The entries of the one stream asked for: RESP2 answers [[stream, entries]], RESP3 {stream: [entries]}."""
    if isinstance(answer, dict):
        (batches,) = answer.values()
        return [entry for batch in batches for entry in batch]
    return list(answer[0][1])


def _rows(entries: list[tuple[bytes, dict[bytes, bytes]]], shape: Shape) -> list[Row]:
    if shape is Shape.PACKED:
        return [row for _, fields in entries for row in msgpack.unpackb(fields[b"rows"])]
    return [msgpack.unpackb(fields[b"row"]) for _, fields in entries]


def _translate(rows: list[Row], planes: dict[str, Row]) -> tuple[list[list[Any]], list[tuple[str, int]]]:
    flights: list[list[Any]] = []
    delays: list[tuple[str, int]] = []
    for row in rows:
        key = ":".join([row[name] for name in KEY])
        flight, delay = translated(row, planes)
        flights.append([key, *flight.values()])
        if delay is not None:
            delays.append((key, delay))
    return flights, delays
