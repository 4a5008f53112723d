"""Yardstick: decode, translate, encode, in one thread with no I/O: what this machine's Python can do at best.

`msgpack.unpackb` of a raw flight, the translation of the flights example, `msgpack.packb` of the typed flight and of
the delay event if there is one. Best of several rounds, so that a neighbour's burst does not make us look good.
"""

from __future__ import annotations

import gc
import time

import msgpack

from bench.flights_rows import flight_rows, planes_by_tail, translated
from bench.report import Progress

NAME = "tight loop"
ROWS = 50_000
ROUNDS = 5


def rate(progress: Progress, rounds: int = ROUNDS) -> float:
    """Rows per second of the best round."""
    progress("tight loop: reading flights")
    payloads = [msgpack.packb(row) for row in flight_rows(ROWS)]
    planes = planes_by_tail()
    best = float("inf")
    gc.collect()
    gc.freeze()
    try:
        for number in range(rounds):
            progress(f"tight loop: round {number + 1} of {rounds}")
            best = min(best, _round(payloads, planes))
    finally:
        gc.unfreeze()
    return ROWS / best


def _round(payloads: list[bytes], planes: dict[str, dict[str, str]]) -> float:
    unpackb, packb = msgpack.unpackb, msgpack.packb
    started = time.perf_counter()
    for payload in payloads:
        flight, delay = translated(unpackb(payload), planes)
        packb(flight)
        if delay is not None:
            packb({"minutes": delay})
    return time.perf_counter() - started
