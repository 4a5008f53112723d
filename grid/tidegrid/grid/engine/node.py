"""One node of the grid as a state machine: requests, log outcomes, control records, messages and time go in, effects
come out (`take`). It composes the ring, the write path, the reference copies and the waits, and does no I/O.

Lifecycle: made over an applied prefix of the control log, as one incarnation (rule S); opens whatever the view gives to
it (rule O) and gives up what a view takes away, for as long as it lives; joins again when it was put out; `stop` refuses
what is new, and `drained` says when nothing is on its way any more.

Order of effects: an answer is emitted only after the record it rests on has landed; a frame is appended only after
the one before it in its partition has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tidegrid.grid.engine.catalog import Catalog
from tidegrid.grid.engine.catalogs import Catalogs
from tidegrid.grid.engine.effects import (
    AppendControl,
    ClosedTo,
    Effect,
    LoadCheckpoint,
    Purpose,
    ReadLog,
    ReadOutputs,
    Slot,
    Try,
)
from tidegrid.grid.engine.exchange import ReferenceExchange
from tidegrid.grid.engine.feed import Closes
from tidegrid.grid.engine.frame import Frame
from tidegrid.grid.engine.group import GroupRequest
from tidegrid.grid.engine.groups import Groups
from tidegrid.grid.engine.intake import Carry, Intake, Request
from tidegrid.grid.engine.lending import Lending
from tidegrid.grid.engine.making import BatchDone
from tidegrid.grid.engine.opening import Opening
from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.engine.post import LETTERS, Post
from tidegrid.grid.engine.reference import ReferenceCopies
from tidegrid.grid.engine.retention import Retention, RetentionOptions
from tidegrid.grid.engine.routing import Routing
from tidegrid.grid.engine.standing import Standing
from tidegrid.grid.engine.suspension import Suspensions
from tidegrid.grid.engine.tenure import Tenure
from tidegrid.grid.engine.waiting import Milestone
from tidegrid.grid.engine.writes import WritePath
from tidegrid.grid.log.entry import LogRecord
from tidegrid.grid.model.errors import GridError, LogFailedError
from tidegrid.grid.model.ids import Epoch, PartitionId, Position
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.control_events import (
    Closed,
    ControlEvent,
    Deployed,
    GenerationsChanged,
    HorizonMoved,
    MapAdded,
    ViewChanged,
)
from tidegrid.grid.ring.local import AppendClose, EpochRaised, Evict, RingOptions, Send
from tidegrid.grid.ring.messages import Body, Envelope, TokenMessage, TokenReceived, Wake
from tidegrid.grid.ring.ring import Carried, Ring
from tidegrid.grid.ring.view import Member
from tidegrid.triggers.budget import Watch
from tidegrid.v1 import ring_pb2
from tidegrid.v1.control_pb2 import ControlRecord


class Instant(NamedTuple):
    """`now`: monotonic seconds, for timers. `time_ms`: wall time, for people."""

    now: float
    time_ms: int


class Node:
    def __init__(
        self,
        member: Member,
        control: ControlState,
        limits: Limits,
        ring_options: RingOptions,
        retention: RetentionOptions,
        recent_bytes: int,
        strict: bool = False,
    ) -> None:
        self.me = me = member.node
        self.incarnation = incarnation = member.incarnation
        self.control = control
        self.limits = limits
        self.closes = Closes()
        self._effects: list[Effect] = []
        self._instant = Instant(0.0, 0)
        seed = int.from_bytes(control.grid_id[:8], "big")
        self.watch = watch = Watch()
        self.writes = WritePath(limits, seed, self._effects.append, lambda: self.ring.epoch, self._frame_landed, watch)
        self.copies = ReferenceCopies(first_number=incarnation << 32)
        self.references = ReferenceExchange(self.copies, control, me, self.writes.partitions)
        self.retention = Retention(control, retention)
        self._catalogs = Catalogs(control, limits, strict, watch)
        self.suspensions = Suspensions(self._catalogs, watch, self._effects.append)
        self.routing = Routing(me, control, self.writes.partitions, self._catalogs, limits, self.writes.stirred)
        self.standing = Standing(self)
        self.ring = Ring(me, incarnation, control, self.standing, ring_options)
        self.tenure = Tenure(
            member,
            control,
            self.ring,
            self.writes,
            self._catalogs,
            limits,
            recent_bytes,
            self._effects.append,
            self._opened,
        )
        self.intake = Intake(
            me, control, self.ring, self.writes, self.copies, self._catalogs, limits, self._effects.append, self._commit
        )
        self.lending = Lending(self.writes, control, self._catalogs, self.copies, limits, seed)
        self.groups = Groups(control, limits, self._effects.append, first_attempt=(me << 52) + (incarnation << 32))
        self.post = Post(
            me,
            incarnation,
            control,
            self.ring,
            self.groups,
            self.lending,
            self.routing,
            self._effects.append,
            self._decided,
        )
        self._refresh_maps()

    def start(self, instant: Instant) -> None:
        """Once, before anything else: takes up what the applied view gives to this node."""
        self.control.followed = True
        self._enter(instant)
        self.tenure.view_applied(instant.now)
        self.ring.control_applied(instant.now)

    @property
    def partitions(self) -> Mapping[PartitionId, Partition]:
        return self.writes.partitions

    @property
    def epoch(self) -> Epoch:
        return self.ring.epoch

    @property
    def catalog(self) -> Catalog:
        return self._catalogs.at(self.ring.epoch)

    def take(self) -> list[Effect]:
        """The effects since the last call, in the order in which to perform them. Raises as `Catalogs.check`."""
        self._catalogs.check()
        self.suspensions.look(self._instant)
        self.post.routed()
        self._collect_ring()
        effects, self._effects[:] = list(self._effects), []
        return effects

    # Partitions that come and go -----------------------------------------------------------------------------------

    @property
    def openings(self) -> Mapping[PartitionId, Opening]:
        """Partitions on their way to being open."""
        return self.tenure.openings

    def checkpoint_loaded(
        self, instant: Instant, load: LoadCheckpoint, position: Position, chunks: Iterable[bytes]
    ) -> Iterable[None]:
        """The newest checkpoint of a partition, or none (position 0), taken in step by step. Raises CorruptionError."""
        self._enter(instant)
        return self.tenure.checkpoint_loaded(load, position, chunks)

    def log_read(self, instant: Instant, read: ReadLog, records: Sequence[LogRecord]) -> None:
        """The outcome of a `ReadLog`. Raises CorruptionError."""
        self._enter(instant)
        if read.group is not None:
            self.post.tell(self.groups.slot_read(instant.now, read, records))
        elif self.tenure.opening(read.partition, read.term) is not None:
            self.tenure.log_read(instant.now, instant.time_ms, read, records)
        else:
            self.writes.slot_read(read, records)
            self.tenure.refresh()
            self._decided()

    def outputs_read(self, instant: Instant, read: ReadOutputs, after: Position, records: Sequence[LogRecord]) -> None:
        """The outcome of a `ReadOutputs`. Raises FormatError."""
        self._enter(instant)
        self.tenure.builds.outputs_read(read, after, records)
        self.retention.look_again()

    def _opened(self, partition: Partition) -> None:
        self.retention.look_again()
        self.routing.opened(self._instant.now, partition)
        if self.tenure.ready:
            self.post.tell(self.references.opened(self._instant.now))

    # Requests ----------------------------------------------------------------------------------------------------

    def submit(self, instant: Instant, request: Request, carry: Carry, deadline: float) -> None:
        """Takes a request; its answer comes as an `Answered` effect, an error of the whole request in it too."""
        self._enter(instant)
        self.intake.submit(request, carry, deadline)

    @property
    def instant(self) -> Instant:
        return self._instant

    def _enter(self, instant: Instant) -> None:
        self._instant = instant
        self.intake.now, self.intake.time_ms = instant
        self.post.now, self.post.time_ms = instant

    # The write path ----------------------------------------------------------------------------------------------

    def compute(self, instant: Instant, writes_max: int) -> bool:
        """Computes frames until about `writes_max` writes are in them. False: nothing waited."""
        self._enter(instant)
        if self.writes.idle:
            return False
        epoch, copies, worked = self.ring.epoch, self.copies, 0
        while worked < writes_max and not self.writes.idle:
            worked += self.writes.compute_one(self._catalogs, epoch, instant.time_ms, copies)
        self._lend_on()  # a frame of refusals alone leaves its slot free
        self.tenure.decided()
        self.ring.stirred(instant.now)
        return True

    def batch_done(self, instant: Instant, done: BatchDone) -> None:
        self._enter(instant)
        self.writes.batch_done(done)
        self._decided()

    def landed(self, instant: Instant, slot: Slot, position: Position) -> None:
        self._enter(instant)
        if slot.purpose is Purpose.OPEN:
            self.tenure.open_landed(instant.now, slot, position)
        else:
            self.writes.landed(slot, position)
        self._decided()

    def append_failed(self, instant: Instant, slot: Slot, error: GridError) -> None:
        self._enter(instant)
        if isinstance(error, LogFailedError):
            self.fail(error)
        elif slot.purpose is Purpose.OPEN:
            self.tenure.open_failed(instant.now, slot, error)
        else:
            self.writes.failed(instant.now, slot, error)
        self._decided()

    # Commit groups (rule G) ------------------------------------------------------------------------------------------

    def _commit(self, request: GroupRequest, deadline: float) -> None:
        self.post.tell(self.groups.submit(self._instant.now, request, deadline))

    def group_landed(self, instant: Instant, group: Try, positions: Sequence[Position]) -> None:
        self._enter(instant)
        self.post.tell(self.groups.landed(instant.now, group, positions))

    def group_failed(self, instant: Instant, group: Try, error: GridError) -> None:
        self._enter(instant)
        if isinstance(error, LogFailedError):
            self.fail(error)
        self.post.tell(self.groups.failed(instant.now, group, error))

    def _lend_on(self) -> None:
        self.post.tell(self.lending.go_on(self._instant.now, self.ring.epoch, self._instant.time_ms))

    def _frame_landed(self, partition: Partition, frame: Frame, position: Position) -> None:
        self.routing.landed(self._instant.now, partition, frame, position)

    def _decided(self) -> None:
        """Frames are in the log, or never will be."""
        self.ring.carry(self._instant.now, Position(0), self.writes.highest_stamp)  # that of a group may be above ours
        self.ring.landed(self._instant.now)
        self._lend_on()
        self.intake.frame_decided()
        self.tenure.decided()

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
        self.tenure.control_applied(instant.now)
        self.intake.holding.control_applied(*instant)
        self.post.control_applied()
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
            self.routing.closed()
            self._effects.append(ClosedTo(event.epoch))
            self.intake.resume(Milestone.CLOSED, event.epoch)
            self.tenure.closed()
        elif isinstance(event, MapAdded | Deployed):
            self._catalogs.forget()
            self._refresh_maps()
            if isinstance(event, Deployed):
                self.suspensions.resume()
        elif isinstance(event, ViewChanged):
            self.copies.restart()
            self.tenure.view_applied(self._instant.now)
            self.routing.view_applied(self._instant.now)
        elif isinstance(event, GenerationsChanged):
            self.tenure.generations_changed()
        elif isinstance(event, HorizonMoved):
            self.retention.look_again()

    def control_failed(self, instant: Instant, effect: AppendControl, error: GridError) -> None:
        """A wrong tail is mended by reading on, a full storage by trying again later; a horizon is proposed anew."""
        self._enter(instant)
        kind = effect.record.WhichOneof("record")
        if kind == "close":
            self.ring.close_failed(instant.now, effect.expected, error)
        elif kind == "view":
            self.tenure.membership.failed(effect.expected)
        else:
            self.intake.holding.failed(instant.now, effect, error)

    def fail(self, error: GridError) -> None:
        """The log is dead for this process (rule F3)."""
        self.writes.fail(error)
        self.tenure.fail()
        self.groups.fail(error)
        self.intake.holding.fail(error)

    def _refresh_maps(self) -> None:
        for partition in self.partitions.values():
            partition.tables.declare(self.control.declared.values())
        self.writes.reference_maps = self.references.names = self._catalogs.reference_maps()

    # Peers and time ----------------------------------------------------------------------------------------------

    def message(self, instant: Instant, envelope: Envelope) -> None:
        """From another node; whatever does not fit is dropped, its sender will repeat what matters."""
        self._enter(instant)
        if envelope.grid_id != self.control.grid_id:
            return
        carried = self.ring.carry(instant.now, envelope.control, envelope.epoch)
        if carried is Carried.APPLY_FIRST:
            self.intake.read_control(None)
        body = envelope.body
        if not isinstance(body, LETTERS):
            self._ring_message(envelope, body)
        else:
            self.post.received(envelope, carried)

    def _ring_message(self, envelope: Envelope, body: Body) -> None:
        instant = self._instant
        match body:
            case TokenMessage():
                self.ring.token_arrived(instant.now, body, envelope.sender)
            case TokenReceived():
                self.ring.token_received(instant.now, body, envelope.sender)
            case Wake():
                self.ring.wake(instant.now, body.want)
            case ring_pb2.ReferenceRequest() | ring_pb2.ReferenceReply():
                self.post.tell(self.references.received(instant.now, envelope.sender, envelope.view, body))
                self.intake.resume(Milestone.REFERENCES, self.copies.through)
                self._lend_on()

    def time_passed(self, instant: Instant) -> None:
        self._enter(instant)
        self.ring.time_passed(instant.now)
        self.intake.expire()
        self.writes.time_passed(instant.now)
        self.lending.time_passed(instant.now)
        self._lend_on()
        self.post.tell(self.groups.time_passed(instant.now))
        self.tenure.time_passed(instant.now)
        self.routing.time_passed(instant.now)
        self._follow_references()
        record = self.retention.proposal(instant.time_ms, self.writes.history_bytes)
        if record is not None and not self.intake.stopping:
            self._effects.append(AppendControl(self.control.position, record))

    def deadline(self) -> float | None:
        """When `time_passed` is due."""
        times = [self.ring.deadline(), self.intake.deadline(), self.copies.deadline, self.tenure.deadline()]
        times += (self.writes.deadline(), self.lending.deadline(), self.groups.deadline(), self.routing.deadline())
        return min((time for time in times if time is not None), default=None)

    def reclaim(self, budget: int) -> int:
        """Lets go of history past the horizon, and of ended sessions; at most about `budget` steps. Returns steps."""
        self.copies.reclaim(self.writes.isolation.needed(self.control.horizon), budget)
        return self.retention.reclaim((one for one in self.partitions.values() if one.serving), budget)

    def _follow_references(self) -> None:
        self.post.tell(self.references.advance(self._instant.now))
        self.intake.resume(Milestone.REFERENCES, self.copies.through)
        self._lend_on()

    def _collect_ring(self) -> None:
        while effects := self.ring.take():
            for effect in effects:
                if isinstance(effect, Send):
                    self.post.send(effect.to, effect.message)
                elif isinstance(effect, AppendClose):
                    self._effects.append(AppendControl(effect.expected, effect.record))
                elif isinstance(effect, Evict):
                    self.tenure.evict(effect.nodes)
                elif isinstance(effect, EpochRaised):
                    self.intake.resume(Milestone.EPOCH, effect.epoch)
                    self.writes.epoch_raised()
                    self._lend_on()

    # Stopping ----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Refuses what is new, and what waits for something else than the log."""
        self.intake.stop()
        self.post.tell(self.groups.stop(self._instant.now))

    @property
    def drained(self) -> bool:
        return self.groups.idle and all(partition.drained for partition in self.partitions.values())
