"""Nodes that come and go under what goes on around them: feeds of their maps, checkpoints of all."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tidegrid import embedded
from tidegrid.grid.journal.memory import MemoryLog
from tidegrid.grid.model.errors import ConfigurationError
from tidegrid.grid.model.ids import CONTROL_LOG, Epoch, LogId, PartitionId, Position
from tidegrid.grid.runtime.feeding import Feed
from tidegrid.grid.runtime.local_grid import GridOptions, LocalGrid


async def test_a_feed_of_a_node_that_was_ended_ends() -> None:
    async with embedded.open(nodes=2, partitions=2, tick=None) as grid:
        await grid.create_map("m")
        driver = grid.local.drivers[1]
        numbers = tuple(PartitionId(number) for number in driver.node.partitions)
        feed = Feed(driver, "m", numbers, driver.node.control.closed).run()
        await anext(feed)  # it is open
        await grid.local.remove_node(driver)
        assert [step async for step in feed] == []


class NodeEndsLog(MemoryLog):
    """Its nodes end, and their partitions go, while the first of the checkpoints is written."""

    grid: LocalGrid | None = None
    saved: set[LogId]

    async def save_checkpoint(self, log: LogId, position: Position, chunks: AsyncIterator[bytes]) -> None:
        self.saved.add(log)
        if self.grid is not None:
            grid, self.grid = self.grid, None
            last = grid.drivers[-1]
            await grid.remove_node(last)
            first = grid.drivers[0].node
            first.writes.give_up(max(first.partitions))
        await super().save_checkpoint(log, position, chunks)


async def test_checkpoints_go_on_while_nodes_end_and_partitions_move() -> None:
    log = NodeEndsLog()
    log.saved = set()
    async with embedded.open(nodes=2, partitions=6, tick=None, log=log) as grid:
        log.grid = grid.local
        await grid.local.checkpoint()
        assert CONTROL_LOG in log.saved and len(log.saved) > 2
        checkpointing = grid.local.checkpointing
        assert checkpointing is not None and checkpointing.rounds == 1
        assert grid.local.drivers[0].node.control.closed >= Epoch(0)


def test_how_long_a_node_is_missed_is_an_option() -> None:
    assert GridOptions(evict_seconds=0.5).validate().node_options().ring.evict_after == 0.5
    assert GridOptions().node_options().ring.evict_after == 3.0
    with pytest.raises(ConfigurationError, match="evict_seconds"):
        GridOptions(evict_seconds=0.01).validate()
