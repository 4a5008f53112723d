"""Checkpoints by themselves, and the compaction of the control log after them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.journal.memory import MemoryLog
from tidegrid.grid.journal.seam import Fold
from tidegrid.grid.log.entry import Entry
from tidegrid.grid.model.errors import CorruptionError, StorageFullError
from tidegrid.grid.model.ids import CONTROL_LOG, Epoch, LogId, PartitionId, Position
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.ownership import PartitionState
from tidegrid.grid.runtime.checkpointing import Checkpointing
from tidegrid.grid.runtime.opening import fold_control
from tidegrid.grid.store.merged import MERGE, MergedTable
from tidegrid.v1.control_pb2 import Close, ControlRecord, GridCreated


class WatchedLog(MemoryLog):
    def __init__(self) -> None:
        super().__init__()
        self.asked: asyncio.Queue[tuple[LogId, Position]] = asyncio.Queue()
        self.gate = asyncio.Event()
        self.gate.set()
        self.full = False
        self.ended = 0
        self.compacted = asyncio.Event()

    async def save_checkpoint(self, log: LogId, position: Position, chunks: AsyncIterator[bytes]) -> None:
        if self.full:
            raise StorageFullError("no space")
        await super().save_checkpoint(log, position, chunks)

    async def compact(self, log: LogId, through: Position, fold: Fold) -> int:
        self.asked.put_nowait((log, through))
        try:
            await self.gate.wait()
            saved = await super().compact(log, through, fold)
            self.compacted.set()
            return saved
        finally:
            self.ended += 1


async def append(log: MemoryLog, record: ControlRecord) -> None:
    await log.append([Entry(CONTROL_LOG, await log.tail(CONTROL_LOG), Epoch(1), record.SerializeToString())])


async def fill(log: MemoryLog, closes: int = 20) -> None:
    for _ in range(closes):
        await append(log, ControlRecord(close=Close(epoch=await log.tail(CONTROL_LOG), time_ms=5)))


async def at_the_end(log: MemoryLog) -> Any:
    """As much of a driver as a checkpoint looks at."""
    return SimpleNamespace(node=SimpleNamespace(partitions={}, control=await fold_control(log)))


@pytest.fixture
async def log() -> WatchedLog:
    log = WatchedLog()
    await append(log, ControlRecord(created=GridCreated(grid_id=b"g" * 16, partitions=4, limit=9)))
    await fill(log)
    return log


async def test_the_control_log_is_compacted_up_to_what_the_slowest_node_has_read(log: WatchedLog) -> None:
    slow = await at_the_end(log)
    await fill(log)
    quick = await at_the_end(log)
    whole: ControlState = quick.node.control
    task = asyncio.create_task(Checkpointing(log, [quick, slow], bytes_between=1).run())
    await fill(log, 1)
    assert await log.asked.get() == (CONTROL_LOG, slow.node.control.position)
    saved = await log.load_checkpoint(CONTROL_LOG)
    assert saved is not None and saved.position == whole.position
    await log.compacted.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    records = await log.read(CONTROL_LOG, Position(0), 1 << 30)
    assert ControlRecord.FromString(records[0].payload).WhichOneof("record") == "folded"
    assert records[0].position == slow.node.control.position and len(records) == 22
    assert (await fold_control(log, ControlState())).closed > whole.closed


async def test_what_a_checkpoint_of_an_earlier_life_covers_is_compacted_at_the_start(log: WatchedLog) -> None:
    driver = await at_the_end(log)
    control = driver.node.control

    async def chunks() -> AsyncIterator[bytes]:
        yield control.to_bytes()

    await log.save_checkpoint(CONTROL_LOG, control.position, chunks())
    await fill(log)
    task = asyncio.create_task(Checkpointing(log, [await at_the_end(log)], bytes_between=1 << 40).run())
    assert await log.asked.get() == (CONTROL_LOG, control.position)
    task.cancel()
    await asyncio.wait([task])


async def test_it_is_not_compacted_past_its_checkpoint_or_without_one(log: WatchedLog) -> None:
    driver = await at_the_end(log)
    checkpointing = Checkpointing(log, [driver], bytes_between=1)
    log.full = True
    task = asyncio.create_task(checkpointing.run())
    while checkpointing.last_error is None:
        await fill(log, 1)
    assert log.asked.empty()
    log.full = False
    await fill(log, 2)
    assert (await log.asked.get())[1] == driver.node.control.position
    task.cancel()
    await asyncio.wait([task])


async def test_checkpoints_go_on_while_it_takes_long_and_it_ends_with_them(log: WatchedLog) -> None:
    log.gate.clear()
    checkpointing = Checkpointing(log, [await at_the_end(log)], bytes_between=1)
    task = asyncio.create_task(checkpointing.run())
    while checkpointing.rounds < 3:
        await fill(log, 1)
    assert log.asked.qsize() == 1 and log.ended == 0
    task.cancel()
    await asyncio.wait([task])
    assert log.ended == 1, "nothing is left behind"


async def test_a_log_that_cannot_be_compacted_is_no_reason_to_end(log: WatchedLog) -> None:
    checkpointing = Checkpointing(log, [await at_the_end(log)], bytes_between=1)

    async def damaged(log: LogId, through: Position, fold: Fold) -> int:
        raise CorruptionError("a segment is damaged")

    log.compact = damaged  # type: ignore[method-assign]
    task = asyncio.create_task(checkpointing.run())
    while checkpointing.rounds < 3:
        await fill(log, 1)
    assert isinstance(checkpointing.last_error, CorruptionError) and not task.done()
    task.cancel()
    await asyncio.wait([task])


async def test_one_that_fails_keeps_no_history() -> None:
    """While it is taken, a map with a fold keeps what the log after it is folded onto."""
    log = WatchedLog()
    await append(log, ControlRecord(created=GridCreated(grid_id=b"g" * 16, partitions=1, limit=9)))
    partition = Partition(PartitionId(0), Limits(), 1_000, 0)
    partition.state = PartitionState.OPEN
    table = partition.tables["sums"] = MergedTable(lambda _: lambda state, _: (state or b"") + b"x", 1_000)
    node = SimpleNamespace(partitions={0: partition}, control=await fold_control(log))
    checkpointing = Checkpointing(log, [SimpleNamespace(node=node)], 1)  # type: ignore[list-item]

    def merged(epoch: int) -> None:
        table.apply([b"k"], [b""], bytes([MERGE]), [epoch], (Epoch(epoch), Position(epoch), 0))
        table.settle(Epoch(epoch))

    merged(1)
    log.full = True
    with pytest.raises(StorageFullError) as kept:
        await checkpointing.save()
    for epoch in range(2, 10):
        merged(epoch)
    table.reclaim(Epoch(9), 100)
    assert table.version_count == 1 and kept.tb is not None, "whoever keeps the error keeps nothing else"
