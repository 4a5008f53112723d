"""The Log seam: the one thing the grid asks of a system of record.

One operation matters: append records to one or several logs, each with the tail it expects; all or nothing.
Positions are opaque, strictly increasing per log, with gaps. An implementation groups concurrent appends into one
write and one sync. Lifecycle: opened, then `failed` for good after a failed write or sync, then closed.

Prior art: the shared log of Tango and Delos, which compare-and-append reduces to one call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from tidegrid.grid.log.entry import Entry, LogRecord
from tidegrid.grid.model.errors import GridError
from tidegrid.grid.model.ids import Epoch, LogId, Position

Settled = Callable[[tuple[Position, ...], GridError | None], None]
"""Told (positions, None) when an append has landed, ((), error) when it has not; errors as of `Log.append`."""


Fold = Callable[[Iterable[LogRecord]], bytes]
"""(records, in order) -> payload of the one record that may stand for them. Called in any thread."""


def resolve(
    future: asyncio.Future[tuple[Position, ...]], positions: tuple[Position, ...], error: GridError | None
) -> None:
    """A `Settled` that passes the outcome on to who awaits `future`, unless it was cancelled."""
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(positions)


class Checkpoint(NamedTuple):
    """State of one log up to and including `position`, as the opaque chunks that its owner saved."""

    log: LogId
    position: Position
    chunks: Iterable[bytes]


class Log(Protocol):
    def start(self, entries: Sequence[Entry], settled: Settled) -> None:
        """`append` without a task or future. Calls `settled` once, on the event loop and not before this returns."""
        ...

    def flush(self) -> None:
        """No more comes in this turn of the event loop: what was started may be written, and settled, at once."""
        ...

    async def append(self, entries: Sequence[Entry]) -> tuple[Position, ...]:
        """Appends all entries, durably, or none. Returns their positions, in order.

        At most one entry per log. Raises WrongTailError (a compare failed: nothing was appended), StorageFullError
        (nothing was appended; reads go on, and it recovers by itself), TooLargeError, LogTimeoutError (it may be in the
        log, now or later, or never: it is not answered again) and LogFailedError (the handle is dead; unknown too).
        """
        ...

    async def tail(self, log: LogId) -> Position:
        """Position of the last durable record; 0 when empty. O(1), or one question to whoever keeps the log.

        The log itself is asked, never a copy: whatever anybody was told to have landed before the call is at or below
        the answer (rule R2 rests on it). Like reads it goes on after a failure. Raises StoppingError.
        """
        ...

    async def read(self, log: LogId, after: Position, bytes_max: int) -> list[LogRecord]:
        """Durable records after `after`, in order: at least one if there is one, then up to about `bytes_max`.

        Raises CorruptionError, and UnavailableError: not now, perhaps later; so do the next and `load_checkpoint`.
        """
        ...

    async def position_before(self, log: LogId, epoch: Epoch) -> Position:
        """The highest position such that every record of `log` with an epoch above `epoch` comes after it.

        Record epochs within a log never decrease. `read(log, position_before(log, e))` begins with the first record above `e`.
        """
        ...

    def follow(self, log: LogId, wake: Callable[[], None]) -> Callable[[], None]:
        """Calls `wake` on the event loop whenever `log` has grown. Returns the call that ends it."""
        ...

    async def save_checkpoint(self, log: LogId, position: Position, chunks: AsyncIterator[bytes]) -> None:
        """Replaces the checkpoint of `log`, atomically, once all chunks are durable."""
        ...

    async def load_checkpoint(self, log: LogId) -> Checkpoint | None:
        """The newest whole checkpoint. Its chunks raise CorruptionError and OSError."""
        ...

    async def compact(self, log: LogId, through: Position, fold: Fold) -> int:
        """Lets go of records at or below `through` where it is worth it; returns how many bytes it saved.

        In place of some of them stands one record, at the position and with the epoch of the last of them, whose payload
        is `fold(records)` of all records up to there: those since the last folded one, which comes first if there is one.
        Other logs, tails and positions stay as they are, and appends and reads go on. May be given up half way (by a
        cancellation, the close, or for want of space), which leaves a log as sound as before.

        Whoever has not read up to `through` meets folded records instead of what was there: that is for readers who can
        begin with one. So `through` is at or below what all others have read. Raises CorruptionError, LogFailedError.
        """
        ...

    @property
    def bytes_written(self) -> int:
        """Bytes appended since opening, for deciding when to checkpoint."""
        ...

    async def close(self) -> None:
        """Ends after appends in flight are durable. Idempotent."""
        ...
