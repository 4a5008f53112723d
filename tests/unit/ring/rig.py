"""One ring under the hands of a test: three configured nodes, four partitions, and a node that says what it is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tidegrid.grid.model.ids import Epoch, Incarnation, NodeId, PartitionId, Position
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.local import AppendClose, Effect, EpochRaised, Evict, RingOptions, Send
from tidegrid.grid.ring.messages import TokenMessage, TokenReceived, Wake
from tidegrid.grid.ring.promise import PartitionPromise
from tidegrid.grid.ring.ring import Ring
from tidegrid.grid.ring.token import Token, visit
from tidegrid.v1 import control_pb2

from tests.unit.ring.test_control import K, folded, view

GRID = b"g" * 16
A, B, C = NodeId(1), NodeId(2), NodeId(3)
OPTIONS = RingOptions()
assert K > 3


@dataclass
class Told:
    """A `Local` whose answers are set by the test."""

    held: list[PartitionPromise] = field(default_factory=list)
    durable: dict[PartitionId, Position] = field(default_factory=dict)
    stamp: Epoch = field(default=Epoch(0))
    reference: Epoch = field(default=Epoch(0))
    wanted: Epoch = field(default=Epoch(0))
    is_ready: bool = True
    wall_ms: int = 1000

    def promises(self) -> list[PartitionPromise]:
        return self.held

    def tails(self) -> dict[PartitionId, Position]:
        return self.durable

    def highest_stamp(self) -> Epoch:
        return self.stamp

    def reference_epoch(self) -> Epoch:
        return self.reference

    def waiting_for(self) -> Epoch:
        return self.wanted

    def ready(self) -> bool:
        return self.is_ready

    def time_ms(self) -> int:
        return self.wall_ms


class Rig:
    def __init__(self, me: NodeId = A, nodes: int = 3, options: RingOptions = OPTIONS, member: bool = True) -> None:
        self.control: ControlState = folded()
        self.nodes = nodes
        if member:
            self.apply(self.view())
        self.local = Told()
        self.ring = Ring(me, Incarnation(me * 10), self.control, self.local, options)
        for partition in self.control.view.owned_by(me, Incarnation(me * 10)):
            self.local.held.append(PartitionPromise(partition, True))
        self.ring.control_applied(0.0)
        self.effects: list[Effect] = self.ring.take()

    def view(self, **incarnations: int) -> control_pb2.ControlRecord:
        """Node n has incarnation 10 n, or what `n<n>=` says; partition p belongs to node p mod N + 1."""
        named = {n: incarnations.get(f"n{n}", n * 10) for n in range(1, self.nodes + 1)}
        owners = {p: (p % self.nodes + 1, named[p % self.nodes + 1], 1) for p in range(4)}
        return view(named, owners)

    def apply(self, record: control_pb2.ControlRecord) -> None:
        self.control.apply(Position(self.control.position + 3), record)

    def applied(self, now: float, record: control_pb2.ControlRecord) -> None:
        self.apply(record)
        self.ring.control_applied(now)

    def take(self) -> list[Effect]:
        return self.ring.take()

    def stamp(self, now: float, partition: int | None = None) -> Epoch:
        """Something is stamped, and in flight in `partition`."""
        self.local.stamp = self.ring.epoch
        if partition is not None:
            self.hold(partition, self.ring.epoch)
        self.ring.stirred(now)
        return self.local.stamp

    def hold(self, partition: int, in_flight: Epoch | None) -> None:
        rest = [promise for promise in self.local.held if promise.partition != partition]
        self.local.held = [*rest, PartitionPromise(PartitionId(partition), True, in_flight)]

    def arrive(self, now: float, token: Token, sender: NodeId = A) -> list[Effect]:
        self.ring.token_arrived(now, TokenMessage(token), sender)
        return self.take()


def tokens(effects: Sequence[Effect]) -> list[tuple[NodeId, Token]]:
    return [(e.to, e.message.token) for e in effects if isinstance(e, Send) and isinstance(e.message, TokenMessage)]


def wakes(effects: Sequence[Effect]) -> list[tuple[NodeId, Epoch]]:
    return [(e.to, e.message.want) for e in effects if isinstance(e, Send) and isinstance(e.message, Wake)]


def received(effects: Sequence[Effect]) -> list[tuple[NodeId, int, int]]:
    found = [(e.to, e.message) for e in effects if isinstance(e, Send)]
    return [(to, m.round, m.generation) for to, m in found if isinstance(m, TokenReceived)]


def closes(effects: Sequence[Effect]) -> list[AppendClose]:
    return [e for e in effects if isinstance(e, AppendClose)]


def raised(effects: Sequence[Effect]) -> list[Epoch]:
    return [e.epoch for e in effects if isinstance(e, EpochRaised)]


def evictions(effects: Sequence[Effect]) -> list[frozenset[NodeId]]:
    return [e.nodes for e in effects if isinstance(e, Evict)]


def home(token: Token, *nodes: NodeId, busy: bool = False) -> Token:
    """As it comes back after B and C, or these nodes, were visited."""
    for node in nodes or (B, C):
        token = visit(token, node, Epoch(1), {}, Epoch(0), busy)
    return token
