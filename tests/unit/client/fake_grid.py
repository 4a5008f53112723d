"""A grid as dicts of lists, behind the client's transport seam: the model that the client is tested against.

It speaks the protobuf messages of the v1 protocol, in one event loop and without sockets. Faults are asked for:
answers that are lost (the work is done, the stream breaks), refusals, nodes that are down, nodes that hang, answers
held back, feeds cut after some messages. Time stands still until `tick` closes the current epoch.
"""

from __future__ import annotations

import asyncio
import copy
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

from tidegrid.grid.model.errors import (
    ConflictError,
    DeadlineError,
    EpochTooOldError,
    GridError,
    MapExistsError,
    OutcomeUnknownError,
    UnavailableError,
    UnknownMapError,
    WrongOwnerError,
)
from tidegrid.grid.model.limits import Limits
from tidegrid.v1 import control_pb2, errors_pb2, grid_pb2, record_pb2

ENDED: Any = object()


def error_message(error: GridError) -> errors_pb2.Error:
    made = errors_pb2.Error(code=error.code, message=error.message)
    for name, value in error.fields.items():
        if isinstance(value, bool):
            made.fields[name].flag = value
        elif isinstance(value, int):
            made.fields[name].integer = value
        elif isinstance(value, float):
            made.fields[name].real = value
        elif value is not None:
            made.fields[name].text = value
    return made


