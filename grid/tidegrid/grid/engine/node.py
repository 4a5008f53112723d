"""One node of the grid as a state machine: requests, log outcomes, control records, messages and time go in, effects
come out (`take`). It composes the ring, the write path, the reference copies and the waits, and does no I/O.

Lifecycle: made over an applied prefix of the control log; its partitions are recovered and `opened` by the shell's
start (rule O); serves; `stop` refuses what is new, and `drained` says when nothing is on its way any more.

Order of effects: an answer is emitted only after the record it rests on has landed; a frame is appended only after
the one before it in its partition has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tidegrid.grid.engine.catalog import Catalog
from tidegrid.grid.engine.catalogs import Catalogs
from tidegrid.grid.engine.effects import Answered, AppendControl, ClosedTo, Effect, Tell
from tidegrid.grid.engine.exchange import ReferenceExchange
from tidegrid.grid.engine.feed import Closes
from tidegrid.grid.engine.intake import Carry, Intake, Request
from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.engine.reference import ReferenceCopies
from tidegrid.grid.engine.retention import Retention, RetentionOptions
from tidegrid.grid.engine.waiting import Milestone
from tidegrid.grid.engine.write import WriteRequest
from tidegrid.grid.engine.writes import WritePath
from tidegrid.grid.log.entry import LogRecord
from tidegrid.grid.model.errors import (
    GridError,
)
from tidegrid.grid.model.ids import Epoch, Incarnation, NodeId, PartitionId, Position
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.ring.control import Closed, ControlEvent, ControlState, Deployed, HorizonMoved, MapAdded, ViewChanged
from tidegrid.grid.ring.local import AppendClose, EpochRaised, RingOptions, Send
from tidegrid.grid.ring.messages import Body, Envelope, TokenMessage, TokenReceived, Wake
from tidegrid.grid.ring.ownership import PartitionState
from tidegrid.grid.ring.promise import PartitionPromise
from tidegrid.grid.ring.ring import Carried, Ring
from tidegrid.v1.control_pb2 import ControlRecord


class Instant(NamedTuple):
    """`now`: monotonic seconds, for timers. `time_ms`: wall time, for people."""

    now: float
    time_ms: int


class Node:
    def __init__(
        self,
        me: NodeId,
        incarnation: Incarnation,
        control: ControlState,
        limits: Limits,
        ring_options: RingOptions,
        retention: RetentionOptions,
        recent_bytes: int,
    ) -> None:
        self.me = me
        self.incarnation = incarnation
        self.control = control
        self.limits = limits
        self.closes = Closes()
        self._effects: list[Effect] = []
        self._ready = False
        self._instant = Instant(0.0, 0)
        self._recent_bytes = recent_bytes
        seed = int.from_bytes(control.grid_id[:8], "big")
        self.writes = WritePath(limits, seed, self._effects.append)
        self.copies = ReferenceCopies(first_number=incarnation << 32)
        self.references = ReferenceExchange(self.copies, control, me, self.writes.partitions)
        self.retention = Retention(control, retention)
        self._catalogs = Catalogs(control, limits)
        self.ring = Ring(me, incarnation, control, self, ring_options)
        self.intake = Intake(
            me, control, self.ring, self.writes, self.copies, self._catalogs, limits, self._effects.append
        )
        self._refresh_maps()

    @property
    def partitions(self) -> Mapping[PartitionId, Partition]:
        return self.writes.partitions

    @property
    def stopping(self) -> bool:
        return self.intake.stopping

    @property
    def epoch(self) -> Epoch:
        return self.ring.epoch

    @property
    def catalog(self) -> Catalog:
        return self._catalogs.at(self.ring.epoch)

    def take(self) -> list[Effect]:
        """The effects since the last call, in the order in which to perform them."""
        self._collect_ring()
        effects, self._effects[:] = list(self._effects), []
        return effects

    # Opening partitions (rule O) ---------------------------------------------------------------------------------

    def adopt(self, number: PartitionId) -> Partition:
        """A partition that the view gives to this node: recover it, then `opened`."""
        partition = Partition(number, self.limits, self.control.session_epochs, self._recent_bytes)
        partition.memory.closed = self.control.closed
        self.writes.partitions[number] = partition
        self._refresh_ready()
        partition.declare({name: spec.stateful for name, spec in self.control.declared.items()})
        return partition

    def opened(self, instant: Instant, number: PartitionId, position: Position, stamp: Epoch) -> None:
        """Its OPEN is in the log at `position`; the epoch follows the stamp (rule O2)."""
        self._enter(instant)
        partition = self.partitions[number]
        owner = self.control.view.owners[number]
        partition.term, partition.tail, partition.last_stamp = owner.term, position, stamp
        partition.opened.append((position, owner.term))
        partition.recent.start(stamp)
        partition.state = PartitionState.OPEN
        self.writes.highest_stamp = max(self.writes.highest_stamp, stamp)
        self._refresh_ready()
        self.ring.opened(instant.now, stamp)
        if self.ready():
            self._tell(self.references.opened(instant.now))

    # Requests ----------------------------------------------------------------------------------------------------

    def submit(self, instant: Instant, request: Request, carry: Carry, deadline: float) -> None:
        """Takes a request; its answer comes as an `Answered` effect, an error of the whole request in it too."""
        self._enter(instant)
        self.intake.submit(request, carry, deadline)

    def _enter(self, instant: Instant) -> None:
        self._instant = instant
        self.intake.now, self.intake.time_ms = instant

    # The write path ----------------------------------------------------------------------------------------------

    def compute(self, instant: Instant, writes_max: int) -> bool:
        """Computes frames until about `writes_max` writes are in them. False: nothing waited."""
        self._enter(instant)
        if self.writes.idle:
            return False
        catalog, epoch, copies = self.catalog, self.ring.epoch, self.copies
        worked = 0
        while worked < writes_max and not self.writes.idle:
            worked += self.writes.compute_one(catalog, epoch, instant.time_ms, copies)
        self.ring.stirred(instant.now)
        return True

    def landed(self, instant: Instant, partition: PartitionId, position: Position) -> None:
        self._enter(instant)
        self.writes.landed(partition, position)
        self.intake.frame_decided()
        self.ring.landed(instant.now)

    def append_failed(self, instant: Instant, partition: PartitionId, error: GridError) -> None:
        self._enter(instant)
        self.writes.failed(partition, error)
        self.intake.frame_decided()
        self._refresh_ready()
        self.ring.landed(instant.now)

    def tails_checked(
        self,
        instant: Instant,
        number: int,
        tails: Mapping[PartitionId, Position],
        control: Position,
        error: GridError | None = None,
    ) -> None:
        """What the log said to a `CheckTails`; `error`: it did not."""
        self._enter(instant)
        self.intake.tails_checked(number, tails, control, error)

    # The control log ---------------------------------------------------------------------------------------------

    def control_records(self, instant: Instant, records: Sequence[LogRecord]) -> None:
        """The next records of the control log, in order."""
        self._enter(instant)
        for item in records:
            if item.position > self.control.position:
                for event in self.control.apply(item.position, ControlRecord.FromString(item.payload)):
                    self._learn(event)
        self.ring.control_applied(instant.now)
        self._collect_ring()
        self._follow_references()

    def control_at_tail(self, instant: Instant) -> None:
        """The shell has read the control log to its end, after a `ReadControl`."""
        self._enter(instant)
        self.intake.control_at_tail()

    def _learn(self, event: ControlEvent) -> None:
        if isinstance(event, Closed):
            self.closes.add(event.epoch)
            self.writes.closed(event.epoch)
            self._effects.append(ClosedTo(event.epoch))
            self.intake.resume(Milestone.CLOSED, event.epoch)
        elif isinstance(event, MapAdded | Deployed):
            self._catalogs.forget()
            self._refresh_maps()
        elif isinstance(event, ViewChanged):
            self.copies.restart()
            for number, partition in self.partitions.items():
                owner = event.view.owners.get(number)
                if partition.state is PartitionState.OPEN and (
                    owner is None or (owner.node, owner.incarnation) != (self.me, self.incarnation)
                ):
                    self._answer(partition.close())
            self._refresh_ready()
        elif isinstance(event, HorizonMoved):
            self.retention.moved(event.epoch)

    def control_failed(self, instant: Instant, effect: AppendControl, error: GridError) -> None:
        """A wrong tail is mended by reading on, a full storage by trying again later; a horizon is proposed anew."""
        self._enter(instant)
        if effect.record.WhichOneof("record") == "close":
            self.ring.close_failed(instant.now, effect.expected, error)

    def fail(self, error: GridError) -> None:
        """The log is dead for this process (rule F3)."""
        self.writes.fail(error)
        self._refresh_ready()

    def _refresh_maps(self) -> None:
        declared = {name: spec.stateful for name, spec in self.control.declared.items()}
        for partition in self.partitions.values():
            partition.declare(declared)
        self.writes.reference_maps = self.references.names = self._catalogs.reference_maps()

    # Peers and time ----------------------------------------------------------------------------------------------

    def message(self, instant: Instant, envelope: Envelope) -> None:
        """From another node; whatever does not fit is dropped, its sender will repeat what matters."""
        self._enter(instant)
        if envelope.grid_id != self.control.grid_id:
            return
        if self.ring.carry(instant.now, envelope.control, envelope.epoch) is Carried.APPLY_FIRST:
            self.intake.read_control(None)
        body = envelope.body
        match body:
            case TokenMessage():
                self.ring.token_arrived(instant.now, body, envelope.sender)
            case TokenReceived():
                self.ring.token_received(instant.now, body, envelope.sender)
            case Wake():
                self.ring.wake(instant.now, body.want)
            case _:
                self._tell(self.references.received(instant.now, envelope.sender, body))
                self.intake.resume(Milestone.REFERENCES, self.copies.through)

    def time_passed(self, instant: Instant) -> None:
        self._enter(instant)
        self.ring.time_passed(instant.now)
        self.intake.expire()
        self._follow_references()
        record = self.retention.proposal(instant.time_ms, self.writes.history_bytes)
        if record is not None and not self.intake.stopping:
            self._effects.append(AppendControl(self.control.position, record))

    def deadline(self) -> float | None:
        """When `time_passed` is due."""
        times = (self.ring.deadline(), self.intake.deadline(), self.copies.deadline)
        return min((time for time in times if time is not None), default=None)

    def reclaim(self, budget: int) -> int:
        """Lets go of history past the horizon, and of ended sessions; at most about `budget` steps. Returns steps."""
        horizon = self.control.horizon
        self.copies.reclaim(horizon, budget)
        return self.retention.reclaim(self.partitions.values(), budget)

    def _follow_references(self) -> None:
        self._tell(self.references.advance(self._instant.now))
        self.intake.resume(Milestone.REFERENCES, self.copies.through)

    def _tell(self, messages: Iterable[tuple[NodeId, Body]]) -> None:
        for to, body in messages:
            self._effects.append(Tell(to, self._envelope(body)))

    def _envelope(self, body: Body) -> Envelope:
        control = self.control
        return Envelope(
            control.grid_id, control.position, self.ring.epoch, control.view.position, self.me, self.incarnation, body
        )

    def _collect_ring(self) -> None:
        while effects := self.ring.take():
            for effect in effects:
                if isinstance(effect, Send):
                    self._effects.append(Tell(effect.to, self._envelope(effect.message)))
                elif isinstance(effect, AppendClose):
                    self._effects.append(AppendControl(effect.expected, effect.record))
                elif isinstance(effect, EpochRaised):
                    self.intake.resume(Milestone.EPOCH, effect.epoch)

    def _answer(self, requests: Sequence[WriteRequest]) -> None:
        if requests:
            self._effects.append(Answered(requests))

    # Stopping ----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Refuses what is new, and what waits for something else than the log."""
        self.intake.stop()

    @property
    def drained(self) -> bool:
        return all(p.in_flight is None and p.next is None and not p.queue for p in self.partitions.values())

    # What the ring asks (ring.Local) -----------------------------------------------------------------------------

    def promises(self) -> Iterable[PartitionPromise]:
        for number, partition in self.partitions.items():
            yield PartitionPromise(number, partition.state is PartitionState.OPEN, in_flight=partition.lowest_in_flight)

    def tails(self) -> Mapping[PartitionId, Position]:
        return {
            number: partition.tail
            for number, partition in self.partitions.items()
            if partition.state is PartitionState.OPEN
        }

    def highest_stamp(self) -> Epoch:
        return self.writes.highest_stamp

    def reference_epoch(self) -> Epoch:
        return max((partition.references_changed for partition in self.partitions.values()), default=Epoch(0))

    def waiting_for(self) -> Epoch:
        return self.intake.waiting_for

    def ready(self) -> bool:
        return self._ready

    def _refresh_ready(self) -> None:
        owned = self.control.view.owned_by(self.me, self.incarnation)
        self._ready = bool(owned) and all(
            number in self.partitions and self.partitions[number].state is PartitionState.OPEN for number in owned
        )

    def time_ms(self) -> int:
        return self._instant.time_ms
