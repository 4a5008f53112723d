"""A grid whose control log is compacted while it is written: after a restart, and with nothing but the log, all is there."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tidegrid import embedded
from tidegrid.client import Map
from tidegrid.embedded import EmbeddedGrid
from tidegrid.grid.journal.files import PosixFiles
from tidegrid.grid.journal.local import LocalLog
from tidegrid.grid.journal.options import LocalLogOptions
from tidegrid.grid.journal.verify import verify
from tidegrid.grid.model.ids import CONTROL_LOG, NodeId
from tidegrid.grid.runtime.local_grid import GridOptions
from tidegrid.grid.runtime.opening import fold_control

SEGMENTS = LocalLogOptions(segment_bytes=32 * 1024, compact_rest_seconds=0.0)
OPTIONS = GridOptions(checkpoint_bytes=24 * 1024)
ENOUGH = SEGMENTS.segment_bytes * SEGMENTS.compact_share
ROUNDS = 350
KEYS = [f"key {number}" for number in range(4)]

Seen = tuple[list[list[object]], list[tuple[int, object]], list[list[object]]]


async def write(grid: EmbeddedGrid, table: Map, rounds: int = ROUNDS) -> list[int]:
    """A write and a close, so many times. The epochs of the writes."""
    epochs = []
    for number in range(rounds):
        epochs.append((await table.put(KEYS[number % len(KEYS)], number)).epoch)
        await grid.tick()
    return epochs


async def see(table: Map, epochs: list[int]) -> Seen:
    """Reads as of epochs long past, a feed of everything, and the history of each key."""
    as_of = [[entry and entry.value for entry in await table.get_many(KEYS, as_of=epoch)] for epoch in epochs[::25]]
    fed: list[tuple[int, object]] = []
    async with table.subscribe(after=0) as feed:
        async for batch in feed:
            fed += [(batch.epoch, change.value) for change in batch.changes]
            if batch.epoch >= epochs[-1]:
                break
    history = [[version.value async for version in table.history(key)] for key in KEYS]
    return as_of, fed, history


async def test_a_grid_compacts_by_itself_and_a_restart_finds_all_of_it(tmp_path: Path) -> None:
    log = await LocalLog.open(tmp_path, options=SEGMENTS)
    async with embedded.open(nodes=2, partitions=4, tick=None, log=log, options=OPTIONS) as grid:
        table = await grid.create_map("t")
        epochs = await write(grid, table)
        checkpointing = grid.local.checkpointing
        assert checkpointing is not None
        while checkpointing.saved_bytes < 3 * ENOUGH:
            await grid.tick()
            await asyncio.sleep(0)
        seen = await see(table, epochs)
        added = await grid.local.add_node(NodeId(2), "embedded:2", "embedded:2", grid.local.drivers[0]._peers)
        assert added.node.control.position == await log.tail(CONTROL_LOG), "who joins later reads the folded records"
        await grid.local.remove_node(added)
        assert checkpointing.last_error is None
    assert [number for _, number in seen[1]] == list(range(ROUNDS))
    report = verify(tmp_path)
    assert report.whole and report.compacted >= 2

    files = PosixFiles(tmp_path)
    for name in files.list():
        if name.startswith("control."):
            files.remove(name)
    log = await LocalLog.open(tmp_path, options=SEGMENTS)
    control = await fold_control(log)
    assert control.position == await log.tail(CONTROL_LOG) and control.partitions == 4
    assert control.closed >= epochs[-1]
    async with embedded.open(nodes=2, tick=None, log=log, options=OPTIONS) as grid:
        assert await see(grid.map("t"), epochs) == seen
        await write(grid, grid.map("t"), 50)
    again = verify(tmp_path)
    assert again.whole and again.compacted >= report.compacted