class FakeGrid:
    def __init__(self, partitions: int = 4, nodes: int = 1, limits: Limits | None = None) -> None:
        self.grid_id = b"G" * 16
        self.partitions = partitions
        self.owners = [partition % nodes for partition in range(partitions)]
        self.nodes = nodes
        self.view = 1
        self.limits = limits or Limits()
        self.session_epochs = 1 << 20
        self.maps: dict[str, control_pb2.MapSpec] = {}
        self.epoch, self.closed, self.control = 5, 4, 7
        self.horizon = 0
        self.close_times: list[tuple[int, int]] = []  # (epoch, time_ms), as `EpochAt` is to know them
        self.asked_times: list[int] = []
        self.waits = 0  # questions for a close that was not there yet
        self.ready = True
        # partition -> records (position, epoch, time_ms, [serialized Section])
        self.log: dict[int, list[tuple[int, int, int, list[bytes]]]] = defaultdict(list)
        # (map, key) -> versions (version, epoch, time_ms, value or None)
        self.chains: dict[tuple[str, bytes], list[tuple[int, int, int, bytes | None]]] = defaultdict(list)
        self.memory: dict[tuple[bytes, int], dict[int, Any]] = defaultdict(dict)
        self.lowest: dict[tuple[bytes, int], int] = {}
        self.applied: list[tuple[bytes, int, int]] = []  # (session, partition, sequence), each of which must be unique
        self.position = 10
        # Faults, and what was seen
        self.down: set[int] = set()
        self.hung: set[int] = set()  # neither answer nor break
        self.work_then_hang = False  # what they are asked is done all the same
        self.lose_answers = 0
        self.after_loss: GridError | None = None  # what a commit is told after one whose answer was lost
        self.swallow_answers = 0
        self.refuse: deque[GridError] = deque()
        self.refuse_writes: Callable[[grid_pb2.WriteBatch, int], GridError | None] | None = None
        self.before_answer: Callable[[grid_pb2.ExchangeRequest], Any] | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.requests: list[grid_pb2.ExchangeRequest] = []
        self.commits: list[tuple[int, grid_pb2.CommitRequest]] = []  # with the node that was asked
        self.hellos = 0
        self.exchanges: list[FakeExchange] = []
        self.feeds: list[FakeFeed] = []
        self.subscriptions: list[grid_pb2.SubscribeRequest] = []
        self.cut_feeds_after: int | None = None
        self.entries_per_message = 3
        self.mark_only_at_end = False
        self._changed: set[asyncio.Event] = set()
        self.tasks: set[asyncio.Task[None]] = set()

    def add_map(self, name: str, kind: int = 1, key: tuple[str, ...] = (), affinity: int = 0, schema: int = 0) -> None:
        fields = [
            control_pb2.KeyField(name=part.partition(":")[0], type=part.partition(":")[2] or "str") for part in key
        ]
        self.maps[name] = control_pb2.MapSpec(name=name, kind=kind, key=fields, affinity=affinity, schema=schema)

    def transport(self) -> FakeTransport:
        return FakeTransport(self)

    def member(self, node: int) -> control_pb2.Member:
        return control_pb2.Member(node=node, incarnation=1, address=f"node{node}:1")

    def carry(self) -> grid_pb2.Carry:
        return grid_pb2.Carry(grid_id=self.grid_id, control=self.control, epoch=self.epoch)

    # Time and change ----------------------------------------------------------------------------------------------

    def tick(self, epochs: int = 1) -> int:
        self.closed = self.epoch + epochs - 1
        self.epoch = self.closed + 1
        self.control += 1
        self.changed()
        return self.closed

    def changed(self) -> None:
        for event in self._changed:
            event.set()

    async def wait_changed(self) -> None:
        event = asyncio.Event()
        self._changed.add(event)
        try:
            await event.wait()
        finally:
            self._changed.discard(event)

    def move(self, partition: int, node: int) -> None:
        self.owners[partition] = node
        self.view += 1
        for feed in list(self.feeds):
            if partition in feed.request.partitions:
                feed.fail(WrongOwnerError("moved", partition=partition, owner=node, view=self.view))

    async def answers(self, node: int) -> None:
        """Returns when the node does not hang."""
        while node in self.hung:
            await self.wait_changed()

    def kill(self, node: int) -> None:
        self.down.add(node)
        for exchange in list(self.exchanges):
            if exchange.node == node:
                exchange.end()
        for feed in list(self.feeds):
            if feed.node == node:
                feed.fail(UnavailableError("killed", address=""))

    # Writing and reading ------------------------------------------------------------------------------------------

    def append(
        self, partition: int, map_name: str, rows: list[tuple[bytes, bytes, int]], epoch: int | None = None
    ) -> int:
        """A record of puts (1), deletes (2) or events (3), as (key, value, op). Returns its position."""
        epoch = self.epoch if epoch is None else epoch
        self.position += 3
        time_ms = 1_000_000 + epoch
        section = record_pb2.Section(map=map_name)
        ops = bytearray()
        for key, value, op in rows:
            version = 0
            if op != 3:
                chain = self.chains[map_name, key]
                version = chain[-1][0] + 1 if chain else 1
                chain.append((version, epoch, time_ms, value if op == 1 else None))
            section.keys.append(key)
            section.values.append(value if op != 2 else b"")
            section.versions.append(version)
            ops.append(op)
        section.ops = bytes(ops)
        self.log[partition].append((self.position, epoch, time_ms, [section.SerializeToString()]))
        return self.position

    def find(self, map_name: str, key: bytes, as_of: int = 0) -> tuple[int, int, int, bytes | None] | None:
        chain = self.chains.get((map_name, key), [])
        for version in reversed(chain):
            if not as_of or version[1] <= as_of:
                return version
        return None

    def write(self, batch: grid_pb2.WriteBatch, node: int) -> grid_pb2.WriteAnswer:
        answer = grid_pb2.WriteAnswer()
        count = len(batch.keys)
        problem: GridError | None = None
        if self.owners[batch.partition] != node:
            problem = WrongOwnerError(
                "not mine", partition=batch.partition, owner=self.owners[batch.partition], view=self.view
            )
        elif batch.map not in self.maps:
            problem = UnknownMapError.of(batch.map, self.maps)
        name = (batch.session, batch.partition)
        memory = self.memory[name]
        if problem is None:
            self.lowest[name] = max(self.lowest.get(name, 1), batch.lowest_unanswered)
        conditions = {condition.index: condition.version for condition in batch.conditions}
        outcomes: list[Any] = []
        for index in range(count):
            refused = problem
            sequence = batch.first_sequence + index
            if refused is None and sequence in memory:
                outcomes.append((*memory[sequence], True))
                continue
            if refused is None and sequence < self.lowest.get(name, 1):
                refused = OutcomeUnknownError("below the lowest unanswered")
            if refused is None and self.refuse_writes is not None:
                refused = self.refuse_writes(batch, index)
            if refused is None:
                refused = self._condition(batch, index, conditions)
            if refused is not None:
                outcomes.append(refused)
                continue
            op = batch.ops[index] if batch.ops else 1
            kind = self.maps[batch.map].kind
            self.append(batch.partition, batch.map, [(batch.keys[index], batch.values[index], 3 if kind == 2 else op)])
            chain = self.chains.get((batch.map, batch.keys[index]))
            version = chain[-1][0] if chain else 0
            self.applied.append((batch.session, batch.partition, sequence))
            memory[sequence] = (version, self.epoch)
            outcomes.append((version, self.epoch, False))
        for index, outcome in enumerate(outcomes):
            if isinstance(outcome, GridError):
                answer.versions.append(0)
                answer.errors.add(index=index, error=error_message(outcome))
                epoch = 0
            else:
                version, epoch, repeated = outcome
                answer.versions.append(version)
                if repeated:
                    answer.repeated_at.append(index)
            if answer.epochs and answer.epochs[-1] == epoch:
                answer.epoch_counts[-1] += 1
            else:
                answer.epochs.append(epoch)
                answer.epoch_counts.append(1)
        return answer

    def commit(self, request: grid_pb2.CommitRequest) -> grid_pb2.CommitReply:
        """Each batch at its owner; all undone when a write is refused."""
        before = copy.deepcopy((self.chains, self.log, self.memory, self.applied))
        reply = grid_pb2.CommitReply(epoch=self.epoch)
        for at, batch in enumerate(request.writes):
            answer = self.write(batch, self.owners[batch.partition])
            reply.versions.add(versions=answer.versions)
            reply.epoch = max([reply.epoch, *answer.epochs]) if not answer.repeated_at else answer.epochs[0]
            for error in answer.errors:
                reply.errors.add(batch=at, row=error.index, error=error.error)
        if reply.errors:
            self.chains, self.log, self.memory, self.applied = before
            del reply.versions[:]
            reply.epoch = 0
        return reply

    def _condition(self, batch: grid_pb2.WriteBatch, index: int, conditions: dict[int, int]) -> GridError | None:
        if index not in conditions:
            return None
        found = self.find(batch.map, batch.keys[index])
        current = found[0] if found and found[3] is not None else 0
        return ConflictError.of(conditions[index], current) if current != conditions[index] else None

    async def wait_closed(self, epoch: int, deadline_ms: int) -> None:
        async with asyncio.timeout(deadline_ms / 1000 if deadline_ms else None):
            while self.closed < epoch:
                await self.wait_changed()

    async def read(self, batch: grid_pb2.ReadBatch, deadline_ms: int) -> grid_pb2.ReadAnswer:
        answer = grid_pb2.ReadAnswer()
        if batch.map not in self.maps:
            answer.error.CopyFrom(error_message(UnknownMapError.of(batch.map, self.maps)))
            return answer
        try:
            await self.wait_closed(max(batch.as_of, batch.at_least), deadline_ms)
        except TimeoutError:
            answer.error.CopyFrom(error_message(DeadlineError("not closed in time")))
            return answer
        for key in batch.keys:
            found = self.find(batch.map, key, batch.as_of)
            version, epoch, time_ms, value = found if found and found[3] is not None else (0, 0, 0, b"")
            answer.values.append(value or b"")
            answer.versions.append(version)
            answer.epochs.append(epoch)
            answer.times_ms.append(time_ms)
        return answer

    def scan(self, request: grid_pb2.ScanRequest, node: int) -> grid_pb2.ScanReply:
        reply = grid_pb2.ScanReply(carry=self.carry())
        if self.owners[request.partition] != node:
            reply.error.CopyFrom(
                error_message(WrongOwnerError("not mine", partition=request.partition, owner=0, view=self.view))
            )
            return reply
        rows = []
        for map_name, key in list(self.chains):
            if map_name == request.map and self.partition_of(map_name, key) == request.partition:
                found = self.find(map_name, key, request.as_of)
                if found and found[3] is not None and request.begin <= key and (not request.end or key < request.end):
                    rows.append((key, found))
        rows.sort(reverse=request.reverse)
        reply.more = len(rows) > request.rows_max
        for key, (version, epoch, time_ms, value) in rows[: request.rows_max]:
            reply.keys.append(key)
            reply.values.append(value or b"")
            reply.versions.append(version)
            reply.epochs.append(epoch)
            reply.times_ms.append(time_ms)
        return reply

    def partition_of(self, map_name: str, key: bytes) -> int:
        from tidegrid.grid.model.partitioner import partition_of

        return partition_of(key, self.partitions, self.maps[map_name].affinity)


