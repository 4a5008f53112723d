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
    ReadControl,
    ReadLog,
    Slot,
    Tell,
)
from tidegrid.grid.engine.exchange import ReferenceExchange
from tidegrid.grid.engine.feed import Closes
from tidegrid.grid.engine.intake import Carry, Intake, Request
from tidegrid.grid.engine.opening import RETRY_SECONDS, Opening
from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.engine.reference import ReferenceCopies
from tidegrid.grid.engine.retention import Retention, RetentionOptions
from tidegrid.grid.engine.waiting import Milestone
from tidegrid.grid.engine.writes import WritePath
from tidegrid.grid.log.entry import LogRecord
from tidegrid.grid.model.errors import GridError, LogFailedError
from tidegrid.grid.model.ids import Epoch, NodeId, PartitionId, Position, Term
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.ring.control import Closed, ControlEvent, ControlState, Deployed, HorizonMoved, MapAdded, ViewChanged
from tidegrid.grid.ring.local import AppendClose, EpochRaised, Evict, RingOptions, Send
from tidegrid.grid.ring.membership import Membership, ViewProposal
from tidegrid.grid.ring.messages import Body, Envelope, TokenMessage, TokenReceived, Wake
from tidegrid.grid.ring.ownership import PartitionState, advance, open_stamp
from tidegrid.grid.ring.promise import PartitionPromise
from tidegrid.grid.ring.ring import Carried, Ring
from tidegrid.grid.ring.view import Member
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
    ) -> None:
        self.me = me = member.node
        self.incarnation = incarnation = member.incarnation
        self.control = control
        self.limits = limits
        self.closes = Closes()
        self._effects: list[Effect] = []
        self._ready = False
        self._instant = Instant(0.0, 0)
        self._recent_bytes = recent_bytes
        self._openings: dict[PartitionId, Opening] = {}
        self._view_held = False  # a round has been closed in the applied view: its members are there
        self.membership = Membership(member)
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

    def start(self, instant: Instant) -> None:
        """Once, before anything else: takes up what the applied view gives to this node."""
        self._enter(instant)
        self._view_applied()
        self.ring.control_applied(instant.now)

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

    # Ownership (rules O and L) ------------------------------------------------------------------------------------

    @property
    def openings(self) -> Mapping[PartitionId, Opening]:
        """Partitions on their way to being open."""
        return self._openings

    def _view_applied(self) -> None:
        """Gives up what another has now, opens what is ours."""
        view = self.control.view
        owned = {number: view.owners[number].term for number in view.owned_by(self.me, self.incarnation)}
        for number, partition in list(self.partitions.items()):
            if owned.get(number) != partition.claim:
                self._openings.pop(number, None)
                self.writes.give_up(number)
        for number, term in owned.items():
            if number not in self.partitions:
                self._adopt(number, term, len(owned))
        self._view_held = False
        self._refresh_ready()
        self.membership.applied(self._instant.now, self.control)

    def _adopt(self, number: PartitionId, term: Term, share: int) -> None:
        recent_bytes = self._recent_bytes // share
        partition = Partition(number, self.limits, self.control.session_epochs, recent_bytes, term)
        partition.memory.closed = self.control.closed
        partition.declare({name: spec.stateful for name, spec in self.control.declared.items()})
        self.writes.partitions[number] = partition
        reference_maps = self.writes.reference_maps
        self._openings[number] = Opening(
            partition, self.me, self.incarnation, self.control.closed, reference_maps, self._effects.append
        )

    def _opening(self, number: PartitionId, term: Term) -> Opening | None:
        opening = self._openings.get(number)
        return opening if opening is not None and opening.partition.claim == term else None

    def checkpoint_loaded(
        self, instant: Instant, load: LoadCheckpoint, position: Position, chunks: Iterable[bytes]
    ) -> Iterable[None]:
        """The newest checkpoint of a partition, or none (position 0), taken in step by step. Raises CorruptionError."""
        self._enter(instant)
        opening = self._opening(load.partition, load.term)
        return opening.checkpoint_loaded(position, chunks) if opening is not None else ()

    def log_read(self, instant: Instant, read: ReadLog, records: Sequence[LogRecord]) -> None:
        """The outcome of a `ReadLog`. Raises CorruptionError."""
        self._enter(instant)
        opening = self._opening(read.partition, read.term)
        if opening is None:
            self.writes.slot_read(read, records)
            self._refresh_ready()
            self._decided()
        elif read.after != opening.position:
            return
        elif records:
            opening.read(records)
        else:
            self._open(opening)

    def _open(self, opening: Opening) -> None:
        """Rule O2. A log that knows more of time than this node: the control log has to be read on first (E3)."""
        last = opening.partition.last_stamp
        if self.ring.carry(self._instant.now, Position(0), last) is not Carried.TAKEN:
            self._effects.append(ReadControl())
            opening.retry_at = self._instant.now + RETRY_SECONDS
        elif opening.at_end(open_stamp(self.ring.epoch, opening.closed, last), self._instant.time_ms):
            self._opened(opening.partition)

    def _opened(self, partition: Partition) -> None:
        del self._openings[partition.id]
        stamp, now = partition.last_stamp, self._instant.now
        self.writes.highest_stamp = max(self.writes.highest_stamp, stamp)
        self._refresh_ready()
        self.ring.opened(now, stamp)
        if self.ready():
            self._tell(self.references.opened(now))

    def _propose(self, proposal: ViewProposal | None) -> None:
        if proposal is not None:
            self._effects.append(AppendControl(proposal.expected, ControlRecord(view=proposal.view)))

    def _rebalance(self) -> None:
        """Planned moves: one partition at a time takes nothing new, and goes when it is drained."""
        misplaced = [
            partition
            for number in self.membership.misplaced(self.control)
            if (partition := self.partitions[number]).serving
        ]
        draining = [partition for partition in self.partitions.values() if partition.state is PartitionState.DRAINING]
        for partition in draining:
            if partition not in misplaced:
                partition.state = advance(partition.state, PartitionState.OPEN)
            elif partition.drained:
                self._propose(self.membership.hand_over(partition.id, self.control))
        if misplaced and not draining and self._view_held:
            misplaced[0].state = advance(misplaced[0].state, PartitionState.DRAINING)
            self._rebalance()

    # Requests ----------------------------------------------------------------------------------------------------

    def submit(self, instant: Instant, request: Request, carry: Carry, deadline: float) -> None:
        """Takes a request; its answer comes as an `Answered` effect, an error of the whole request in it too."""
        self._enter(instant)
        self.intake.submit(request, carry, deadline)

    def _enter(self, instant: Instant) -> None:
        self._instant = instant
        self.intake.now = instant.now

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

    def landed(self, instant: Instant, slot: Slot, position: Position) -> None:
        self._enter(instant)
        if slot.purpose is not Purpose.OPEN:
            self.writes.landed(slot, position)
        elif (opening := self._opening(slot.partition, slot.term)) is not None:
            opening.opened(position, opening.stamp)
            self._opened(opening.partition)
        self._decided()

    def append_failed(self, instant: Instant, slot: Slot, error: GridError) -> None:
        self._enter(instant)
        opening = self._opening(slot.partition, slot.term)
        if isinstance(error, LogFailedError):
            self.fail(error)
        elif opening is not None:
            opening.failed(instant.now, error)
        else:
            self.writes.failed(instant.now, slot, error)
        self._decided()

    def _decided(self) -> None:
        """Frames are in the log, or never will be."""
        self.ring.landed(self._instant.now)
        if any(partition.state is PartitionState.DRAINING for partition in self.partitions.values()):
            self._rebalance()

    # The control log ---------------------------------------------------------------------------------------------

    def control_records(self, instant: Instant, records: Sequence[LogRecord]) -> None:
        """The next records of the control log, in order."""
        self._enter(instant)
        for item in records:
            if item.position > self.control.position:
                for event in self.control.apply(item.position, ControlRecord.FromString(item.payload)):
                    self._learn(event)
        self.membership.applied(instant.now, self.control)
        self.ring.control_applied(instant.now)
        self._rebalance()
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
            self._view_held = True
        elif isinstance(event, MapAdded | Deployed):
            self._catalogs.forget()
            self._refresh_maps()
        elif isinstance(event, ViewChanged):
            self.copies.restart()
            self._view_applied()
        elif isinstance(event, HorizonMoved):
            self.retention.moved(event.epoch)

    def control_failed(self, instant: Instant, effect: AppendControl, error: GridError) -> None:
        """A wrong tail is mended by reading on, a full storage by trying again later; a horizon is proposed anew."""
        self._enter(instant)
        kind = effect.record.WhichOneof("record")
        if kind == "close":
            self.ring.close_failed(instant.now, effect.expected, error)
        elif kind == "view":
            self.membership.failed(effect.expected)

    def fail(self, error: GridError) -> None:
        """The log is dead for this process (rule F3)."""
        self.writes.fail(error)
        self._openings.clear()
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
                self._tell(self.references.received(instant.now, envelope.sender, envelope.view, body))
                self.intake.resume(Milestone.REFERENCES, self.copies.through)

    def time_passed(self, instant: Instant) -> None:
        self._enter(instant)
        self.ring.time_passed(instant.now)
        self.intake.expire()
        self.writes.time_passed(instant.now)
        for opening in self._openings.values():
            opening.time_passed(instant.now)
        self._propose(self.membership.join(instant.now, self.control))
        self._follow_references()
        record = self.retention.proposal(instant.time_ms, self.writes.history_bytes)
        if record is not None and not self.intake.stopping:
            self._effects.append(AppendControl(self.control.position, record))

    def deadline(self) -> float | None:
        """When `time_passed` is due."""
        times = [self.ring.deadline(), self.intake.deadline(), self.copies.deadline, self.membership.deadline]
        times.append(self.writes.deadline())
        times += [opening.retry_at for opening in self._openings.values()]
        return min((time for time in times if time is not None), default=None)

    def reclaim(self, budget: int) -> int:
        """Lets go of history past the horizon, and of ended sessions; at most about `budget` steps. Returns steps."""
        horizon = self.control.horizon
        self.copies.reclaim(horizon, budget)
        serving = [partition for partition in self.partitions.values() if partition.serving]
        return self.retention.reclaim(serving, budget)

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
                elif isinstance(effect, Evict):
                    self._propose(self.membership.evict(effect.nodes, self.control))
                elif isinstance(effect, EpochRaised):
                    self.intake.resume(Milestone.EPOCH, effect.epoch)

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
            yield PartitionPromise(number, partition.serving, in_flight=partition.lowest_in_flight)
        for partition in self.writes.undecided():
            yield PartitionPromise(partition.id, True, in_flight=partition.lowest_in_flight)

    def tails(self) -> Mapping[PartitionId, Position]:
        return {number: partition.tail for number, partition in self.partitions.items() if partition.serving}

    def highest_stamp(self) -> Epoch:
        return self.writes.highest_stamp

    def reference_epoch(self) -> Epoch:
        return max((partition.references_changed for partition in self.partitions.values()), default=Epoch(0))

    def waiting_for(self) -> Epoch:
        """A view whose members are not yet known to be there keeps misplaced partitions waiting for a close in it."""
        waiting = self.intake.waiting_for
        if not self._view_held and self.membership.misplaced(self.control):
            waiting = max(waiting, Epoch(self.control.closed + 1))
        return waiting

    def ready(self) -> bool:
        return self._ready

    def _refresh_ready(self) -> None:
        owned = self.control.view.owned_by(self.me, self.incarnation)
        self._ready = self.ring.member and all(
            number in self.partitions and self.partitions[number].serving for number in owned
        )

    def time_ms(self) -> int:
        return self._instant.time_ms
