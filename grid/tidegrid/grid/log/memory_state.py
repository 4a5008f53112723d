"""Several logs in memory: compare-and-append, reads and checkpoints, with no waiting anywhere.

The simulator uses it as the grid's log; `journal.memory` puts an async shell round it. Positions come from one counter
for all logs and leave gaps on purpose (as a stream shared by several logs does), so that nobody gets away with adding
one to a position; the gaps follow from `gap_seed` alone, so a run is repeatable.

Faults are asked for: `fail_next` makes the next append raise. A StorageFullError passes; a LogFailedError stays until
`reopen`, and the entries are there afterwards or not, as asked: to the one who appended, the outcome is unknown.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence

from tidegrid.grid.log.entry import Entry, LogRecord
from tidegrid.grid.log.sequence import wrong_tail
from tidegrid.grid.model.errors import GridError, LogFailedError, TooLargeError
from tidegrid.grid.model.ids import BEFORE_FIRST, Epoch, LogId, Position
from tidegrid.grid.model.limits import Limits

_GAP_MAX = 7
_LIMITS = Limits()


class _Columns:
    __slots__ = ("epochs", "payloads", "positions")

    def __init__(self) -> None:
        self.positions: list[Position] = []
        self.epochs: list[Epoch] = []
        self.payloads: list[bytes] = []


class MemoryLogState:
    def __init__(self, gap_seed: int = 1, *, record_bytes_max: int = _LIMITS.record_bytes_max) -> None:
        """`gap_seed` 0: no gaps."""
        self._logs: dict[LogId, _Columns] = {}
        self._checkpoints: dict[LogId, tuple[Position, tuple[bytes, ...]]] = {}
        self._last = BEFORE_FIRST
        self._gap_state = gap_seed
        self._record_bytes_max = record_bytes_max
        self._next_failure: tuple[GridError, bool] | None = None
        self._failed: GridError | None = None
        self.bytes_written = 0

    def append(self, entries: Sequence[Entry]) -> tuple[Position, ...]:
        """All entries or none. Raises WrongTailError, TooLargeError, and what `fail_next` asked for."""
        if self._failed is not None:
            raise LogFailedError(self._failed.message, **self._failed.fields)
        self._compare(entries)
        failure, self._next_failure = self._next_failure, None
        if failure is not None:
            error, landed = failure
            if isinstance(error, LogFailedError):
                self._failed = error
            if landed:
                self._put(entries)
            raise error
        return self._put(entries)

    def tail(self, log: LogId) -> Position:
        columns = self._logs.get(log)
        return columns.positions[-1] if columns else BEFORE_FIRST

    def logs(self) -> list[LogId]:
        """Every log that has a record, in order."""
        return sorted(self._logs)

    def read(self, log: LogId, after: Position, bytes_max: int) -> list[LogRecord]:
        columns = self._logs.get(log)
        if columns is None:
            return []
        first = stop = bisect_right(columns.positions, after)
        left = bytes_max
        while stop < len(columns.positions):
            left -= len(columns.payloads[stop])
            if left < 0 and stop > first:
                break
            stop += 1
        rows = slice(first, stop)
        return list(map(LogRecord, columns.positions[rows], columns.epochs[rows], columns.payloads[rows]))

    def position_before(self, log: LogId, epoch: Epoch) -> Position:
        columns = self._logs.get(log)
        at = bisect_right(columns.epochs, epoch) if columns else 0
        return columns.positions[at - 1] if columns and at else BEFORE_FIRST

    def save_checkpoint(self, log: LogId, position: Position, chunks: Iterable[bytes]) -> None:
        assert position <= self.tail(log), "a checkpoint covers what is in the log"
        self._checkpoints[log] = (position, tuple(chunks))

    def load_checkpoint(self, log: LogId) -> tuple[Position, tuple[bytes, ...]] | None:
        return self._checkpoints.get(log)

    def compact(self, log: LogId, through: Position, fold: Callable[[Iterable[LogRecord]], bytes]) -> int:
        """One record, `fold` of them, for all records of `log` at or below `through`. Returns the bytes let go of."""
        records = self.records_through(log, through)
        return self.replace(log, through, fold(records)) if records is not None else 0

    def records_through(self, log: LogId, through: Position) -> Iterator[LogRecord] | None:
        """Those at or below `through`, one by one, while others are appended; None if there are not at least two."""
        columns = self._logs.get(log)
        count = bisect_right(columns.positions, through) if columns else 0
        if columns is None or count < 2:
            return None
        return (LogRecord(columns.positions[at], columns.epochs[at], columns.payloads[at]) for at in range(count))

    def replace(self, log: LogId, through: Position, payload: bytes) -> int:
        """`payload` stands for all records at or below `through` from now on. Returns the bytes let go of."""
        columns = self._logs[log]
        count = bisect_right(columns.positions, through)
        saved = sum(map(len, columns.payloads[:count])) - len(payload)
        columns.payloads[:count] = [payload]
        del columns.positions[: count - 1], columns.epochs[: count - 1]
        return saved

    def fail_next(self, error: GridError, *, landed: bool = False) -> None:
        """The next append whose compare holds raises `error`; `landed`: its entries are in the log all the same."""
        assert not landed or isinstance(error, LogFailedError), "only a failed log leaves the outcome open"
        self._next_failure = (error, landed)

    def reopen(self) -> None:
        """A new handle on what is there."""
        self._failed = None
        self._next_failure = None

    @property
    def failed(self) -> bool:
        return self._failed is not None

    def _compare(self, entries: Sequence[Entry]) -> None:
        assert entries, "an append has at least one entry"
        assert len(entries) == 1 or len({entry.log for entry in entries}) == len(entries), "one entry per log"
        for log, expected, epoch, payload in entries:
            if len(payload) > self._record_bytes_max:
                raise TooLargeError.of("record", len(payload), self._record_bytes_max)
            columns = self._logs.get(log)
            tail = columns.positions[-1] if columns else BEFORE_FIRST
            if expected != tail:
                raise wrong_tail(log, expected, tail)
            assert not columns or epoch >= columns.epochs[-1], f"epochs of log {log} decrease"

    def _put(self, entries: Sequence[Entry]) -> tuple[Position, ...]:
        positions: list[Position] = []
        for log, _, epoch, payload in entries:
            position = self._last = Position(self._last + self._gap())
            columns = self._logs.get(log)
            if columns is None:
                columns = self._logs[log] = _Columns()
            columns.positions.append(position)
            columns.epochs.append(epoch)
            columns.payloads.append(payload)
            self.bytes_written += len(payload)
            positions.append(position)
        return tuple(positions)

    def _gap(self) -> int:
        """1 to 7, from a linear congruential sequence (Knuth's MMIX constants)."""
        if not self._gap_state:
            return 1
        self._gap_state = (self._gap_state * 6364136223846793005 + 1442695040888963407) & (2**64 - 1) or 1
        return 1 + (self._gap_state >> 33) % _GAP_MAX