class FakeTransport:
    def __init__(self, grid: FakeGrid) -> None:
        self.grid = grid
        self.closed = False

    def _check(self, node: int) -> None:
        if node in self.grid.down:
            raise UnavailableError(
                f"nothing answers at node{node}:1; start a node", address=f"node{node}:1", reached=False
            )

    async def hello(self, address: str, request: grid_pb2.HelloRequest, timeout: float) -> grid_pb2.HelloReply:
        grid = self.grid
        grid.hellos += 1
        await asyncio.sleep(0)
        node = int(address.removeprefix("node").partition(":")[0])
        self._check(node)
        await grid.answers(node)
        return grid_pb2.HelloReply(
            carry=grid.carry(), node=node, partitions=grid.partitions, view=grid.view,
            members=[grid.member(node) for node in range(grid.nodes)],
            owners=[control_pb2.Owner(partition=partition, node=owner) for partition, owner in enumerate(grid.owners)],
            maps=list(grid.maps.values()), closed=grid.closed, session_epochs=grid.session_epochs,
            batch_writes_max=grid.limits.batch_writes_max, message_bytes_max=grid.limits.message_bytes_max,
            key_bytes_max=grid.limits.key_bytes_max, value_bytes_max=grid.limits.value_bytes_max,
            value_depth_max=grid.limits.value_depth_max, version="test", ready=grid.ready,
            group_writes_max=grid.limits.group_writes_max,
        )  # fmt: skip

    def exchange(self, member: control_pb2.Member) -> FakeExchange:
        made = FakeExchange(self.grid, member.node)
        self.grid.exchanges.append(made)
        return made

    def subscribe(self, member: control_pb2.Member, request: grid_pb2.SubscribeRequest) -> FakeFeed:
        self.grid.subscriptions.append(request)
        made = FakeFeed(self.grid, member.node, request)
        self.grid.feeds.append(made)
        return made

    async def call(self, member: control_pb2.Member, method: str, request: Any, timeout: float) -> Any:
        self._check(member.node)
        await asyncio.sleep(0)
        grid = self.grid
        await grid.answers(member.node)
        if method == "Scan":
            if request.as_of or request.at_least:
                await grid.wait_closed(max(request.as_of, request.at_least), request.deadline_ms)
            return grid.scan(request, member.node)
        if method == "EpochAt":
            grid.asked_times.append(request.time_ms)
            found = max((epoch for epoch, time_ms in grid.close_times if time_ms <= request.time_ms), default=0)
            return grid_pb2.EpochAtReply(carry=grid.carry(), epoch=found)
        if method == "Commit":
            return await self._commit(member.node, request, timeout)
        if method == "WaitEpoch":
            reply = grid_pb2.WaitEpochReply()
            grid.waits += request.closed > grid.closed
            try:
                await grid.wait_closed(request.closed, request.deadline_ms)
            except TimeoutError:
                reply.error.CopyFrom(error_message(DeadlineError("not closed in time")))
            reply.carry.CopyFrom(grid.carry())
            reply.closed = grid.closed
            return reply
        if method == "CreateMap":
            reply = grid_pb2.CreateMapReply(carry=grid.carry(), acts_at=grid.epoch)
            if request.spec.name in grid.maps:
                reply.error.CopyFrom(error_message(MapExistsError("there already")))
            else:
                grid.maps[request.spec.name] = request.spec
            return reply
        assert method == "Status"
        return grid_pb2.StatusReply(
            carry=grid.carry(), status=grid_pb2.NodeStatus(node=member.node, closed=grid.closed)
        )

    async def _commit(self, node: int, request: grid_pb2.CommitRequest, timeout: float) -> grid_pb2.CommitReply:
        grid = self.grid
        request = grid_pb2.CommitRequest.FromString(request.SerializeToString())
        grid.commits.append((node, request))
        async with asyncio.timeout(timeout):
            await grid.gate.wait()
        if grid.refuse:
            return grid_pb2.CommitReply(carry=grid.carry(), error=error_message(grid.refuse.popleft()))
        reply = grid.commit(request)
        reply.carry.CopyFrom(grid.carry())
        if grid.swallow_answers:
            grid.swallow_answers -= 1
            raise DeadlineError("no answer")
        if grid.lose_answers:
            grid.lose_answers -= 1
            if grid.after_loss is not None:
                grid.refuse.append(grid.after_loss)
            raise UnavailableError("the connection broke", address=f"node{node}:1")
        return reply

    async def close(self) -> None:
        self.closed = True
        for exchange in self.grid.exchanges:
            exchange.end()


