"""Memory per entry beyond the bytes of key and value: 1,000,000 single-version keys of one map, in 16 partitions.

Resident memory of a process of its own, after a garbage collection, less what it was before the first row, less
the lengths of all keys and values. So headers and padding of the objects, hash tables, version numbers, stamps and
what the allocator keeps back all count. Rows arrive in frames of 500, as in life. No ordered index.

Beside it the plain way to keep versions: a dict of key -> list of (value, version, epoch, time) tuples.
"""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tidegrid.grid.model.errors import UnavailableError
from tidegrid.grid.model.ids import Epoch, Position
from tidegrid.grid.model.keys import encode_key
from tidegrid.grid.model.partitioner import Partitioner
from tidegrid.grid.store.table import Table
from tidegrid.grid.store.version import PUT

from bench.report import Figure, Progress

ENTRIES = 1_000_000
PARTITIONS = 16
FRAME_ROWS = 500
BYTES_MAX = 200.0
SECONDS_MAX = 300.0

Columns = tuple[int, list[bytes], list[bytes], int]
"""(partition, keys, values, number of the frame)"""


def run(progress: Progress) -> list[Figure]:
    progress(f"{ENTRIES:,} keys in tables, in a process of its own")
    table = measured("tables", ENTRIES)
    progress(f"{ENTRIES:,} keys in a dict of lists, in a process of its own")
    plain = measured("lists", ENTRIES)
    note = f"{ENTRIES:,} keys of one version in {PARTITIONS} tables, resident memory less keys and values"
    return [
        Figure("memory", table, "bytes/entry", "allowed", BYTES_MAX, at_most=1.0, note=note),
        Figure(
            "memory",
            table,
            "bytes/entry",
            "dict of lists of tuples",
            plain,
            at_most=1.0,
            note="the same rows, kept the plain way",
        ),
    ]


def measured(form: str, entries: int) -> float:
    """Bytes per entry of one form, measured in a child process. Raises UnavailableError."""
    child = subprocess.run(
        [sys.executable, "-m", "bench.memory", form, str(entries)],
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    if child.returncode:
        raise UnavailableError(f"the measuring process ended with {child.returncode}: {child.stderr[-500:]}")
    return float(child.stdout)


def resident_bytes() -> int:
    """Of this process, now; where there is no /proc, the highest so far."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def frames(entries: int) -> Iterator[Columns]:
    """Rows as they come from clients: keys of six elements, values of 100 to 163 bytes, in frames by partition."""
    partitioner = Partitioner(PARTITIONS)
    keys: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
    number = 0
    for row in range(entries):
        key = encode_key((2013, row % 12 + 1, row % 28 + 1, "UA", row, "EWR"))
        partition = partitioner.of(key)
        waiting = keys[partition]
        waiting.append(key)
        if len(waiting) == FRAME_ROWS:
            number += 1
            yield partition, waiting, _values(waiting), number
            keys[partition] = []
    for last, rest in enumerate(keys):
        number += 1
        yield last, rest, _values(rest), number


def _values(keys: list[bytes]) -> list[bytes]:
    return [key.ljust(100 + index % 64, b".") for index, key in enumerate(keys)]


def fill_tables() -> tuple[object, Callable[[Columns], None]]:
    tables = [Table() for _ in range(PARTITIONS)]

    def apply(columns: Columns) -> None:
        partition, keys, values, number = columns
        stamp = (Epoch(number), Position(number), 1_700_000_000_000 + number)
        tables[partition].apply(keys, values, bytes((PUT,)) * len(keys), [1] * len(keys), stamp)

    return tables, apply


def fill_lists() -> tuple[object, Callable[[Columns], None]]:
    entries: dict[bytes, list[tuple[bytes, int, int, int]]] = {}

    def apply(columns: Columns) -> None:
        _, keys, values, number = columns
        for key, value in zip(keys, values, strict=True):
            entries.setdefault(key, []).append((value, 1, number, 1_700_000_000_000 + number))

    return entries, apply


def main(form: str, entries: int) -> None:
    held, apply = fill_tables() if form == "tables" else fill_lists()
    for columns in frames(FRAME_ROWS * 4):  # code and small pools are there before the count
        apply(columns)
    held, apply = fill_tables() if form == "tables" else fill_lists()
    gc.collect()
    before = resident_bytes()
    payload = 0
    for columns in frames(entries):
        payload += sum(map(len, columns[1])) + sum(map(len, columns[2]))
        apply(columns)
    del columns
    gc.collect()
    print((resident_bytes() - before - payload) / entries)
    assert held


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
