"""A gate around one node: what enters and leaves it passes, waits, or is gone for good.

    open <--> paused      everything that would enter waits, and is delivered in order when it opens again
    open  --> stalled     the log takes appends and does not say what came of them; it goes on to paused, dead or open
    any   --> dead        nothing enters or leaves any more; appends that were issued may land, and it never hears of it

It stands at all seams of the node: client requests (GatedService), messages and timers (GatedDriver), the outcomes and
reads of the log (GatedLog), messages to other nodes (GatedPeers). The links to other nodes may be cut or bad while the
gate is open (`Links`), and the node may be deaf to the control log. Nothing of it knows the engine: to the node it is a slow machine or a bad network.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from tidegrid.grid.engine.intake import Carry, Request
from tidegrid.grid.engine.node import Node
from tidegrid.grid.journal.seam import Checkpoint, Fold, Log, Settled
from tidegrid.grid.log.entry import Entry, LogRecord
from tidegrid.grid.model.errors import GridError, UnavailableError
from tidegrid.grid.model.ids import CONTROL_LOG, Epoch, LogId, NodeId, Position
from tidegrid.grid.ring.messages import Envelope
from tidegrid.grid.rpc.exchange import Respond
from tidegrid.grid.rpc.grid_service import GridService
from tidegrid.grid.runtime.clock import Clock
from tidegrid.grid.runtime.driver import TURN_WRITES, Driver
from tidegrid.grid.runtime.local_grid import LocalGrid
from tidegrid.grid.runtime.peers import Peers
from tidegrid.v1 import grid_pb2
from tidegrid.v1.ring_pb2 import RehearseReply, RehearseRequest

T = TypeVar("T")


class State(enum.Enum):
    OPEN = "open"
    STALLED = "stalled"
    PAUSED = "paused"
    DEAD = "dead"


@dataclass(slots=True)
class Links:
    """The links of one node to the others. `lost`, `doubled`: chances of a message; `late`: seconds at most."""

    cut: bool = False
    lost: float = 0.0
    doubled: float = 0.0
    late: float = 0.0


class Gate:
    def __init__(self, choose: random.Random) -> None:
        self.choose = choose
        self.links = Links()
        self._state = State.OPEN
        self._held: deque[Callable[[], None]] = deque()
        self._open = asyncio.Event()
        self._open.set()
        self._hearing = asyncio.Event()
        self._hearing.set()

    @property
    def is_open(self) -> bool:
        return self._state in (State.OPEN, State.STALLED)

    @property
    def is_dead(self) -> bool:
        return self._state is State.DEAD

    def enter(self, act: Callable[[], None]) -> None:
        """Now, later or never."""
        if self.is_open:
            act()
        elif self._state is State.PAUSED:
            self._held.append(act)

    def tell(self, outcome: Callable[[], None]) -> None:
        """As `enter`, for what came of an append."""
        if self._state is State.STALLED:
            self._held.append(outcome)
        else:
            self.enter(outcome)

    async def passed(self) -> None:
        """Returns when the gate is open."""
        while not self.is_open:
            await self._open.wait()

    async def through(self, work: Awaitable[T]) -> T:
        """What comes of it is told when the gate is open."""
        result = await work
        await self.passed()
        return result

    def stall(self) -> None:
        assert self._state is State.OPEN
        self._state = State.STALLED

    def pause(self) -> None:
        assert self.is_open
        self._state = State.PAUSED
        self._open.clear()

    def resume(self) -> None:
        assert not self.is_dead
        self._state = State.OPEN
        while self._held and self.is_open:
            self._held.popleft()()
        self._open.set()

    def deafen(self, deaf: bool) -> None:
        """While it is deaf the node learns nothing of the control log: neither closes nor who owns what."""
        if deaf:
            self._hearing.clear()
        else:
            self._hearing.set()

    async def hears(self) -> None:
        await self._hearing.wait()

    def die(self) -> None:
        self._state = State.DEAD
        self._held.clear()
        self._open.clear()


class GatedLog:
    """One node's handle of the log, which all of them share."""

    def __init__(self, log: Log, gate: Gate) -> None:
        self._log = log
        self._gate = gate

    def start(self, entries: Sequence[Entry], settled: Settled) -> None:
        if self._gate.is_dead:
            return

        def outcome(positions: tuple[Position, ...], error: GridError | None) -> None:
            self._gate.tell(partial(settled, positions, error))

        self._log.start(entries, outcome)

    def flush(self) -> None:
        if self._gate.is_open:
            self._log.flush()

    async def append(self, entries: Sequence[Entry]) -> tuple[Position, ...]:
        await self._gate.passed()
        return await self._gate.through(self._log.append(entries))

    async def tail(self, log: LogId) -> Position:
        await self._gate.passed()
        return await self._gate.through(self._log.tail(log))

    async def read(self, log: LogId, after: Position, bytes_max: int) -> list[LogRecord]:
        if log == CONTROL_LOG:
            await self._gate.hears()
        await self._gate.passed()
        return await self._gate.through(self._log.read(log, after, bytes_max))

    async def position_before(self, log: LogId, epoch: Epoch) -> Position:
        await self._gate.passed()
        return await self._gate.through(self._log.position_before(log, epoch))

    def follow(self, log: LogId, wake: Callable[[], None]) -> Callable[[], None]:
        return self._log.follow(log, partial(self._gate.enter, wake))

    async def save_checkpoint(self, log: LogId, position: Position, chunks: AsyncIterator[bytes]) -> None:
        await self._gate.passed()
        await self._gate.through(self._log.save_checkpoint(log, position, chunks))

    async def load_checkpoint(self, log: LogId) -> Checkpoint | None:
        await self._gate.passed()
        return await self._gate.through(self._log.load_checkpoint(log))

    async def compact(self, log: LogId, through: Position, fold: Fold) -> int:
        await self._gate.passed()
        return await self._gate.through(self._log.compact(log, through, fold))

    @property
    def bytes_written(self) -> int:
        return self._log.bytes_written

    async def close(self) -> None:
        """The log is the grid's."""


