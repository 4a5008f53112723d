"""A subscription to one map: what all owners send, merged into batches of closed epochs, exactly once and in order.

    snapshot pieces (if asked) -> live -> one batch per closed epoch with changes (and, if asked, empty ones as marks)

Each owner's stream has a reader task; a broken stream is resumed after the last epoch that came whole, at whoever
owns its partitions now. So is one that has been silent for long while its partitions became another's. A break while its snapshot is on the way starts the whole snapshot anew, at a newer epoch:
the next piece says `begins`. Whoever does not iterate stops the readers, and by flow control the nodes, which keep
only a cursor and go on from the log: a stalled feed costs nobody memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Final

from tidegrid.client.change import FeedBatch, FeedSection
from tidegrid.client.dispatcher import Dispatcher, backoff, closed_error
from tidegrid.client.errors import error_of, grid_error_of
from tidegrid.client.feed_merge import PER_ENTRY_BYTES, FeedMerge
from tidegrid.client.patience import UNANSWERED_SECONDS, Silences
from tidegrid.client.transport import FeedStream
from tidegrid.grid.model.errors import (
    CallerError,
    EpochTooOldError,
    GridError,
    OverloadError,
    PeerError,
    UnavailableError,
)
from tidegrid.grid.model.ids import Epoch, PartitionId
from tidegrid.v1 import control_pb2, grid_pb2

BUFFER_BYTES: Final = 16 * 1024 * 1024
PATIENCE_SECONDS: Final = 60.0
SNAPSHOT_TRIES: Final = 10  # that the horizon may overtake


class Feed:
    """An async context manager and async iterator of FeedBatch. Made by `Map.subscribe`."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        map_name: str,
        after: int | None,
        snapshot: bool,
        buffer_bytes: int,
        marks: bool,
        patience: float,
    ) -> None:
        self._dispatcher = dispatcher
        self._map = map_name
        self._after = after
        self._snapshot = snapshot
        self._buffer_bytes = buffer_bytes
        self._marks = marks
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._merge = FeedMerge(after or 0, buffer_bytes)
        self._told = -1
        self._pieces: deque[FeedSection] = deque()
        self._pieces_bytes = 0
        self._not_live: set[int] = set()
        self._announced = not snapshot  # that the snapshot is complete
        self._begun = False
        self._restarts = 0
        self._serial = 0
        self._readers: dict[int, asyncio.Task[None]] = {}  # by stream, also while it is being resumed
        self._streams: dict[int, tuple[FeedStream, control_pb2.Member, list[PartitionId]]] = {}
        self._silences = Silences()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failing: dict[str, tuple[int, float]] = {}  # address -> tries in a row, since when
        self._started = False
        self._room = asyncio.Event()
        self._waiter: asyncio.Future[None] | None = None
        self._problem: GridError | None = None
        self._closed = False

    # Handing out --------------------------------------------------------------------------------------------------

    @property
    def mark(self) -> Epoch:
        """Everything at or below this epoch has been handed out."""
        return Epoch(self._merge.handed) if self._announced else Epoch(0)

    @property
    def live(self) -> bool:
        """The snapshot, if one was asked for, has been handed out."""
        return self._announced

    @property
    def buffered_bytes(self) -> int:
        return self._merge.buffered_bytes + self._pieces_bytes

    def ready(self) -> FeedBatch | None:
        """The next batch if it is here already."""
        batch = self._next()
        if batch is not None:
            self._room.set()
        return batch

    def _next(self) -> FeedBatch | None:
        if self._pieces:
            section = self._pieces.popleft()
            self._pieces_bytes -= _piece_weight(section)
            return self._piece([section], live=False)
        if not self._announced:
            if self._not_live or not self._readers:
                return None
            self._announced = True
            return self._piece([], live=True)
        batch = self._merge.take()
        handed = self._merge.handed
        if batch is None and self._marks and handed > self._told and self._readers:
            batch = FeedBatch(Epoch(handed), [])
        if batch is not None:
            self._told = handed
        return batch

    def _piece(self, sections: list[FeedSection], live: bool) -> FeedBatch:
        begins, self._begun = not self._begun, True
        return FeedBatch(Epoch(self._merge.handed), sections, snapshot=True, begins=begins, live=live)

    def __aiter__(self) -> Feed:
        return self

    async def __anext__(self) -> FeedBatch:
        """Raises the error that ends the feed, and StopAsyncIteration once it is closed."""
        while True:
            if self._closed:
                raise StopAsyncIteration
            batch = self.ready()
            if batch is not None:
                return batch
            if self._problem is not None:
                raise self._problem
            if self._dispatcher.closing:
                raise closed_error()
            if not self._started:
                raise CallerError("a feed is used as `async with map.subscribe(...) as feed:`")
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def _wake(self) -> None:
        self._room.set()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # Life ---------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Feed:
        self._started = True
        self._dispatcher.feeds.add(self)
        self._spawn(self._start(0))
        self._spawn(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Idempotent."""
        self._closed = True
        self._dispatcher.feeds.discard(self)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        self._wake()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work, name=f"tidegrid feed of {self._map}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        problem = None if task.cancelled() else task.exception()
        if problem is not None:
            self._fail(grid_error_of(problem))

    async def _start(self, pause: float) -> None:
        """Opens a stream to every owner, from an epoch that is closed now unless the caller named one."""
        await asyncio.sleep(pause)
        fresh = self._snapshot or self._after is None
        if fresh and not await self._refresh():
            return
        start = int(self._dispatcher.closed) if fresh or self._after is None else self._after
        self._merge = FeedMerge(start, self._buffer_bytes)
        self._told = max(self._told, start)
        self._open(self._dispatcher.partitions, start, self._snapshot)

    async def _refresh(self) -> bool:
        """Learns the routing anew; False when patience is at its end."""
        while True:
            try:
                await self._dispatcher.refresh()
                self._failing.pop("the grid", None)
                return True
            except PeerError as problem:
                pause = self._next_pause("the grid", problem)
                if pause is None:
                    return False
                await asyncio.sleep(pause)

    def _next_pause(self, address: str, problem: GridError) -> float | None:
        """Seconds until the next try; None when patience is at its end and the feed has failed."""
        now = self._loop.time()
        tries, since = self._failing.get(address, (0, now))
        if now - since > self._patience:
            self._fail(problem)
            return None
        self._failing[address] = (tries + 1, since)
        return backoff(tries) if tries else 0.0

    def _open(self, partitions: list[PartitionId], after: int, snapshot: bool, instead_of: int | None = None) -> None:
        """Streams to the owners of these partitions; in place of a stream that broke, if one is named."""
        opened: dict[int, tuple[control_pb2.Member, list[PartitionId]]] = {}
        names: dict[int, int] = {}
        for partition in partitions:
            member = self._dispatcher.lane(partition).member
            if member.node not in names:
                self._serial += 1
                names[member.node] = self._serial
                opened[self._serial] = (member, [])
            opened[names[member.node]][1].append(partition)
        if instead_of is not None:
            self._merge.succeed(instead_of, opened)
        for name, (member, owned) in opened.items():
            if instead_of is None:
                self._merge.open(name, after)
            if snapshot:
                self._not_live.add(name)
            request = grid_pb2.SubscribeRequest(
                carry=self._dispatcher.causality.carry(),
                map=self._map,
                partitions=owned,
                after=after,
                snapshot=snapshot,
            )
            self._readers[name] = self._spawn(self._read(name, member, request))

    # Reading ------------------------------------------------------------------------------------------------------

    async def _read(self, name: int, member: control_pb2.Member, request: grid_pb2.SubscribeRequest) -> None:
        stream = self._dispatcher.transport.subscribe(member, request)
        self._streams[name] = (stream, member, [PartitionId(partition) for partition in request.partitions])
        self._silences.heard(name, self._loop.time())
        problem: GridError
        try:
            async for message in stream:
                self._dispatcher.causality.observe(message.carry)
                if message.HasField("error"):
                    raise error_of(message.error)
                self._failing.pop(member.address, None)
                self._take(name, message)
                self._silences.forget(name)
                while not self._wants(name):
                    self._room.clear()
                    await self._room.wait()
                self._silences.heard(name, self._loop.time())
            raise UnavailableError(f"the node at {member.address} ended the feed", address=member.address)
        except GridError as caught:
            problem = caught
        finally:
            stream.cancel()
            self._silences.forget(name)
            del self._streams[name]
        if name in self._not_live and isinstance(problem, EpochTooOldError | PeerError | OverloadError):
            self._restart(member.address, problem)
        elif isinstance(problem, PeerError | OverloadError):
            await self._resume(name, list(request.partitions), member.address, problem)
        else:
            raise problem

    async def _watch(self) -> None:
        """Ends streams of nodes that hang and own their partitions no more: they are resumed where these are now."""
        while True:
            await asyncio.sleep(UNANSWERED_SECONDS)
            behind = self._dispatcher.closed > self._merge.mark
            silent = self._silences.due(self._loop.time(), behind=behind)
            if not silent:
                continue
            members = [self._streams[name][1] for name in silent]
            await self._dispatcher.refresh_quietly(last=members[0].address)
            for name in silent:
                if name in self._streams and self._moved(name):
                    self._streams[name][0].cancel()

    def _moved(self, name: int) -> bool:
        _, member, partitions = self._streams[name]
        return any(self._dispatcher.lane(partition).member.address != member.address for partition in partitions)

    def _take(self, name: int, message: grid_pb2.FeedMessage) -> None:
        for chunk in message.snapshot:
            section = FeedSection.of_snapshot(chunk, Epoch(self._merge.handed))
            self._pieces.append(section)
            self._pieces_bytes += _piece_weight(section)
        if message.live:
            self._not_live.discard(name)
        self._merge.offer(name, message.entries, message.mark)
        if message.mark > self._dispatcher.closed:
            self._dispatcher.see_closed(message.mark)
        self._wake()

    def _wants(self, name: int) -> bool:
        if self.buffered_bytes < self._buffer_bytes:
            return True
        if self._pieces:
            return False
        return name in self._not_live if self._not_live else self._merge.wants(name)

    async def _resume(self, name: int, partitions: list[int], address: str, problem: GridError) -> None:
        """Goes on with the partitions of a broken stream, at their owners of now, after the last whole epoch."""
        mark = self._merge.cut(name)
        self._room.set()
        pause = self._next_pause(address, problem)
        if pause is None:
            return
        await asyncio.sleep(pause)
        if not await self._refresh():
            return
        del self._readers[name]
        self._open([PartitionId(partition) for partition in partitions], mark, False, instead_of=name)

    def _restart(self, address: str, problem: GridError) -> None:
        """The snapshot begins anew. Called by a reader that is about to end."""
        self._restarts += 1
        if isinstance(problem, EpochTooOldError):
            pause = 0.0 if self._restarts <= SNAPSHOT_TRIES else None
            if pause is None:
                self._fail(problem)
        else:
            pause = self._next_pause(address, problem)
        if pause is None:
            return
        for task in self._readers.values():
            if task is not asyncio.current_task():
                task.cancel()
        self._readers.clear()
        self._not_live.clear()
        self._pieces.clear()
        self._pieces_bytes = 0
        self._begun = False
        self._spawn(self._start(pause))

    def _fail(self, problem: GridError) -> None:
        if self._problem is None:
            self._problem = problem
        self._wake()


def _piece_weight(section: FeedSection) -> int:
    columns = section.columns
    return sum(map(len, columns.keys)) + sum(map(len, columns.values)) + PER_ENTRY_BYTES * len(columns.keys)