class FakeExchange:
    def __init__(self, grid: FakeGrid, node: int) -> None:
        self.grid = grid
        self.node = node
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.ended = self.refused = node in grid.down
        if self.ended:
            self.queue.put_nowait(ENDED)

    def end(self) -> None:
        if not self.ended:
            self.ended = True
            self.queue.put_nowait(ENDED)

    def close(self) -> None:
        self.end()

    async def send(self, request: grid_pb2.ExchangeRequest) -> None:
        await asyncio.sleep(0)
        if self.ended:
            raise self._gone()
        arrived = grid_pb2.ExchangeRequest.FromString(request.SerializeToString())
        task = asyncio.get_running_loop().create_task(self._answer(arrived))
        self.grid.tasks.add(task)
        task.add_done_callback(self.grid.tasks.discard)

    async def _answer(self, request: grid_pb2.ExchangeRequest) -> None:
        grid = self.grid
        grid.requests.append(request)
        assert not request.carry.grid_id or request.carry.grid_id == grid.grid_id
        await grid.gate.wait()
        if not grid.work_then_hang:
            await grid.answers(self.node)
        if self.ended:
            return
        reply = grid_pb2.ExchangeReply(id=request.id)
        if grid.refuse:
            reply.error.CopyFrom(error_message(grid.refuse.popleft()))
        else:
            for batch in request.writes:
                reply.writes.append(grid.write(batch, self.node))
            for read in request.reads:
                reply.reads.append(await grid.read(read, request.deadline_ms))
        if grid.before_answer is not None:
            await grid.before_answer(request)
        await grid.answers(self.node)
        reply.carry.CopyFrom(grid.carry())
        if grid.swallow_answers:
            grid.swallow_answers -= 1
        elif grid.lose_answers:
            grid.lose_answers -= 1
            self.end()
        elif not self.ended:
            self.queue.put_nowait(reply)

    async def receive(self) -> grid_pb2.ExchangeReply:
        reply = await self.queue.get()
        if reply is ENDED:
            self.queue.put_nowait(ENDED)
            raise self._gone()
        return reply

    def _gone(self) -> UnavailableError:
        address = f"node{self.node}:1"
        return UnavailableError(f"nothing answers at {address}", address=address, reached=not self.refused)


