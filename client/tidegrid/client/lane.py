"""One lane per owner: what goes to that node, over one stream, few requests at a time.

Reads and writes collect while enough requests are in flight, and go out as one message as soon as one returns; on an
idle lane they go at once. Writes and plain reads have windows of their own, so that a read does not wait for a sync;
reads that wait for an epoch are in no window. Bulk parcels go beside the puts, and puts ride along with them.

Lifecycle: resting (no stream) -> streaming -> broken: everything unanswered comes back to the lane, which pauses
until the dispatcher has found out who owns what, and then goes on, or is drained to other lanes. What a node that
hangs does not answer stays with it until its partitions are another's (`give_back`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from tidegrid.client.batch import Batch, Column
from tidegrid.client.causality import Causality
from tidegrid.client.errors import RETRYABLE, error_of, grid_error_of
from tidegrid.client.moment import Moment
from tidegrid.client.patience import UNANSWERED_SECONDS
from tidegrid.client.read_batch import ReadBatch
from tidegrid.client.session import Sessions
from tidegrid.client.transport import Exchange, Transport
from tidegrid.grid.model.errors import FormatError, GridError
from tidegrid.grid.model.ids import Epoch, PartitionId
from tidegrid.v1 import control_pb2, grid_pb2

WRITE_WINDOW: Final = 2
BULK_WINDOW: Final = 4
READ_WINDOW: Final = 2
SEAL_SECONDS: Final = 0.05  # columns older than this collect no more, so that their writes share one deadline
MESSAGE_SHARE: Final = 0.9  # of the largest message: room for what is not keys and values

WRITES, READS, WAITING = "writes", "reads", "waiting"


class Shared(Protocol):
    """What all lanes of a client share."""

    transport: Transport
    causality: Causality
    sessions: Sessions
    batch_writes_max: int
    message_bytes_max: int

    def again(self, batches: list[Batch], reads: list[ReadBatch], error: GridError | None) -> None:
        """These were refused for now."""
        ...

    def broken(self, lane: Lane, error: GridError) -> None:
        """The stream is gone, and everything of the lane is back in it."""
        ...


class Request:
    __slots__ = ("batches", "born", "kind", "message", "reads")

    def __init__(self, kind: str, message: grid_pb2.ExchangeRequest, born: float) -> None:
        self.kind = kind
        self.born = born
        self.message = message
        self.batches: list[Batch] = []
        self.reads: list[ReadBatch] = []

    @property
    def settled(self) -> bool:
        return all(batch.settled for batch in self.batches) and all(read.settled for read in self.reads)

    @property
    def partitions(self) -> set[PartitionId]:
        """Of what is not settled."""
        found = {batch.partition for batch in self.batches if not batch.settled}
        return found.union(*(read.partitions for read in self.reads if not read.settled))


class Lane:
    def __init__(self, shared: Shared, member: control_pb2.Member) -> None:
        self.member = member
        self.columns: list[Column] = []
        self.batches: deque[Batch] = deque()  # sealed columns, and whatever is sent again
        self.parcels: deque[list[Batch]] = deque()  # of bulk loads: one message each
        self.reads: deque[ReadBatch] = deque()
        self.failures = 0
        self.paused = False
        self.asked_at = float("-inf")  # others, about this one that hangs
        self._shared = shared
        self._loop = asyncio.get_running_loop()
        self._in_flight: dict[int, Request] = {}
        self._flying = {WRITES: 0, READS: 0, WAITING: 0}
        self._next_id = 0
        self._exchange: Exchange | None = None
        self._receiver: asyncio.Task[None] | None = None
        self._sleeper: asyncio.Future[None] | None = None
        self._sender = self._loop.create_task(self._send(), name=f"tidegrid lane to {member.address}")

    # Filling ------------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        sleeper = self._sleeper
        if sleeper is not None and not sleeper.done():
            sleeper.set_result(None)

    def add_column(self, column: Column) -> None:
        self.columns.append(column)
        self.wake()

    def add_batch(self, batch: Batch) -> None:
        self.batches.append(batch)
        self.wake()

    def add_parcel(self, batches: list[Batch]) -> None:
        """Batches that are at most one message together."""
        self.parcels.append(batches)
        self.wake()

    def read_batch(self, map_name: str, moment: Moment, expires: float) -> ReadBatch:
        """An open batch for such reads; its deadline is that of its first read, give or take."""
        for batch in self.reads:
            if (
                batch.open
                and batch.map == map_name
                and batch.moment == moment
                and abs(batch.expires - expires) < SEAL_SECONDS
            ):
                return batch
        made = ReadBatch(map_name, moment, expires)
        self.add_read(made)
        return made

    def add_read(self, batch: ReadBatch) -> None:
        self.reads.append(batch)
        self.wake()

    @property
    def idle(self) -> bool:
        return not (self._in_flight or self.columns or self.batches or self.parcels or self.reads)

    # Sending ------------------------------------------------------------------------------------------------------

    async def _send(self) -> None:
        while True:
            try:
                request = None if self.paused else self._compose()
            except Exception as defect:  # nobody waits for this task: whoever waits for the lane has to hear of it
                self.drain(grid_error_of(defect))
                continue
            if request is None:
                self._sleeper = self._loop.create_future()
                await self._sleeper
                self._sleeper = None
                continue
            exchange = self._exchange or self._open()
            try:
                await exchange.send(request.message)
            except GridError as problem:
                self._break(exchange, problem)

    def _open(self) -> Exchange:
        exchange = self._exchange = self._shared.transport.exchange(self.member)
        self._receiver = self._loop.create_task(
            self._receive(exchange), name=f"tidegrid answers from {self.member.address}"
        )
        return exchange

    def _compose(self) -> Request | None:
        """The next request that a window has room for."""
        reads = self._next_reads()
        if reads:
            request = self._request(WAITING if reads[0].waiting else READS)
            for read in reads:
                read.open = False
                read.add_to(request.message)
            request.reads = reads
            request.message.deadline_ms = self._remaining_ms(max(read.expires for read in reads))
            return request
        batches = self._next_batches()
        if not batches:
            return None
        request = self._request(WRITES)
        for batch in batches:
            batch.add_to(request.message)
        request.batches = batches
        request.message.deadline_ms = self._remaining_ms(max(batch.expires for batch in batches))
        return request

    def _request(self, kind: str) -> Request:
        self._next_id += 1
        message = grid_pb2.ExchangeRequest(id=self._next_id)
        self._shared.causality.stamp(message.carry)
        request = self._in_flight[self._next_id] = Request(kind, message, self._loop.time())
        self._flying[kind] += 1
        return request

    def _remaining_ms(self, expires: float) -> int:
        return max(1, int(min(expires - self._loop.time(), 3_600) * 1_000))

    def _next_reads(self) -> list[ReadBatch]:
        if not self.reads:
            return []
        for index, read in enumerate(self.reads):
            if read.waiting:
                del self.reads[index]
                return [read]
        if self._flying[READS] >= READ_WINDOW:
            return []
        return [self.reads.popleft()]

    def _next_batches(self) -> list[Batch]:
        flying = self._flying[WRITES]
        if flying >= (BULK_WINDOW if self.parcels else WRITE_WINDOW):
            return []
        if self.columns:
            self._seal(self.columns)
        chosen = self.parcels.popleft() if self.parcels else []
        if self.batches:
            room = self._shared.message_bytes_max * MESSAGE_SHARE - sum(batch.size for batch in chosen)
            while self.batches and (not chosen or self.batches[0].size <= room):
                room -= self.batches[0].size
                chosen.append(self.batches.popleft())
        return [batch for batch in chosen if not batch.settled]

    def _seal(self, columns: list[Column]) -> None:
        shared = self._shared
        for column in columns:
            sequences = shared.sessions.of(column.partition, Epoch(shared.causality.epoch))
            self.batches += column.seal(
                sequences, shared.batch_writes_max, int(shared.message_bytes_max * MESSAGE_SHARE)
            )
        columns.clear()

    # Answers ------------------------------------------------------------------------------------------------------

    async def _receive(self, exchange: Exchange) -> None:
        try:
            while True:
                self._settle(await exchange.receive())
        except GridError as problem:
            self._break(exchange, problem)
        except Exception as defect:
            self.drain(grid_error_of(defect))
            self._break(exchange, grid_error_of(defect))

    def _settle(self, reply: grid_pb2.ExchangeReply) -> None:
        request = self._take(reply.id)
        if request is None:
            return  # given up
        try:
            self._shared.causality.observe(reply.carry)
        except GridError as problem:
            self._fail(request, problem)
            return
        self.failures = 0
        if reply.HasField("error"):
            self._refused(request, error_of(reply.error))
        elif len(reply.writes) != len(request.batches) or len(reply.reads) != len(request.reads):
            self._fail(
                request,
                FormatError(
                    "the node's answer does not fit the request; are client and node of compatible versions? The outcome is unknown"
                ),
            )
        else:
            self._settle_parts(request, reply)
        self.wake()

    def _settle_parts(self, request: Request, reply: grid_pb2.ExchangeReply) -> None:
        again: list[Batch] = []
        for batch, answer in zip(request.batches, reply.writes, strict=True):
            again += batch.settle(answer)
        reads: list[ReadBatch] = []
        for read, found in zip(request.reads, reply.reads, strict=True):
            reads += read.settle(found)
        if again or reads:
            self._shared.again(again, reads, (again or reads)[0].problem)

    def _refused(self, request: Request, error: GridError) -> None:
        """The node answered the request as a whole: nothing of it was stored."""
        reads = [part for read in request.reads if not read.settled for part in read.refused(error)]
        batches = [batch for batch in request.batches if not batch.settled]
        if not isinstance(error, RETRYABLE):
            for batch in batches:
                batch.fail(error)
            batches = []
        for batch in batches:
            batch.problem = error
        if batches or reads:
            self._shared.again(batches, reads, error)

    def _fail(self, request: Request, error: GridError) -> None:
        for batch in request.batches:
            batch.fail(error)
        for read in request.reads:
            read.fail(error)
        self.wake()

    def _take(self, identity: int) -> Request | None:
        request = self._in_flight.pop(identity, None)
        if request is not None:
            self._flying[request.kind] -= 1
        return request

    # Breaking and mending -----------------------------------------------------------------------------------------

    def _break(self, exchange: Exchange, problem: GridError) -> None:
        if self._exchange is not exchange:
            return  # known already
        self._exchange = None
        exchange.close()
        receiver, self._receiver = self._receiver, None
        if receiver is not None and receiver is not asyncio.current_task():
            receiver.cancel()
        if self._in_flight:
            lost = problem.fields.get("reached", True) is not False
            requests = list(self._in_flight.values())
            self._in_flight = {}
            self._flying = dict.fromkeys(self._flying, 0)
            for request in reversed(requests):
                for batch in request.batches:
                    batch.problem, batch.lost = problem, batch.lost or lost
                for read in request.reads:
                    read.problem = problem
                self.batches.extendleft(reversed([batch for batch in request.batches if not batch.settled]))
                self.reads.extendleft(reversed([read for read in request.reads if not read.settled]))
            self.failures += 1
            self.paused = True
            self._shared.broken(self, problem)

    def resume(self) -> None:
        self.paused = False
        self.wake()

    def expire(self, now: float) -> None:
        """Gives up what is past its deadline, wherever it is."""
        old = [column for column in self.columns if now - column.born > SEAL_SECONDS]
        if old:
            self.columns = [column for column in self.columns if column not in old]
            self._seal(old)
        for parcel in self.parcels:
            _expire(parcel, now, in_flight=False)
        _expire(self.batches, now, in_flight=False)
        _expire(self.reads, now, in_flight=False)
        if any(batch.settled for batch in self.batches):
            self.batches = deque(batch for batch in self.batches if not batch.settled)
        if any(read.settled for read in self.reads):
            self.reads = deque(read for read in self.reads if not read.settled)
        if any(all(batch.settled for batch in parcel) for parcel in self.parcels):
            self.parcels = deque(parcel for parcel in self.parcels if not all(batch.settled for batch in parcel))
        for identity, request in list(self._in_flight.items()):
            _expire(request.batches, now, in_flight=True)
            _expire(request.reads, now, in_flight=True)
            if request.settled:
                self._take(identity)
                self.wake()

    def hangs(self, now: float) -> bool:
        """Something has gone unanswered for longer than patience lasts."""
        return any(now - request.born > UNANSWERED_SECONDS for request in self._in_flight.values())

    def give_back(self, now: float, owners: Sequence[Lane]) -> tuple[list[Batch], list[ReadBatch]]:
        """Requests that went unanswered for long, whose partitions are in part another's now: to be sent again.

        A late answer to them is passed over.
        """
        batches: list[Batch] = []
        reads: list[ReadBatch] = []
        for identity, request in list(self._in_flight.items()):
            if now - request.born <= UNANSWERED_SECONDS or all(owners[number] is self for number in request.partitions):
                continue
            self._take(identity)
            batches += [batch for batch in request.batches if not batch.settled]
            reads += [read for read in request.reads if not read.settled]
        for batch in batches:
            batch.lost = True
        if batches or reads:
            self.wake()
        return batches, reads

    def note(self, problem: GridError) -> None:
        """Why what waits here cannot go out."""
        for batch in self.batches:
            batch.problem = problem
        for read in self.reads:
            read.problem = problem

    def drain(self, error: GridError) -> None:
        """Fails everything."""
        self._seal(self.columns)
        for batch in [*self.batches, *(batch for parcel in self.parcels for batch in parcel)]:
            batch.fail(error)
        for request in self._in_flight.values():
            self._fail(request, error)
        for read in self.reads:
            read.fail(error)
        self.batches.clear()
        self.parcels.clear()
        self.reads.clear()
        self._in_flight.clear()
        self._flying = dict.fromkeys(self._flying, 0)

    async def close(self) -> None:
        tasks = [self._sender] + ([self._receiver] if self._receiver is not None else [])
        for task in tasks:
            task.cancel()
        if self._exchange is not None:
            self._exchange.close()
            self._exchange = None
        await asyncio.gather(*tasks, return_exceptions=True)


def _expire(items: Iterable[Batch] | Iterable[ReadBatch], now: float, in_flight: bool) -> None:
    for item in items:
        if not item.settled and item.expires <= now:
            item.expire(in_flight)
