"""The versions of one key, oldest first, asked for a page at a time from the owner of the key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from tidegrid.client.dispatcher import Dispatcher
from tidegrid.grid.model.ids import Epoch, PartitionId
from tidegrid.grid.model.values import decode_value
from tidegrid.v1 import grid_pb2

_DELETE = 2


class Version(NamedTuple):
    """One value that a key has had; `raw_value` None: it was deleted. `epoch` is when readers as of it see it first."""

    version: int
    epoch: Epoch
    time_ms: int
    raw_value: bytes | None

    @property
    def deleted(self) -> bool:
        return self.raw_value is None

    @property
    def value(self) -> Any:
        """Decoded anew each time; None for a deletion."""
        return None if self.raw_value is None else decode_value(self.raw_value)


async def history(
    dispatcher: Dispatcher,
    map_name: str,
    partition: PartitionId,
    key: bytes,
    after: int,
    through: int,
    deadline: float,
) -> AsyncIterator[Version]:
    """At most one page is in memory. A page may be empty: the node has looked at as much of its log as it may at once."""
    loop = asyncio.get_running_loop()
    request = grid_pb2.HistoryRequest(map=map_name, partition=partition, key=key, after=after, through=through)
    while True:
        reply = await dispatcher.ask("History", request, loop.time() + deadline, partition)
        columns = zip(reply.values, reply.ops, reply.versions, reply.epochs, reply.times_ms, strict=True)
        for value, op, version, epoch, time_ms in columns:
            yield Version(version, Epoch(epoch), time_ms, None if op == _DELETE else value)
        if not reply.more:
            return
        request.after, request.position = reply.after, reply.position
