"""The transport over gRPC: one channel per node, one bidirectional stream for reads and writes.

TLS is a matter of the channel (`TlsOptions`): a CA alone checks the node, a certificate and key beside it let the
node check us (mTLS). Reconnection is ours, not the channel's: its own back-off is cut short so that a node that is
back is found at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from tidegrid.client.errors import error_of
from tidegrid.grid.model.errors import (
    ConfigurationError,
    DeadlineError,
    FormatError,
    GridError,
    PeerError,
    TooLargeError,
    UnauthenticatedError,
    UnavailableError,
)
from tidegrid.v1 import control_pb2, errors_pb2, grid_pb2, grid_pb2_grpc

RECEIVE_BYTES_MAX: Final = 64 * 1024 * 1024  # of one message from a node; nodes bound theirs far lower
ERROR_METADATA: Final = "tidegrid-error-bin"  # a serialized tidegrid.v1.Error in trailing metadata, if a node sends one

_OPTIONS: Final = (
    ("grpc.keepalive_time_ms", 30_000),  # a dead peer behind a silent network is noticed within a minute
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_receive_message_length", RECEIVE_BYTES_MAX),
    ("grpc.max_send_message_length", RECEIVE_BYTES_MAX),  # the client bounds its messages by what the node says
    ("grpc.use_local_subchannel_pool", 1),  # two clients of one process do not share a connection
)


_END: Final[Any] = getattr(grpc.aio, "EOF")  # noqa: B009 (the stubs do not know it)


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """Files in PEM form. `ca` None: the system's authorities. `cert` and `key` together: mTLS."""

    ca: Path | str | None = None
    cert: Path | str | None = None
    key: Path | str | None = None
    server_name: str | None = None  # the name in the node's certificate, if it is not the address

    def credentials(self) -> grpc.ChannelCredentials:
        """Raises ConfigurationError when a file is missing or only one of cert and key is given."""
        if (self.cert is None) != (self.key is None):
            raise ConfigurationError("mTLS needs both a certificate and its key: give `cert` and `key`")
        return grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.cert))


