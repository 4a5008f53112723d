"""How long a node that takes no messages holds closes back: until it is put out of the ring, and no longer.

Three nodes over one log in this process, with direct links. One is cut off: nothing reaches it and nothing of it gets
out, as of a process that stands still. Somebody waits for the next close all the time, at a node that is not cut off.
Once for the origin of the rounds, once for another.

Bound: `evict_after`. The take-over is told, too: from the view without that node to the next close.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, NamedTuple

from tidegrid.grid.journal.memory import MemoryLog
from tidegrid.grid.model.ids import Epoch, NodeId
from tidegrid.grid.ring.local import RingOptions
from tidegrid.grid.ring.messages import Envelope
from tidegrid.grid.runtime.driver import Driver
from tidegrid.grid.runtime.local_grid import GridOptions, LocalGrid
from tidegrid.grid.runtime.peers import DirectPeers, Peers
from tidegrid.v1.ring_pb2 import RehearseReply, RehearseRequest

from bench.report import Figure

NODES: Final = 3
OBSERVER: Final = 1
CLOSES_BEFORE: Final = 10
SECONDS_MAX: Final = 60.0


class Outage(NamedTuple):
    """Seconds: the longest time without a close, and from the view without the node to the close after it."""

    without_close: float
    take_over: float


class _Cut:
    """Links of one node, which lead nowhere while it, or whom it speaks to, is cut off."""

    def __init__(self, me: NodeId, links: Peers, cut_off: set[NodeId]) -> None:
        self._me, self._links, self._cut_off = me, links, cut_off

    def send(self, to: NodeId, envelope: Envelope) -> None:
        if to not in self._cut_off and self._me not in self._cut_off:
            self._links.send(to, envelope)

    async def ask(self, to: NodeId, request: RehearseRequest, timeout: float) -> RehearseReply:
        return await self._links.ask(to, request, timeout)

    async def close(self) -> None:
        await self._links.close()


async def measured() -> list[Figure]:
    return [_figure("the origin", await _outage(0)), _figure("another node", await _outage(2))]


def _figure(which: str, outage: Outage) -> Figure:
    return Figure(
        f"close_latency, {which} of {NODES} cut off",
        outage.without_close * 1e3,
        "ms without a close",
        "eviction time, ms",
        RingOptions().evict_after * 1e3,
        at_most=1,
        note=f"take-over {outage.take_over * 1e3:.1f} ms",
    )


async def _outage(node: int) -> Outage:
    cut_off: set[NodeId] = set()
    links = DirectPeers()
    grid = await LocalGrid.open(
        MemoryLog(),
        GridOptions(nodes=NODES),
        None,
        lambda me: _Cut(me, links, cut_off),
        [(f"node:{number}", f"node:{number}") for number in range(NODES)],
        lambda driver: links.join(driver.node.me, driver.receive),
    )
    try:
        await grid.ready()
        observer = grid.drivers[OBSERVER]
        for _ in range(CLOSES_BEFORE):
            await _next_close(grid, observer)
        cut_off.add(NodeId(node))
        async with asyncio.timeout(SECONDS_MAX):
            return await _until_it_goes_on(grid, observer, NodeId(node))
    finally:
        await grid.close(drain=False)


async def _until_it_goes_on(grid: LocalGrid, observer: Driver, node: NodeId) -> Outage:
    put_out = asyncio.create_task(_put_out(observer, node))
    longest, last = 0.0, time.perf_counter()
    while True:
        gone = put_out.done()
        await _next_close(grid, observer)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
        if gone or put_out.done():
            return Outage(longest, now - await put_out)


async def _next_close(grid: LocalGrid, observer: Driver) -> None:
    await grid.wait_closed(observer, Epoch(observer.node.control.closed + 1), SECONDS_MAX)


async def _put_out(observer: Driver, node: NodeId) -> float:
    """When the view no longer has the node."""
    while node in observer.node.control.view.members:
        await observer.turned()
    return time.perf_counter()
