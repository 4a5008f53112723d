"""Reads as the engine sees them: which rows, as of when, and the answers as columns.

`as_of` is inclusive and wants a closed epoch: it waits for the close, then the answer is the same for ever (rule R1).
`at_least` waits until the epoch is closed here and reads the latest. Both 0: the latest, at once. `staleness_ms_max`:
the last close applied here is no older than that. `at_once`: what would wait for a close is refused. `linearizable`:
the owner has seen that its log holds nothing it has not (tail_checks.py). `generation`: that one of a derived table;
`seen_at`: the one that readers saw when that epoch was the highest closed; both 0: the one that they see now. An answered
read has the number of the one that it was answered from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tidegrid.grid.model.errors import GridError, TooLargeError
from tidegrid.grid.model.ids import Epoch, PartitionId, Position
from tidegrid.grid.store.table import Table
from tidegrid.grid.store.version import Version

_NOW: Final = Epoch(0)
Row = tuple[bytes | None, int, tuple[int, int, int]]


class ReadRequest:
    """Point reads of one map; keys of any partitions that this node owns."""

    __slots__ = (
        "as_of", "at_least", "at_once", "epochs", "error", "generation", "keys", "linearizable", "map", "reply_to", "seen_at",
        "staleness_ms_max", "times_ms", "values", "versions",
    )  # fmt: skip

    def __init__(
        self,
        map_name: str,
        keys: Sequence[bytes],
        as_of: Epoch,
        at_least: Epoch,
        reply_to: Any,
        *,
        at_once: bool = False,
        staleness_ms_max: int = 0,
        linearizable: bool = False,
        generation: int = 0,
        seen_at: Epoch = _NOW,
    ) -> None:
        self.map = map_name
        self.keys = keys
        self.as_of = as_of
        self.at_least = at_least
        self.at_once = at_once
        self.staleness_ms_max = staleness_ms_max
        self.linearizable = linearizable
        self.generation = generation
        self.seen_at = seen_at
        self.reply_to = reply_to
        self.values: list[bytes] = []
        self.versions: list[int] = []
        self.epochs: list[int] = []
        self.times_ms: list[int] = []
        self.error: GridError | None = None

    def answer(self, version: Row | None) -> None:
        if version is None or version[0] is None:
            self.values.append(b"")
            self.versions.append(0)
            self.epochs.append(0)
            self.times_ms.append(0)
        else:
            value, number, stamp = version
            self.values.append(value or b"")
            self.versions.append(number)
            self.epochs.append(stamp[0])
            self.times_ms.append(stamp[2])

    def run(self, tables: Sequence[Table | None], bytes_max: int) -> None:
        """Answers every key from its table, latest or as of `as_of`. Raises TooLargeError: ask for fewer keys."""
        epoch = self.as_of
        for key, table in zip(self.keys, tables, strict=True):
            if table is None:
                self.answer(None)
            else:
                self.answer(table.as_of(key, epoch) if epoch else table.latest(key))
        size = sum(map(len, self.values))
        if size > bytes_max:
            raise TooLargeError.of("answer", size, bytes_max)


class ScanRequest(ReadRequest):
    """Live rows of one partition with begin <= key < end (None: to the end), at most `rows_max`, in key order."""

    __slots__ = ("begin", "end", "more", "partition", "reverse", "rows_max")

    def __init__(
        self,
        map_name: str,
        partition: PartitionId,
        begin: bytes,
        end: bytes | None,
        rows_max: int,
        reverse: bool,
        as_of: Epoch,
        at_least: Epoch,
        reply_to: Any,
        **freshness: Any,
    ) -> None:
        super().__init__(map_name, [], as_of, at_least, reply_to, **freshness)
        self.partition = partition
        self.begin = begin
        self.end = end
        self.rows_max = rows_max
        self.reverse = reverse
        self.more = False

    def scan(self, table: Table, bytes_max: int) -> None:
        """At least one row, if there is one; `more` when rows or bytes have reached their bound."""
        rows, self.more = table.scan(self.begin, self.end, self.as_of or None, self.rows_max, self.reverse)
        keys: list[bytes] = []
        size = 0
        for key, version in rows:
            size += len(key) + len(version[0] or b"")
            if keys and size > bytes_max:
                self.more = True
                break
            keys.append(key)
            self.answer(version)
        self.keys = keys


class CloseRequest:
    """Waits until `closed` is closed; answered with no rows."""

    __slots__ = ("closed", "error", "reply_to")

    def __init__(self, closed: Epoch, reply_to: Any) -> None:
        self.closed = closed
        self.reply_to = reply_to
        self.error: GridError | None = None


class EpochAtRequest:
    """The highest epoch that was closed at `time_ms` (wall clock) or before."""

    __slots__ = ("epoch", "error", "reply_to", "time_ms")

    def __init__(self, time_ms: int, reply_to: Any) -> None:
        self.time_ms = time_ms
        self.reply_to = reply_to
        self.epoch = Epoch(0)
        self.error: GridError | None = None


class HistoryRequest:
    """Versions of one key with an epoch above `after`, or equal to it and a position above `position`, from memory.

    Where the cursor lies below what memory holds, `below` is the epoch through which the log has to be read first.
    """

    __slots__ = ("after", "below", "error", "key", "map", "partition", "position", "reply_to", "versions")

    def __init__(
        self, map_name: str, partition: PartitionId, key: bytes, after: Epoch, position: Position, reply_to: Any
    ) -> None:
        self.map = map_name
        self.partition = partition
        self.key = key
        self.after = after
        self.position = position
        self.reply_to = reply_to
        self.below = Epoch(0)
        self.versions: list[Version] = []
        self.error: GridError | None = None

    def run(self, table: Table | None, horizon: Epoch) -> None:
        """Above the horizon a table has every version; at or below it only what readers at the horizon see."""
        if self.after < horizon or (self.after == horizon and self.position):
            self.below = horizon
        elif table is not None:
            cursor = (self.after, self.position)
            self.versions = [
                version
                for version in table.chain(self.key)
                if version[2][0] > self.after or (self.position and version[2][:2] > cursor)
            ]
