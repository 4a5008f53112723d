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
from tidegrid.grid.engine.effects import Answered, AppendControl, ClosedTo, Effect, ReadControl, Tell
from tidegrid.grid.engine.exchange import ReferenceExchange
from tidegrid.grid.engine.feed import Closes
from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.engine.reads import CloseRequest, ReadRequest, ScanRequest
from tidegrid.grid.engine.reference import ReferenceCopies
from tidegrid.grid.engine.retention import Retention, RetentionOptions
from tidegrid.grid.engine.waiting import Milestone, Waits
from tidegrid.grid.engine.write import WriteRequest
from tidegrid.grid.engine.writes import WritePath
from tidegrid.grid.log.entry import LogRecord
from tidegrid.grid.model.errors import (
    DeadlineError,
    EpochTooNewError,
    EpochTooOldError,
    GridError,
    StoppingError,
    UnavailableError,
    WrongGridError,
    WrongKindError,
    WrongOwnerError,
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

Request = WriteRequest | ReadRequest | CloseRequest


class Instant(NamedTuple):
    """`now`: monotonic seconds, for timers. `time_ms`: wall time, for people."""

    now: float
    time_ms: int


class Carry(NamedTuple):
    """What the sender of a request has seen (rule J). Untrusted."""

    grid_id: bytes
    control: Position
    epoch: Epoch


class Pending(NamedTuple):
    """A request that waits, with what it takes to go on."""

    request: Request
    carry: Carry
    deadline: float
    read: bool = False  # the control log was read to its end since it came


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
        self.stopping = False
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
        self._waits = Waits()
        self._unread: list[Pending] = []  # requests that know more of the control log than this node does
        self._catalogs = Catalogs(control, limits)
        self.ring = Ring(me, incarnation, control, self, ring_options)
        self._refresh_maps()

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
        self._instant = instant
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
        self._instant = instant
        if self.stopping:
            self._refuse(request, StoppingError.of())
            return
        self._go_on(Pending(request, carry, deadline))

    def _go_on(self, pending: Pending, *, at_tail: bool = False) -> None:
        try:
            wait = self._serve(pending, at_tail)
        except GridError as error:
            self._refuse(pending.request, error)
            return
        if wait is not None:
            self._waits.add(wait[0], wait[1], pending, pending.deadline)
            self.ring.stirred(self._instant.now)

    def _serve(self, pending: Pending, at_tail: bool) -> tuple[Milestone, int] | None:
        """Serves the request, or says what it has to wait for. Raises GridError."""
        request, carry = pending.request, pending.carry
        if carry.grid_id and carry.grid_id != self.control.grid_id:
            raise WrongGridError("this is another grid than the one the request was made for; connect anew")
        verdict = self.ring.carry(self._instant.now, carry.control, carry.epoch, at_tail=at_tail)
        if verdict is Carried.APPLY_FIRST:
            self._read_control(pending)
            return None
        if verdict is not Carried.TAKEN:
            raise EpochTooNewError.of(carry.epoch, self.control.limit)
        if isinstance(request, WriteRequest):
            return self._write(request)
        if isinstance(request, CloseRequest):
            return self._await_close(request)
        return self._read(request)

    def _write(self, request: WriteRequest) -> tuple[Milestone, int] | None:
        partition = self._open_partition(request.partition)
        epoch = self.ring.epoch
        if (wait := self._activation(request.map)) is not None:
            return wait
        catalog = self.catalog
        if catalog.runtime is not None and catalog.runtime.program(request.map) is not None:
            needed = self.control.reference_epoch
            if self.copies.through < needed:
                return Milestone.REFERENCES, needed
        self.writes.submit(request, catalog, max(epoch, partition.last_stamp))
        return None

    def _read(self, request: ReadRequest) -> tuple[Milestone, int] | None:
        if (wait := self._activation(request.map)) is not None:
            return wait
        entry = self.catalog.map(request.map)
        if not entry.spec.stateful:
            raise WrongKindError(
                f"map {request.map!r} is a stream and keeps no state: subscribe to it", map=request.map, kind="stream"
            )
        closed, limit = self.control.closed, self.control.limit
        wanted = max(request.as_of, request.at_least)
        if wanted > closed:
            if wanted >= limit:
                raise EpochTooNewError.of(wanted, limit)
            return Milestone.CLOSED, wanted
        if request.as_of and request.as_of < self.control.horizon:
            raise EpochTooOldError.of(request.as_of, self.control.horizon)
        if isinstance(request, ScanRequest):
            table = self._open_partition(request.partition).tables.get(request.map)
            if table is not None:
                request.scan(table, self.limits.answer_bytes_max)
        else:
            owners = entry.partitioner.many(request.keys)
            request.run(
                [self._open_partition(owner).tables.get(request.map) for owner in owners], self.limits.answer_bytes_max
            )
        self._effects.append(Answered((request,)))
        return None

    def _await_close(self, request: CloseRequest) -> tuple[Milestone, int] | None:
        if request.closed > self.control.closed:
            if request.closed >= self.control.limit:
                raise EpochTooNewError.of(request.closed, self.control.limit)
            return Milestone.CLOSED, request.closed
        self._effects.append(Answered((request,)))
        return None

    def _activation(self, map_name: str) -> tuple[Milestone, int] | None:
        """A map that is declared and does not act yet is waited for; the ring hurries towards its epoch."""
        if map_name in self.catalog.maps:
            return None
        acts_at = self.control.map_activation(map_name)
        return (Milestone.EPOCH, acts_at) if acts_at is not None and acts_at > self.ring.epoch else None

    def _open_partition(self, number: PartitionId) -> Partition:
        partition = self.partitions.get(number)
        if partition is None or partition.state is PartitionState.CLOSED:
            if self.writes.failure is not None:
                raise self.writes.failure
            owner = self.control.view.owner(number)
            raise WrongOwnerError(
                f"node {self.me} does not own partition {number}; ask who does",
                partition=number,
                owner=owner.node if owner else -1,
            )
        if partition.state is not PartitionState.OPEN:
            raise UnavailableError(f"partition {number} is being recovered; try again in a moment", partition=number)
        return partition

    def _refuse(self, request: Request, error: GridError) -> None:
        if isinstance(request, WriteRequest):
            rows = range(len(request.keys))
            request.errors = dict.fromkeys(rows, error)
            request.unanswered = 0
        else:
            request.error = error
        self._effects.append(Answered((request,)))

    # The write path ----------------------------------------------------------------------------------------------

    def compute(self, instant: Instant, writes_max: int) -> bool:
        """Computes frames until about `writes_max` writes are in them. False: nothing waited."""
        self._instant = instant
        if self.writes.idle:
            return False
        catalog, epoch, copies = self.catalog, self.ring.epoch, self.copies
        worked = 0
        while worked < writes_max and not self.writes.idle:
            worked += self.writes.compute_one(catalog, epoch, instant.time_ms, copies)
        self.ring.stirred(instant.now)
        return True

    def landed(self, instant: Instant, partition: PartitionId, position: Position) -> None:
        self._instant = instant
        self.writes.landed(partition, position)
        self.ring.landed(instant.now)

    def append_failed(self, instant: Instant, partition: PartitionId, error: GridError) -> None:
        self._instant = instant
        self.writes.failed(partition, error)
        self._refresh_ready()
        self.ring.landed(instant.now)

    # The control log ---------------------------------------------------------------------------------------------

    def control_records(self, instant: Instant, records: Sequence[LogRecord]) -> None:
        """The next records of the control log, in order."""
        self._instant = instant
        for item in records:
            if item.position > self.control.position:
                for event in self.control.apply(item.position, ControlRecord.FromString(item.payload)):
                    self._learn(event)
        self.ring.control_applied(instant.now)
        self._collect_ring()
        self._follow_references()

    def control_at_tail(self, instant: Instant) -> None:
        """The shell has read the control log to its end, after a `ReadControl`.

        That reading may have begun before a request came: what still knows more is judged after the next one.
        """
        self._instant = instant
        unread, self._unread = self._unread, []
        for pending in unread:
            self._go_on(pending._replace(read=True), at_tail=pending.read)

    def _read_control(self, pending: Pending | None) -> None:
        if not self._unread:
            self._effects.append(ReadControl())
        if pending is not None:
            self._unread.append(pending)

    def _learn(self, event: ControlEvent) -> None:
        if isinstance(event, Closed):
            self.closes.add(event.epoch)
            self.writes.closed(event.epoch)
            self._effects.append(ClosedTo(event.epoch))
            self._resume(Milestone.CLOSED, event.epoch)
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
        self._instant = instant
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
        self._instant = instant
        if envelope.grid_id != self.control.grid_id:
            return
        if self.ring.carry(instant.now, envelope.control, envelope.epoch) is Carried.APPLY_FIRST:
            self._read_control(None)
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
                self._resume(Milestone.REFERENCES, self.copies.through)

    def time_passed(self, instant: Instant) -> None:
        self._instant = instant
        self.ring.time_passed(instant.now)
        for kind, pending in self._waits.expired(instant.now):
            self._refuse(
                pending.request,
                DeadlineError(
                    f"the deadline passed while waiting for {kind.value}; see `tidegrid status` for who holds time back"
                ),
            )
        self._follow_references()
        record = self.retention.proposal(instant.time_ms, self.writes.history_bytes)
        if record is not None and not self.stopping:
            self._effects.append(AppendControl(self.control.position, record))

    def deadline(self) -> float | None:
        """When `time_passed` is due."""
        times = (self.ring.deadline(), self._waits.deadline(), self.copies.deadline)
        return min((time for time in times if time is not None), default=None)

    def reclaim(self, budget: int) -> int:
        """Lets go of history past the horizon, and of ended sessions; at most about `budget` steps. Returns steps."""
        horizon = self.control.horizon
        self.copies.reclaim(horizon, budget)
        return self.retention.reclaim(self.partitions.values(), budget)

    def _follow_references(self) -> None:
        self._tell(self.references.advance(self._instant.now))
        self._resume(Milestone.REFERENCES, self.copies.through)

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
                    self._resume(Milestone.EPOCH, effect.epoch)

    def _resume(self, kind: Milestone, value: int) -> None:
        for pending in self._waits.reached(kind, value):
            self._go_on(pending)

    def _answer(self, requests: Sequence[WriteRequest]) -> None:
        if requests:
            self._effects.append(Answered(requests))

    # Stopping ----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Refuses what is new, and what waits for something else than the log."""
        self.stopping = True
        unread, self._unread = self._unread, []
        for pending in [*unread, *self._waits.drop_all()]:
            self._refuse(pending.request, StoppingError.of())

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
        return Epoch(self._waits.highest(Milestone.CLOSED))

    def ready(self) -> bool:
        return self._ready

    def _refresh_ready(self) -> None:
        owned = self.control.view.owned_by(self.me, self.incarnation)
        self._ready = bool(owned) and all(
            number in self.partitions and self.partitions[number].state is PartitionState.OPEN for number in owned
        )

    def time_ms(self) -> int:
        return self._instant.time_ms
