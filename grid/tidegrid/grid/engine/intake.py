"""Requests on their way in: what they carry of time is taken over, then they are served, or wait for what they need.

A request waits when it has seen more of the control log than this node (which then reads on), for a map to act, for a
close, for the node's copies of reference maps, or for a look at the log's tail (tail_checks.py). Served means: a write is queued in its partition, a read or a wait
is answered. A request that cannot be served is answered with the error, whole.

Invariant: every request that comes in is answered exactly once, also when its deadline passes or the node stops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from tidegrid.grid.engine.catalog import MapEntry
from tidegrid.grid.engine.catalogs import Catalogs
from tidegrid.grid.engine.effects import Answered, Effect, ReadControl
from tidegrid.grid.engine.group import GroupRequest
from tidegrid.grid.engine.hold import HoldRequest
from tidegrid.grid.engine.holding import Holding
from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.engine.reads import CloseRequest, EpochAtRequest, HistoryRequest, ReadRequest, ScanRequest
from tidegrid.grid.engine.redrive import ParkedRequest, RedriveRequest
from tidegrid.grid.engine.redriving import superseded
from tidegrid.grid.engine.reference import ReferenceCopies
from tidegrid.grid.engine.tail_checks import TailChecks
from tidegrid.grid.engine.waiting import Milestone, Waits
from tidegrid.grid.engine.write import WriteRequest
from tidegrid.grid.engine.writes import WritePath
from tidegrid.grid.model.errors import (
    DeadlineError,
    EpochTooNewError,
    EpochTooOldError,
    GridError,
    NotClosedError,
    StoppingError,
    UnavailableError,
    UnknownGenerationError,
    WrongGridError,
    WrongKindError,
    WrongOwnerError,
)
from tidegrid.grid.model.ids import Epoch, NodeId, PartitionId, Position, Term
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.ownership import PartitionState
from tidegrid.grid.ring.ring import Carried, Ring
from tidegrid.grid.store.table import Table

Request = (
    WriteRequest
    | ReadRequest
    | CloseRequest
    | EpochAtRequest
    | HistoryRequest
    | GroupRequest
    | HoldRequest
    | ParkedRequest
    | RedriveRequest
)
Commit = Callable[[GroupRequest, float], None]
"""Takes a commit group with its deadline. Raises a GridError."""


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
    tails: Mapping[PartitionId, Position] | None = None  # as the log told them since it came
    term: Term | None = None  # under which this node owned the partition of a write when it came


class Intake:
    """`now` and `time_ms` are set by the node before every call."""

    def __init__(
        self,
        me: NodeId,
        control: ControlState,
        ring: Ring,
        writes: WritePath,
        copies: ReferenceCopies,
        catalogs: Catalogs,
        limits: Limits,
        emit: Callable[[Effect], None],
        commit: Commit,
    ) -> None:
        self.now = 0.0
        self.time_ms = 0
        self.stopping = False
        self.unread: list[Pending] = []  # requests that know more of the control log than this node does
        self._me = me
        self._control = control
        self._ring = ring
        self._writes = writes
        self._copies = copies
        self._catalogs = catalogs
        self._limits = limits
        self._emit = emit
        self._commit = commit
        self._waits = Waits()
        self._tails = TailChecks(emit)
        self.holding = Holding(control, limits, emit)
        self._decided = 0  # frames that landed or failed while somebody waited for one

    def submit(self, request: Request, carry: Carry, deadline: float) -> None:
        if self.stopping:
            self._refuse(request, StoppingError.of())
            return
        partition = self._writes.partitions.get(request.partition) if isinstance(request, WriteRequest) else None
        self._go_on(Pending(request, carry, deadline, term=partition.claim if partition is not None else None))

    def _go_on(self, pending: Pending, *, at_tail: bool = False) -> None:
        try:
            wait = self._serve(pending, at_tail)
        except GridError as error:
            self._refuse(pending.request, error)
            return
        if wait is not None:
            self._waits.add(wait[0], wait[1], pending, pending.deadline)
            self._ring.stirred(self.now)

    def _serve(self, pending: Pending, at_tail: bool) -> tuple[Milestone, int] | None:
        """Serves the request, or says what it has to wait for. Raises GridError."""
        request, carry = pending.request, pending.carry
        if carry.grid_id and carry.grid_id != self._control.grid_id:
            raise WrongGridError("this is another grid than the one the request was made for; connect anew")
        verdict = self._ring.carry(self.now, carry.control, carry.epoch, at_tail=at_tail)
        if verdict is Carried.APPLY_FIRST:
            self.read_control(pending)
            return None
        if verdict is not Carried.TAKEN:
            raise EpochTooNewError.of(carry.epoch, self._control.limit)
        if not at_tail and _wanted(request) >= self._control.limit:  # refused only if this node is not behind
            self.read_control(pending)
            return None
        if isinstance(request, WriteRequest):
            return self._write(request, pending.term)
        if isinstance(request, CloseRequest):
            return self._await_close(request)
        if isinstance(request, GroupRequest):
            self._commit(request, pending.deadline)
            return None
        if isinstance(request, HoldRequest):
            self.holding.submit(self.now, self.time_ms, request, pending.deadline)
            return None
        if isinstance(request, RedriveRequest):
            return self._redrive(request)
        if isinstance(request, ParkedRequest):
            self._parked(request)
            return None
        if isinstance(request, EpochAtRequest):
            self._epoch_at(request)
            return None
        if isinstance(request, HistoryRequest):
            return self._history(request)
        return self._read(request, carry.epoch, pending.tails)

    def _write(self, request: WriteRequest, term: Term | None) -> tuple[Milestone, int] | None:
        """`term`: what waited here while another owned the partition may have been refused there for good."""
        partition = self._open_partition(request.partition, write=True)
        if term is not None and term != partition.claim:
            raise partition.moved()
        epoch = self._ring.epoch
        if (wait := self._activation(request.map)) is not None:
            return wait
        catalog = self._catalogs.at(epoch)
        if catalog.runtime is not None and catalog.runtime.program(request.map) is not None:
            needed = self._control.reference_epoch
            if self._copies.through < needed:
                return Milestone.REFERENCES, needed
        self._writes.submit(request, catalog, max(epoch, partition.last_stamp))
        return None

    def _redrive(self, request: RedriveRequest) -> tuple[Milestone, int] | None:
        partition = self._open_partition(request.partition, write=True)
        needed = self._control.reference_epoch
        if self._copies.through < needed:
            return Milestone.REFERENCES, needed
        self._writes.redrive(request, max(self._ring.epoch, partition.last_stamp))
        return None

    def _parked(self, request: ParkedRequest) -> None:
        partition = self._open_partition(request.partition)
        request.writes, request.more = partition.parking.page(request.map, request.after, request.rows_max)
        request.superseded = [superseded(write, partition.tables.get(write.map)) for write in request.writes]
        self._emit(Answered((request,)))

    def _read(
        self, request: ReadRequest, carried: Epoch, tails: Mapping[PartitionId, Position] | None
    ) -> tuple[Milestone, int] | None:
        if (wait := self._activation(request.map)) is not None:
            return wait
        entry = self._stateful(request.map)
        if (wait := self._fresh(request)) is not None:
            return wait
        if request.as_of and request.as_of < self._control.horizon:
            raise EpochTooOldError.of(request.as_of, self._control.horizon)
        scanned = request.partition if isinstance(request, ScanRequest) else None
        numbers = [scanned] if scanned is not None else entry.partitioner.many(request.keys)
        partitions = [self._open_partition(number) for number in numbers]
        if request.linearizable:
            if tails is None:
                return Milestone.TAILS, self._tails.ask(numbers)
            if not self._caught_up(partitions, tails):
                return Milestone.LANDED, self._decided + 1
        if not request.as_of and any(p.lowest_lent is not None and p.lowest_lent <= carried for p in partitions):
            return Milestone.LANDED, self._decided + 1  # G6: a group that the asker has perhaps seen elsewhere
        tables = [self._table(partition, request) for partition in partitions]
        if not isinstance(request, ScanRequest):
            request.run(tables, self._limits.answer_bytes_max)
        elif tables[0] is not None:
            request.scan(tables[0], self._limits.answer_bytes_max)
        self._emit(Answered((request,)))
        return None

    def _table(self, partition: Partition, request: ReadRequest) -> Table | None:
        known, name = self._control.generations, request.map
        if not request.generation:
            request.generation = known.at(name, request.seen_at or self._control.closed)
        number = request.generation
        table = partition.tables.generation(name, number)
        if table is None and name in partition.tables:
            raise UnknownGenerationError.of(name, number, known.kept(name))
        return table

    def _stateful(self, map_name: str) -> MapEntry:
        entry = self._catalogs.at(self._ring.epoch).map(map_name)
        if not entry.spec.stateful:
            raise WrongKindError(
                f"map {map_name!r} is a stream and keeps no state: subscribe to it", map=map_name, kind="stream"
            )
        return entry

    def _fresh(self, request: ReadRequest) -> tuple[Milestone, int] | None:
        """The close that a read has to wait for, if any."""
        closed, limit = self._control.closed, self._control.limit
        wanted = _wanted(request)
        age_ms = max(0, self.time_ms - self._control.closed_time_ms)
        if request.staleness_ms_max and age_ms > request.staleness_ms_max:
            wanted = max(wanted, Epoch(closed + 1))  # nothing may have happened since: then time goes on for this read
        if wanted <= closed:
            return None
        if wanted >= limit:
            raise EpochTooNewError.of(wanted, limit)
        if request.at_once:
            raise NotClosedError.of(wanted, closed, age_ms)
        return Milestone.CLOSED, wanted

    def _caught_up(self, partitions: Sequence[Partition], tails: Mapping[PartitionId, Position]) -> bool:
        """Rule R2. False: what the log has more is a frame of this node that has not landed here."""
        caught_up = True
        for partition in partitions:
            if tails[partition.id] <= partition.tail:
                continue
            if partition.in_flight is None:
                self.read_control(None)
                raise WrongOwnerError(
                    f"another node has written to the log of partition {partition.id}; ask again who owns it",
                    partition=partition.id,
                    owner=-1,
                )
            caught_up = False
        return caught_up

    def _epoch_at(self, request: EpochAtRequest) -> None:
        control = self._control
        found = control.epoch_closed_at(request.time_ms)
        if found is None:
            earliest, since_ms = control.earliest_close or (Epoch(0), 0)
            raise EpochTooOldError.at_time(f"{request.time_ms} ms", f"{since_ms} ms", earliest, since_ms)
        request.epoch = found
        self._emit(Answered((request,)))

    def _history(self, request: HistoryRequest) -> tuple[Milestone, int] | None:
        if (wait := self._activation(request.map)) is not None:
            return wait
        self._stateful(request.map)
        partition = self._open_partition(request.partition)
        table = partition.tables.get(request.map)
        request.run(table, max(self._control.horizon, table.horizon if table is not None else self._control.horizon))
        self._emit(Answered((request,)))
        return None

    def _await_close(self, request: CloseRequest) -> tuple[Milestone, int] | None:
        if request.closed > self._control.closed:
            if request.closed >= self._control.limit:
                raise EpochTooNewError.of(request.closed, self._control.limit)
            return Milestone.CLOSED, request.closed
        self._emit(Answered((request,)))
        return None

    def _activation(self, map_name: str) -> tuple[Milestone, int] | None:
        """A map that is declared and does not act yet is waited for; the ring hurries towards its epoch."""
        if map_name in self._catalogs.at(self._ring.epoch).maps:
            return None
        acts_at = self._control.map_activation(map_name)
        return (Milestone.EPOCH, acts_at) if acts_at is not None and acts_at > self._ring.epoch else None

    def _open_partition(self, number: PartitionId, *, write: bool = False) -> Partition:
        partition = self._writes.partitions.get(number)
        if partition is None or partition.state is PartitionState.CLOSED:
            if self._writes.failure is not None:
                raise self._writes.failure
            owner = self._control.view.owner(number)
            raise WrongOwnerError(
                f"node {self._me} does not own partition {number}; ask who does",
                partition=number,
                owner=owner.node if owner else -1,
            )
        if not partition.serving or (write and partition.state is not PartitionState.OPEN):
            doing = "moving to another node" if partition.serving else "being recovered"
            raise UnavailableError(f"partition {number} is {doing}; try again in a moment", partition=number)
        return partition

    def _refuse(self, request: Request, error: GridError) -> None:
        if isinstance(request, WriteRequest):
            rows = range(len(request.keys))
            request.errors = dict.fromkeys(rows, error)
            request.unanswered = 0
        else:
            request.error = error
        self._emit(Answered((request,)))

    def control_at_tail(self) -> None:
        """That reading may have begun before a request came: what still knows more is judged after the next one."""
        unread, self.unread = self.unread, []
        for pending in unread:
            self._go_on(pending._replace(read=True), at_tail=pending.read)

    def read_control(self, pending: Pending | None) -> None:
        """The control log has to be read on, for this request if there is one."""
        if not self.unread:
            self._emit(ReadControl())
        if pending is not None:
            self.unread.append(pending)

    def tails_checked(
        self, number: int, tails: Mapping[PartitionId, Position], control: Position, error: GridError | None
    ) -> None:
        """What the log said to a `CheckTails`, or why it did not. The views up to `control` count too (rule J)."""
        for pending in self._waits.reached(Milestone.TAILS, number):
            if error is not None:
                self._refuse(pending.request, error)
                continue
            carry = pending.carry
            seen = carry._replace(control=max(carry.control, control))
            self._go_on(pending._replace(carry=seen, tails=tails, read=False))  # `seen` may be newer than that reading
        self._tails.ended(number)

    def frame_decided(self) -> None:
        """A frame has landed, or never will."""
        if self._waits.highest(Milestone.LANDED):
            self._decided += 1
            self.resume(Milestone.LANDED, self._decided)

    def resume(self, kind: Milestone, value: int) -> None:
        """The node has got there: whoever waited for it goes on."""
        for pending in self._waits.reached(kind, value):
            self._go_on(pending)

    def expire(self) -> None:
        for kind, pending in self._waits.expired(self.now):
            late = f"the deadline passed while waiting for {kind.value}; see `tidegrid status` for who holds time back"
            self._refuse(pending.request, DeadlineError(late))
        self.holding.time_passed(self.now, self.time_ms)

    def stop(self) -> None:
        """Refuses what is new, and what waits for something else than the log."""
        self.stopping = True
        unread, self.unread = self.unread, []
        for pending in [*unread, *self._waits.drop_all()]:
            self._refuse(pending.request, StoppingError.of())
        self.holding.fail(StoppingError.of())

    def deadline(self) -> float | None:
        return min(
            (time for time in (self._waits.deadline(), self.holding.deadline()) if time is not None), default=None
        )

    @property
    def waiting_for(self) -> Epoch:
        """The highest epoch that somebody wants closed; 0: nobody waits."""
        return Epoch(self._waits.highest(Milestone.CLOSED))


def _wanted(request: Request) -> Epoch:
    """The epoch that has to be closed for it, as it says itself; 0: none."""
    if isinstance(request, ReadRequest):
        return max(request.as_of, request.at_least)
    return request.closed if isinstance(request, CloseRequest) else Epoch(0)
