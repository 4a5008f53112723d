"""The client's transport without a network: its messages are handed to the nodes of the same process."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from tidegrid.grid.model.errors import DeadlineError, StoppingError, UnavailableError
from tidegrid.grid.model.ids import NodeId
from tidegrid.grid.rpc.grid_service import GridService
from tidegrid.v1 import control_pb2, grid_pb2

FIRST_NODE = NodeId(0)


class DirectTransport:
    """Implements `tidegrid.client.transport.Transport`."""

    def __init__(self, services: Mapping[NodeId, GridService]) -> None:
        self._services = services
        self._streams: set[DirectExchange | DirectFeed] = set()

    def _service(self, node: int) -> GridService:
        service = self._services.get(NodeId(node))
        if service is None:
            raise UnavailableError(f"node {node} is not of this process")
        return service

    async def hello(self, address: str, request: grid_pb2.HelloRequest, timeout: float) -> grid_pb2.HelloReply:
        return await self._service(FIRST_NODE).hello(request)

    def exchange(self, member: control_pb2.Member) -> DirectExchange:
        stream = DirectExchange(self._service(member.node))
        self._streams.add(stream)
        return stream

    def subscribe(self, member: control_pb2.Member, request: grid_pb2.SubscribeRequest) -> DirectFeed:
        stream = DirectFeed(self._service(member.node).subscribe(request, "embedded"), self._streams.discard)
        self._streams.add(stream)
        return stream

    async def call(self, member: control_pb2.Member, method: str, request: Any, timeout: float) -> Any:
        try:
            async with asyncio.timeout(timeout):
                return await self._service(member.node).unary[method](request)
        except TimeoutError:
            raise DeadlineError(f"{method} was not answered within {timeout:g} s") from None

    async def close(self) -> None:
        for stream in list(self._streams):
            if isinstance(stream, DirectFeed):
                await stream.end()
            else:
                stream.close()
        self._streams.clear()


class DirectExchange:
    def __init__(self, service: GridService) -> None:
        self._service = service
        self._replies: deque[grid_pb2.ExchangeReply] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False

    async def send(self, request: grid_pb2.ExchangeRequest) -> None:
        if self._closed:
            raise StoppingError.of()
        self._service.exchange(request, self._arrived)

    def _arrived(self, reply: grid_pb2.ExchangeReply) -> None:
        self._replies.append(reply)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def receive(self) -> grid_pb2.ExchangeReply:
        while not self._replies:
            if self._closed:
                raise UnavailableError("the embedded grid is closed")
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._replies.popleft()

    def close(self) -> None:
        self._closed = True
        self._wake()


class DirectFeed:
    """`cancel` ends it without waiting; `end` also waits until it has ended."""

    def __init__(self, messages: AsyncIterator[bytes], gone: Callable[[DirectFeed], None]) -> None:
        self._messages = messages
        self._gone = gone
        self._reading: asyncio.Task[bytes] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._cancelled = False

    def __aiter__(self) -> AsyncIterator[grid_pb2.FeedMessage]:
        return self

    async def __anext__(self) -> grid_pb2.FeedMessage:
        if self._cancelled:
            raise StopAsyncIteration
        self._reading = asyncio.ensure_future(self._next())
        try:
            return grid_pb2.FeedMessage.FromString(await self._reading)
        except asyncio.CancelledError:
            if self._cancelled:
                raise StopAsyncIteration from None
            self._reading.cancel()
            raise
        finally:
            self._reading = None

    async def _next(self) -> bytes:
        try:
            return await self._messages.__anext__()
        except StopAsyncIteration:
            raise UnavailableError("the embedded grid is closing") from None

    def cancel(self) -> None:
        if self._cancelled:
            return
        self._cancelled = True
        self._gone(self)
        if self._reading is not None:
            self._reading.cancel()
        else:  # nobody reads on: the node would keep the feed open for ever
            self._closing = asyncio.get_running_loop().create_task(self._close())

    async def end(self) -> None:
        self.cancel()
        if self._reading is not None:
            await asyncio.gather(self._reading, return_exceptions=True)
        if self._closing is None:
            await self._close()
        else:
            await self._closing

    async def _close(self) -> None:
        close = getattr(self._messages, "aclose", None)
        if close is not None:
            await close()
