"""Claim: how long after its acknowledgement a write is in a closed epoch, beside the formula of the design.

    formula   P/2 + N*h/2 + c        P = max(tick, N*h), N nodes, h one hop of the token, c the append of a CLOSE;
                                     under load h of loaded nodes, and N/2 appends more for a round, as a visit waits for the frames it meets

The nodes of a grid are in one process and talk by gRPC. A client puts single writes at random instants and asks for
the close of each one's epoch as soon as it is acknowledged: the latency is from the acknowledgement to the answer.
Three states: idle (the grid rests, so a write wakes it and the first round begins at once), ticking (another process
writes a little, so rounds never stop: the formula's own case), load (it writes some thousand a second).

p50 beside 1.5 x the formula; p99 beside the formula and one rotation. h, append and c are of the same run
(close_terms.py). Last, a node that takes no messages for a while (paused_node.py).
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Iterator
from typing import Final, NamedTuple

import uvloop
from tidegrid.client import Grid

from bench import paused_node
from bench.close_terms import CloseTerms, measured_terms
from bench.process import GridServer, grid_server, opened
from bench.report import Figure, Progress
from bench.steady_writer import VALUE, steady_writer

NODES: Final = (1, 3, 8)
TICK_MS: Final = 20
STATES: Final = {"idle": 0, "ticking": 100, "load": 2_000}  # writes/s of the other process
IDLE_SAMPLES: Final = 400
BUSY_SAMPLES: Final = 1_200  # of 400 the p99 is one of the four worst, which is chance
IDLE_PAUSE_SECONDS: Final = (0.06, 0.12)  # at least three ticks: one for the close, one for the round that finds no one
BUSY_PAUSE_SECONDS: Final = (0.0, 0.04)
BUSY_PROBES: Final = 4
WARM_UP_SECONDS: Final = 1.0
MAP: Final = "bench.probes"
LOAD_MAP: Final = "bench.load"


class Sample(NamedTuple):
    """Seconds. `late`: how much longer than asked this client slept before; what the machine does to everybody."""

    put: float
    close: float  # from the acknowledgement
    late: float


def run(progress: Progress) -> list[Figure]:
    return uvloop.run(_run(progress))


async def _run(progress: Progress) -> list[Figure]:
    progress("one hop, one append, one CLOSE")
    terms = await measured_terms(STATES["load"])
    figures: list[Figure] = []
    for nodes in NODES:
        with grid_server(triggers=None, options=("--tick-ms", str(TICK_MS)), nodes=nodes) as server:
            for state, rate in STATES.items():
                progress(f"{nodes} nodes, {state}")
                figures += _figures(terms, nodes, state, await _measure(server, rate))
    progress("a node that takes no messages")
    return figures + await paused_node.measured()


def _figures(terms: CloseTerms, nodes: int, state: str, samples: list[Sample]) -> list[Figure]:
    closes = sorted(sample.close for sample in samples)
    puts = sorted(sample.put for sample in samples)
    late = sorted(sample.late for sample in samples)
    p50, p99 = (closes[len(closes) * percent // 100] * 1e3 for percent in (50, 99))
    load, tick = state == "load", TICK_MS / 1e3
    formula = terms.formula(tick, nodes, load=load) * 1e3
    rotation = terms.rotation(tick, nodes, load=load) * 1e3
    name = f"close_latency, {nodes} node{'s' * (nodes > 1)}, {state}"
    said = f"{len(closes):,} closes, max {closes[-1] * 1e3:.1f} ms; put p50 {puts[len(puts) // 2] * 1e3:.2f} ms; "
    said += f"h {terms.hop * 1e3:.2f}, under load {terms.hop_under_load * 1e3:.2f}, append {terms.append * 1e3:.2f}, c {terms.close * 1e3:.2f} ms"
    sleeps = f"sleeps of the client were late by {late[len(late) * 99 // 100] * 1e3:.1f} ms (p99)"
    return [
        Figure(name, p50, "ms (p50)", "formula, ms", formula, at_most=1.5, note=said),
        Figure(name, p99, "ms (p99)", "formula + a rotation, ms", formula + rotation, at_most=1, note=sleeps),
    ]


async def _measure(server: GridServer, rate: int) -> list[Sample]:
    numbers = itertools.count()
    async with opened(server) as grid:
        await grid.create_map(MAP)
        await grid.create_map(LOAD_MAP)
        if not rate:
            await _probe(grid, numbers, 20, IDLE_PAUSE_SECONDS)
            return await _probe(grid, numbers, IDLE_SAMPLES, IDLE_PAUSE_SECONDS)
        with steady_writer(server.address, LOAD_MAP, rate):
            await asyncio.sleep(WARM_UP_SECONDS)
            each = BUSY_SAMPLES // BUSY_PROBES
            probes = [_probe(grid, numbers, each, BUSY_PAUSE_SECONDS) for _ in range(BUSY_PROBES)]
            return list(itertools.chain(*await asyncio.gather(*probes)))


async def _probe(grid: Grid, numbers: Iterator[int], count: int, pause_seconds: tuple[float, float]) -> list[Sample]:
    """Puts one write at a time, at instants that know nothing of the ring's."""
    target = grid.map(MAP)
    choose = random.Random(count)
    samples: list[Sample] = []
    for _ in range(count):
        until = time.perf_counter() + choose.uniform(*pause_seconds)
        await asyncio.sleep(until - time.perf_counter())
        started = time.perf_counter()
        ack = await target.put(next(numbers), VALUE)
        acknowledged = time.perf_counter()
        await grid.wait_closed(ack.epoch)
        samples.append(Sample(acknowledged - started, time.perf_counter() - acknowledged, started - until))
    return samples
