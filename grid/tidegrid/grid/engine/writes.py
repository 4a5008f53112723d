"""The write path of a node: its partitions, and which of them has something to compute, append or answer.

Work is done one frame at a time (`compute_one`), so that a shell can look after its sockets in between. The order of
partitions is that in which they asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tidegrid.grid.engine.admission import check
from tidegrid.grid.engine.catalog import Catalog
from tidegrid.grid.engine.compute import References
from tidegrid.grid.engine.effects import Answered, AppendFrame, Effect
from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.engine.write import WriteRequest
from tidegrid.grid.log.entry import Entry
from tidegrid.grid.model.errors import (
    BusyError,
    CallerError,
    ClosingLagError,
    GridError,
    LogFailedError,
    StorageFullError,
)
from tidegrid.grid.model.ids import Epoch, PartitionId, Position, partition_log
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.ring.ownership import PartitionState


class WritePath:
    def __init__(self, limits: Limits, seed: int, emit: Callable[[Effect], None]) -> None:
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
        self._waiting: dict[PartitionId, None] = {}
        self._queued_bytes = 0
        self._unclosed_bytes = 0

    # In ----------------------------------------------------------------------------------------------------------

    def submit(self, request: WriteRequest, catalog: Catalog, epoch: Epoch) -> None:
        """Queues a request whose partition is open here. Raises a GridError when it is refused as a whole."""
        partition = self.partitions[request.partition]
        if self.failure is not None:
            raise self.failure
        if self._queued_bytes > self._limits.queue_bytes_max:
            raise BusyError.of("the node's queue of writes (bytes)", self._limits.queue_bytes_max)
        if self._unclosed_bytes > self._limits.unclosed_bytes_max:
            raise ClosingLagError(
                "epochs close more slowly than writes arrive; wait for answers before sending more", epoch=epoch
            )
        check(request, catalog, self._limits)
        if not partition.queue:
            partition.admitted_under = catalog
        before = partition.queued_bytes
        if partition.submit(request, epoch):
            self._emit(Answered((request,)))
        self._queued_bytes += partition.queued_bytes - before
        if partition.wants_computing():
            self._waiting[partition.id] = None

    @property
    def idle(self) -> bool:
        """Nothing waits to be computed."""
        return not self._waiting

    def compute_one(self, catalog: Catalog, epoch: Epoch, time_ms: int, references: References) -> int:
        """Computes the next frame of the partition that has waited longest; returns how many writes it decided."""
        while self._waiting:
            partition = self.partitions[next(iter(self._waiting))]
            del self._waiting[partition.id]
            if not partition.wants_computing():
                continue
            self._refuse_stale(partition, catalog)
            before = partition.queued_bytes
            frame = partition.compute(catalog, epoch, time_ms, references, self._seed)
            self.highest_stamp = epoch
            self._queued_bytes += partition.queued_bytes - before
            self._launch(partition)
            if partition.wants_computing():
                self._waiting[partition.id] = None
            return sum(len(portion.versions) for portion in frame.portions)
        return 0

    def _refuse_stale(self, partition: Partition, catalog: Catalog) -> None:
        """A deployment since admission may have changed what may be written: ask again, for those it concerns."""
        if partition.admitted_under is catalog:
            return
        partition.admitted_under = catalog
        for request in list(partition.queue):
            if request.next_row == 0:
                try:
                    check(request, catalog, self._limits)
                except CallerError as error:
                    before = partition.queued_bytes
                    self._answer(partition.refuse(request, error))
                    self._queued_bytes += partition.queued_bytes - before

    # The log -----------------------------------------------------------------------------------------------------

    def _launch(self, partition: Partition) -> None:
        while (frame := partition.launch()) is not None:
            if frame.payload is not None:
                entry = Entry(partition_log(partition.id), partition.tail, frame.stamp, frame.payload)
                self._emit(AppendFrame(partition.id, entry))
                return
            self._answer(partition.landed(None))

    def landed(self, number: PartitionId, position: Position) -> None:
        partition = self.partitions[number]
        frame = partition.in_flight
        if frame is None or partition.state is PartitionState.CLOSED:
            return
        self.storage_full = False
        self.written += frame.count
        self.outputs += frame.output_count
        self._unclosed_bytes += frame.size
        self._answer(partition.landed(position, self.reference_maps))
        self._go_on(partition)

    def failed(self, number: PartitionId, error: GridError) -> None:
        """The append failed. StorageFull and a refused size are definite; else the log is lost for this node (F1, F3)."""
        partition = self.partitions[number]
        if partition.in_flight is None:
            return
        definite = isinstance(error, StorageFullError | CallerError)
        self.storage_full = isinstance(error, StorageFullError)
        before = partition.queued_bytes
        self._answer(partition.failed(error, definite=definite))
        self._queued_bytes += partition.queued_bytes - before
        if definite:
            self._go_on(partition)
        elif isinstance(error, LogFailedError):
            self.fail(error)

    def fail(self, error: GridError) -> None:
        """The log handle is dead: all terms are given up for good (rule F3)."""
        self.failure = error
        for partition in self.partitions.values():
            if partition.in_flight is not None:
                self._answer(partition.failed(error, definite=False))
            elif partition.state is PartitionState.OPEN:
                self._answer(partition.close(error))
        self._waiting.clear()
        self._queued_bytes = 0

    def _go_on(self, partition: Partition) -> None:
        self._launch(partition)
        if partition.wants_computing():
            self._waiting[partition.id] = None

    def _answer(self, requests: Iterable[WriteRequest]) -> None:
        done = tuple(requests)
        if done:
            self._emit(Answered(done))

    # Time --------------------------------------------------------------------------------------------------------

    def closed(self, epoch: Epoch) -> None:
        for partition in self.partitions.values():
            self._unclosed_bytes -= partition.closed(epoch)

    @property
    def history_bytes(self) -> int:
        return sum(table.history_bytes for partition in self.partitions.values() for table in partition.tables.values())
