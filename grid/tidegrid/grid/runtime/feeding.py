"""Feeds as async iterators: a snapshot, then close by close from memory, or from the log when memory has moved on.

The pace is the reader's: whoever does not ask for the next message costs nothing but the cursor.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from tidegrid.grid.engine.feed import READ_BYTES, LogMerge, recent_entries
from tidegrid.grid.engine.feed_entry import FeedEntry
from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.engine.switching import difference, kept_generation, pause_at, switch_after
from tidegrid.grid.log.entry import LogRecord
from tidegrid.grid.model.errors import EpochTooNewError, EpochTooOldError, UnknownMapError, WrongOwnerError
from tidegrid.grid.model.ids import Epoch, PartitionId, partition_log
from tidegrid.grid.model.stamp import Stamp
from tidegrid.grid.runtime.driver import Driver

MESSAGE_BYTES = 512 * 1024
SNAPSHOT_ROWS = 2_000

SharedKey = tuple[str, tuple[PartitionId, ...], Epoch, Epoch]
SnapshotRow = tuple[bytes, tuple[bytes | None, int, Stamp]]


@dataclass(frozen=True, slots=True)
class Snapshot:
    partition: PartitionId
    rows: Sequence[SnapshotRow]


@dataclass(frozen=True, slots=True)
class Live:
    """The snapshot is complete."""


@dataclass(frozen=True, slots=True)
class Step:
    """Entries in order, then the mark; None: more of its epoch comes. `shared` is equal for followers who can share the
    serialised message."""

    entries: Sequence[FeedEntry]  # none, where `shared` is known
    mark: Epoch | None
    shared: SharedKey | None = None


def _unknown(_key: SharedKey) -> bool:
    return False


@dataclass(slots=True, eq=False)
class Feed:
    """One follower's cursor. `after` is exclusive and moves; `from_log` says that memory no longer holds what it needs.

    `known` says whether the reader of this iterator still has what another follower got for this step.
    """

    driver: Driver
    map: str
    partitions: tuple[PartitionId, ...]
    after: Epoch
    snapshot: bool = False
    peer: str = ""
    known: Callable[[SharedKey], bool] = _unknown
    from_log: bool = field(default=False, init=False)

    async def run(self) -> AsyncIterator[Snapshot | Live | Step]:
        """Ends only by error or cancellation. Raises UnknownMapError, EpochTooOldError, EpochTooNewError, WrongOwnerError."""
        node = self.driver.node
        if self.map not in node.control.declared:
            raise UnknownMapError.of(self.map, node.control.declared)
        if self.after >= node.control.limit:
            raise EpochTooNewError.of(self.after, node.control.limit)
        self._owned()
        await self.driver.closed_above(Epoch(self.after - 1))
        if self.snapshot:
            async for part in self._snapshot():
                yield part
            yield Live()
        yield Step((), self.after)  # tells that the feed is open, also where nothing happens
        while True:
            through = node.closes.next_after(self.after)
            generations = node.control.generations
            if through is None and self.after < node.control.closed:
                through = node.control.closed
            if through is None:
                await self.driver.closed_above(self.after)
                if self.driver.stopped or (node.intake.stopping and self.after >= node.control.closed):
                    return
                continue
            owned = self._owned()
            through = pause_at(generations, self.map, self.after, through)
            switch = switch_after(generations, self.map, self.after)
            if switch is not None:
                for changes in difference(owned, switch, generations.at(self.map, self.after)):
                    yield Step(changes, None)
            shared = (self.map, self.partitions, self.after, through)
            entries = (
                []
                if self.known(shared)
                else recent_entries(owned, self.map, self.after, through, generations.at(self.map, through))
            )
            self.from_log = entries is None
            if entries is None:
                async for step in self._from_log(pause_at(generations, self.map, self.after, node.control.closed)):
                    yield step
            else:
                self.after = through
                yield Step(entries, through, shared)

    def _owned(self) -> list[Partition]:
        """Raises WrongOwnerError when one of them is not, or no longer, open here."""
        node, found = self.driver.node, []
        for number in self.partitions:
            partition = node.partitions.get(number)
            if partition is None or not partition.serving:
                raise WrongOwnerError(
                    f"node {node.me} does not own partition {number}; ask who does", partition=number, owner=-1
                )
            found.append(partition)
        return found

    async def _snapshot(self) -> AsyncIterator[Snapshot]:
        """The state as of `after`, in slices between which writes go on."""
        for partition in self._owned():
            if self.map not in partition.tables:
                continue
            number = self.driver.node.control.generations.at(self.map, self.after)
            table = kept_generation(partition, self.map, number, self.after)
            for rows in table.as_of_slices(self.after, SNAPSHOT_ROWS):
                horizon = self.driver.node.control.horizon
                if self.after < horizon:
                    raise EpochTooOldError.of(self.after, horizon)
                if rows:
                    yield Snapshot(partition.id, rows)

    async def _from_log(self, through: Epoch) -> AsyncIterator[Step]:
        log = self.driver.log
        merge = LogMerge(self._owned(), self.map, self.after, through, self.driver.node.control)
        while merge.mark < through:
            while (need := merge.needs()) is not None:
                partition, position = need
                name = partition_log(partition)
                after = await log.position_before(name, self.after) if position is None else position
                records: list[LogRecord] = await log.read(name, after, READ_BYTES)
                merge.give(partition, after, records)
            entries = merge.take(MESSAGE_BYTES)
            self.after = merge.mark
            yield Step(entries, merge.mark)
