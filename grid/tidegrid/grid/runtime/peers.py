"""How nodes reach each other: the seam, and the direct form for nodes of one process.

Sending never waits and never fails: a message that cannot be delivered is lost, and the ring repeats what matters.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from tidegrid.grid.model.ids import NodeId
from tidegrid.grid.ring.messages import Envelope

Receive = Callable[[Envelope], None]


class Peers(Protocol):
    def send(self, to: NodeId, envelope: Envelope) -> None: ...

    async def close(self) -> None: ...


class DirectPeers:
    """All nodes of one process: a message is the same object, delivered in a later turn of the event loop."""

    def __init__(self) -> None:
        self._receivers: dict[NodeId, Receive] = {}

    def join(self, node: NodeId, receive: Receive) -> None:
        self._receivers[node] = receive

    def leave(self, node: NodeId) -> None:
        self._receivers.pop(node, None)

    def send(self, to: NodeId, envelope: Envelope) -> None:
        receive = self._receivers.get(to)
        if receive is not None:
            asyncio.get_running_loop().call_soon(receive, envelope)

    async def close(self) -> None:
        self._receivers.clear()