class GatedPeers:
    def __init__(self, peers: Peers, gate: Gate) -> None:
        self.gate = gate
        self._peers = peers
        self._loop = asyncio.get_running_loop()

    def send(self, to: NodeId, envelope: Envelope) -> None:
        links, choose = self.gate.links, self.gate.choose
        if not self.gate.is_open or links.cut:
            return
        for _ in range(2 if choose.random() < links.doubled else 1):
            if choose.random() < links.lost:
                continue
            if links.late and choose.random() < 0.5:
                self._loop.call_later(choose.uniform(0.0, links.late), self._send_late, to, envelope)
            else:
                self._peers.send(to, envelope)

    def _send_late(self, to: NodeId, envelope: Envelope) -> None:
        if not self.gate.is_dead:  # it is on the wire: a pause does not hold it
            self._peers.send(to, envelope)

    async def ask(self, to: NodeId, request: RehearseRequest, timeout: float) -> RehearseReply:
        if not self.gate.is_open or self.gate.links.cut:
            raise UnavailableError(f"node {to} cannot be reached", address="")
        return await self._peers.ask(to, request, timeout)

    async def close(self) -> None:
        await self._peers.close()


class GatedDriver(Driver):
    """Takes the gate from its peers."""

    def __init__(
        self, node: Node, log: Log, peers: Peers, clock: Clock, on_failure: Callable[[GridError], None] | None = None
    ) -> None:
        assert isinstance(peers, GatedPeers)
        self.gate = peers.gate
        super().__init__(node, GatedLog(log, self.gate), peers, clock, on_failure)

    def submit(self, request: Request, carry: Carry, timeout: float) -> None:
        self.gate.enter(partial(super().submit, request, carry, timeout))

    def receive(self, envelope: Envelope) -> None:
        if not self.gate.links.cut:
            self.gate.enter(partial(super().receive, envelope))

    def _turn(self, writes_max: int = TURN_WRITES) -> None:
        self._turn_due = False
        self.gate.enter(partial(super()._turn, writes_max))

    def _time_passed(self) -> None:
        self.gate.enter(super()._time_passed)


class GatedService(GridService):
    """What clients reach of the node: their requests wait at the gate, and answers leave while it is open."""

    def __init__(self, grid: LocalGrid, driver: GatedDriver) -> None:
        super().__init__(grid, driver)
        self._gate = driver.gate
        self.unary = {name: partial(self._gated, call) for name, call in self.unary.items()}

    async def _gated(self, call: Callable[[Any], Awaitable[Any]], request: Any) -> Any:
        await self._gate.passed()
        return await self._gate.through(call(request))

    def exchange(self, message: grid_pb2.ExchangeRequest, respond: Respond) -> None:
        self._gate.enter(partial(super().exchange, message, respond))

    async def subscribe(self, request: grid_pb2.SubscribeRequest, peer: str = "") -> AsyncIterator[bytes]:
        await self._gate.passed()
        feed: Any = super().subscribe(request, peer)
        async with contextlib.aclosing(feed):
            async for message in feed:
                await self._gate.passed()
                yield message
