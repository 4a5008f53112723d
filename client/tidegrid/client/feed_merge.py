"""Several sorted streams of closed epochs into one: pure, no I/O.

Each source is one owner's stream of FeedEntry, sorted by (effective, partition, position), with marks: nothing at or
below a mark is still to come. An entry is a mark too: for everything before its epoch. An epoch is complete when
every source's mark has reached it; then its entries are handed out, sorted, and never again.

Memory: the sources that are ahead are not read while the buffer is full (`wants`), those with the lowest mark are
read as long as nothing is complete; so the buffer holds at most `bytes_max`, a message per source, and what one
epoch weighs.

Invariants: `handed` never decreases; all that was handed out is at or below it, all that is buffered above it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from itertools import pairwise
from operator import attrgetter

from tidegrid.client.change import FeedBatch, FeedSection
from tidegrid.grid.model.ids import Epoch, PartitionId, Position
from tidegrid.v1 import grid_pb2

PER_ENTRY_BYTES = 64


class _Source:
    __slots__ = ("entries", "mark")

    def __init__(self, mark: int) -> None:
        self.entries: deque[FeedSection] = deque()
        self.mark = mark


def _weight(section: FeedSection) -> int:
    return section.size + PER_ENTRY_BYTES


class FeedMerge:
    def __init__(self, after: int, bytes_max: int) -> None:
        self.handed = after
        self._bytes_max = bytes_max
        self._sources: dict[Hashable, _Source] = {}
        self._bytes = 0

    @property
    def buffered_bytes(self) -> int:
        return self._bytes

    def open(self, name: Hashable, mark: int) -> None:
        """A new source, which begins after `mark`."""
        assert name not in self._sources
        self._sources[name] = _Source(mark)

    def cut(self, name: Hashable) -> int:
        """The stream of this source broke: drops what is incomplete. Returns the mark after which to go on.

        Until it has successors, the source holds all others up at its mark.
        """
        source = self._sources[name]
        while source.entries and source.entries[-1].epoch > source.mark:
            self._bytes -= _weight(source.entries.pop())
        return source.mark

    def succeed(self, name: Hashable, successors: Iterable[Hashable]) -> None:
        """Other sources go on from where `name` was cut. What it still has is complete, and holds nobody up."""
        source = self._sources.pop(name)
        for successor in successors:
            self.open(successor, source.mark)
        if source.entries:
            source.mark = _FOREVER
            self._sources[object()] = source

    def offer(self, name: Hashable, entries: Iterable[grid_pb2.FeedEntry], mark: int) -> None:
        """What a source sent. Entries at or below its mark are repetitions, and passed over."""
        source = self._sources[name]
        for entry in entries:
            effective = entry.effective
            if effective > source.mark:
                section = FeedSection(
                    PartitionId(entry.partition),
                    Position(entry.position),
                    Epoch(effective),
                    entry.time_ms,
                    entry.section,
                )
                source.entries.append(section)
                self._bytes += _weight(section)
                source.mark = effective - 1
        source.mark = max(source.mark, mark)

    @property
    def mark(self) -> int:
        """Everything at or below it is here."""
        return min((source.mark for source in self._sources.values()), default=self.handed)

    def wants(self, name: Hashable) -> bool:
        """Whether to read on from this source."""
        if self._bytes < self._bytes_max:
            return True
        mark = self.mark
        return self._sources[name].mark == mark and self._next_epoch(mark) is None

    def _next_epoch(self, mark: int) -> int | None:
        """The lowest buffered epoch, if it is complete."""
        heads = [source.entries[0].epoch for source in self._sources.values() if source.entries]
        lowest = min(heads, default=None)
        return lowest if lowest is not None and lowest <= mark else None

    def take(self) -> FeedBatch | None:
        """The next complete epoch with changes; None when there is none, and then `handed` is at the mark."""
        mark = self.mark
        epoch = self._next_epoch(mark)
        if epoch is None:
            self.handed = max(self.handed, mark)
            self._drop_empty()
            return None
        sections: list[FeedSection] = []
        for source in self._sources.values():
            entries = source.entries
            while entries and entries[0].epoch == epoch:
                section = entries.popleft()
                self._bytes -= _weight(section)
                sections.append(section)
        self.handed = epoch
        sections.sort(key=_place)
        _number(sections)
        return FeedBatch(Epoch(epoch), sections)

    def _drop_empty(self) -> None:
        gone = [name for name, source in self._sources.items() if source.mark == _FOREVER and not source.entries]
        for name in gone:
            del self._sources[name]


_place = attrgetter("partition", "position")


def _number(sections: list[FeedSection]) -> None:
    """A record may hold several sections of the map: the changes of the second go on counting."""
    for before, section in pairwise(sections):
        if section.position == before.position and section.partition == before.partition:
            section.offset = before.offset + len(before)


_FOREVER = 1 << 63
