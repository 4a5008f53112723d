"""One partition as its owner holds it: tables, request memory, the queue, and the frames on their way to the log.

Lifecycle: opening (checkpoint and log are replayed, nothing is served), open, draining (a planned move: nothing new is
taken, what is on its way lands), closed (another owner, or the log has failed). While open, at most one frame is in
flight; the next one may be computed on top of it, or is in the making (making.py). A closed one lives on until its frame
in flight is decided.

Besides its clients' writes it takes in what other partitions route here, and runs parked writes again; each goes into
frames of its own, by turns. A redrive is computed with nothing else on its way (engine/redriving.py).

Invariants: nothing that is not durable is seen in any answer, refusals included: all answers of a frame wait for it.
Stamps never decrease. `floor_epoch` covers every frame from the moment it was stamped (rule E4).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from tidegrid.grid.engine.admission import admit
from tidegrid.grid.engine.catalog import Catalog
from tidegrid.grid.engine.compute import Computation, References
from tidegrid.grid.engine.delivery import Delivery, Early, Line, alike, without
from tidegrid.grid.engine.frame import Frame, Loan
from tidegrid.grid.engine.made import Made
from tidegrid.grid.engine.making import Kind, Making
from tidegrid.grid.engine.parking import Parking
from tidegrid.grid.engine.recent import LandedFrame, RecentFrames
from tidegrid.grid.engine.redrive import RedriveQueue, RedriveRequest
from tidegrid.grid.engine.redriving import RedriveComputation
from tidegrid.grid.engine.requests import CLIENT_SESSION, RequestMemory
from tidegrid.grid.engine.routes import Routes
from tidegrid.grid.engine.tables import FoldOf, Tables, no_folds
from tidegrid.grid.engine.write import WriteRequest
from tidegrid.grid.log.record import SourceId, decode_record
from tidegrid.grid.model.errors import GridError, WrongOwnerError
from tidegrid.grid.model.ids import BEFORE_FIRST, Epoch, PartitionId, Position, Term
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.stamp import Stamp
from tidegrid.grid.ring.ownership import PartitionState

_EAGER_BYTES = 64 * 1024  # a second frame is computed while one is in flight only when so much waits for it

_NO_TERM: Final = Term(0)

Done = list[WriteRequest | RedriveRequest]
"""Requests that are complete."""


class Partition:
    def __init__(
        self,
        partition: PartitionId,
        limits: Limits,
        session_epochs: int,
        recent_bytes: int,
        claim: Term = _NO_TERM,
        fold_of: FoldOf = no_folds,
    ) -> None:
        self.id = partition
        self.claim = claim  # the term that the view gives; `term` is that of the last OPEN in the log
        self.limits = limits
        self.state = PartitionState.OPENING
        self.term = Term(0)
        self.tail: Position = BEFORE_FIRST
        self.last_stamp = Epoch(0)
        self.opened: list[tuple[Position, Term]] = []  # every OPEN: which records are valid
        self.tables = Tables(session_epochs, fold_of)
        self.references_changed = Epoch(0)  # highest stamp of a landed change to a reference map
        self.memory = RequestMemory(limits, session_epochs)
        self.recent = RecentFrames(recent_bytes)
        self.routes = Routes(partition)
        self.parking = Parking(limits)
        self.deliveries: deque[Delivery] = deque()  # came from other partitions, in no frame yet
        self.early = Early()
        self.delivering: set[SourceId] = set()  # their sources, and those of the frames on their way
        self.delivery_bytes = 0
        self._delivered_last = False  # deliveries and writes take turns
        self.redrives = RedriveQueue()
        self._redriven_last = False
        self.queue: deque[WriteRequest] = deque()
        self.queued_bytes = 0
        self.in_flight: Frame | None = None
        self.next: Frame | None = None
        self.making: Making | None = None  # rows that run in a worker process, with nothing else computed meanwhile
        self.admitted_under: Catalog | None = None  # what the queue was checked against
        self.reserved = False  # somebody waits to borrow the next slot: nothing new is computed
        self._owed = False  # a slot has been lent since the last frame: what is queued comes first, then the next loan
        self.unclosed_bytes: deque[tuple[Epoch, int]] = deque()

    # Requests ----------------------------------------------------------------------------------------------------

    def submit(self, request: WriteRequest, epoch: Epoch) -> bool:
        """Queues what has to be computed. True: the request is complete already. Raises as `admit`."""
        for part in admit(request, self.memory, epoch, self.limits):
            self.queue.append(part)
            self.queued_bytes += part.size
        return request.unanswered == 0

    def refuse(self, request: WriteRequest, error: GridError) -> list[WriteRequest]:
        """Takes a queued request out, all of its rows refused that are in no frame yet."""
        self.queue.remove(request)
        self.queued_bytes -= request.size
        request.refuse_rest(error)
        return self._complete(request) if not request.unanswered else []

    def wants_computing(self, epoch: Epoch) -> bool:
        """Whether there is something to compute at this epoch."""
        if not self.serving or self.next is not None or self.making is not None:
            return False
        lent_next = self.reserved and not self._owed
        if self.in_flight is not None:
            eager = self.queued_bytes + self.delivery_bytes >= _EAGER_BYTES
            if self.in_flight.loan is not None or lent_next or not eager or self.redrives:
                return False
        return bool((self.queue or self.redrives) and not lent_next) or self._next_delivery(epoch) is not None

    def redrives_next(self, epoch: Epoch) -> bool:
        """Whether the next frame is that of a redrive. Where one waits, nothing is computed on a frame in flight."""
        if not self.redrives or (self.reserved and not self._owed):
            return False
        return not (self._redriven_last and (self.queue or self._next_delivery(epoch) is not None))

    def compute_redrive(
        self, catalog: Catalog, epoch: Epoch, time_ms: int, references: References, seed: int, made: Made | None
    ) -> Frame:
        """The next frame, from the oldest redrive."""
        assert self.next is None and self.in_flight is None and self.serving and epoch >= self.last_stamp
        self._owed, self._redriven_last = False, True
        frame = Frame(self.id, self.term, epoch, time_ms, references.through)
        parking, tables, limits = self.parking, self.tables, self.limits
        RedriveComputation(frame, self.redrives.first, parking, tables, catalog, references, seed, limits, made).run()
        return self._sealed(frame)

    def deliver(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        self.delivering.add(delivery.source)
        self.delivery_bytes += delivery.size

    def _next_delivery(self, epoch: Epoch) -> Delivery | None:
        """The oldest that can be taken in. One that sets off triggers waits until nothing more can be written here at or
        below its epoch: then what they look up is the same in every replay (rule X6). What came after it from the same
        partition in the same epoch waits with it: so what is in the log of that tells what else is."""
        if not self.deliveries:
            return None
        in_flight = self.lowest_in_flight or self.lowest_lent
        waiting: set[Line] = set()
        for delivery in self.deliveries:
            ripe = not delivery.triggered or (
                delivery.effective < epoch and (in_flight is None or delivery.effective < in_flight)
            )
            if ripe and (not waiting or delivery.line not in waiting):
                return delivery
            waiting.add(delivery.line)
        return None

    def delivers_next(self, epoch: Epoch) -> Delivery | None:
        """What the next frame begins with, when it is the turn of deliveries."""
        if self._delivered_last and self.queue and not (self.reserved and not self._owed):
            return None
        return self._next_delivery(epoch)

    def compute_routed(
        self, first: Delivery, catalog: Catalog, epoch: Epoch, references: References, seed: int, made: Made | None
    ) -> Frame:
        """The next frame, from deliveries. `catalog` is that of the epoch of `first`, `epoch` the node's."""
        assert self.next is None and self.serving and epoch >= max(self.last_stamp, first.effective)
        self._delivered_last, self._redriven_last = True, False
        frame = Frame(self.id, self.term, epoch, first.time_ms, references.through)
        computation = self._computation(frame, catalog, references, seed, made)
        for delivery in alike(first, self.deliveries):
            if not computation.deliver(delivery):
                break
            frame.time_ms = max(frame.time_ms, delivery.time_ms)
        computation.end()
        self.deliveries = without(self.deliveries, set(frame.sources))
        self.delivery_bytes -= sum(delivery.size for delivery in frame.deliveries)
        return self._sealed(frame)

    def compute(
        self, catalog: Catalog, epoch: Epoch, time_ms: int, references: References, seed: int, made: Made | None
    ) -> Frame:
        """The next frame, stamped with `epoch`, from as much of the queue as fits into it. `made`: by worker processes, of
        the requests that it covers."""
        assert self.next is None and self.serving and epoch >= self.last_stamp
        self._owed = self._delivered_last = self._redriven_last = False
        frame = Frame(self.id, self.term, epoch, time_ms, references.through)
        computation = self._computation(frame, catalog, references, seed, made)
        while self.queue:
            request = self.queue[0]
            if (made is not None and not made.covers(request)) or not computation.add(request):
                break
            self.queue.popleft()
            self.queued_bytes -= request.size
        computation.end()
        return self._sealed(frame)

    def _sealed(self, frame: Frame) -> Frame:
        frame.seal()
        self.next = frame
        return frame

    def _computation(
        self, frame: Frame, catalog: Catalog, references: References, seed: int, made: Made | None
    ) -> Computation:
        base, limits = self.in_flight, self.limits
        return Computation(frame, base, self.tables, catalog, references, seed, limits, self.parking, made)

    # Frames ------------------------------------------------------------------------------------------------------

    def may_lend(self) -> bool:
        """Nothing is in flight, and groups and other writes take turns. A part of a group that is being made has its turn."""
        if self.in_flight is not None or self.next is not None:
            return False
        if self.making is not None:
            return self.making.kind is Kind.LOAN
        return not (self._owed and (self.queue or self.redrives))

    def lend(self, frame: Frame) -> None:
        """The next slot is lent for this frame, which is in flight from here on."""
        assert self.in_flight is None and self.next is None and frame.loan is not None
        self.in_flight = frame
        self._owed = True

    def launch(self) -> Frame | None:
        """The frame to append now, if none is in flight. One without payload is for the caller to `land` at once."""
        if self.in_flight is None and self.next is not None:
            self.in_flight, self.next = self.next, None
            return self.in_flight
        return None

    def landed(self, position: Position | None, reference_maps: Iterable[str] = ()) -> Done:
        """The frame in flight is in the log (None: it had nothing to append). Returns the requests this completes."""
        frame, self.in_flight = self.in_flight, None
        assert frame is not None
        self.delivering.difference_update(frame.sources)
        if position is not None and self.serving:
            assert position > self.tail
            self.tail, self.last_stamp = position, frame.stamp
            stamp: Stamp = (frame.effective, position, frame.time_ms)
            for (name, _), columns in frame.writes.items():
                self.tables.apply(name, columns.keys, columns.values, bytes(columns.ops), columns.versions, stamp)
                for run, versions in columns.runs:
                    self.memory.accepted(run.session, run.first_sequence, versions, frame.stamp)
            for name, columns in frame.outputs.items():
                self.tables.apply(name, columns.keys, columns.values, bytes(columns.ops), columns.versions, stamp)
            if frame.failures or frame.redriving is not None:
                assert frame.payload is not None
                self.parking.landed(position, frame.effective, decode_record(frame.payload))
            if any(name in frame.maps for name in reference_maps):
                self.references_changed = frame.stamp
            self.recent.add(LandedFrame(frame.effective, self.id, position, frame.time_ms, frame.maps, frame.sections))
            self.unclosed_bytes.append((frame.stamp, frame.size))
        return self._answer(frame)

    def _answer(self, frame: Frame) -> Done:
        done: Done = []
        if frame.redriving is not None:
            redrive = frame.redriving.request
            redrive.answer(frame.redriving.outcomes, frame.stamp)
            if redrive.complete or not self.serving:
                done += self.redrives.end(redrive)
        for portion in frame.portions:
            request = portion.request
            request.answer_rows(portion.begin, portion.versions, frame.stamp, portion.errors)
            if portion.parked is not None:
                request.note_parked(portion.parked)
            if (
                portion.errors
                and request.session[0] == CLIENT_SESSION
                and (session := self.memory.get(request.session)) is not None
            ):
                for row, error in portion.errors.items():
                    session.refused[request.first_sequence + row] = error
            if not request.unanswered:
                done.extend(self._complete(request))
        return done

    def _complete(self, request: WriteRequest) -> list[WriteRequest]:
        session = self.memory.get(request.session)
        if session is not None:
            session.settle(request)
        others = request.pass_on()
        return [request, *others] if request.reply_to is not None else others

    def failed(self, error: GridError) -> Done:
        """The frame in flight is not in the log and never will be: its writes end with `error`.

        What was computed on it is computed again. Returns the completed requests.
        """
        frame, self.in_flight = self.in_flight, None
        assert frame is not None
        computed, self.next, self.making = self.next, None, None
        done = self._fail(frame, error)
        if computed is not None:
            self._requeue(computed)
        self._drop(frame.deliveries)
        return done

    def _drop(self, lost: Sequence[Delivery]) -> None:
        """Deliveries that did not reach the log are said again after a while, and so is what was sent after them."""
        if not lost:
            return
        lines = {one.line for one in lost}
        later = [one for one in self.deliveries if one.line in lines]
        self.deliveries = without(self.deliveries, {one.source for one in later})
        self.delivery_bytes -= sum(one.size for one in later)
        self.delivering.difference_update(one.source for one in (*lost, *later))

    def slot_taken(self, position: Position, stamp: Epoch) -> None:
        """A FILL has the slot of the frame in flight, which is never in the log then: it is computed again."""
        frame, computed = self.in_flight, self.next
        assert frame is not None
        self.in_flight = self.next = self.making = None
        if computed is not None:
            self._requeue(computed)
        self._requeue(frame)
        self.tail, self.last_stamp = position, max(self.last_stamp, stamp)

    def _fail(self, frame: Frame, error: GridError) -> Done:
        """Rows of `frame` end with `error`; refusals computed with it may rest on what is undone, so they do too."""
        done: Done = []
        if frame.redriving is not None:
            done += self.redrives.end(frame.redriving.request, error)
        for portion in frame.portions:
            request = portion.request
            rows = range(portion.begin, portion.begin + len(portion.versions))
            request.answer_rows(portion.begin, [0] * len(rows), Epoch(0), dict.fromkeys(rows, error))
            if not request.unanswered:
                done.extend(self._complete(request))
        return done

    def _requeue(self, frame: Frame) -> None:
        self.deliveries.extendleft(reversed(frame.deliveries))
        self.delivery_bytes += sum(delivery.size for delivery in frame.deliveries)
        for portion in reversed(frame.portions):
            request = portion.request
            request.next_row = portion.begin
            if not self.queue or self.queue[0] is not request:
                self.queue.appendleft(request)
                self.queued_bytes += request.size

    def close(self, error: GridError | None = None) -> Done:
        """No longer the owner: what waits ends with `error`, nothing of it was stored.

        The frame in flight stays: whether it is in the log shows when its append is answered, or its slot read.
        """
        self.state, self.making = PartitionState.CLOSED, None
        error = error or self.moved()
        if self.next is not None:
            computed, self.next = self.next, None
            self._requeue(computed)
        redriving = self.in_flight.redriving if self.in_flight is not None else None
        done: Done = [*self.redrives.end_all(error, redriving.request if redriving is not None else None)]
        for request in self.queue:
            request.refuse_rest(error)
            if not request.unanswered:
                done.extend(self._complete(request))
        self.queue.clear()
        self.deliveries.clear()  # their senders say them again, to the next owner
        self.delivering.clear()
        self.early.clear()
        self.queued_bytes = self.delivery_bytes = 0
        return done

    def moved(self) -> WrongOwnerError:
        return WrongOwnerError(f"partition {self.id} has moved; ask again who owns it", partition=self.id, owner=-1)

    @property
    def serving(self) -> bool:
        """Open, or draining: it holds its term, answers reads and promises."""
        return self.state is PartitionState.OPEN or self.state is PartitionState.DRAINING

    @property
    def drained(self) -> bool:
        """Nobody waits for a frame. Deliveries do not count: they come again, to the next owner, and may have to wait for it."""
        return self.in_flight is None and self.next is None and not self.queue and not self.redrives

    # Time --------------------------------------------------------------------------------------------------------

    @property
    def loan(self) -> Loan | None:
        return self.in_flight.loan if self.in_flight is not None else None

    @property
    def lowest_in_flight(self) -> Epoch | None:
        """A slot that is lent is counted by `lowest_lent`."""
        frame = self.in_flight or self.next
        if frame is None:
            return self.making.epoch if self.making is not None else None
        return frame.stamp if frame.loan is None else None

    @property
    def lowest_lent(self) -> Epoch | None:
        frame = self.in_flight
        return frame.stamp if frame is not None and frame.loan is not None else None

    @property
    def highest_stamp(self) -> Epoch:
        if self.making is not None:
            return self.making.epoch
        frame = self.next or self.in_flight
        return frame.stamp if frame is not None else self.last_stamp

    def closed(self, epoch: Epoch) -> int:
        """Bytes that this close takes off what one epoch may weigh."""
        self.memory.closed = epoch
        self.early.closed(epoch)
        if self.serving:  # what is being replayed may still be out of order
            self.settle(epoch)
        size = 0
        while self.unclosed_bytes and self.unclosed_bytes[0][0] <= epoch:
            size += self.unclosed_bytes.popleft()[1]
        return size

    def settle(self, closed: Epoch) -> None:
        """Nothing comes at or below `closed` any more."""
        self.routes.closed(closed)
        self.tables.settle(closed)

    def valid(self, position: Position, term: Term) -> bool:
        """Whether a record at `position` with `term` counts: its term is that of the last OPEN before it."""
        current = Term(0)
        for opened_at, opened_term in self.opened:
            if opened_at > position:
                break
            current = opened_term
        return term == current
