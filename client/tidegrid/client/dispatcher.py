"""Brings every request to the owner of its partition, again and again until its deadline.

The dispatcher knows the routing and one lane per owner. What a node refuses for now waits a little and goes again;
what another node owns goes there after a new `Hello`; what a broken stream left unanswered is sent again under the
same names once the routing is known anew. One timer, armed only while something is under way, gives up what is late.

Invariants: one `Hello` is on its way at a time; an item (a batch of writes or of reads) is in exactly one place:
a lane, or here, waiting to go again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final

from tidegrid.client.batch import Batch, Column
from tidegrid.client.causality import Causality
from tidegrid.client.errors import ELSEWHERE, NOT_STORED, error_of, grid_error_of
from tidegrid.client.lane import Lane
from tidegrid.client.patience import UNANSWERED_SECONDS, first_answer, first_hello
from tidegrid.client.read_batch import ReadBatch
from tidegrid.client.routing import Routing, routing_of
from tidegrid.client.session import Sessions
from tidegrid.client.transport import Transport
from tidegrid.grid.model.errors import (
    CallerError,
    DeadlineError,
    GridError,
    OutcomeUnknownError,
    PeerError,
    UnavailableError,
)
from tidegrid.grid.model.ids import Epoch, PartitionId
from tidegrid.v1 import control_pb2, grid_pb2

if TYPE_CHECKING:
    from tidegrid.client.feed import Feed

SWEEP_SECONDS: Final = 0.05
CLOSING_SWEEP_SECONDS: Final = 0.002
BACKOFF_SECONDS: Final = 0.005
BACKOFF_SECONDS_MAX: Final = 0.5
HELLO_SECONDS_MAX: Final = 2.0
CLIENT: Final = "tidegrid-python"


def backoff(tries: int) -> float:
    """Seconds before the next try: doubled each time, with jitter, so that clients do not come back in step."""
    return min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS * (1 << min(tries, 10))) * (0.5 + random.random() / 2)


class Dispatcher:
    """Satisfies `lane.Shared`."""

    def __init__(self, transport: Transport, addresses: list[str]) -> None:
        self.transport = transport
        self.causality = Causality()
        self.sessions = Sessions()
        self.batch_writes_max = 1
        self.message_bytes_max = 1
        self.closed = Epoch(0)  # highest closed epoch that was seen
        self.routing: Routing | None = None
        self.closing = False
        self.feeds: set[Feed] = set()
        self._addresses = addresses
        self._loop = asyncio.get_running_loop()
        self._lanes: dict[tuple[int, str], Lane] = {}
        self._lane_of: list[Lane] = []
        self._again: dict[asyncio.Task[None], tuple[list[Batch], list[ReadBatch]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._hello: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._idle: asyncio.Future[None] | None = None

    # Routing ------------------------------------------------------------------------------------------------------

    async def start(self, deadline: float, wait_ready: bool) -> None:
        """Raises UnavailableError or DeadlineError when no node is ready within `deadline` seconds."""
        until = self._loop.time() + deadline
        tries = 0
        while True:
            problem: GridError | None = None
            try:
                await self.refresh(max(0.01, until - self._loop.time()))
            except PeerError as error:
                problem = error
            routing = self.routing
            if problem is None and routing is not None and (not wait_ready or (routing.ready and routing.whole)):
                return
            pause = backoff(tries)
            if self._loop.time() + pause >= until:
                raise problem or DeadlineError(
                    "the grid answers, but is still starting (reading its log); wait for it, or allow a longer deadline"
                )
            tries += 1
            await asyncio.sleep(pause)

    async def refresh(self, timeout: float = HELLO_SECONDS_MAX, last: str = "") -> None:
        """Learns the routing anew from any node, `last` only after all others. Callers at the same time share one question."""
        if self._hello is None or self._hello.done():
            self._hello = self._loop.create_task(self._ask_routing(min(timeout, HELLO_SECONDS_MAX), last))
            self._hello.add_done_callback(_looked_at)
        await asyncio.shield(self._hello)

    async def refresh_quietly(self, last: str = "") -> None:
        with contextlib.suppress(PeerError):  # the caller tries again anyway
            await self.refresh(last=last)

    async def _ask_routing(self, timeout: float, last: str) -> None:
        known = [member.address for member in self.routing.members] if self.routing is not None else []
        addresses = list(dict.fromkeys([*known, *self._addresses]))
        addresses.sort(key=lambda address: address == last)
        request = grid_pb2.HelloRequest(carry=self.causality.carry(), client=CLIENT)
        try:
            reply = await first_hello(
                lambda address: self.transport.hello(address, request, timeout),
                addresses,
                UnavailableError("no address of a node is known", address=""),
            )
        except UnavailableError:
            if len(addresses) <= 1:
                raise
            raise UnavailableError(
                f"no node answers at any of {', '.join(addresses)}; start one with `tidegrid serve`",
                address=",".join(addresses),
            ) from None
        self.causality.observe(reply.carry)
        self.see_closed(reply.closed)
        self._take_over(routing_of(reply))

    def _take_over(self, routing: Routing) -> None:
        if self.routing is not None and routing.view < self.routing.view:
            return  # from a node that lags behind
        self.routing = routing
        self.sessions.session_epochs = max(1, routing.session_epochs)
        self.batch_writes_max = routing.limits.batch_writes_max
        self.message_bytes_max = routing.limits.message_bytes_max
        lanes: list[Lane] = []
        for partition, owner in enumerate(routing.owners):
            if owner is not None:
                lane = self._lanes.get((owner.node, owner.address))
                if lane is None:
                    lane = self._lanes[owner.node, owner.address] = Lane(self, owner)
                lanes.append(lane)
            elif partition < len(self._lane_of):
                lanes.append(self._lane_of[partition])  # the last one known; it will say when it is not
            else:
                return  # not whole yet, and never was
        moved = bool(self._lane_of) and lanes != self._lane_of
        self._lane_of = lanes
        if moved:
            self._rearrange()

    def _rearrange(self) -> None:
        """Brings what waits in lanes to the new owners, and ends lanes that own nothing."""
        in_use = set(map(id, self._lane_of))
        for name, lane in list(self._lanes.items()):
            columns, lane.columns = lane.columns, []
            batches = [*lane.batches, *(batch for parcel in lane.parcels for batch in parcel)]
            reads = list(lane.reads)
            lane.batches.clear()
            lane.parcels.clear()
            lane.reads.clear()
            for column in columns:
                self._lane_of[column.partition].add_column(column)
            self._dispatch(batches, reads)
            if id(lane) not in in_use and lane.idle:
                del self._lanes[name]
                self._spawn(lane.close())

    # Taking in ----------------------------------------------------------------------------------------------------

    @property
    def partitions(self) -> list[PartitionId]:
        return [PartitionId(index) for index in range(len(self._lane_of))]

    def lane(self, partition: PartitionId) -> Lane:
        return self._lane_of[partition]

    @property
    def owners(self) -> int:
        return len(set(map(id, self._lane_of)))

    def open_column(self, map_name: str, partition: PartitionId, schema: int, limit: float) -> Column:
        """A new column that its owner sends as soon as it can."""
        column = Column(map_name, partition, schema, limit, self._loop.time())
        self._lane_of[partition].add_column(column)
        self.arm()
        return column

    def submit(self, batches: list[Batch]) -> None:
        """A chunk of a bulk load: one message to each owner."""
        parcels: dict[int, tuple[Lane, list[Batch]]] = {}
        for batch in batches:
            lane = self._lane_of[batch.partition]
            parcels.setdefault(id(lane), (lane, []))[1].append(batch)
        for lane, parcel in parcels.values():
            lane.add_parcel(parcel)
        self.arm()

    def arm(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    async def ask(self, method: str, request: Any, until: float, partition: PartitionId | None = None) -> Any:
        """A unary call to the owner of `partition`, or to any node, repeated until the loop's time `until`.

        Only for calls that may be repeated. Raises the error that the node answers.
        """
        tries = 0
        while True:
            remaining = until - self._loop.time()
            try:
                self._check_open()
                if remaining <= 0:
                    raise DeadlineError(f"{method}: no answer within the deadline; is the node overloaded?")
                self.causality.stamp(request.carry)
                if "deadline_ms" in request.DESCRIPTOR.fields_by_name:
                    request.deadline_ms = max(1, int(remaining * 1_000))
                reply = await self._call(method, request, remaining + 0.25, partition, tries)
                self.causality.observe(reply.carry)
                if reply.HasField("error"):
                    raise error_of(reply.error)
                return reply
            except (*ELSEWHERE, *NOT_STORED) as problem:
                pause = backoff(tries)
                tries += 1
                if self._loop.time() + pause >= until:
                    raise
                await asyncio.sleep(pause)
                if isinstance(problem, ELSEWHERE):
                    await self.refresh_quietly()

    async def _call(self, method: str, request: Any, seconds: float, partition: PartitionId | None, tries: int) -> Any:
        """One answer: of the owner of `partition`, who may become another meanwhile, or of any node."""
        until = self._loop.time() + seconds
        asked = [self._member(partition, tries)]

        def call(member: control_pb2.Member) -> Coroutine[Any, Any, Any]:
            return self.transport.call(member, method, request, until - self._loop.time())

        async def another() -> control_pb2.Member | None:
            await self.refresh_quietly(last=asked[-1].address)
            known = {member.address for member in asked}
            found = [self._member(partition, tries + number) for number in range(len(asked) + 1)]
            new = next((member for member in found if member.address not in known), None)
            if new is not None:
                asked.append(new)
            return new

        return await first_answer(call, asked[0], another)

    def _member(self, partition: PartitionId | None, tries: int) -> control_pb2.Member:
        if partition is not None:
            return self._lane_of[partition].member
        assert self.routing is not None
        members = self.routing.members
        if not members:
            raise UnavailableError("the grid has no members yet; wait for a node to start", address="")
        return members[tries % len(members)]

    def see_closed(self, closed: int) -> None:
        if closed > self.closed:
            self.closed = Epoch(closed)

    # Going again --------------------------------------------------------------------------------------------------

    def again(self, batches: list[Batch], reads: list[ReadBatch], error: GridError | None) -> None:
        tries = 0
        for batch in batches:
            if isinstance(batch.problem, OutcomeUnknownError):
                batch.rename(
                    self.sessions.of(batch.partition, Epoch(self.causality.epoch), renew=batch.sequences.session)
                )
        for item in _items(batches, reads):
            item.tries += 1
            tries = max(tries, item.tries)
        task = self._loop.create_task(self._go_again(batches, reads, backoff(tries), isinstance(error, ELSEWHERE)))
        self._again[task] = (batches, reads)
        task.add_done_callback(lambda done: self._again.pop(done, None))

    async def _go_again(self, batches: list[Batch], reads: list[ReadBatch], pause: float, elsewhere: bool) -> None:
        if elsewhere and pause < BACKOFF_SECONDS * 2:
            pause = 0
        await asyncio.sleep(pause)
        try:
            if elsewhere:
                await self.refresh_quietly()
            self._dispatch(batches, reads)
        except Exception as problem:  # they are in no lane now: nobody else would tell those who wait for them
            for item in _items(batches, reads):
                item.fail(grid_error_of(problem))

    def _dispatch(self, batches: list[Batch], reads: list[ReadBatch]) -> None:
        for batch in batches:
            if not batch.settled:
                self._lane_of[batch.partition].add_batch(batch)
        for read in reads:
            if read.settled:
                continue
            lanes = [self._lane_of[partition] for partition in read.partitions]
            if len(set(map(id, lanes))) == 1:
                lanes[0].add_read(read)
                continue
            read.settled = True
            for lane in dict.fromkeys(lanes):
                lane.add_read(read.part([index for index, other in enumerate(lanes) if other is lane]))

    def broken(self, lane: Lane, error: GridError) -> None:
        self._spawn(self._mend(lane))

    async def _mend(self, lane: Lane) -> None:
        """Waits until some node tells the routing, then lets the lane go on with what is still its own."""
        while True:
            await asyncio.sleep(backoff(lane.failures - 1) if lane.failures > 1 else 0)
            try:
                await self.refresh()
            except PeerError as problem:
                lane.failures += 1
                lane.note(problem)
                if not lane.idle:
                    continue
            except Exception as problem:  # another grid, say
                lane.drain(grid_error_of(problem))
            break
        lane.resume()

    # Deadlines and the end ----------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        now = self._loop.time()
        for lane in list(self._lanes.values()):
            lane.expire(now)
            if lane.hangs(now):
                self._look_after(lane, now)
        for batches, reads in self._again.values():
            for item in _items(batches, reads):
                if not item.settled and item.expires <= now:
                    item.expire(False)
        if self.idle:
            self._timer = None
            self._stop_waiting()
            return
        self._timer = self._loop.call_later(
            CLOSING_SWEEP_SECONDS if self._idle is not None else SWEEP_SECONDS, self._sweep
        )

    def _look_after(self, lane: Lane, now: float) -> None:
        """What its node owns no more goes to who does; others are asked about the rest."""
        self._dispatch(*lane.give_back(now, self._lane_of))
        if lane.hangs(now) and now - lane.asked_at >= UNANSWERED_SECONDS:
            lane.asked_at = now
            self._spawn(self.refresh_quietly(last=lane.member.address))

    def _stop_waiting(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    @property
    def idle(self) -> bool:
        return not self._again and all(lane.idle for lane in self._lanes.values())

    def _check_open(self) -> None:
        if self.closing:
            raise closed_error()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self, deadline: float) -> None:
        """Finishes what is under way within `deadline` seconds, fails the rest, and leaves no task behind."""
        self.closing = True
        for feed in list(self.feeds):
            await feed.close()
        if not self.idle:
            self._idle = self._loop.create_future()
            ending = self._loop.call_later(deadline, self._stop_waiting)
            if self._timer is not None:
                self._timer.cancel()
            self._sweep()
            await self._idle
            ending.cancel()
        if self._timer is not None:
            self._timer.cancel()
        for batches, reads in self._again.values():
            for item in _items(batches, reads):
                item.fail(closed_error())
        for lane in self._lanes.values():
            lane.drain(closed_error())
        tasks = [*self._tasks, *self._again, *([self._hello] if self._hello is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *(lane.close() for lane in self._lanes.values()), return_exceptions=True)


def _looked_at(task: asyncio.Task[None]) -> None:
    """Whoever asked may be gone by now."""
    if not task.cancelled():
        task.exception()


def _items(batches: list[Batch], reads: list[ReadBatch]) -> list[Batch | ReadBatch]:
    return [*batches, *reads]


def closed_error() -> GridError:
    return CallerError("this client is closed; use it inside `async with connect(...)`")
