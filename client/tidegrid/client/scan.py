"""Ordered scans: pages of every partition, merged into one key order.

A partition's next page is asked for while its last one is handed out, so at most two pages per partition are in
memory. What can be handed out is everything up to the lowest last key of the pages that have more behind them.

Without `as_of`, pages are read at different moments: each row is the latest at its time, the whole is no cut.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator
from typing import Final

from tidegrid.client.dispatcher import Dispatcher
from tidegrid.client.entry import Entry
from tidegrid.client.moment import Moment
from tidegrid.grid.model.ids import Epoch, PartitionId
from tidegrid.v1 import grid_pb2

PAGE_ROWS: Final = 1_000


def _raw_key(entry: Entry) -> bytes:
    return entry.raw_key


class _Pages:
    """The rows of one partition in scan order; `rows` holds what has come and is not handed out."""

    def __init__(self, dispatcher: Dispatcher, request: grid_pb2.ScanRequest, deadline: float, ahead: bool) -> None:
        self.rows: list[Entry] = []
        self.more = True
        self._dispatcher = dispatcher
        self._request = grid_pb2.ScanRequest()  # of its own: it moves on
        self._request.CopyFrom(request)
        self._deadline = deadline  # seconds for each page
        self._ahead = ahead
        self._next: asyncio.Task[grid_pb2.ScanReply] | None = None

    def _ask(self) -> asyncio.Task[grid_pb2.ScanReply]:
        loop = asyncio.get_running_loop()
        request = grid_pb2.ScanRequest()
        request.CopyFrom(self._request)
        return loop.create_task(
            self._dispatcher.ask("Scan", request, loop.time() + self._deadline, PartitionId(request.partition))
        )

    async def fill(self) -> None:
        while not self.rows and self.more:
            reply = await (self._next or self._ask())
            columns = zip(reply.keys, reply.values, reply.versions, reply.epochs, reply.times_ms, strict=True)
            generation = reply.generation
            self.rows = [
                Entry(key, value, version, Epoch(epoch), time_ms, generation)
                for key, value, version, epoch, time_ms in columns
            ]
            self._next = None
            self.more = reply.more and bool(self.rows)
            if self.more:
                if self._request.reverse:
                    self._request.end = reply.keys[-1]
                else:
                    self._request.begin = reply.keys[-1] + b"\0"
                if self._ahead:
                    self._next = self._ask()

    def take(self, bound: bytes | None) -> list[Entry]:
        """The rows that come no later than `bound` in scan order; None: all."""
        if bound is None:
            taken, self.rows = self.rows, []
        elif self._request.reverse:
            index = len(self.rows) - bisect_left(self.rows[::-1], bound, key=_raw_key)
            taken, self.rows = self.rows[:index], self.rows[index:]
        else:
            index = bisect_right(self.rows, bound, key=_raw_key)
            taken, self.rows = self.rows[:index], self.rows[index:]
        return taken

    async def close(self) -> None:
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)


async def scan(
    dispatcher: Dispatcher,
    map_name: str,
    begin: bytes,
    end: bytes,
    *,
    moment: Moment,
    limit: int | None,
    reverse: bool,
    deadline: float,
) -> AsyncIterator[Entry]:
    """Entries of [begin, end) in key order over all partitions; `end` b"" is open."""
    if limit is not None and limit <= 0:
        return
    assert dispatcher.routing is not None
    rows_max = PAGE_ROWS if limit is None else min(PAGE_ROWS, limit)
    asked = grid_pb2.ScanRequest(map=map_name, begin=begin, end=end, rows_max=rows_max, reverse=reverse)
    moment.stamp(asked)
    partitions = []
    for partition in range(len(dispatcher.routing.owners)):
        asked.partition = partition
        partitions.append(_Pages(dispatcher, asked, deadline, ahead=limit is None or limit > PAGE_ROWS))
    left = limit
    try:
        while True:
            await asyncio.gather(*(pages.fill() for pages in partitions))
            last_keys = [pages.rows[-1].raw_key for pages in partitions if pages.more]
            bound = (max if reverse else min)(last_keys) if last_keys else None
            merged = [entry for pages in partitions for entry in pages.take(bound)]
            merged.sort(key=_raw_key, reverse=reverse)
            for entry in merged[:left]:
                yield entry
            if left is not None:
                left -= len(merged)
            if bound is None or (left is not None and left <= 0):
                return
    finally:
        await asyncio.gather(*(pages.close() for pages in partitions))
