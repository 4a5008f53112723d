"""Claim: triggered, durable writes in batches, through the client, at one node.

The client sends all 336,776 raw flights with `put_stream`; the node runs the flights trigger on each, writes raw and
typed rows and delay events to the log, syncs, and acknowledges. Client and node are two processes. The Redis figures
count until the row is in SQLite, and their worker is another process; ours count until the acknowledgement.

The tight loop runs before and after; the best of each contestant's rounds counts.
"""

from __future__ import annotations

import time

import uvloop
from tidegrid.grid.model.errors import GridError

from bench import redis_worker, tight_loop
from bench.flights_rows import flight_rows, key_of
from bench.process import GridServer, grid_server, opened
from bench.report import Figure, Progress

ROWS = 336_776
ROUNDS = 2


def run(progress: Progress) -> list[Figure]:
    loops = [tight_loop.rate(progress)]
    rates = []
    for number in range(ROUNDS):
        progress(f"{ROWS:,} flights through the grid, round {number + 1} of {ROUNDS}")
        with grid_server() as server:
            rates.append(uvloop.run(_load(server)))
        loops.append(tight_loop.rate(progress))
    batches = redis_worker.rate(redis_worker.Shape.BATCHES, progress)
    packed = redis_worker.rate(redis_worker.Shape.PACKED, progress)
    value, redis = max(rates), "Redis (AOF always) + Streams + worker into SQLite"
    note = f"{ROWS:,} flights per round, best of {ROUNDS}; one node, the client in another process"
    return [
        Figure("write_path", value, "writes/s", "tight loop", max(loops), at_least=0.5, note=note),
        Figure("write_path", value, "writes/s", f"{redis}, batches", batches, at_least=5),
        Figure("write_path", value, "writes/s", f"{redis}, packed by hand", packed, at_least=1),
    ]


async def _load(server: GridServer) -> float:
    rows = [(key_of(row), row) for row in flight_rows(ROWS)]
    async with opened(server, planes=True) as grid:
        accepted = 0
        started = time.perf_counter()
        async for outcomes in grid.map("flights.raw").put_stream(rows):
            accepted += outcomes.accepted
            for error in outcomes.errors.values():
                raise error
        took = time.perf_counter() - started
        if accepted != len(rows):
            raise GridError(f"{accepted:,} of {len(rows):,} writes were accepted")
        return accepted / took
