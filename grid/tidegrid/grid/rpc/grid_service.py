"""What a node answers to clients, on protobuf messages and without gRPC: the server and the embedded grid share it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from tidegrid.grid.engine.group import GroupRequest
from tidegrid.grid.engine.history import Cursor
from tidegrid.grid.engine.hold import HoldRequest
from tidegrid.grid.engine.intake import Request
from tidegrid.grid.engine.reads import CloseRequest, EpochAtRequest, HistoryRequest, ReadRequest, ScanRequest
from tidegrid.grid.engine.redrive import ParkedRequest, RedriveRequest
from tidegrid.grid.model.errors import GridError, TooLargeError
from tidegrid.grid.model.ids import Epoch, PartitionId, Position
from tidegrid.grid.ring.declarations import spec_from, spec_message
from tidegrid.grid.rpc.deploying import Deploying
from tidegrid.grid.rpc.exchange import DEFAULT_TIMEOUT, ExchangeCall, Respond
from tidegrid.grid.rpc.feeds import Feeds
from tidegrid.grid.rpc.json_gateway import JsonGateway
from tidegrid.grid.rpc.regenerating import Regenerating
from tidegrid.grid.rpc.rehearsing import Rehearsing
from tidegrid.grid.rpc.status import node_status
from tidegrid.grid.rpc.wire import (
    carry_message,
    carry_of,
    commit_reply,
    error_message,
    history_reply,
    parked_id,
    parked_reply,
    redrive_reply,
    redrive_request,
    scan_request,
)
from tidegrid.grid.runtime.driver import Driver
from tidegrid.grid.runtime.history import history_page
from tidegrid.grid.runtime.lineage import LineageReader
from tidegrid.grid.runtime.local_grid import LocalGrid
from tidegrid.grid.version import version
from tidegrid.v1 import control_pb2, grid_pb2

PARKED_ROWS_MAX: Final = 500  # of one answer: with keys and messages it fits a message


class GridService:
    """One node's. Errors travel in the replies, as `error`; nothing is raised."""

    def __init__(self, grid: LocalGrid, driver: Driver) -> None:
        self._grid = grid
        self._driver = driver
        self.feeds = Feeds(driver)
        self._json = JsonGateway(grid, driver)
        self._lineage = LineageReader(driver)
        self.unary: dict[str, Callable[[Any], Awaitable[Any]]] = {
            "Hello": self.hello,
            "Commit": self.commit,
            "Scan": self.scan,
            "CreateMap": self.create_map,
            "WaitEpoch": self.wait_epoch,
            "EpochAt": self.epoch_at,
            "History": self.history,
            "Hold": self.hold,
            "Why": self.why,
            "Status": self.status,
            "Parked": self.parked,
            "Redrive": self.redrive,
            "Put": self._json.put,
            "Delete": self._json.delete,
            "Get": self._json.get,
        }
        self._rehearsing = Rehearsing(driver, grid, self.feeds)
        self.rehearse = self._rehearsing.rehearse
        self.deploying = Deploying(grid, driver, self._rehearsing)
        regenerating = Regenerating(grid, driver)
        self.unary |= {
            "PlanDeploy": self._seen_first(self.deploying.plan_deploy, grid_pb2.PlanDeployReply),
            "Deploy": self._seen_first(self.deploying.deploy, grid_pb2.DeployReply),
            "Deployments": self._seen_first(self.deploying.deployments, grid_pb2.DeploymentsReply),
            "Regenerate": self._seen_first(regenerating.regenerate, grid_pb2.RegenerateReply),
            "Generations": self._seen_first(regenerating.generations, grid_pb2.GenerationsReply),
        }

    def carry(self) -> grid_pb2.Carry:
        return carry_message(self._driver.node)

    def _seen_first(self, call: Callable[[Any], Awaitable[Any]], reply: Callable[..., Any]) -> Callable[[Any], Any]:
        """Rule J for what is not a request of the engine: no answer is older than what its asker has seen."""

        async def answer(request: Any) -> Any:
            deadline_ms = getattr(request, "deadline_ms", 0)
            timeout = deadline_ms / 1000 if deadline_ms else DEFAULT_TIMEOUT
            try:
                await self._grid.wait_seen(self._driver, carry_of(request.carry), timeout)
            except GridError as error:
                return reply(carry=self.carry(), error=error_message(error))
            return await call(request)

        return answer

    def exchange(self, message: grid_pb2.ExchangeRequest, respond: Respond) -> None:
        ExchangeCall(self._driver, message, respond)

    def subscribe(self, request: grid_pb2.SubscribeRequest, peer: str = "") -> AsyncIterator[bytes]:
        return self.feeds.subscribe(request, peer)

    async def hello(self, _request: grid_pb2.HelloRequest) -> grid_pb2.HelloReply:
        node = self._driver.node
        control, limits = node.control, node.limits
        view = control.view
        return grid_pb2.HelloReply(
            carry=self.carry(),
            node=node.me,
            partitions=control.partitions,
            view=view.position,
            members=[
                control_pb2.Member(
                    node=m.node, incarnation=m.incarnation, address=m.address, peer_address=m.peer_address
                )
                for m in view.members.values()
            ],
            owners=[
                control_pb2.Owner(partition=p, node=o.node, incarnation=o.incarnation, term=o.term)
                for p, o in sorted(view.owners.items())
            ],
            maps=[spec_message(spec) for spec in control.declared.values()],
            closed=control.closed,
            session_epochs=control.session_epochs,
            batch_writes_max=limits.batch_writes_max,
            message_bytes_max=limits.message_bytes_max,
            key_bytes_max=limits.key_bytes_max,
            value_bytes_max=limits.value_bytes_max,
            value_depth_max=limits.value_depth_max,
            version=version(),
            ready=node.standing.ready() and not control.activation_pending,
            group_writes_max=limits.group_writes_max,
        )

    async def _submit(
        self, make: Callable[[Callable[[Request], None]], Request], carry: grid_pb2.Carry, deadline_ms: int
    ) -> Any:
        done: asyncio.Future[Request] = asyncio.get_running_loop().create_future()

        def answered(request: Request) -> None:
            if not done.done():
                done.set_result(request)

        self._driver.submit(make(answered), carry_of(carry), deadline_ms / 1000 if deadline_ms else DEFAULT_TIMEOUT)
        return await done

    async def commit(self, request: grid_pb2.CommitRequest) -> grid_pb2.CommitReply:
        group: GroupRequest = await self._submit(
            lambda answered: GroupRequest(request.group, request.writes, answered), request.carry, request.deadline_ms
        )
        return commit_reply(self.carry(), group)

    async def scan(self, request: grid_pb2.ScanRequest) -> grid_pb2.ScanReply:
        rows_max = self._driver.node.limits.scan_rows_max
        scanned: ScanRequest = await self._submit(
            lambda answered: scan_request(request, rows_max, answered), request.carry, request.deadline_ms
        )
        if scanned.error is not None:
            return grid_pb2.ScanReply(carry=self.carry(), error=error_message(scanned.error))
        return grid_pb2.ScanReply(
            carry=self.carry(), keys=scanned.keys, values=scanned.values, versions=scanned.versions,
            epochs=scanned.epochs, times_ms=scanned.times_ms, more=scanned.more, generation=scanned.generation,
        )  # fmt: skip

    async def create_map(self, request: grid_pb2.CreateMapRequest) -> grid_pb2.CreateMapReply:
        timeout = request.deadline_ms / 1000 if request.deadline_ms else DEFAULT_TIMEOUT
        try:
            acts_at = await self._grid.declare_map(self._driver, spec_from(request.spec), timeout)
        except GridError as error:
            return grid_pb2.CreateMapReply(carry=self.carry(), error=error_message(error))
        return grid_pb2.CreateMapReply(carry=self.carry(), acts_at=acts_at)

    async def wait_epoch(self, request: grid_pb2.WaitEpochRequest) -> grid_pb2.WaitEpochReply:
        waited: CloseRequest = await self._submit(
            lambda answered: CloseRequest(Epoch(request.closed), answered), request.carry, request.deadline_ms
        )
        closed = self._driver.node.control.closed
        if waited.error is not None:
            return grid_pb2.WaitEpochReply(carry=self.carry(), closed=closed, error=error_message(waited.error))
        return grid_pb2.WaitEpochReply(carry=self.carry(), closed=closed)

    async def epoch_at(self, request: grid_pb2.EpochAtRequest) -> grid_pb2.EpochAtReply:
        asked: EpochAtRequest = await self._submit(
            lambda answered: EpochAtRequest(request.time_ms, answered), request.carry, request.deadline_ms
        )
        if asked.error is not None:
            return grid_pb2.EpochAtReply(carry=self.carry(), error=error_message(asked.error))
        return grid_pb2.EpochAtReply(carry=self.carry(), epoch=asked.epoch)

    async def history(self, request: grid_pb2.HistoryRequest) -> grid_pb2.HistoryReply:
        partition = PartitionId(request.partition)

        async def ask(cursor: Cursor) -> HistoryRequest:
            def make(answered: Callable[[Request], None]) -> HistoryRequest:
                return HistoryRequest(request.map, partition, request.key, *cursor, answered)

            asked: HistoryRequest = await self._submit(make, request.carry, request.deadline_ms)
            return asked

        cursor = Cursor(Epoch(request.after), Position(request.position))
        through = Epoch(request.through) if request.through else None
        try:
            page = await history_page(self._driver, ask, request.map, partition, request.key, cursor, through)
        except GridError as error:
            return grid_pb2.HistoryReply(carry=self.carry(), error=error_message(error))
        return history_reply(self.carry(), page)

    async def why(self, request: grid_pb2.WhyRequest) -> grid_pb2.WhyReply:
        try:
            if request.HasField("step"):
                return grid_pb2.WhyReply(carry=self.carry(), step=await self._lineage.name(request.step))
            as_of = Epoch(request.as_of)
            asked: ReadRequest = await self._submit(  # waits for a close, and says why it cannot be read
                lambda answered: ReadRequest(
                    request.map, [request.key], as_of, Epoch(0), answered, generation=request.generation
                ),
                request.carry, request.deadline_ms,
            )  # fmt: skip
            if asked.error is not None:
                raise asked.error
            number = PartitionId(request.partition)
            generation, rows_max = asked.generation, request.rows_max
            reply = await self._lineage.explain(request.map, generation, number, request.key, as_of, rows_max)
        except GridError as error:
            return grid_pb2.WhyReply(carry=self.carry(), error=error_message(error))
        reply.carry.CopyFrom(self.carry())
        return reply

    async def hold(self, request: grid_pb2.HoldRequest) -> grid_pb2.HoldReply:
        held: HoldRequest = await self._submit(
            lambda answered: HoldRequest(
                request.name, request.owner, Epoch(request.epoch), request.for_ms, answered,
                taken=Position(request.taken), release=request.release,
            ),
            request.carry, request.deadline_ms,
        )  # fmt: skip
        if held.error is not None:
            return grid_pb2.HoldReply(carry=self.carry(), error=error_message(held.error))
        left_ms = max(0, held.expires_ms - self._driver.instant().time_ms)
        return grid_pb2.HoldReply(carry=self.carry(), epoch=held.epoch, taken=held.taken, left_ms=left_ms)

    async def parked(self, request: grid_pb2.ParkedRequest) -> grid_pb2.ParkedReply:
        rows_max = min(request.rows_max or PARKED_ROWS_MAX, PARKED_ROWS_MAX)
        asked: ParkedRequest = await self._submit(
            lambda answered: ParkedRequest(
                PartitionId(request.partition), request.map, parked_id(request.after), rows_max, answered
            ),
            request.carry, request.deadline_ms,
        )  # fmt: skip
        return parked_reply(self.carry(), asked)

    async def redrive(self, request: grid_pb2.RedriveRequest) -> grid_pb2.RedriveReply:
        limit = self._driver.node.limits.batch_writes_max
        if not 0 < len(request.ids) <= limit:
            error = TooLargeError.of("redrive", len(request.ids), limit, "writes")
            return grid_pb2.RedriveReply(carry=self.carry(), error=error_message(error))
        asked: RedriveRequest = await self._submit(
            lambda answered: redrive_request(request, answered), request.carry, request.deadline_ms
        )
        return redrive_reply(self.carry(), asked)

    async def status(self, _request: grid_pb2.StatusRequest) -> grid_pb2.StatusReply:
        return grid_pb2.StatusReply(
            carry=self.carry(), status=node_status(self._driver, self.feeds, self._grid.options)
        )
