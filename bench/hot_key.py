"""One key with a million versions inside the horizon: reads as of an epoch, and what becomes of its memory.

In a process of its own each time, a table as the node has it, fifty updates a frame. Reads are at random epochs, in
CPU time; then the horizon passes everything, in slices of the size in which the node works between two turns of its
event loop. Beside the read: `bisect` of a plain list of as many (epoch, number) tuples, which misses the caches of the
processor as often. `python -m bench.hot_key VERSIONS` measures and prints one JSON object.
"""

from __future__ import annotations

import gc
import json
import random
import subprocess
import sys
import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

from tidegrid.grid.model.errors import UnavailableError
from tidegrid.grid.model.ids import Epoch, Position
from tidegrid.grid.runtime.driver import RECLAIM_BUDGET
from tidegrid.grid.store.table import Table
from tidegrid.grid.store.version import PUT

from bench.memory import resident_bytes
from bench.report import Figure, Progress

VERSIONS: Final = (1_000, 10_000, 100_000, 1_000_000)
FRAME_ROWS: Final = 50
READS: Final = 20_000
REPEATS: Final = 7
SLICE_SECONDS_MAX: Final = 0.005  # a quarter of a tick
SECONDS_MAX: Final = 120.0
KEY: Final = b"hot"


@dataclass(frozen=True, slots=True)
class HotKey:
    read_seconds: float
    bisect_seconds: float
    versions_bytes: int  # resident, of all versions
    left_bytes: int  # of those, when the horizon has passed them
    slices: int
    slice_seconds_max: float
    reclaim_seconds: float


def run(progress: Progress) -> list[Figure]:
    measured: dict[int, HotKey] = {}
    for versions in VERSIONS:
        progress(f"a key with {versions:,} versions")
        measured[versions] = _in_child(versions)
    many = VERSIONS[-1]
    hot = measured[many]
    reads = ", ".join(
        f"{versions:,}: {one.read_seconds * 1e9:.0f} (bisect {one.bisect_seconds * 1e9:.0f})"
        for versions, one in measured.items()
    )
    name = f"reads_as_of, {many:,} versions of a key"
    return [
        Figure(
            name,
            hot.read_seconds * 1e9,
            "ns/read (CPU)",
            "bisect of as many plain tuples, ns",
            hot.bisect_seconds * 1e9,
            at_most=2,
            note=f"at random epochs; versions, ns a read: {reads}",
        ),
        Figure(
            name,
            hot.slice_seconds_max * 1e3,
            "ms, longest slice of reclaim (CPU)",
            "a quarter of a tick, ms",
            SLICE_SECONDS_MAX * 1e3,
            at_most=1,
            note=f"{hot.slices:,} slices of {RECLAIM_BUDGET:,} steps, {hot.reclaim_seconds * 1e3:.0f} ms in all",
        ),
        Figure(
            name,
            hot.left_bytes / 1e6,
            "MB left after reclaim",
            "all versions, MB",
            hot.versions_bytes / 1e6,
            at_most=0.1,
            note="resident memory",
        ),
    ]


def _in_child(versions: int) -> HotKey:
    child = subprocess.run(
        [sys.executable, "-m", "bench.hot_key", str(versions)],
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    if child.returncode:
        raise UnavailableError(f"the measuring process ended with {child.returncode}: {child.stderr[-500:]}")
    return HotKey(**json.loads(child.stdout))


def measure(versions: int) -> HotKey:
    gc.collect()
    gc.freeze()
    gc.disable()  # the node's collector looks at few objects, too
    before = resident_bytes()
    table = Table()
    last = _fill(table, versions)
    full = resident_bytes() - before
    read_seconds = min(_seconds(lambda epoch: table.as_of(KEY, epoch), last) for _ in range(REPEATS))
    slices, longest, whole = 0, 0.0, 0.0  # not a list of them: what is allocated meanwhile holds on to whole arenas
    steps = RECLAIM_BUDGET
    while steps == RECLAIM_BUDGET:
        started = time.process_time()
        steps = table.reclaim(last, RECLAIM_BUDGET)
        took = time.process_time() - started
        slices, longest, whole = slices + 1, max(longest, took), whole + took
    assert table.version_count == 1
    left = resident_bytes() - before
    plain = [(1 + number // FRAME_ROWS, number) for number in range(versions)]
    bisect_seconds = min(_seconds(lambda epoch: bisect_left(plain, (epoch + 1,)), last) for _ in range(REPEATS))
    return HotKey(read_seconds, bisect_seconds, full, left, slices, longest, whole)


def _fill(table: Table, versions: int) -> Epoch:
    epoch = Epoch(0)
    for first in range(1, versions + 1, FRAME_ROWS):
        epoch = Epoch(epoch + 1)
        numbers = list(range(first, min(first + FRAME_ROWS, versions + 1)))
        values = [b"%d".ljust(100, b".") % number for number in numbers]
        stamp = (epoch, Position(epoch), 1_700_000_000_000 + epoch)
        table.apply([KEY] * len(numbers), values, bytes((PUT,)) * len(numbers), numbers, stamp)
    return epoch


def _seconds(read: Callable[[Epoch], object], last: Epoch) -> float:
    """Of one call, over random epochs."""
    choose = random.Random(last)
    epochs = [Epoch(choose.randint(1, last)) for _ in range(READS)]
    started = time.process_time()
    for epoch in epochs:
        read(epoch)
    return (time.process_time() - started) / READS


if __name__ == "__main__":
    print(json.dumps(asdict(measure(int(sys.argv[1])))))
