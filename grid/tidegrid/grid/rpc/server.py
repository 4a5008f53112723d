"""The gRPC servers of one node: one port for clients, one for the other nodes. Handlers only carry messages."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from tidegrid.grid.model.errors import FormatError, InUseError
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.ring.messages import Envelope
from tidegrid.grid.rpc.grid_service import GridService
from tidegrid.grid.rpc.peers import LINK, NODE_SERVICE, REHEARSE
from tidegrid.grid.rpc.tls import TlsFiles
from tidegrid.grid.runtime.driver import Driver
from tidegrid.v1 import grid_pb2, ring_pb2

GRID_SERVICE = "tidegrid.v1.Grid"
OUTBOX_MAX = 64  # answers a client has not taken; then its next requests wait
_UNARY = {
    "Hello": grid_pb2.HelloRequest,
    "Commit": grid_pb2.CommitRequest,
    "Scan": grid_pb2.ScanRequest,
    "CreateMap": grid_pb2.CreateMapRequest,
    "WaitEpoch": grid_pb2.WaitEpochRequest,
    "EpochAt": grid_pb2.EpochAtRequest,
    "Parked": grid_pb2.ParkedRequest,
    "Redrive": grid_pb2.RedriveRequest,
    "History": grid_pb2.HistoryRequest,
    "Hold": grid_pb2.HoldRequest,
    "Why": grid_pb2.WhyRequest,
    "Status": grid_pb2.StatusRequest,
    "Put": grid_pb2.PutRequest,
    "Delete": grid_pb2.DeleteRequest,
    "Get": grid_pb2.GetRequest,
    "PlanDeploy": grid_pb2.PlanDeployRequest,
    "Deploy": grid_pb2.DeployRequest,
    "Deployments": grid_pb2.DeploymentsRequest,
    "Regenerate": grid_pb2.RegenerateRequest,
    "Generations": grid_pb2.GenerationsRequest,
}


class Outbox:
    """Answers on their way to one client, written in order by the handler's own task."""

    def __init__(self) -> None:
        self._messages: deque[grid_pb2.ExchangeReply] = deque()
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._ended = False

    def put(self, message: grid_pb2.ExchangeReply) -> None:
        self._messages.append(message)
        self._changed.set()
        if len(self._messages) >= OUTBOX_MAX:
            self._room.clear()

    async def room(self) -> None:
        await self._room.wait()

    def end(self) -> None:
        """What is there is still written."""
        self._ended = True
        self._changed.set()

    async def write_to(self, write: Callable[[grid_pb2.ExchangeReply], Awaitable[None]]) -> None:
        while True:
            while self._messages:
                await write(self._messages.popleft())
            self._room.set()
            if self._ended:
                return
            self._changed.clear()
            await self._changed.wait()


def _exchange_handler(service: GridService) -> Any:
    async def exchange(_iterator: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        outbox = Outbox()
        writer = asyncio.create_task(outbox.write_to(context.write))
        try:
            while (message := await context.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
                service.exchange(message, outbox.put)
                await outbox.room()
            outbox.end()
            await writer  # a call cannot end in the middle of a write
        finally:
            writer.cancel()

    return grpc.stream_stream_rpc_method_handler(
        exchange,
        request_deserializer=grid_pb2.ExchangeRequest.FromString,
        response_serializer=grid_pb2.ExchangeReply.SerializeToString,
    )


def _subscribe_handler(service: GridService) -> Any:
    async def subscribe(
        request: grid_pb2.SubscribeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[bytes]:
        async for message in service.subscribe(request, context.peer()):
            yield message

    return grpc.unary_stream_rpc_method_handler(
        subscribe, request_deserializer=grid_pb2.SubscribeRequest.FromString, response_serializer=_as_is
    )


def _unary_handler(call: Callable[[Any], Awaitable[Any]], request_type: Any) -> Any:
    async def unary(request: Any, _context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        return await call(request)

    return grpc.unary_unary_rpc_method_handler(
        unary, request_deserializer=request_type.FromString, response_serializer=lambda reply: reply.SerializeToString()
    )


def _link_handler(driver: Driver) -> Any:
    async def link(
        iterator: AsyncIterator[ring_pb2.NodeMessage], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[ring_pb2.NodeMessage]:
        async for message in iterator:
            try:
                driver.receive(Envelope.from_message(message))
            except FormatError as error:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
        return
        yield  # a stream without answers

    return grpc.stream_stream_rpc_method_handler(
        link,
        request_deserializer=ring_pb2.NodeMessage.FromString,
        response_serializer=ring_pb2.NodeMessage.SerializeToString,
    )


def _as_is(message: bytes) -> bytes:
    return message


def _options(limits: Limits) -> list[tuple[str, Any]]:
    return [
        ("grpc.so_reuseport", 0),  # a port in use is an error, not a share of its connections
        ("grpc.max_receive_message_length", limits.message_bytes_max),
        ("grpc.max_send_message_length", 4 * limits.message_bytes_max),
        # The core's MIN_RECV_PING_INTERVAL; under another name it is ignored, and quiet feeds break after two minutes.
        ("grpc.http2.min_ping_interval_without_data_ms", 5000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


class NodeServer:
    """Lifecycle: `bind` takes the ports, so that addresses are known before the node starts; `start` serves; `stop`."""

    def __init__(self, tls: TlsFiles, limits: Limits) -> None:
        self._tls = tls
        options = _options(limits)
        self._clients = grpc.aio.server(options=options)
        self._peers = grpc.aio.server(options=options)
        self.address = ""
        self.peer_address = ""

    def bind(self, host: str, port: int, peer_port: int) -> None:
        """Port 0 takes a free one. Raises InUseError, ConfigurationError."""
        self._tls.validate(host)
        self.address = self._bind(self._clients, host, port)
        self.peer_address = self._bind(self._peers, host, peer_port)

    def _bind(self, server: grpc.aio.Server, host: str, port: int) -> str:
        credentials = self._tls.server_credentials()
        wanted = f"{host}:{port}"
        try:
            bound = (
                server.add_insecure_port(wanted) if credentials is None else server.add_secure_port(wanted, credentials)
            )
        except RuntimeError as error:
            raise InUseError(
                f"cannot listen on {wanted}: the port is in use, or the address is not of this machine; choose another --port, or stop who holds it",
                what=wanted,
            ) from error
        return f"{host}:{bound}"

    async def start(self, service: GridService, driver: Driver) -> None:
        handlers: dict[str, Any] = {name: _unary_handler(service.unary[name], kind) for name, kind in _UNARY.items()}
        handlers["Exchange"] = _exchange_handler(service)
        handlers["Subscribe"] = _subscribe_handler(service)
        self._clients.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(GRID_SERVICE, handlers),))
        nodes = {LINK: _link_handler(driver), REHEARSE: _unary_handler(service.rehearse, ring_pb2.RehearseRequest)}
        self._peers.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NODE_SERVICE, nodes),))
        await self._peers.start()
        await self._clients.start()

    async def stop(self, grace: float) -> None:
        await asyncio.gather(self._clients.stop(grace), self._peers.stop(0))
