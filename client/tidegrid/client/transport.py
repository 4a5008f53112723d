"""The only seam between the client and the outside: how protobuf messages reach a node and come back.

Two implementations: gRPC (`grpc_transport.py`) and direct calls (the embedded grid). Nothing above this file knows
which one it runs on. An `Exchange` is one ordered stream to one node; answers are matched by id and may overtake
each other. Every failure to reach a node is an UnavailableError or a DeadlineError; errors that a node answers
travel inside its messages. An UnavailableError with the field `reached` False says that no byte of the stream got
to the node, so that nothing of it can have been done.

Lifecycle of an Exchange: opened by `Transport.exchange` (which does not wait), sent and received on by one task
each, ended by `close` or by the first error, never used again after that.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

from tidegrid.v1 import control_pb2, grid_pb2


class Exchange(Protocol):
    async def send(self, request: grid_pb2.ExchangeRequest) -> None:
        """Returns when the transport takes more. Raises UnavailableError."""
        ...

    async def receive(self) -> grid_pb2.ExchangeReply:
        """The next answer. Raises UnavailableError when the stream has ended."""
        ...

    def close(self) -> None:
        """Ends the stream; what was not answered stays unknown. Idempotent."""
        ...


class FeedStream(Protocol):
    """Messages of one subscription to one node. Whoever does not read it makes the node wait."""

    def __aiter__(self) -> AsyncIterator[grid_pb2.FeedMessage]: ...

    async def __anext__(self) -> grid_pb2.FeedMessage:
        """Raises UnavailableError, and StopAsyncIteration when the node ended it."""
        ...

    def cancel(self) -> None:
        """Idempotent."""
        ...


class Transport(Protocol):
    async def hello(self, address: str, request: grid_pb2.HelloRequest, timeout: float) -> grid_pb2.HelloReply:
        """Asks a node by address, before anything is known of the grid. Raises UnavailableError, DeadlineError."""
        ...

    def exchange(self, member: control_pb2.Member) -> Exchange: ...

    def subscribe(self, member: control_pb2.Member, request: grid_pb2.SubscribeRequest) -> FeedStream: ...

    async def call(self, member: control_pb2.Member, method: str, request: Any, timeout: float) -> Any:
        """One unary call of the `Grid` service by its name ("Scan", "WaitEpoch", ...). Raises UnavailableError, DeadlineError."""
        ...

    async def close(self) -> None:
        """Ends every stream. Idempotent."""
        ...
