"""One partition on its way to being open (rule O), as a state machine over what is read of its log.

    loading --the checkpoint, if there is one--> replaying --the end of the log--> appending OPEN there --landed--> open
                                                     ^--somebody else's record came first---'

It begins when the VIEW that gives the partition to this node has been applied: only then is the log's end an end for
whoever owned it before, whose late appends meet the OPEN or are replayed before it. An OPEN of a higher term means
that yet another view has given it away: that view is on its way here, and this opening waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from tidegrid.grid.engine.checkpoint import Recovery
from tidegrid.grid.engine.effects import Append, Effect, LoadCheckpoint, Purpose, ReadControl, ReadLog, Slot
from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.log.entry import Entry, LogRecord
from tidegrid.grid.log.record import encode_open
from tidegrid.grid.model.errors import CorruptionError, FormatError, GridError, WrongTailError
from tidegrid.grid.model.ids import Epoch, Incarnation, NodeId, Position, partition_log
from tidegrid.grid.ring.ownership import PartitionState

RETRY_SECONDS: Final = 0.1  # after a full storage, or no answer


class Opening:
    """`closed` is as of the view that gives the partition (rule O2)."""

    def __init__(
        self,
        partition: Partition,
        me: NodeId,
        incarnation: Incarnation,
        closed: Epoch,
        reference_maps: frozenset[str],
        emit: Callable[[Effect], None],
    ) -> None:
        self.partition = partition
        self.closed = closed
        self.stamp = Epoch(0)
        self._me = me
        self._incarnation = incarnation
        self._emit = emit
        self._recovery = Recovery(partition, reference_maps)
        self.retry_at: float | None = None
        self.incomplete = False  # it waits for generations of its maps to be built
        emit(LoadCheckpoint(partition.id, partition.claim))

    @property
    def entries(self) -> int:
        """Recovered so far."""
        return self._recovery.entries

    def checkpoint_loaded(self, position: Position, chunks: Iterable[bytes]) -> Iterable[None]:
        """Takes the chunks in, one per step: the shell may do other things in between. Raises CorruptionError."""
        number = self.partition.id
        for chunk in chunks:
            try:
                self._recovery.chunk(chunk)
            except FormatError as error:
                raise CorruptionError(f"partition {number}: {error.message}", partition=number) from error
            yield
        if self._recovery.position != position:
            raise CorruptionError(
                f"the checkpoint of partition {number} is not of the position it names; delete it, and the log is read from its beginning",
                partition=number,
            )
        self.read_on()

    def read_on(self) -> None:
        self._emit(ReadLog(self.partition.id, self.partition.claim, self._recovery.position))

    @property
    def position(self) -> Position:
        """Read up to here."""
        return self._recovery.position

    def read(self, records: Sequence[LogRecord]) -> None:
        """Raises CorruptionError."""
        try:
            self._recovery.records(records)
        except FormatError as error:
            number = self.partition.id
            raise CorruptionError(f"partition {number}: {error.message}", partition=number) from error
        self.read_on()

    def at_end(self, stamp: Epoch, time_ms: int) -> bool:
        """The log is replayed to its end: OPEN goes there. True: it is there already, an answer was late or lost."""
        partition = self.partition
        if partition.term == partition.claim:
            self.opened(partition.tail, partition.last_stamp)
            return True
        if partition.term > partition.claim:
            self._emit(ReadControl())
            return False
        self.stamp = stamp
        payload = encode_open(partition.id, partition.claim, stamp, self._me, self._incarnation, time_ms)
        after = self._recovery.position
        slot = Slot(partition.id, partition.claim, after, Purpose.OPEN)
        self._emit(Append(slot, Entry(partition_log(partition.id), after, stamp, payload)))
        return False

    def failed(self, now: float, error: GridError) -> None:
        """The OPEN was not taken, or nobody knows: what is in the log now decides."""
        if isinstance(error, WrongTailError):
            self.read_on()
        else:
            self.retry_at = now + RETRY_SECONDS

    def time_passed(self, now: float) -> None:
        if self.retry_at is not None and now >= self.retry_at:
            self.retry_at = None
            self.read_on()

    def opened(self, position: Position, stamp: Epoch) -> None:
        partition = self.partition
        if partition.term < partition.claim:
            partition.term = partition.claim
            partition.opened.append((position, partition.claim))
        partition.tail, partition.last_stamp = position, stamp
        partition.recent.start(stamp)
        partition.state = PartitionState.OPEN
