"""The owner's side of commit groups (rule G): it lends the next slot of a partition to a group's coordinator.

    free --Borrow, nothing in flight--> lent --Settled, or its record found in the log--> landed, applied
         --Borrow, else--> waiting          --Settled as released, or a FILL has the slot--> free, as if never asked
                                            --nothing heard for a while, or Settle--> contending with FILL (G5)

While a slot is lent nothing else of the partition is computed. What was computed for the group is the partition's
frame in flight, so promises, undecided slots and the loss of the partition are handled where they are for all frames
(engine/writes.py). One try is answered the same while its slot is lent, and with silence once its coordinator has
settled it; lent again after a FILL, it does no harm: the coordinator keeps to the first slot it heard of.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

from tidegrid.grid.engine.admission import check
from tidegrid.grid.engine.catalogs import Catalogs
from tidegrid.grid.engine.compute import Computation, rejected
from tidegrid.grid.engine.effects import Try
from tidegrid.grid.engine.frame import Frame, Loan, Portion
from tidegrid.grid.engine.isolation import program_apart
from tidegrid.grid.engine.made import Made
from tidegrid.grid.engine.making import Kind
from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.engine.reference import ReferenceCopies
from tidegrid.grid.engine.requests import Known
from tidegrid.grid.engine.write import WriteRequest, write_request
from tidegrid.grid.engine.writes import WritePath
from tidegrid.grid.model.error_message import error_message
from tidegrid.grid.model.errors import GridError, InvalidValueError, TooLargeError, UnavailableError, WrongOwnerError
from tidegrid.grid.model.ids import Epoch, NodeId, PartitionId, Position
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.messages import GroupMessage
from tidegrid.grid.ring.ownership import PartitionState
from tidegrid.v1 import grid_pb2, ring_pb2

PATIENCE_SECONDS: Final = 1.0  # without a word of the coordinator
DECIDED_KEPT: Final = 4096  # tries remembered, so that a late Borrow of one does not lend again
WHOLE_PART: Final = "part of a group that belongs to one partition"
WAITING_MAX: Final = 1024  # borrowers of one partition

Reply = TypeVar("Reply", ring_pb2.Lent, ring_pb2.Declined)
Letters = list[tuple[NodeId, GroupMessage]]


class Borrower(NamedTuple):
    node: NodeId
    borrow: ring_pb2.Borrow


class Lending:
    def __init__(
        self,
        writes: WritePath,
        control: ControlState,
        catalogs: Catalogs,
        copies: ReferenceCopies,
        limits: Limits,
        seed: int,
    ) -> None:
        self._writes = writes
        self._control = control
        self._catalogs = catalogs
        self._copies = copies
        self._limits = limits
        self._seed = seed
        self._waiting: dict[PartitionId, deque[Borrower]] = {}
        self._decided: OrderedDict[tuple[Try, PartitionId], None] = OrderedDict()

    # What coordinators say ----------------------------------------------------------------------------------------

    def borrow(self, now: float, sender: NodeId, message: ring_pb2.Borrow, epoch: Epoch, time_ms: int) -> Letters:
        """G2. `epoch` is this node's, raised to the carried one."""
        number = PartitionId(message.partition)
        attempt = (message.group, message.attempt)
        if (attempt, number) in self._decided:
            return []
        partition = self._writes.partitions.get(number)
        if partition is None or partition.state is not PartitionState.OPEN:
            moved = WrongOwnerError(f"partition {number} is not open here; ask who owns it", partition=number, owner=-1)
            return [(sender, _declined(message, moved))]
        loan = partition.loan
        if loan is not None and (loan.group, loan.attempt) == attempt:
            loan.heard_at = now
            return [(sender, loan.reply)]
        waiting = self._waiting.setdefault(number, deque())
        if all((other.borrow.group, other.borrow.attempt) != attempt for other in waiting):
            if len(waiting) >= WAITING_MAX:
                full = UnavailableError(f"too many groups wait for partition {number}; try again", partition=number)
                return [(sender, _declined(message, full))]
            waiting.append(Borrower(sender, message))
        return self._lend_next(now, partition, epoch, time_ms)

    def settled(self, now: float, sender: NodeId, message: ring_pb2.Settled) -> Letters:
        """The coordinator knows what became of its try."""
        number = PartitionId(message.partition)
        self._remember((message.group, message.attempt), number)
        waiting = self._waiting.get(number)
        if waiting is not None:
            mine = (message.group, message.attempt)
            for other in [other for other in waiting if (other.borrow.group, other.borrow.attempt) == mine]:
                waiting.remove(other)
            self._reserve(number)
        partition = self._lent_to(number, message.group, message.attempt)
        if partition is not None:
            loan = partition.loan
            if message.epoch:
                self._writes.group_landed(partition, Epoch(message.epoch), Position(message.position))
            elif loan is not None and not loan.contended:  # else a FILL is on its way, and moves the tail
                self._writes.group_released(partition)
        received = ring_pb2.SettledReceived(group=message.group, attempt=message.attempt, partition=message.partition)
        return [(sender, received)]

    def settle(self, now: float, message: ring_pb2.Settle) -> None:
        """The coordinator does not know: the slot decides (G5)."""
        partition = self._lent_to(PartitionId(message.partition), message.group, message.attempt)
        if partition is not None:
            self._contend(partition)

    # What happens here --------------------------------------------------------------------------------------------

    def go_on(self, now: float, epoch: Epoch, time_ms: int) -> Letters:
        """Slots may have come free, or views may have taken partitions away."""
        letters: Letters = []
        for number in [number for number, waiting in self._waiting.items() if waiting]:
            partition = self._writes.partitions.get(number)
            if partition is None or partition.state is not PartitionState.OPEN:
                moved = WrongOwnerError(f"partition {number} has moved; ask who owns it", partition=number, owner=-1)
                letters += [(other.node, _declined(other.borrow, moved)) for other in self._waiting.pop(number)]
                self._reserve(number)
            else:
                letters += self._lend_next(now, partition, epoch, time_ms)
        return letters

    def time_passed(self, now: float) -> None:
        for partition in self._writes.lent():
            loan = partition.loan
            if loan is not None and not loan.contended and now >= loan.heard_at + PATIENCE_SECONDS:
                self._contend(partition)

    def deadline(self) -> float | None:
        due = [p.loan.heard_at for p in self._writes.lent() if p.loan is not None and not p.loan.contended]
        return min(due) + PATIENCE_SECONDS if due else None

    # Inside -------------------------------------------------------------------------------------------------------

    def _contend(self, partition: Partition) -> None:
        assert partition.loan is not None
        if not partition.loan.contended:
            partition.loan.contended = True
            self._writes.fill(partition)

    def _lent_to(self, number: PartitionId, group: bytes, attempt: int) -> Partition | None:
        for partition in self._writes.lent():
            loan = partition.loan
            if partition.id == number and loan is not None and (loan.group, loan.attempt) == (group, attempt):
                return partition
        return None

    def _remember(self, attempt: Try, number: PartitionId) -> None:
        self._decided[attempt, number] = None
        if len(self._decided) > DECIDED_KEPT:
            self._decided.popitem(last=False)

    def _lend_next(self, now: float, partition: Partition, epoch: Epoch, time_ms: int) -> Letters:
        """To the first in line, when it is a loan's turn; a try that is declined makes room for the next."""
        letters: Letters = []
        waiting = self._waiting[partition.id]
        while waiting and partition.may_lend():
            borrower = waiting[0]
            reply = self._answer(now, borrower, partition, epoch, time_ms)
            if reply is None:
                break
            waiting.popleft()
            letters.append((borrower.node, reply))
        self._reserve(partition.id)
        return letters

    def _reserve(self, number: PartitionId) -> None:
        """While somebody waits for the slot nothing new is computed for it."""
        partition = self._writes.partitions.get(number)
        if partition is not None:
            waiting = self._waiting.get(number)
            partition.reserved = bool(waiting)
            making = partition.making
            if making is not None and making.kind is Kind.LOAN and not _waits(waiting, making.of):
                partition.making = None
            self._writes.stirred(partition)

    def _answer(
        self, now: float, borrower: Borrower, partition: Partition, epoch: Epoch, time_ms: int
    ) -> GroupMessage | None:
        """Lent or Declined; None: it has to wait for an activation, or for copies of reference maps."""
        borrow = borrower.borrow
        making = partition.making
        if making is not None and making.of == (borrow.group, borrow.attempt):
            epoch, time_ms = making.epoch, making.time_ms  # as of when it was sent to a worker process
        else:
            making = partition.making = None  # of one that does not wait any more
        catalog = self._catalogs.at(epoch)
        for batch in borrow.writes:
            if batch.map not in catalog.maps and (self._control.map_activation(batch.map) or Epoch(0)) > epoch:
                return None
            triggered = catalog.runtime is not None and catalog.runtime.program(batch.map) is not None
            if triggered and self._copies.through < self._control.reference_epoch:
                return None
        try:
            requests = [write_request(batch) for batch in borrow.writes]
            for request in requests:
                check(request, catalog, self._limits)
            known = _known(partition, requests, epoch)
            if all(row.state == "accepted" for row in known):
                return _of(borrow, ring_pb2.Declined(epoch=known[0].epoch, versions=[row.version for row in known]))
            self._writes.check_room(epoch)
        except GridError as error:
            return _declined(borrow, error)
        errors = {row: found.error for row, found in enumerate(known) if found.error is not None}
        errors |= _counted({at: request.errors for at, request in enumerate(requests)}, requests)
        apart = any(program_apart(catalog, request.map) is not None for request in requests)
        if not errors and apart and (making is None or not making.decided):
            if making is None:
                attempt = (borrow.group, borrow.attempt)
                self._writes.make_loan(partition, attempt, requests, catalog, epoch, time_ms, self._copies)
            return None
        partition.making = None
        if making is not None and making.error is not None:
            return _declined(borrow, making.error)
        ref_epoch = making.references.through if making is not None else self._copies.through
        frame = Frame(partition.id, partition.claim, epoch, time_ms, ref_epoch)
        if not errors:
            errors = self._compute(frame, partition, requests, making.made if making is not None else None)
        if errors:
            self._refuse(partition, requests, errors)
            reply = ring_pb2.Declined()
            for row, refusal in sorted(errors.items()):
                reply.errors.add(index=row, error=error_message(refusal))
            return _of(borrow, reply)
        return self._lend(now, borrow, partition, frame, requests)

    def _compute(
        self, frame: Frame, partition: Partition, requests: Sequence[WriteRequest], made: Made | None
    ) -> dict[int, GridError]:
        """Puts the writes into the frame; what refuses it, by row counted through all requests."""
        catalog = self._catalogs.at(frame.stamp)
        computation = Computation(
            frame, None, partition.tables, catalog, self._copies, self._seed, self._limits, partition.parking, made
        )
        refused: dict[int, Mapping[int, GridError]] = {}
        for at, request in enumerate(requests):
            whole = computation.add(request)
            if frame.portions and frame.portions[-1].request is request:
                refused[at] = frame.portions[-1].errors
            stopped = made.stopped if made is not None else None
            if stopped is not None and not any(refused.values()):  # it would be parked; what comes after it was not run
                refused[at] = {_last_parked(frame, request): rejected(stopped)}
            if not whole and not any(refused.values()):  # else what refuses a row may be why the rest was left
                refused[at] = {0: TooLargeError.of(WHOLE_PART, frame.size, self._limits.record_bytes_max)}
            if not whole or stopped is not None:
                break
        computation.end()
        return _counted(refused, requests)

    def _refuse(self, partition: Partition, requests: Sequence[WriteRequest], errors: dict[int, GridError]) -> None:
        """What is refused once is refused for good, also to a late copy of the group."""
        first = 0
        for request in requests:
            session = partition.memory.get(request.session)
            for row in range(len(request.keys)):
                if session is not None and first + row in errors:
                    session.refused[request.first_sequence + row] = errors[first + row]
            first += len(request.keys)

    def _lend(
        self, now: float, borrow: ring_pb2.Borrow, partition: Partition, frame: Frame, requests: Sequence[WriteRequest]
    ) -> GroupMessage:
        runtime = self._catalogs.at(frame.stamp).runtime
        bound = runtime is not None and any(runtime.program(request.map) is not None for request in requests)
        versions = [version for portion in frame.portions for version in portion.versions]
        parked = _parked(frame.portions, requests)
        frame.portions.clear()
        frame.seal(stamped=False)
        assert frame.payload is not None
        next_activation = self._control.next_activation(frame.stamp)
        limit = self._control.limit
        reply = ring_pb2.Lent(
            term=partition.claim,
            tail=partition.tail,
            stamp=frame.stamp,
            until=limit if next_activation is None else min(next_activation, limit),
            bound=bound,
            record=frame.payload,
            versions=versions,
            parked=parked,
        )
        lent = _of(borrow, reply)
        frame.loan = Loan(borrow.group, borrow.attempt, lent, now)
        self._writes.lend(partition, frame)
        return lent


