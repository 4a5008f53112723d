"""Feeds in one process: what is left behind, and states that weigh much more than what made them."""

from __future__ import annotations

import asyncio

from tidegrid import embedded
from tidegrid.client.change import Change
from tidegrid.embedded.transport import DirectFeed
from tidegrid.grid.engine.feed import STATE_BYTES, LogMerge, recent_entries
from tidegrid.grid.engine.feed_entry import FeedEntry
from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.log.entry import LogRecord
from tidegrid.grid.log.record import decode_section
from tidegrid.grid.model.ids import Epoch, LogId, Position
from tidegrid.grid.ring.control import ControlState


async def test_feeds_that_are_left_early_are_open_no_longer() -> None:
    async with embedded.open(partitions=2, tick=0.005) as grid:
        table = await grid.create_map("m", key=("n:int",))
        await table.put_many([(n, "x" * 2_000) for n in range(300)])
        for _ in range(5):
            async with table.subscribe(snapshot=True, buffer_bytes=1) as feed:
                async for _ in feed:
                    break
        transport = grid._dispatcher.transport
        (service,) = transport._services.values()
        for _ in range(1_000):
            await asyncio.sleep(0)
            if not service.feeds.open:
                break
        assert not service.feeds.open
        assert not any(isinstance(stream, DirectFeed) for stream in transport._streams)


async def test_a_feed_of_states_that_weigh_much_more_than_what_made_them() -> None:
    """One write folds a kilobyte into a state of fifty, and a frame has hundreds of them."""
    source = """
from tidegrid.triggers import Merge, table, trigger

def newest(state, item):
    return [*(state or []), item][-50:]

table("raw", key=("n:int",))
table("last", key=("all",), fold=newest)

@trigger(on="raw", emits="last")
def keep(write):
    yield Merge("last", "it", write.value)
"""
    async with embedded.open(partitions=1, tick=0.005) as grid:
        await grid.deploy(("m", source))
        before = grid.local.drivers[0].node.control.closed
        outcomes = await grid.map("raw").put_many([(n, f"{n:01000d}") for n in range(300)])
        last = max(one.epoch for one in outcomes)
        await grid.wait_closed(last)
        driver = grid.local.drivers[0]
        (partition,) = driver.node.partitions.values()
        for entries in (
            recent_entries([partition], "last", before, last),
            from_log(driver.node.control, partition, await driver.log.read(LogId(0), Position(0), 1 << 30)),
        ):
            assert entries and all(len(entry.section) < 2 * STATE_BYTES for entry in entries)
            versions = [number for entry in entries for number in decode_section(entry.section).versions]
            assert versions == list(range(1, 301))
        changes: list[Change] = []
        async with grid.map("last").subscribe(after=0) as feed:
            async for batch in feed:
                changes += batch.changes
                if len(changes) == 300:
                    break
        assert [len(change.value) for change in changes] == [min(n, 50) for n in range(1, 301)]
        assert len({(change.partition, change.position, change.index) for change in changes}) == 300


def from_log(control: ControlState, partition: Partition, records: list[LogRecord]) -> list[FeedEntry]:
    merge = LogMerge([partition], "last", Epoch(0), control.closed, control)
    merge.give(partition.id, Position(0), records)
    found: list[FeedEntry] = []
    while entries := merge.take(1):
        found += entries
    return found
