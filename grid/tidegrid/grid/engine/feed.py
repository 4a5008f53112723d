"""Feeds: what a follower gets of one map, in (effective epoch, partition, position) order, close by close.

A follower is a cursor: the epoch up to which it has had everything. Only closed epochs are handed out, so a feed is
final, in order, and ends each step with a mark: nothing at or below it is still to come. What the newest frames in
memory do not cover is merged from the partition logs by `LogMerge`, in bounded pieces; so a follower that stalls, or
comes back after days, costs the node a cursor and nothing else.

Sections travel as the bytes that are in the log.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.log.entry import LogRecord
from tidegrid.grid.log.record import DATA, ROUTED, decode_record
from tidegrid.grid.model.ids import Epoch, PartitionId, Position, Term

READ_BYTES = 256 * 1024  # of one read of one partition log while catching up


class FeedEntry(NamedTuple):
    """The changes of one map in one frame."""

    effective: Epoch
    partition: PartitionId
    position: Position
    time_ms: int
    section: bytes


def recent_entries(
    partitions: Iterable[Partition], map_name: str, after: Epoch, through: Epoch
) -> list[FeedEntry] | None:
    """Entries with after < effective <= through from memory, in feed order; None when the log has to be read."""
    entries = []
    for partition in partitions:
        frames = partition.recent.between(after, through)
        if frames is None:
            return None
        for frame in frames:
            for name, section in zip(frame.maps, frame.sections, strict=True):
                if name == map_name:
                    entries.append(FeedEntry(frame.effective, frame.partition, frame.position, frame.time_ms, section))
    entries.sort(key=_order)
    return entries


def _order(entry: FeedEntry) -> tuple[int, int, int]:
    return entry[:3]


class LogMerge:
    """Merges partition logs up to a closed epoch `through`.

    Lifecycle: `needs` names a partition log to read next, and from where; `give` takes what was read; `take` hands
    out what is in order. Done when `mark` equals `through`. Holds at most one read per partition.
    """

    def __init__(self, partitions: Sequence[Partition], map_name: str, after: Epoch, through: Epoch) -> None:
        self._partitions = {partition.id: partition for partition in partitions}
        self._map = map_name
        self._after = after
        self.through = through
        self.mark = after
        self._buffers: dict[PartitionId, deque[FeedEntry]] = {partition: deque() for partition in self._partitions}
        self._cursors: dict[PartitionId, Position | None] = dict.fromkeys(self._partitions)
        self._seen: dict[PartitionId, Epoch] = dict.fromkeys(self._partitions, after)  # read through, per partition
        if not self._partitions:
            self.mark = through

    def needs(self) -> tuple[PartitionId, Position | None] | None:
        """(partition, position to read after; None: find it by the epoch `after`)."""
        for partition, buffer in self._buffers.items():
            if not buffer and self._seen[partition] < self.through:
                return partition, self._cursors[partition]
        return None

    def give(self, partition: PartitionId, after: Position, records: Sequence[LogRecord]) -> None:
        """What was read of `partition` after `after`; nothing means that its log ends there."""
        self._cursors[partition] = records[-1].position if records else after
        if not records:
            self._seen[partition] = self.through
            return
        owner, buffer = self._partitions[partition], self._buffers[partition]
        for item in records:
            if item.epoch > self.through:
                self._seen[partition] = self.through
                return
            record = decode_record(item.payload)
            # A later record may share its epoch, so only what lies below it is known to be complete.
            self._seen[partition] = max(self._seen[partition], Epoch(record.stamp - 1))
            if record.kind not in (DATA, ROUTED) or not owner.valid(item.position, Term(record.term)):
                continue
            effective = Epoch(record.effective)
            if not self._after < effective <= self.through:
                continue
            for name, section in zip(record.maps, record.sections, strict=True):
                if name == self._map:
                    buffer.append(FeedEntry(effective, partition, item.position, record.time_ms, section))

    def take(self, bytes_max: int) -> list[FeedEntry]:
        """The next entries in order, about `bytes_max` of them; moves `mark`."""
        entries: list[FeedEntry] = []
        size = 0
        while size < bytes_max:
            heads = [buffer[0] for buffer in self._buffers.values() if buffer]
            complete = min(
                (seen for partition, seen in self._seen.items() if not self._buffers[partition]), default=self.through
            )
            if not heads:
                self.mark = max(self.mark, complete)
                break
            head = min(heads, key=_order)
            if head.effective > complete:
                self.mark = max(self.mark, complete)
                break
            self.mark = max(self.mark, Epoch(head.effective - 1))
            self._buffers[head.partition].popleft()
            entries.append(head)
            size += len(head.section)
        return entries


class Closes:
    """The newest closed epochs, in order: the steps in which followers are served, so that they share messages."""

    def __init__(self, kept_max: int = 4096) -> None:
        self._epochs: deque[Epoch] = deque(maxlen=kept_max)

    def add(self, epoch: Epoch) -> None:
        self._epochs.append(epoch)

    def next_after(self, epoch: Epoch) -> Epoch | None:
        """The first close above `epoch`; None when there is none yet. O(1) for a follower that keeps up."""
        epochs = self._epochs
        if not epochs or epochs[-1] <= epoch:
            return None
        low, high = 0, len(epochs) - 1
        if len(epochs) > 1 and epochs[-2] <= epoch:
            return epochs[-1]
        while low < high:
            middle = (low + high) // 2
            if epochs[middle] > epoch:
                high = middle
            else:
                low = middle + 1
        return epochs[low]
