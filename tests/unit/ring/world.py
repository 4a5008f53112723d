"""A world of rings alone: shared logs, a lossy network and processes that die, all in simulated time from one seed.

It plays the parts of the engine and of the shells: it stamps records, appends them by compare-and-append, opens
partitions by rule O, and delivers messages lost, late, doubled and out of order, always through their bytes. After
every append it checks the invariants of the protocol against the logs themselves, as an all-seeing reader.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from tidegrid.grid.model.errors import GridError, StorageFullError, WrongTailError
from tidegrid.grid.model.ids import BEFORE_FIRST, Epoch, Incarnation, NodeId, PartitionId, Position, Term
from tidegrid.grid.model.maps import MapSpec
from tidegrid.grid.ring import ownership
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.declarations import spec_message
from tidegrid.grid.ring.local import AppendClose, RingOptions, Send
from tidegrid.grid.ring.messages import Envelope, TokenMessage, TokenReceived, Wake
from tidegrid.grid.ring.promise import PartitionPromise
from tidegrid.grid.ring.ring import Carried, Ring
from tidegrid.grid.ring.view import Member
from tidegrid.v1 import control_pb2

GRID = b"0123456789abcdef"


class Violation(AssertionError):
    pass


@dataclass
class Faults:
    loss: float = 0.0
    double: float = 0.0
    delay: float = 0.002  # mean, seconds
    close_full: float = 0.0
    close_delay: float = 0.003  # mean, seconds: how long a CLOSE is on its way to the log


@dataclass
class Written:
    position: Position
    term: Term
    stamp: Epoch
    valid: bool


@dataclass
class Part:
    term: Term
    open: bool = False
    tail: Position = BEFORE_FIRST
    in_flight: Epoch | None = None
    last_stamp: Epoch = field(default=Epoch(0))


class World:
    def __init__(
        self, seed: int, nodes: int = 3, partitions: int = 4, limit: int = 8, tick: float | None = 0.02
    ) -> None:
        self.seed, self.random = seed, random.Random(seed)
        self.now = 0.0
        self.faults = Faults()
        self.options = RingOptions(tick=tick)
        self.partitions = [PartitionId(p) for p in range(partitions)]
        self.logs: dict[PartitionId, list[Written]] = {p: [] for p in self.partitions}
        self.control_log: list[tuple[Position, control_pb2.ControlRecord]] = []
        self.truth = ControlState()
        self.messages = 0
        self.expect_control = True
        self.client = (BEFORE_FIRST, Epoch(0))
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._incarnations = 0
        created = control_pb2.GridCreated(grid_id=GRID, partitions=partitions, limit=limit)
        self.append_control(BEFORE_FIRST, control_pb2.ControlRecord(created=created))
        self.nodes = {NodeId(n): Process(self, NodeId(n)) for n in range(1, nodes + 1)}

    # Time -------------------------------------------------------------------------------------------------------

    def later(self, delay: float, action: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._events, (self.now + delay, self._sequence, action))

    def soon(self, mean: float) -> float:
        return self.random.expovariate(1 / mean)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, action = heapq.heappop(self._events)
            action()
        self.now = end

    # Logs -------------------------------------------------------------------------------------------------------

    def append_control(self, expected: Position, record: control_pb2.ControlRecord) -> bool:
        is_close = record.WhichOneof("record") == "close"
        tail = self.control_log[-1][0] if self.control_log else BEFORE_FIRST
        if expected != tail and (self.expect_control or not is_close):
            return False
        position = Position(tail + self.random.randint(1, 3))
        if is_close and record.close.epoch <= self.truth.closed:
            if self.expect_control:
                raise Violation(f"I4: CLOSE {record.close.epoch} after {self.truth.closed}")
            return False
        self.control_log.append((position, record))
        self.truth.apply(position, record)
        if is_close:
            self._check_close(Epoch(record.close.epoch))
        for process in getattr(self, "nodes", {}).values():
            process.control_grew()
        return True

    def _check_close(self, closed: Epoch) -> None:
        for partition, log in self.logs.items():
            covered = [written.position for written in log if written.valid and written.stamp <= closed]
            if covered and covered[-1] > self.truth.tails.get(partition, 0):
                raise Violation(
                    f"I15: the tails of CLOSE {closed} miss position {covered[-1]} of partition {partition}"
                )

    def append(
        self, partition: PartitionId, expected: Position, term: Term, stamp: Epoch, opens: bool = False
    ) -> Position | None:
        log = self.logs[partition]
        tail = log[-1].position if log else BEFORE_FIRST
        if tail != expected:
            return None
        current = max((w.term for w in log if w.valid), default=Term(0))
        valid = term > current if opens else term == current
        position = Position(tail + self.random.randint(1, 3))
        if valid:
            if stamp <= self.truth.closed:
                raise Violation(f"I2: stamp {stamp} in partition {partition} after CLOSE {self.truth.closed}")
            if any(w.stamp > stamp for w in log if w.valid):
                raise Violation(f"I1: stamp {stamp} in partition {partition} after a higher one")
        log.append(Written(position, term, stamp, valid))
        return position

    # What happens -----------------------------------------------------------------------------------------------

    def start_all(self) -> None:
        for process in self.nodes.values():
            process.start()

    def deliver(self, to: NodeId, envelope: Envelope) -> None:
        self.messages += 1
        if self.random.random() < self.faults.loss:
            return
        data = envelope.to_bytes()
        for _ in range(1 + (self.random.random() < self.faults.double)):
            self.later(self.soon(self.faults.delay), lambda: self.nodes[to].receive(Envelope.from_bytes(data)))

    def write_somewhere(self) -> None:
        self.random.choice(list(self.nodes.values())).write(self.random.choice(self.partitions))

    def declare_something(self) -> None:
        """As any node does that knows the end of the control log; it also wants it to act."""
        spec = MapSpec(f"map{len(self.truth.declared)}")
        record = control_pb2.ControlRecord(map=control_pb2.MapDeclared(spec=spec_message(spec)))
        assert self.append_control(self.truth.position, record)

    def forge(self) -> None:
        """A client that makes epochs up."""
        process = self.random.choice(list(self.nodes.values()))
        if process.ring is not None:
            epoch = Epoch(self.truth.limit + self.random.choice((-3, -1, 0, 1, 1000)))
            process.ring.carry(self.now, process.control.position, epoch, at_tail=True)
            process.step()

    def writes(self, seconds: float) -> None:
        """Writes and nothing else."""
        end = self.now + seconds
        while self.now < end:
            self.run(self.soon(0.004))
            self.write_somewhere()

    def storm(self, seconds: float, crash: float = 0.5) -> None:
        """Writes, declarations, made-up epochs, and crashes (`crash` times about 2.5 a second)."""
        end = self.now + seconds
        while self.now < end:
            self.run(self.soon(0.004))
            dice = self.random.random()
            if dice < 0.7:
                self.write_somewhere()
            elif dice < 0.72:
                self.declare_something()
            elif dice < 0.75:
                self.forge()
            elif dice < 0.75 + 0.01 * crash:
                self.random.choice(list(self.nodes.values())).restart(self.soon(0.1))

    def calm(self) -> None:
        self.faults = Faults()
        self.run(1.0)

    @property
    def highest_stamp(self) -> Epoch:
        return max((w.stamp for log in self.logs.values() for w in log if w.valid), default=Epoch(0))

    def check_rest(self) -> None:
        """I10: everything stamped is closed, every node has read it, and the grid is silent."""
        self.run(3.0)
        if self.truth.closed < self.highest_stamp:
            raise Violation(f"I10: closed {self.truth.closed}, stamped {self.highest_stamp}")
        if self.truth.activation_pending:
            raise Violation("I10: an activation is pending")
        for process in self.nodes.values():
            assert process.ring is not None
            if process.control != self.truth:
                raise Violation("two folds of one log differ")
            if process.ring.deadline() is not None:
                raise Violation(f"node {process.me} is not at rest")
        before = self.messages
        self.run(5.0)
        if self.messages != before:
            raise Violation("messages at rest")


class Process:
    """One node: a process that can die, and all it forgets then. Implements `Local`."""

    def __init__(self, world: World, me: NodeId) -> None:
        self.world, self.me = world, me
        self.incarnation = Incarnation(0)
        self.control = ControlState()
        self.ring: Ring | None = None
        self.parts: dict[PartitionId, Part] = {}
        self.wants = Epoch(0)
        self._timer = 0

    # Life -------------------------------------------------------------------------------------------------------

    def restart(self, after: float) -> None:
        if self.ring is None:
            return
        self.ring = None
        self.world.later(after, self.start)

    def start(self) -> None:
        world = self.world
        world._incarnations += 1
        self.incarnation, self.control, self.parts, self.wants = (
            Incarnation(world._incarnations),
            ControlState(),
            {},
            Epoch(0),
        )
        for position, record in world.control_log:
            self.control.apply(position, record)
        if world.random.random() < 0.5:
            self.control = ControlState.from_bytes(self.control.to_bytes())
        self.ring = Ring(self.me, self.incarnation, self.control, self, world.options)
        self._join()

    def _join(self) -> None:
        """Rule O1: a VIEW at the known end of the control log."""
        view = ownership.plan_view(self.control, Member(self.me, self.incarnation), list(self.world.nodes))
        expected = self.control.position
        self._when_alive(0.002, lambda: self._join_at(expected, view))

    def _join_at(self, expected: Position, view: control_pb2.View) -> None:
        if not self.world.append_control(expected, control_pb2.ControlRecord(view=view)):
            self._apply_all()
            self._join()

    def _when_alive(self, mean: float, action: Callable[[], None]) -> None:
        incarnation = self.incarnation

        def run() -> None:
            if self.ring is not None and self.incarnation == incarnation:
                action()
                self.step()

        self.world.later(self.world.soon(mean), run)

    # Control log ------------------------------------------------------------------------------------------------

    def control_grew(self) -> None:
        if self.ring is not None:
            self._when_alive(0.003, self._apply_some)

    def _apply_some(self) -> None:
        todo = [item for item in self.world.control_log if item[0] > self.control.position]
        count = self.world.random.randint(1, len(todo)) if todo else 0
        self._apply(todo[:count])
        if count < len(todo):
            self.control_grew()

    def _apply_all(self) -> None:
        self._apply([item for item in self.world.control_log if item[0] > self.control.position])

    def _apply(self, records: list[tuple[Position, control_pb2.ControlRecord]]) -> None:
        assert self.ring is not None
        was_member = self.ring.member
        for position, record in records:
            self.control.apply(position, record)
        self.ring.control_applied(self.world.now)
        if self.ring.member and not was_member:
            for partition in self.control.view.owned_by(self.me, self.incarnation):
                self.parts[partition] = Part(self.control.term(partition))
                self._open(partition, self.control.closed)

    def _open(self, partition: PartitionId, closed_as_of_view: Epoch) -> None:
        """Rules O1 (read to the tail only now), O2, O3."""

        def read() -> None:
            assert self.ring is not None
            valid = [w for w in self.world.logs[partition] if w.valid]
            tail = self.world.logs[partition][-1].position if valid else BEFORE_FIRST
            last = valid[-1].stamp if valid else Epoch(0)
            if self.ring.carry(self.world.now, BEFORE_FIRST, last) is not Carried.TAKEN:
                self._apply_all()
                assert self.ring.carry(self.world.now, BEFORE_FIRST, last, at_tail=True) is Carried.TAKEN
            stamp = ownership.open_stamp(self.ring.epoch, closed_as_of_view, last)
            self._when_alive(0.002, lambda: append(tail, stamp))

        def append(tail: Position, stamp: Epoch) -> None:
            assert self.ring is not None
            position = self.world.append(partition, tail, self.parts[partition].term, stamp, opens=True)
            if position is None:
                read()
                return
            part = self.parts[partition]
            part.open, part.tail, part.last_stamp = True, position, stamp
            self.ring.opened(self.world.now, stamp)

        self._when_alive(0.005, read)

    # Writes -----------------------------------------------------------------------------------------------------

    def write(self, partition: PartitionId) -> None:
        part, world = self.parts.get(partition), self.world
        if self.ring is None or part is None or not part.open or part.in_flight is not None:
            return
        verdict = self.ring.carry(world.now, *world.client)
        if verdict is not Carried.TAKEN:
            return
        stamp = part.in_flight = part.last_stamp = self.ring.epoch
        for name in world.truth.declared:
            acts_at = world.truth.map_activation(name)
            if acts_at is not None and acts_at <= stamp and name not in self.control.maps_at(stamp):
                raise Violation(f"I14: stamp {stamp} without having read what acts at {acts_at}")
        self.ring.stirred(world.now)
        expected, term, incarnation = part.tail, part.term, self.incarnation

        def land() -> None:  # also after a crash
            position = world.append(partition, expected, term, stamp)
            if self.ring is not None and self.incarnation == incarnation:
                self._when_alive(0.002, lambda: hear(position))

        def hear(position: Position | None) -> None:
            assert self.ring is not None and part is not None
            part.in_flight = None
            if position is None:
                del self.parts[partition]  # rule F1: step down
            else:
                part.tail = position
                world.client = (max(world.client[0], self.control.position), max(world.client[1], stamp))
            self.ring.landed(world.now)

        world.later(world.soon(0.004), land)
        self.step()

    # Shell ------------------------------------------------------------------------------------------------------

    def receive(self, envelope: Envelope) -> None:
        ring, now = self.ring, self.world.now
        if ring is None:
            return
        ring.carry(now, envelope.control, envelope.epoch)
        match envelope.body:
            case TokenMessage() as message:
                ring.token_arrived(now, message, envelope.sender)
            case TokenReceived() as message:
                ring.token_received(now, message, envelope.sender)
            case Wake(want):
                ring.wake(now, want)
        self.step()

    def step(self) -> None:
        """Perform what came out, in order, and set the one timer."""
        ring, world = self.ring, self.world
        if ring is None:
            return
        if not self.control.closed < ring.epoch < self.control.limit:
            raise Violation(f"epoch {ring.epoch} outside ({self.control.closed}, {self.control.limit})")
        for effect in ring.take():
            match effect:
                case Send(to, message):
                    control = self.control
                    world.deliver(
                        to,
                        Envelope(
                            control.grid_id,
                            control.position,
                            ring.epoch,
                            control.view.position,
                            self.me,
                            self.incarnation,
                            message,
                        ),
                    )
                case AppendClose():
                    self._append_close(effect)
        self._timer += 1
        timer, due = self._timer, ring.deadline()
        if due is not None:
            world.later(max(0.0, due - world.now), lambda: self._on_timer(timer))

    def _on_timer(self, timer: int) -> None:
        if self.ring is not None and timer == self._timer:
            self.ring.time_passed(self.world.now)
            self.step()

    def _append_close(self, effect: AppendClose) -> None:
        incarnation = self.incarnation

        def append() -> None:  # also after a crash
            error: GridError | None = None
            if self.world.random.random() < self.world.faults.close_full:
                error = StorageFullError("full")
            elif not self.world.append_control(effect.expected, effect.record):
                error = WrongTailError("wrong tail")
            if error is not None and self.ring is not None and self.incarnation == incarnation:
                failure = error
                self._when_alive(
                    0.002, lambda: self.ring and self.ring.close_failed(self.world.now, effect.expected, failure)
                )

        self.world.later(self.world.soon(self.world.faults.close_delay), append)

    # Local ------------------------------------------------------------------------------------------------------

    def promises(self) -> Iterable[PartitionPromise]:
        return [PartitionPromise(p, part.open, part.in_flight) for p, part in self.parts.items()]

    def tails(self) -> Mapping[PartitionId, Position]:
        return {p: part.tail for p, part in self.parts.items() if part.open}

    def highest_stamp(self) -> Epoch:
        return max((part.last_stamp for part in self.parts.values()), default=Epoch(0))

    def reference_epoch(self) -> Epoch:
        return self.highest_stamp()

    def waiting_for(self) -> Epoch:
        return self.wants

    def ready(self) -> bool:
        owned = self.control.view.owned_by(self.me, self.incarnation)
        return bool(owned) and all(p in self.parts and self.parts[p].open for p in owned)

    def time_ms(self) -> int:
        return int(self.world.now * 1000)
