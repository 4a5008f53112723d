"""Feeds as messages. Followers of one map who are at the same close get the same bytes, serialised once."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import AsyncIterator

from tidegrid.grid.model.errors import BusyError, GridError
from tidegrid.grid.model.ids import Epoch, PartitionId
from tidegrid.grid.rpc.wire import carry_message, error_message
from tidegrid.grid.runtime.driver import Driver
from tidegrid.grid.runtime.feeding import Feed, Live, SharedKey, Snapshot, Step
from tidegrid.v1 import grid_pb2

_log = logging.getLogger(__name__)
SHARED_BYTES_MAX = 32 * 1024 * 1024
_BYTES_PER_MESSAGE = 1024 * 1024


class Feeds:
    """All followers of one node."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._shared: OrderedDict[SharedKey, list[bytes]] = OrderedDict()
        self._shared_bytes = 0
        self.open: set[Feed] = set()

    async def subscribe(self, request: grid_pb2.SubscribeRequest, peer: str) -> AsyncIterator[bytes]:
        """Serialised FeedMessages. An error is the last message."""
        node = self._driver.node
        numbers = request.partitions or sorted(node.partitions)
        feed = Feed(
            self._driver,
            request.map,
            tuple(PartitionId(n) for n in numbers),
            Epoch(request.after),
            request.snapshot,
            peer,
            self._shared.__contains__,
        )
        try:
            if len(self.open) >= node.limits.subscriptions_max:
                raise BusyError.of("the node's list of subscriptions", node.limits.subscriptions_max)
            self.open.add(feed)
            async for part in feed.run():
                for message in self._messages(part):
                    yield message
        except GridError as error:
            yield self._failure(error)
        except Exception as error:
            _log.exception("a feed of map %r ends by a defect", request.map)
            yield self._failure(GridError(f"the node met a defect of its own ({error!r}); its log has the traceback"))
        finally:
            self.open.discard(feed)

    def _messages(self, part: Snapshot | Live | Step) -> list[bytes]:
        if isinstance(part, Step):
            return self._step(part)
        if isinstance(part, Snapshot):
            return self._snapshot(part)
        return [grid_pb2.FeedMessage(carry=self._carry(), live=True).SerializeToString()]

    def _snapshot(self, part: Snapshot) -> list[bytes]:
        messages: list[bytes] = []
        message = grid_pb2.FeedMessage(carry=self._carry())
        chunk, size = message.snapshot.add(partition=part.partition), 0
        for key, (value, version, stamp) in part.rows:
            weight = len(key) + len(value or b"")
            if size and size + weight > _BYTES_PER_MESSAGE:
                messages.append(message.SerializeToString())
                message = grid_pb2.FeedMessage(carry=self._carry())
                chunk, size = message.snapshot.add(partition=part.partition), 0
            size += weight
            chunk.keys.append(key)
            chunk.values.append(value or b"")
            chunk.versions.append(version)
            chunk.epochs.append(stamp[0])
            chunk.times_ms.append(stamp[2])
        messages.append(message.SerializeToString())
        return messages

    def _step(self, step: Step) -> list[bytes]:
        if step.shared is None:
            return self._serialise(step)
        known = self._shared.get(step.shared)
        if known is None:
            known = self._shared[step.shared] = self._serialise(step)
            self._shared_bytes += sum(map(len, known))
            while self._shared_bytes > SHARED_BYTES_MAX or len(self._shared) > 256:
                _, oldest = self._shared.popitem(last=False)
                self._shared_bytes -= sum(map(len, oldest))
        return known

    def _serialise(self, step: Step) -> list[bytes]:
        """One message mostly; a heavy close in several, of which the last has the mark, if it is the end of it."""
        messages: list[bytes] = []
        message = grid_pb2.FeedMessage(carry=self._carry())
        size = 0
        for entry in step.entries:
            if size and size + len(entry.section) > _BYTES_PER_MESSAGE:
                messages.append(message.SerializeToString())
                message, size = grid_pb2.FeedMessage(carry=self._carry()), 0
            message.entries.add(
                partition=entry.partition, position=entry.position, effective=entry.effective,
                time_ms=entry.time_ms, section=entry.section,
            )  # fmt: skip
            size += len(entry.section)
        message.mark = step.mark or 0
        messages.append(message.SerializeToString())
        return messages

    def _failure(self, error: GridError) -> bytes:
        return grid_pb2.FeedMessage(carry=self._carry(), error=error_message(error)).SerializeToString()

    def _carry(self) -> grid_pb2.Carry:
        return carry_message(self._driver.node)
