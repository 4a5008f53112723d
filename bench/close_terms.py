"""What a close is made of, measured on this machine: one hop of the token, one append, one CLOSE.

hop     a grid of 8 nodes with a log in memory and the shortest tick, where nobody writes and somebody always waits
        for the next close: the token goes round without a pause, and a round is 8 hops. Messages, gRPC, and the
        turns of the event loop that all nodes share are in it, as in the grid that is measured. Once more while
        another process writes, for the formula under load: a token waits for its turn behind the writes
append  a frame of one small write to a log of its own on the same disk, as the journal writes it: median
close   the same for the record of a CLOSE with the tails of 16 partitions
"""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tidegrid.client import Grid
from tidegrid.grid.journal.local import LocalLog
from tidegrid.grid.log.entry import Entry
from tidegrid.grid.model.ids import CONTROL_LOG, Epoch, LogId, PartitionId, Position, partition_log
from tidegrid.v1 import control_pb2

from bench.child import data_directory
from bench.process import grid_server, opened
from bench.steady_writer import steady_writer

HOP_NODES: Final = 8
SHORTEST_TICK_MS: Final = 1
WAITING: Final = 3  # so that one still waits while another hears of a close and asks for the next
WINDOWS: Final = 7
WINDOW_SECONDS: Final = 0.4
APPENDS: Final = 300
FRAME_BYTES: Final = 300
PARTITIONS: Final = 16
MAP: Final = "bench.load"


@dataclass(frozen=True, slots=True)
class CloseTerms:
    """Seconds."""

    hop: float
    hop_under_load: float
    append: float
    close: float

    def formula(self, tick: float, nodes: int, *, load: bool) -> float:
        """P/2 + N*h/2 + c; under load a visit waits for half an append more, on average."""
        return self.rotation(tick, nodes, load=load) / 2 + self._round(nodes, load=load) / 2 + self.close

    def rotation(self, tick: float, nodes: int, *, load: bool) -> float:
        """P: from the beginning of one round to that of the next."""
        return max(tick, self._round(nodes, load=load))

    def _round(self, nodes: int, *, load: bool) -> float:
        hop = self.hop_under_load if load else self.hop
        return nodes * ((hop if nodes > 1 else 0.0) + (self.append / 2 if load else 0.0))


async def measured_terms(load_writes_per_second: float) -> CloseTerms:
    options = ("--tick-ms", str(SHORTEST_TICK_MS), "--memory")
    with grid_server(triggers=None, options=options, nodes=HOP_NODES) as server:
        async with opened(server) as grid:
            await grid.create_map(MAP)
            hop = await _hop(grid)
            with steady_writer(server.address, MAP, load_writes_per_second):
                hop_under_load = await _hop(grid)
    frame = bytes(FRAME_BYTES)
    tails = [control_pb2.Tail(partition=number, position=1 << 40) for number in range(PARTITIONS)]
    close = control_pb2.ControlRecord(close=control_pb2.Close(epoch=1 << 20, time_ms=1 << 40, tails=tails))
    with data_directory("appends") as directory:
        append, control = await _appends(directory, frame, close.SerializeToString())
    return CloseTerms(hop, hop_under_load, append, control)


async def _hop(grid: Grid) -> float:
    """Median over windows, so that a pause of the machine does not count as a hop."""
    took: list[float] = []
    waiting = [asyncio.create_task(_always_waiting(grid)) for _ in range(WAITING)]
    before, since = await _rounds(grid), time.perf_counter()
    for _ in range(WINDOWS):
        await asyncio.sleep(WINDOW_SECONDS)
        rounds, now = await _rounds(grid), time.perf_counter()
        took.append((now - since) / (rounds - before) / HOP_NODES)
        before, since = rounds, now
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    return statistics.median(took)


async def _always_waiting(grid: Grid) -> None:
    while True:
        await grid.wait_closed(grid.closed + 1)


async def _rounds(grid: Grid) -> int:
    """Rounds begin at one node, and it counts them."""
    return sum(member.status.rounds for member in await grid.status() if member.status is not None)


async def _appends(directory: Path, frame: bytes, close: bytes) -> tuple[float, float]:
    log = await LocalLog.open(directory)
    try:
        return await _append(log, partition_log(PartitionId(0)), frame), await _append(log, CONTROL_LOG, close)
    finally:
        await log.close()


async def _append(log: LocalLog, to: LogId, payload: bytes) -> float:
    took: list[float] = []
    tail = await log.tail(to)
    for number in range(APPENDS):
        started = time.perf_counter()
        (tail,) = await log.append([Entry(to, Position(tail), Epoch(number + 1), payload)])
        took.append(time.perf_counter() - started)
    return statistics.median(took)
