"""How nodes reach each other: the seam, and the direct form for nodes of one process.

Sending never waits and never fails: a message that cannot be delivered is lost, and the ring repeats what matters.
Asking is for what people wait for: it has one answer, or fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from tidegrid.grid.model.errors import DeadlineError, UnavailableError
from tidegrid.grid.model.ids import NodeId
from tidegrid.grid.ring.messages import Envelope
from tidegrid.v1.ring_pb2 import RehearseReply, RehearseRequest

Receive = Callable[[Envelope], None]
Answer = Callable[[RehearseRequest], Awaitable[RehearseReply]]


class Peers(Protocol):
    def send(self, to: NodeId, envelope: Envelope) -> None: ...

    async def ask(self, to: NodeId, request: RehearseRequest, timeout: float) -> RehearseReply:
        """Raises UnavailableError, DeadlineError."""
        ...

    async def close(self) -> None: ...


class DirectPeers:
    """All nodes of one process: a message is the same object, delivered in a later turn of the event loop."""

    def __init__(self) -> None:
        self._receivers: dict[NodeId, Receive] = {}
        self._answers: dict[NodeId, Answer] = {}

    def join(self, node: NodeId, receive: Receive) -> None:
        self._receivers[node] = receive

    def answer_with(self, node: NodeId, answer: Answer) -> None:
        self._answers[node] = answer

    def leave(self, node: NodeId) -> None:
        self._receivers.pop(node, None)
        self._answers.pop(node, None)

    def send(self, to: NodeId, envelope: Envelope) -> None:
        receive = self._receivers.get(to)
        if receive is not None:
            asyncio.get_running_loop().call_soon(receive, envelope)

    async def ask(self, to: NodeId, request: RehearseRequest, timeout: float) -> RehearseReply:
        answer = self._answers.get(to)
        if answer is None:
            raise UnavailableError(f"node {to} is not there", address="")
        try:
            async with asyncio.timeout(timeout):
                return await answer(request)
        except TimeoutError:
            raise DeadlineError(f"node {to} did not answer within {timeout:g} s") from None

    async def close(self) -> None:
        self._answers.clear()
        self._receivers.clear()
