"""What a feed hands out: batches of changes, as columns, decoded only where somebody looks.

    FeedBatch (one closed epoch, or a piece of a snapshot) > FeedSection (what one frame did to the map) > Change

A section is the bytes that the owner's log holds. Its `offset` numbers its first change within its record, so that
(partition, position, index) names a change for ever, for any reader.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, count, repeat
from typing import Any, Final

from tidegrid.grid.model.ids import Epoch, PartitionId, Position
from tidegrid.grid.model.keys import Key, decode_key
from tidegrid.grid.model.values import decode_value
from tidegrid.v1 import grid_pb2, record_pb2

PUT, DELETE, EVENT = 1, 2, 3
OP_NAMES: Final = {PUT: "put", DELETE: "delete", EVENT: "event"}


class FeedSection:
    """Columns of equal length. `epochs` and `times_ms` are set for snapshot rows only, which have one each."""

    __slots__ = ("_message", "_raw", "epoch", "epochs", "offset", "partition", "position", "time_ms", "times_ms")

    def __init__(
        self, partition: PartitionId, position: Position, epoch: Epoch, time_ms: int, raw: bytes, offset: int = 0
    ) -> None:
        self.partition = partition
        self.position = position
        self.epoch = epoch
        self.time_ms = time_ms
        self.offset = offset
        self.epochs: Sequence[int] | None = None
        self.times_ms: Sequence[int] | None = None
        self._raw = raw
        self._message: record_pb2.Section | None = None

    @classmethod
    def of_snapshot(cls, chunk: grid_pb2.SnapshotChunk, epoch: Epoch) -> FeedSection:
        made = cls(PartitionId(chunk.partition), Position(0), epoch, 0, b"")
        count = len(chunk.keys)
        made._message = record_pb2.Section(
            keys=chunk.keys, values=chunk.values, ops=b"\1" * count, versions=chunk.versions
        )
        made.epochs = chunk.epochs
        made.times_ms = chunk.times_ms
        return made

    @property
    def columns(self) -> record_pb2.Section:
        """`keys`, `values`, `ops`, `versions`, `schema`: see record.proto."""
        if self._message is None:
            self._message = record_pb2.Section.FromString(self._raw)
        return self._message

    @property
    def size(self) -> int:
        """About how many bytes it holds."""
        return len(self._raw) if self._message is None or self._raw else self._message.ByteSize()

    def __len__(self) -> int:
        return len(self.columns.keys)

    def __iter__(self) -> Iterator[Change]:
        columns = self.columns
        return map(Change, repeat(self), count(), columns.keys, columns.values)


class Change:
    """One change. `index` counts within its record; `version` is 0 for an event."""

    __slots__ = ("_row", "_section", "raw_key", "raw_value")

    def __init__(self, section: FeedSection, row: int, raw_key: bytes, raw_value: bytes) -> None:
        self._section = section
        self._row = row
        self.raw_key = raw_key
        self.raw_value = raw_value

    @property
    def key(self) -> Key:
        return decode_key(self.raw_key)

    @property
    def value(self) -> Any:
        """None for a delete."""
        return decode_value(self.raw_value) if self.raw_value else None

    @property
    def op(self) -> str:
        """ "put", "delete" or "event"."""
        return OP_NAMES[self._section.columns.ops[self._row]]

    @property
    def version(self) -> int:
        versions = self._section.columns.versions
        return versions[self._row] if versions else 0

    @property
    def epoch(self) -> Epoch:
        epochs = self._section.epochs
        return self._section.epoch if epochs is None else Epoch(epochs[self._row])

    @property
    def time_ms(self) -> int:
        times = self._section.times_ms
        return self._section.time_ms if times is None else times[self._row]

    @property
    def partition(self) -> PartitionId:
        return self._section.partition

    @property
    def position(self) -> Position:
        """0 for a row of a snapshot."""
        return self._section.position

    @property
    def index(self) -> int:
        return self._section.offset + self._row

    def __repr__(self) -> str:
        return f"Change({self.op} {self.key!r} = {self.value!r}, version={self.version}, epoch={self.epoch})"


class FeedBatch:
    """All changes of one closed epoch, in (partition, position) order; or a piece of a snapshot as of `epoch`.

    Of a snapshot, the first piece has `begins` (forget what you had of this feed: it starts anew) and the last one
    `live`: from there on come the changes after `epoch`.
    """

    __slots__ = ("begins", "epoch", "live", "sections", "snapshot")

    def __init__(
        self,
        epoch: Epoch,
        sections: list[FeedSection],
        snapshot: bool = False,
        begins: bool = False,
        live: bool = False,
    ) -> None:
        self.epoch = epoch
        self.sections = sections
        self.snapshot = snapshot
        self.begins = begins
        self.live = live

    @property
    def size(self) -> int:
        """About how many bytes it holds."""
        return sum(section.size for section in self.sections)

    @property
    def changes(self) -> Iterator[Change]:
        return chain.from_iterable(self.sections)

    def __len__(self) -> int:
        """How many changes."""
        return sum(map(len, self.sections))

    def __repr__(self) -> str:
        kind = "snapshot" if self.snapshot else "changes"
        return f"FeedBatch(epoch={self.epoch}, {kind}: {len(self)})"
