"""Some rings and a network in virtual time, nothing else: for the bounds on time that the whole simulator does not look at.

Nodes stamp, and what they stamp is durable at once; messages take `delay` and may be lost; a node can be silent. The view
is given once. Deaths, moves, logs and every invariant of data are the simulator's (tests/simulation).
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

from tidegrid.grid.model.ids import Epoch, Incarnation, NodeId, PartitionId, Position
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.local import AppendClose, Evict, RingOptions, Send
from tidegrid.grid.ring.messages import Envelope, TokenMessage, TokenReceived, Wake
from tidegrid.grid.ring.ownership import next_view
from tidegrid.grid.ring.promise import PartitionPromise
from tidegrid.grid.ring.ring import Ring
from tidegrid.grid.ring.view import Member
from tidegrid.v1 import control_pb2

GRID = b"0123456789abcdef"
DELAY = 0.001


class World:
    def __init__(self, seed: int, nodes: int = 3, loss: float = 0.0) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.loss = loss
        self.silent: set[NodeId] = set()
        self.options = RingOptions()
        self.records: list[control_pb2.ControlRecord] = []
        self.closed_at: dict[int, float] = {}
        self.evictions: list[tuple[float, NodeId, frozenset[NodeId]]] = []
        self.tokens = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        state = ControlState()
        self._append(state, control_pb2.ControlRecord(created=control_pb2.GridCreated(grid_id=GRID, partitions=8)))
        members = [Member(NodeId(number), Incarnation(1)) for number in range(nodes)]
        self._append(state, control_pb2.ControlRecord(view=next_view(state, members)))
        self.truth = state
        self.nodes = [Process(self, member.node) for member in members]
        for process in self.nodes:
            process.ring.control_applied(0.0)
            process.step()

    def _append(self, state: ControlState, record: control_pb2.ControlRecord) -> None:
        self.records.append(record)
        state.apply(Position(len(self.records)), record)

    def close(self, effect: AppendClose) -> None:
        if effect.expected == self.truth.position:
            self._append(self.truth, effect.record)
            for epoch in range(1, effect.record.close.epoch + 1):
                self.closed_at.setdefault(epoch, self.now)
            for process in self.nodes:
                self.later(DELAY, process.read_control)

    def later(self, delay: float, action: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._events, (self.now + delay, self._sequence, action))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, action = heapq.heappop(self._events)
            action()
        self.now = end

    def send(self, sender: NodeId, to: NodeId, envelope: Envelope) -> None:
        self.tokens += isinstance(envelope.body, TokenMessage)
        if self.random.random() >= self.loss and not self.silent & {sender, to}:
            self.later(DELAY, lambda: self.nodes[to].receive(envelope))


class Process:
    """One node. Implements `Local`."""

    def __init__(self, world: World, me: NodeId) -> None:
        self.world, self.me = world, me
        self.control = ControlState()
        for position, record in enumerate(world.records, start=1):
            self.control.apply(Position(position), record)
        self.stamped = Epoch(0)
        self.ring = Ring(me, Incarnation(1), self.control, self, world.options)
        self._timer = 0

    def stamp(self) -> Epoch:
        self.stamped = self.ring.epoch
        self.ring.stirred(self.world.now)
        self.step()
        return self.stamped

    def read_control(self) -> None:
        for position, record in enumerate(self.world.records, start=1):
            if position > self.control.position:
                self.control.apply(Position(position), record)
        self.ring.control_applied(self.world.now)
        self.step()

    def receive(self, envelope: Envelope) -> None:
        now = self.world.now
        self.ring.carry(now, envelope.control, envelope.epoch)
        match envelope.body:
            case TokenMessage() as message:
                self.ring.token_arrived(now, message, envelope.sender)
            case TokenReceived() as message:
                self.ring.token_received(now, message, envelope.sender)
            case Wake(want):
                self.ring.wake(now, want)
        self.step()

    def step(self) -> None:
        """Perform what came out, in order, and set the one timer."""
        world, control = self.world, self.control
        for effect in self.ring.take():
            match effect:
                case Send(to, body):
                    view, epoch = control.view.position, self.ring.epoch
                    world.send(
                        self.me, to, Envelope(GRID, control.position, epoch, view, self.me, Incarnation(1), body)
                    )
                case AppendClose():
                    world.later(DELAY, lambda effect=effect: world.close(effect))  # type: ignore[misc]
                case Evict(gone):
                    world.evictions.append((world.now, self.me, gone))
        self._timer += 1
        timer, due = self._timer, self.ring.deadline()
        if due is not None:
            world.later(max(0.0, due - world.now), lambda: self._on_timer(timer))

    def _on_timer(self, timer: int) -> None:
        if timer == self._timer:
            self.ring.time_passed(self.world.now)
            self.step()

    # Local ------------------------------------------------------------------------------------------------------

    def promises(self) -> list[PartitionPromise]:
        return [PartitionPromise(partition, True) for partition in self._owned()]

    def _owned(self) -> tuple[PartitionId, ...]:
        return self.control.view.owned_by(self.me, Incarnation(1))

    def tails(self) -> dict[PartitionId, Position]:
        return {}

    def highest_stamp(self) -> Epoch:
        return self.stamped

    def reference_epoch(self) -> Epoch:
        return Epoch(0)

    def waiting_for(self) -> Epoch:
        return Epoch(0)

    def ready(self) -> bool:
        return True

    def time_ms(self) -> int:
        return int(self.world.now * 1000)