def _last_parked(frame: Frame, request: WriteRequest) -> int:
    """The last row that was decided, if it is parked; else there was no room even for that."""
    portion = frame.portions[-1] if frame.portions else None
    parked = portion.parked if portion is not None and portion.request is request else None
    return request.next_row - 1 if parked and request.next_row - 1 in parked else request.next_row


def _waits(waiting: Iterable[Borrower] | None, attempt: object) -> bool:
    return any((other.borrow.group, other.borrow.attempt) == attempt for other in waiting or ())


def _counted(errors: Mapping[int, Mapping[int, GridError]], requests: Sequence[WriteRequest]) -> dict[int, GridError]:
    """From (request, row) to the row counted through all requests."""
    counted: dict[int, GridError] = {}
    first = 0
    for at, request in enumerate(requests):
        counted |= {first + row: error for row, error in errors.get(at, {}).items()}
        first += len(request.keys)
    return counted


def _parked(portions: Sequence[Portion], requests: Sequence[WriteRequest]) -> list[grid_pb2.IndexedText]:
    """The rows that are stored without outputs, counted through all requests, each of which is one portion here."""
    found: list[grid_pb2.IndexedText] = []
    first = 0
    for portion, request in zip(portions, requests, strict=True):
        for row, text in (portion.parked or {}).items():
            found.append(grid_pb2.IndexedText(index=first + row, text=text))
        first += len(request.keys)
    return found


def _known(partition: Partition, requests: Sequence[WriteRequest], epoch: Epoch) -> list[Known]:
    """What request memory says of every write. Raises OutcomeUnknownError, BusyError, InvalidValueError."""
    known = []
    for request in requests:
        session = partition.memory.admit(request.session, epoch, request.lowest_unanswered)
        rows = range(request.first_sequence, request.first_sequence + len(request.keys))
        known += [session.look_up(sequence) for sequence in rows]
        session.highest = max(session.highest, rows[-1])
    if len({row.state for row in known if row.state != "refused"}) > 1:
        raise InvalidValueError("some of the group's writes were accepted without the others; take new sequences")
    return known


def _declined(borrow: ring_pb2.Borrow, error: GridError) -> ring_pb2.Declined:
    return _of(borrow, ring_pb2.Declined(error=error_message(error)))


def _of(borrow: ring_pb2.Borrow, reply: Reply) -> Reply:
    reply.group, reply.attempt, reply.partition = borrow.group, borrow.attempt, borrow.partition
    return reply