def _read(path: Path | str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as problem:
        raise ConfigurationError(
            f"cannot read {path}: {problem.strerror}; name a PEM file that exists", file=str(path)
        ) from problem


class GrpcTransport:
    """A Transport. Bound to the running event loop."""

    def __init__(self, tls: TlsOptions | None = None) -> None:
        self._options: list[tuple[str, Any]] = list(_OPTIONS)
        self._credentials = tls.credentials() if tls is not None else None
        if tls is not None and tls.server_name is not None:
            self._options.append(("grpc.ssl_target_name_override", tls.server_name))
        self._channels: dict[str, tuple[Any, Any]] = {}

    def _stub(self, address: str) -> Any:
        known = self._channels.get(address)
        if known is None:
            channel: Any
            if self._credentials is None:
                channel = grpc.aio.insecure_channel(address, options=self._options)
            else:
                channel = grpc.aio.secure_channel(address, self._credentials, options=self._options)
            stub: Any = grid_pb2_grpc.GridStub(channel)
            known = self._channels[address] = (channel, stub)
        return known[1]

    async def hello(self, address: str, request: grid_pb2.HelloRequest, timeout: float) -> grid_pb2.HelloReply:
        try:
            reply = await self._stub(address).Hello(request, timeout=timeout)
        except grpc.aio.AioRpcError as problem:
            raise _translate(problem, address) from None
        assert isinstance(reply, grid_pb2.HelloReply)
        return reply

    def exchange(self, member: control_pb2.Member) -> GrpcExchange:
        return GrpcExchange(self._stub(member.address).Exchange(), member.address)

    def subscribe(self, member: control_pb2.Member, request: grid_pb2.SubscribeRequest) -> GrpcFeedStream:
        return GrpcFeedStream(self._stub(member.address).Subscribe(request), member.address)

    async def call(self, member: control_pb2.Member, method: str, request: Any, timeout: float) -> Any:
        try:
            return await getattr(self._stub(member.address), method)(request, timeout=timeout)
        except grpc.aio.AioRpcError as problem:
            raise _translate(problem, member.address) from None

    async def close(self) -> None:
        channels, self._channels = list(self._channels.values()), {}
        for channel, _ in channels:
            await channel.close()


class GrpcExchange:
    def __init__(self, call: Any, address: str) -> None:
        self._call = call
        self._address = address

    async def send(self, request: grid_pb2.ExchangeRequest) -> None:
        try:
            await self._call.write(request)
        except grpc.aio.AioRpcError as problem:
            raise _translate(problem, self._address) from None
        except (asyncio.InvalidStateError, grpc.aio.UsageError):
            raise await self._ended() from None
        except asyncio.CancelledError:
            if self._call.cancelled() and not _being_cancelled():
                raise _gone(self._address) from None
            raise

    async def receive(self) -> grid_pb2.ExchangeReply:
        try:
            reply = await self._call.read()
        except grpc.aio.AioRpcError as problem:
            raise _translate(problem, self._address) from None
        except asyncio.CancelledError:
            if self._call.cancelled() and not _being_cancelled():
                raise _gone(self._address) from None
            raise
        if reply is _END:
            raise await self._ended()
        assert isinstance(reply, grid_pb2.ExchangeReply)
        return reply

    async def _ended(self) -> GridError:
        """Why the call takes no more."""
        if self._call.done() and not self._call.cancelled():
            code = await self._call.code()
            if code is not grpc.StatusCode.OK:
                return _translated(
                    code, await self._call.details() or "", await self._call.trailing_metadata(), self._address
                )
        return _gone(self._address)

    def close(self) -> None:
        self._call.cancel()


class GrpcFeedStream:
    def __init__(self, call: Any, address: str) -> None:
        self._call = call
        self._address = address

    def __aiter__(self) -> AsyncIterator[grid_pb2.FeedMessage]:
        return self

    async def __anext__(self) -> grid_pb2.FeedMessage:
        try:
            message = await self._call.read()
        except grpc.aio.AioRpcError as problem:
            raise _translate(problem, self._address) from None
        except asyncio.CancelledError:
            if self._call.cancelled() and not _being_cancelled():
                raise StopAsyncIteration from None
            raise
        if message is _END:
            raise StopAsyncIteration
        assert isinstance(message, grid_pb2.FeedMessage)
        return message

    def cancel(self) -> None:
        self._call.cancel()


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _gone(address: str) -> UnavailableError:
    return UnavailableError(f"the node at {address} ended the connection; it may be restarting", address=address)


def _unreached(details: str) -> bool:
    """Whether gRPC says that there was no connection to send anything on."""
    return "failed to connect" in details.lower() or _unresolved(details)


def _unresolved(details: str) -> bool:
    said = details.lower()
    return "resolution failed" in said or "resolving" in said or "resolve" in said


def _translate(problem: grpc.aio.AioRpcError, address: str) -> GridError:
    return _translated(problem.code(), problem.details() or "", problem.trailing_metadata(), address)


def _translated(code: grpc.StatusCode, details: str, metadata: Any, address: str) -> GridError:
    for name, value in metadata or ():
        if name == ERROR_METADATA:
            return error_of(errors_pb2.Error.FromString(value))
    if code is grpc.StatusCode.UNAVAILABLE:
        if "ssl" in details.lower() or "handshak" in details.lower() or "certificate" in details.lower():
            return UnavailableError(
                f"no TLS connection to {address}: {details}; check the CA, the name and that the node serves TLS",
                address=address,
            )
        if not _unreached(details):
            return _gone(address)
        if _unresolved(details):
            cause = details.rpartition("error:")[2].rstrip("]")  # before it stands what gRPC was about
            return UnavailableError(
                f"the address {address} leads nowhere: {cause}; check the name and the port",
                address=address,
                reached=False,
            )
        return UnavailableError(
            f"nothing answers at {address}; start a node with `tidegrid serve`, or check the address",
            address=address,
            reached=False,
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineError(
            f"{address} did not answer in time; is the node overloaded or the deadline too short?", address=address
        )
    if code is grpc.StatusCode.CANCELLED:
        return _gone(address)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return UnavailableError(
            f"what answers at {address} is no Tidegrid node for clients; check the port", address=address
        )
    if code is grpc.StatusCode.UNAUTHENTICATED or code is grpc.StatusCode.PERMISSION_DENIED:
        return UnauthenticatedError(f"{address} refuses this client: {details}; check the certificate", address=address)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger" in details.lower():
        return TooLargeError(f"a message was too large for {address}: {details}; send less at once", what="message")
    if code is grpc.StatusCode.INTERNAL and "protobuf" in details.lower():
        return FormatError(
            f"{address} sent something that is no Tidegrid message; are the versions compatible?", address=address
        )
    return PeerError(f"{address} failed: {code.name.lower().replace('_', ' ')}: {details}", address=address)
