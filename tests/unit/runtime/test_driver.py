"""The turn of a driver, over a log that settles appends at once, in a thread's time, or not yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from tidegrid import embedded
from tidegrid.grid.journal.memory import MemoryLog
from tidegrid.grid.journal.seam import Settled
from tidegrid.grid.log.entry import Entry, LogRecord
from tidegrid.grid.model.errors import UnavailableError
from tidegrid.grid.model.ids import CONTROL_LOG, LogId, PartitionId, Position


class QuickLog(MemoryLog):
    """`slow` appends settle on `release`; the others in `flush`, inside the driver's own turn, as a quick disk does.

    While it is `silent`, the control log cannot be read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.slow = False
        self.silent = False
        self._late: list[tuple[Sequence[Entry], Settled]] = []
        self._started: list[tuple[Sequence[Entry], Settled]] = []

    def start(self, entries: Sequence[Entry], settled: Settled) -> None:
        if self.slow:
            self._late.append((entries, settled))
        else:
            self._started.append((entries, settled))
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        started, self._started = self._started, []
        for entries, settled in started:
            super().start(entries, settled)
            self._drain()

    async def read(self, log: LogId, after: Position, bytes_max: int) -> list[LogRecord]:
        if log == CONTROL_LOG and self.silent:
            await asyncio.Event().wait()
        return await super().read(log, after, bytes_max)

    def settle_late(self) -> None:
        self.slow = False
        late, self._late = self._late, []
        self._started += late
        self.flush()


@asynccontextmanager
async def one_partition(log: QuickLog) -> AsyncIterator[embedded.EmbeddedGrid]:
    async with embedded.open(partitions=1, tick=None, log=log, deadline=60.0) as grid:
        await grid.create_map("m", key=("id:int",))
        yield grid


async def test_what_waited_behind_a_frame_that_lands_within_the_turn_is_computed() -> None:
    """With time stepped by hand nothing else would ever wake the driver."""
    log = QuickLog()
    async with one_partition(log) as grid:
        log.slow = True
        first = asyncio.ensure_future(grid.map("m").put(1, "first"))
        while not log._late:
            await grid.local.drivers[0].turned()
        partition = grid.local.drivers[0].node.partitions[PartitionId(0)]
        big = asyncio.ensure_future(grid.map("m").put_many((n, "x" * 250) for n in range(3, 403)))
        while partition.next is None:
            await grid.local.drivers[0].turned()
        second = asyncio.ensure_future(grid.map("m").put_many([(2, "second")]))
        while not partition.queue:
            await grid.local.drivers[0].turned()
        log.settle_late()
        async with asyncio.timeout(20):  # well before any deadline would wake it
            assert (await first).version == (await second)[0].version == 1
        assert all(not isinstance(outcome, Exception) for outcome in await big)


@pytest.mark.parametrize("writes", [1, 40])
async def test_a_message_is_answered_within_its_turn_when_the_log_is_quick(writes: int) -> None:
    async with one_partition(QuickLog()) as grid:
        acks = await asyncio.gather(*(grid.map("m").put(number, number) for number in range(writes)))
        assert {ack.version for ack in acks} == {1}


async def test_who_appended_a_close_has_no_need_to_read_it_back() -> None:
    log = QuickLog()
    async with one_partition(log) as grid:
        driver = grid.local.drivers[0]
        ack = await grid.map("m").put(1, 1)
        log.silent = True
        driver.start_round()
        async with asyncio.timeout(20):
            await driver.closed_above(ack.epoch - 1)
        assert driver.node.control.closed >= ack.epoch
        log.silent = False


class UnreachableLog(QuickLog):
    """Its tails are not told."""

    unreachable = False

    async def tail(self, log: LogId) -> Position:
        if self.unreachable:
            raise UnavailableError("nobody keeps the log at the moment", address="")
        return await super().tail(log)


async def test_a_log_that_does_not_tell_its_tail_refuses_linearizable_reads_only() -> None:
    log = UnreachableLog()
    async with one_partition(log) as grid:
        table = grid.map("m")
        await table.put(1, "one")
        log.unreachable = True
        with pytest.raises(UnavailableError, match="nobody keeps the log"):
            await table.get(1, consistency="linearizable", deadline=0.2)
        waiting = asyncio.ensure_future(table.get(1, consistency="linearizable"))
        entry = await table.get(1)
        assert entry is not None and not waiting.done()
        log.unreachable = False
        assert await waiting == entry