class FakeFeed:
    """Pulls from the log as it is read: who does not read makes it wait."""

    def __init__(self, grid: FakeGrid, node: int, request: grid_pb2.SubscribeRequest) -> None:
        self.grid = grid
        self.node = node
        self.request = request
        self.cursor = request.after
        self.sent = 0
        self.ended = node in grid.down
        self.problem: GridError | None = UnavailableError("down", address="") if self.ended else None
        self.stages = self._stages()

    def __aiter__(self) -> FakeFeed:
        return self

    def fail(self, problem: GridError) -> None:
        self.problem = problem
        self.grid.changed()

    def cancel(self) -> None:
        self.ended = True
        if self in self.grid.feeds:
            self.grid.feeds.remove(self)
            self.grid.changed()

    async def __anext__(self) -> grid_pb2.FeedMessage:
        await asyncio.sleep(0)
        if self.grid.cut_feeds_after is not None and self.sent >= self.grid.cut_feeds_after:
            self.problem = UnavailableError("cut", address="")
        while True:
            if self.node in self.grid.hung and not self.ended:
                await self.grid.wait_changed()
                continue
            if self.problem is not None:
                raise self.problem
            if self.ended:
                raise StopAsyncIteration
            message = next(self.stages)
            if message is not None:
                self.sent += 1
                message.carry.CopyFrom(self.grid.carry())
                return message
            await self.grid.wait_changed()

    def _stages(self) -> Any:
        grid, request = self.grid, self.request
        if request.map not in grid.maps:
            yield grid_pb2.FeedMessage(error=error_message(UnknownMapError.of(request.map, grid.maps)))
        if any(grid.owners[partition] != self.node for partition in request.partitions):
            yield grid_pb2.FeedMessage(
                error=error_message(WrongOwnerError("not mine", partition=0, owner=0, view=grid.view))
            )
        while request.snapshot and grid.closed < request.after:
            yield None
        if request.snapshot:
            if request.after < grid.horizon:
                yield grid_pb2.FeedMessage(error=error_message(EpochTooOldError.of(request.after, grid.horizon)))
            yield from self._snapshot()
            yield grid_pb2.FeedMessage(live=True)
        while True:
            closed = grid.closed
            if closed <= self.cursor:
                yield None
                continue
            entries = [
                (epoch, partition, position, time_ms, section)
                for partition in request.partitions
                for position, epoch, time_ms, sections in grid.log[partition]
                for section in sections
                if self.cursor < epoch <= closed and record_pb2.Section.FromString(section).map == request.map
            ]
            entries.sort(key=lambda entry: entry[:3])
            size = grid.entries_per_message
            for begin in range(0, len(entries), size):
                part = entries[begin : begin + size]
                whole = entries[begin + size][0] - 1 if begin + size < len(entries) else closed
                made = [
                    grid_pb2.FeedEntry(
                        partition=partition, position=position, effective=epoch, time_ms=time_ms, section=section
                    )
                    for epoch, partition, position, time_ms, section in part
                ]
                mark = 0 if grid.mark_only_at_end and whole != closed else whole
                yield grid_pb2.FeedMessage(entries=made, mark=mark)
            if not entries:
                yield grid_pb2.FeedMessage(mark=closed)
            self.cursor = closed

    def _snapshot(self) -> Any:
        grid, request = self.grid, self.request
        for partition in request.partitions:
            rows = []
            for map_name, key in list(grid.chains):
                if map_name == request.map and grid.partition_of(map_name, key) == partition:
                    found = grid.find(map_name, key, request.after)
                    if found and found[3] is not None:
                        rows.append((key, *found))
            for begin in range(0, len(rows), grid.entries_per_message):
                part = rows[begin : begin + grid.entries_per_message]
                keys, versions, epochs, times, values = zip(*part, strict=True)
                chunk = grid_pb2.SnapshotChunk(
                    partition=partition, keys=keys, values=values, versions=versions, epochs=epochs, times_ms=times
                )
                yield grid_pb2.FeedMessage(snapshot=[chunk])


async def until(condition: Callable[[], Any]) -> None:
    """Lets everybody else run until `condition` holds."""
    while not condition():  # noqa: ASYNC110 (there is no event for it)
        await asyncio.sleep(0)
