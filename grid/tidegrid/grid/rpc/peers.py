"""Messages to other nodes over gRPC: one stream per peer, kept open, made anew after a failure.

What does not get through is dropped, the oldest first: who said it repeats what matters, and an old token is worth
nothing. So each outbox is short, and a peer that is away costs a bounded memory and a reconnection now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
from tidegrid.grid.model.errors import DeadlineError, UnavailableError
from tidegrid.grid.model.ids import NodeId
from tidegrid.grid.ring.messages import Envelope
from tidegrid.grid.rpc.tls import TlsFiles
from tidegrid.v1 import ring_pb2

NODE_SERVICE = "tidegrid.v1.Node"
LINK = "Link"
LINK_METHOD = f"/{NODE_SERVICE}/{LINK}"
REHEARSE = "Rehearse"
REHEARSE_METHOD = f"/{NODE_SERVICE}/{REHEARSE}"
OUTBOX_MAX = 256  # messages
OUTBOX_BYTES_MAX = 16 * 1024 * 1024
RECONNECT_SECONDS = 0.2


class GrpcPeers:
    """`address_of` looks a node's peer address up in the newest view."""

    def __init__(self, address_of: Callable[[NodeId], str | None], tls: TlsFiles) -> None:
        self._address_of = address_of
        self._credentials = tls.channel_credentials()
        self._links: dict[NodeId, _Link] = {}

    def send(self, to: NodeId, envelope: Envelope) -> None:
        address = self._address_of(to)
        if not address:
            return
        link = self._links.get(to)
        if link is None or link.address != address:
            if link is not None:
                link.cancel()
            link = self._links[to] = _Link(address, self._credentials)
        link.outbox.put(envelope.to_bytes())

    async def ask(self, to: NodeId, request: ring_pb2.RehearseRequest, timeout: float) -> ring_pb2.RehearseReply:
        """Seldom, so each has a connection of its own."""
        address = self._address_of(to)
        if not address:
            raise UnavailableError(f"node {to} is not in the view", address="")
        async with _channel(address, self._credentials) as channel:
            call: Any = channel.unary_unary(
                REHEARSE_METHOD,
                request_serializer=ring_pb2.RehearseRequest.SerializeToString,
                response_deserializer=ring_pb2.RehearseReply.FromString,
            )
            try:
                reply: ring_pb2.RehearseReply = await call(request, timeout=timeout, wait_for_ready=True)
            except grpc.aio.AioRpcError as problem:
                if problem.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise DeadlineError(f"node {to} at {address} did not answer within {timeout:g} s") from None
                raise UnavailableError(
                    f"node {to} at {address} does not answer: {problem.details()}", address=address
                ) from None
        return reply

    async def close(self) -> None:
        links, self._links = list(self._links.values()), {}
        for link in links:
            link.cancel()
        await asyncio.gather(*(link.task for link in links), return_exceptions=True)


def _channel(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    options: list[tuple[str, Any]] = [
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
    ]
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, credentials, options=options)


class Outbox:
    """Messages to one node that it has not taken."""

    def __init__(self) -> None:
        self._messages: deque[bytes] = deque()
        self._bytes = 0
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: bytes) -> None:
        self._messages.append(message)
        self._bytes += len(message)
        while len(self._messages) > OUTBOX_MAX or self._bytes > OUTBOX_BYTES_MAX:
            self._bytes -= len(self._messages.popleft())
        self._changed.set()

    async def next(self) -> bytes:
        while not self._messages:
            self._changed.clear()
            await self._changed.wait()
        message = self._messages.popleft()
        self._bytes -= len(message)
        return message


class _Link:
    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None) -> None:
        self.address = address
        self._credentials = credentials
        self.outbox = Outbox()
        self._closed = False
        self.task = asyncio.create_task(self._run())

    def cancel(self) -> None:
        self._closed = True  # a call that breaks at this moment may swallow the cancellation
        self.task.cancel()

    async def _run(self) -> None:
        async with _channel(self.address, self._credentials) as channel:
            while not self._closed:
                link: Any = channel.stream_stream(
                    LINK_METHOD, request_serializer=bytes, response_deserializer=ring_pb2.NodeMessage.FromString
                )
                call = link()
                # Written one by one: an iterator that gRPC reads would go on taking messages for a call that is dead.
                with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    while True:
                        await call.write(await self.outbox.next())
                call.cancel()
                await asyncio.sleep(RECONNECT_SECONDS)
