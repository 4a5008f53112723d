"""The write path of a node: its partitions, and which of them has something to compute, append or answer.

Work is done one frame at a time (`compute_one`), so that a shell can look after its sockets in between. The order of
partitions is that in which they asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from tidegrid.grid.engine.admission import check, unhandled_schema
from tidegrid.grid.engine.catalog import Catalog
from tidegrid.grid.engine.catalogs import Catalogs
from tidegrid.grid.engine.compute import References
from tidegrid.grid.engine.delivery import Delivery
from tidegrid.grid.engine.effects import Answered, Append, Effect, Purpose, ReadControl, ReadLog, Slot, Try
from tidegrid.grid.engine.frame import Frame
from tidegrid.grid.engine.isolation import Isolation
from tidegrid.grid.engine.made import Made
from tidegrid.grid.engine.making import BatchDone, Kind, Making
from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.engine.redrive import RedriveRequest
from tidegrid.grid.engine.write import WriteRequest
from tidegrid.grid.log.entry import Entry, LogRecord
from tidegrid.grid.log.record import DATA, OPEN, decode_record, encode_fill, stamped
from tidegrid.grid.model.errors import (
    BusyError,
    CallerError,
    ClosingLagError,
    GridError,
    LogFailedError,
    LogTimeoutError,
    StorageFullError,
    WrongTailError,
)
from tidegrid.grid.model.ids import Epoch, PartitionId, Position, Term, partition_log
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.ring.ownership import PartitionState
from tidegrid.grid.ring.promise import PartitionPromise
from tidegrid.triggers.budget import Watch

RETRY_SECONDS: Final = 0.1  # after a full storage


class WritePath:
    def __init__(
        self,
        limits: Limits,
        seed: int,
        emit: Callable[[Effect], None],
        epoch: Callable[[], Epoch],
        on_landed: Callable[[Partition, Frame, Position], None],
        watch: Watch,
    ) -> None:
        """`epoch` is the node's; `on_landed` is told of every frame of a serving partition, once it is applied."""
        self.partitions: dict[PartitionId, Partition] = {}
        self.failure: GridError | None = None  # of the log: nothing is written any more
        self.storage_full = False
        self.highest_stamp = Epoch(0)  # of anything computed or found in a log here
        self.written = 0  # writes landed since the start
        self.outputs = 0
        self.reference_maps: frozenset[str] = frozenset()
        self._limits = limits
        self._seed = seed
        self._emit = emit
        self._epoch = epoch
        self._on_landed = on_landed
        self.isolation = Isolation(self.partitions, limits, seed, emit, watch.overruns.append)
        self._waiting: dict[PartitionId, None] = {}
        self._given_up: dict[tuple[PartitionId, Term], Partition] = {}
        self._retries: dict[Slot, float] = {}
        self._queued_bytes = 0
        self._unclosed_bytes = 0

    # In ----------------------------------------------------------------------------------------------------------

    def submit(self, request: WriteRequest, catalog: Catalog, epoch: Epoch) -> None:
        """Queues a request whose partition is open here. Raises a GridError when it is refused as a whole."""
        partition = self.partitions[request.partition]
        self.check_room(epoch)
        check(request, catalog, self._limits)
        if not partition.queue:
            partition.admitted_under = catalog
        before = partition.queued_bytes
        if partition.submit(request, epoch):
            self._emit(Answered((request,)))
        self._queued_bytes += partition.queued_bytes - before
        if partition.wants_computing(epoch):
            self._waiting[partition.id] = None

    def redrive(self, request: RedriveRequest, epoch: Epoch) -> None:
        """Queues it in its partition, which is open here. Raises a GridError."""
        partition = self.partitions[request.partition]
        self.check_room(epoch)
        partition.redrives.add(request)
        self._again(partition, epoch)

    def check_room(self, epoch: Epoch) -> None:
        """Raises what keeps this node from taking anything new."""
        if self.failure is not None:
            raise self.failure
        if self._queued_bytes > self._limits.queue_bytes_max:
            raise BusyError.of("the node's queue of writes (bytes)", self._limits.queue_bytes_max)
        if self._unclosed_bytes > self._limits.unclosed_bytes_max:
            raise ClosingLagError(
                "epochs close more slowly than writes arrive; wait for answers before sending more", epoch=epoch
            )

    @property
    def idle(self) -> bool:
        """Nothing waits to be computed."""
        return not self._waiting

    def compute_one(self, catalogs: Catalogs, epoch: Epoch, time_ms: int, references: References) -> int:
        """Computes the next frame of the partition that has waited longest; returns how many rows it decided."""
        while self._waiting:
            partition = self.partitions[next(iter(self._waiting))]
            del self._waiting[partition.id]
            if not partition.wants_computing(epoch):
                continue
            redrive = partition.redrives_next(epoch)
            delivery = partition.delivers_next(epoch) if not redrive else None
            catalog = catalogs.at(delivery.effective if delivery is not None else epoch)
            if not redrive and delivery is None:
                self._refuse_stale(partition, catalog)
            self.highest_stamp = epoch
            rows = self.isolation.begin(partition, delivery, redrive, catalog, epoch, time_ms, references)
            return rows or self._compute(partition, delivery, redrive, catalog, epoch, time_ms, references)
        return 0

    def _compute(
        self,
        partition: Partition,
        delivery: Delivery | None,
        redrive: bool,
        catalog: Catalog,
        epoch: Epoch,
        time_ms: int,
        references: References,
        made: Made | None = None,
    ) -> int:
        """Returns how many rows the frame decides."""
        if redrive:
            frame = partition.compute_redrive(catalog, epoch, time_ms, references, self._seed, made)
        elif delivery is not None:
            frame = partition.compute_routed(delivery, catalog, epoch, references, self._seed, made)
        else:
            before = partition.queued_bytes
            frame = partition.compute(catalog, epoch, time_ms, references, self._seed, made)
            self._queued_bytes += partition.queued_bytes - before
        self._launch(partition)
        self._again(partition, self._epoch())
        redriven = len(frame.redriving.outcomes) if frame.redriving is not None else 0
        return max(frame.count, redriven, sum(len(portion.versions) for portion in frame.portions))

    def batch_done(self, done: BatchDone) -> None:
        """What worker processes were given to run has come back: the frame in the making is computed from it. That of a
        loan is for who asked for it (lending.py)."""
        partition = self.isolation.done(done)
        making = partition.making if partition is not None else None
        if partition is None or making is None or making.kind is Kind.LOAN:
            return
        partition.making = None
        if making.error is not None:
            self._not_made(partition, making, making.error)
            return
        delivery = making.of if isinstance(making.of, Delivery) else None
        redrive, facts = making.kind is Kind.REDRIVE, (making.catalog, making.epoch, making.time_ms, making.references)
        self._compute(partition, delivery, redrive, *facts, making.made)

    def _not_made(self, partition: Partition, making: Making, error: GridError) -> None:
        """Nothing could be run. What was delivered here is tried again: its sender waits, and so does time."""
        before = partition.queued_bytes
        if isinstance(making.of, RedriveRequest):
            self._answer(partition.redrives.end(making.of, error))
        elif isinstance(making.of, list):
            for request in making.of:
                self._answer(partition.refuse(request, error))
        self._queued_bytes += partition.queued_bytes - before
        self._again(partition, self._epoch())

    def _again(self, partition: Partition, epoch: Epoch) -> None:
        if partition.wants_computing(epoch):
            self._waiting[partition.id] = None

    def _refuse_stale(self, partition: Partition, catalog: Catalog) -> None:
        """A deployment since admission may have changed what may be written: ask again, for those it concerns."""
        if partition.admitted_under is catalog:
            return
        partition.admitted_under = catalog
        for request in list(partition.queue):
            if request.next_row == 0:
                try:
                    check(request, catalog, self._limits)
                    if (unhandled := unhandled_schema(request, catalog)) is not None:
                        raise unhandled
                except CallerError as error:
                    before = partition.queued_bytes
                    self._answer(partition.refuse(request, error))
                    self._queued_bytes += partition.queued_bytes - before

    # The log -----------------------------------------------------------------------------------------------------

    def _launch(self, partition: Partition) -> None:
        while (frame := partition.launch()) is not None:
            if frame.payload is not None:
                slot = Slot(partition.id, partition.claim, partition.tail, Purpose.FRAME)
                entry = Entry(partition_log(partition.id), partition.tail, frame.stamp, frame.payload)
                self._emit(Append(slot, entry))
                return
            self._answer(partition.landed(None))

    def landed(self, slot: Slot, position: Position) -> None:
        """What was appended at this slot is in the log: the frame, or the FILL that contended with it (F2)."""
        partition = self._undecided(slot)
        if partition is None:
            return
        self.storage_full = False
        if slot.purpose is Purpose.FILL:
            assert partition.in_flight is not None
            self._lost_slot(partition, position, partition.in_flight.stamp)
        else:
            self._frame_landed(partition, position)

    def _frame_landed(self, partition: Partition, position: Position) -> None:
        frame = partition.in_flight
        assert frame is not None
        self.highest_stamp = max(self.highest_stamp, frame.stamp)
        self.written += 0 if frame.deliveries else frame.count
        self.outputs += frame.output_count
        if partition.serving:
            self._unclosed_bytes += frame.size
        self._answer(partition.landed(position, self.reference_maps))
        if partition.serving:
            self._on_landed(partition, frame, position)
        self._go_on(partition)

    def failed(self, now: float, slot: Slot, error: GridError) -> None:
        """The append at this slot was refused, or nobody knows. Letters: rule F."""
        partition = self._undecided(slot)
        if partition is None:
            return
        if isinstance(error, LogFailedError):  # F3
            self.fail(error)
        elif isinstance(error, WrongTailError):  # F1: what is there decides
            self._read_slot(partition)
        elif isinstance(error, LogTimeoutError):  # F2
            self.fill(partition)
        elif slot.purpose is Purpose.FILL:
            self._retries[slot] = now + RETRY_SECONDS
        else:
            self.storage_full = isinstance(error, StorageFullError)
            before = partition.queued_bytes
            self._answer(partition.failed(error))
            self._queued_bytes += partition.queued_bytes - before
            self._go_on(partition)

    def slot_read(self, read: ReadLog, records: Sequence[LogRecord]) -> None:
        """Rule F1: what follows the known tail, after an append that found its slot taken."""
        partition = self._undecided(Slot(read.partition, read.term, read.after, Purpose.FRAME))
        if partition is None:
            return
        assert records, "an append finds its slot taken only by what can be read"
        item = records[0]
        assert partition.in_flight is not None
        record = decode_record(item.payload)
        if self._is_ours(item.payload, Epoch(record.stamp), partition.in_flight):
            partition.in_flight.stamp = Epoch(record.stamp)
            self._frame_landed(partition, item.position)
            return
        if record.kind == OPEN and record.term > partition.claim:
            self._step_down(partition)
        else:
            assert record.kind != DATA or record.term != partition.claim, "only the owner writes under its term"
            self._lost_slot(partition, item.position, Epoch(record.stamp))

    @staticmethod
    def _is_ours(payload: bytes, stamp: Epoch, frame: Frame) -> bool:
        assert frame.payload is not None
        return payload == (frame.payload if frame.loan is None else stamped(frame.payload, stamp))

    def _undecided(self, slot: Slot) -> Partition | None:
        """The partition whose frame in flight waits for the outcome at this slot, owned still or given up."""
        partition = self.partitions.get(slot.partition)
        if partition is None or partition.claim != slot.term:
            partition = self._given_up.get((slot.partition, slot.term))
        if partition is None or partition.in_flight is None or partition.tail != slot.after:
            return None
        return partition

    def _read_slot(self, partition: Partition) -> None:
        self._emit(ReadLog(partition.id, partition.claim, partition.tail))

    def fill(self, partition: Partition) -> None:
        """Rule F2: contend for the slot of the frame in flight; whichever is in first, the other never will be."""
        frame = partition.in_flight
        assert frame is not None
        payload = encode_fill(partition.id, partition.claim, frame.stamp, frame.time_ms)
        slot = Slot(partition.id, partition.claim, partition.tail, Purpose.FILL)
        self._emit(Append(slot, Entry(partition_log(partition.id), partition.tail, frame.stamp, payload)))

    def _lost_slot(self, partition: Partition, position: Position, stamp: Epoch) -> None:
        """The frame in flight can never land: nothing but its slot was lost, so its writes are computed again."""
        if not partition.serving:
            self._answer(partition.failed(partition.moved()))
            self._go_on(partition)
            return
        before = partition.queued_bytes
        partition.slot_taken(position, stamp)
        self._queued_bytes += partition.queued_bytes - before
        self._go_on(partition)

    def _step_down(self, partition: Partition) -> None:
        """A higher OPEN is in the log: the view that goes with it is not applied here yet."""
        before = partition.queued_bytes
        self._answer(partition.failed(partition.moved()))
        self._queued_bytes += partition.queued_bytes - before
        if partition.serving:
            self._close(partition, None)
            self._emit(ReadControl())
        self._forget_decided(partition)

    # Commit groups -------------------------------------------------------------------------------------------------

    def lend(self, partition: Partition, frame: Frame) -> None:
        """The next slot is a coordinator's, for this frame; until it is decided nothing else is computed."""
        partition.lend(frame)
        self.highest_stamp = max(self.highest_stamp, frame.stamp)

    def make_loan(
        self,
        partition: Partition,
        attempt: Try,
        requests: Sequence[WriteRequest],
        catalog: Catalog,
        epoch: Epoch,
        time_ms: int,
        references: References,
    ) -> None:
        """What is to be lent has to run in a worker process first, and is in flight from here on."""
        self.isolation.begin_loan(partition, attempt, requests, catalog, epoch, time_ms, references)
        self.highest_stamp = max(self.highest_stamp, epoch)

    def lent(self) -> list[Partition]:
        return [p for p in (*self.partitions.values(), *self._given_up.values()) if p.loan is not None]

    def group_landed(self, partition: Partition, epoch: Epoch, position: Position) -> None:
        frame = partition.in_flight
        assert frame is not None and epoch >= frame.stamp
        frame.stamp = epoch
        self._frame_landed(partition, position)

    def group_released(self, partition: Partition) -> None:
        """The coordinator has not issued its append, and never will, or has seen it fail."""
        partition.in_flight = None
        self._go_on(partition)

    def stirred(self, partition: Partition) -> None:
        """Something may be computed in it now."""
        self._again(partition, self._epoch())

    def epoch_raised(self) -> None:
        """Deliveries may have waited for that."""
        for partition in self.partitions.values():
            if partition.deliveries:
                self.stirred(partition)

    def promises(self) -> Iterable[PartitionPromise]:
        """What each partition holds back, those of other owners by now included."""
        for number, partition in self.partitions.items():
            in_flight, lent = partition.lowest_in_flight, partition.lowest_lent
            yield PartitionPromise(number, partition.serving, in_flight, lent, partition.routes.undelivered)
        for partition in self.undecided():
            yield PartitionPromise(partition.id, True, partition.lowest_in_flight, partition.lowest_lent)

    # Ownership ---------------------------------------------------------------------------------------------------

    def give_up(self, number: PartitionId) -> None:
        """The view has given the partition to another owner, or to this node under a new term."""
        partition = self.partitions.pop(number)
        self._waiting.pop(number, None)
        self._unclosed_bytes -= sum(size for _, size in partition.unclosed_bytes)
        if partition.state is not PartitionState.CLOSED:
            self._close(partition, None)
        if partition.in_flight is not None:
            self._given_up[partition.id, partition.claim] = partition

    def _close(self, partition: Partition, error: GridError | None) -> None:
        self._queued_bytes -= partition.queued_bytes
        self._answer(partition.close(error))

    def _forget_decided(self, partition: Partition) -> None:
        if partition.in_flight is None:
            self._given_up.pop((partition.id, partition.claim), None)

    def undecided(self) -> Iterable[Partition]:
        """Partitions of other owners by now, with a frame of ours that may yet be found in their logs."""
        return self._given_up.values()

    def time_passed(self, now: float) -> None:
        for slot in [slot for slot, due in self._retries.items() if due <= now]:
            del self._retries[slot]
            partition = self._undecided(slot)
            if partition is not None:
                self.fill(partition)

    def deadline(self) -> float | None:
        return min(self._retries.values(), default=None)

    def fail(self, error: GridError) -> None:
        """The log handle is dead: all terms are given up for good (rule F3)."""
        self.failure = error
        for partition in [*self.partitions.values(), *self._given_up.values()]:
            if partition.in_flight is not None:
                self._answer(partition.failed(error))
            if partition.state is not PartitionState.CLOSED:
                self._answer(partition.close(error))
        self._waiting.clear()
        self._given_up.clear()
        self._retries.clear()
        self._queued_bytes = 0

    def _go_on(self, partition: Partition) -> None:
        self._forget_decided(partition)
        self._launch(partition)
        if self.partitions.get(partition.id) is partition:
            self.stirred(partition)

    def _answer(self, requests: Iterable[WriteRequest | RedriveRequest]) -> None:
        done = tuple(requests)
        if done:
            self._emit(Answered(done))

    # Time --------------------------------------------------------------------------------------------------------

    def closed(self, epoch: Epoch) -> None:
        for partition in self.partitions.values():
            self._unclosed_bytes -= partition.closed(epoch)

    @property
    def history_bytes(self) -> int:
        return sum(
            table.history_bytes for partition in self.partitions.values() for _, table in partition.tables.every()
        )
