"""Nodes that come and go under what goes on around them: feeds of their maps, checkpoints of all."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tidegrid import embedded
from tidegrid.grid.journal.memory import MemoryLog
from tidegrid.grid.model.errors import ConfigurationError
from tidegrid.grid.model.ids import CONTROL_LOG, Epoch, LogId, NodeId, PartitionId, Position
from tidegrid.grid.ring.ownership import view_without
from tidegrid.grid.runtime.feeding import Feed
from tidegrid.grid.runtime.local_grid import GridOptions, LocalGrid
from tidegrid.grid.runtime.opening import append_control, fold_control, new_member
from tidegrid.v1.control_pb2 import ControlRecord


async def test_a_feed_of_a_node_that_was_ended_ends() -> None:
    async with embedded.open(nodes=2, partitions=2, tick=None) as grid:
        await grid.create_map("m")
        driver = grid.local.drivers[1]
        numbers = tuple(PartitionId(number) for number in driver.node.partitions)
        feed = Feed(driver, "m", numbers, driver.node.control.closed).run()
        await anext(feed)  # it is open
        await grid.local.remove_node(driver)
        assert [step async for step in feed] == []


async def test_a_node_that_was_put_out_comes_back_as_a_new_incarnation() -> None:
    log = MemoryLog()
    async with embedded.open(nodes=2, partitions=2, tick=None, log=log):
        for number in (NodeId(0), NodeId(1), NodeId(7)):
            control = await fold_control(log)
            before = control.incarnation(number)
            member = await new_member(log, number, "", "")
            assert member.incarnation == before + 1
        await append_control(log, control, lambda state: ControlRecord(view=view_without(state, [NodeId(1)])))
        assert (await new_member(log, NodeId(1), "", "")).incarnation == 2


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
