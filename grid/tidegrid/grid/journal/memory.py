"""MemoryLog: the Log seam over `MemoryLogState`, for tests and for grids that need not outlive their process.

Appends land in the order of their calls, on a later turn of the event loop, like those of a log with a disk. Tests can
hold them (`hold`, `release`) and make them fail (`fail_next`); an append whose caller was cancelled lands all the same.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from functools import partial

from tidegrid.grid.journal.seam import Checkpoint, Fold, Settled, resolve
from tidegrid.grid.log.entry import Entry, LogRecord
from tidegrid.grid.log.memory_state import MemoryLogState
from tidegrid.grid.model.errors import GridError, StoppingError
from tidegrid.grid.model.ids import Epoch, LogId, Position

_FOLDED_AT_ONCE = 128
_REST_SECONDS = 0.002
_Waiting = tuple[Sequence[Entry], Settled]


class MemoryLog:
    def __init__(self, state: MemoryLogState | None = None) -> None:
        """`state`: what an earlier MemoryLog left; it outlives this one as a directory outlives a LocalLog."""
        self.state = state if state is not None else MemoryLogState()
        self._waiting: deque[_Waiting] = deque()
        self._held = False
        self._drain_scheduled = False
        self._followers: dict[LogId, dict[object, Callable[[], None]]] = {}
        self._drained: asyncio.Future[None] | None = None
        self._closing: asyncio.Future[None] | None = None
        self._compact_turn = asyncio.Lock()
        self._compact_stopping = threading.Event()
        self._written_before = self.state.bytes_written

    async def append(self, entries: Sequence[Entry]) -> tuple[Position, ...]:
        future: asyncio.Future[tuple[Position, ...]] = asyncio.get_running_loop().create_future()
        self.start(entries, partial(resolve, future))
        return await future

    def start(self, entries: Sequence[Entry], settled: Settled) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._check_open()
        except GridError as error:
            loop.call_soon(settled, (), error)
            return
        self._waiting.append((tuple(entries), settled))
        self._schedule(loop)

    def flush(self) -> None:
        """Nothing to write earlier: appends land on a later turn."""

    async def tail(self, log: LogId) -> Position:
        self._check_open()
        return self.state.tail(log)

    async def read(self, log: LogId, after: Position, bytes_max: int) -> list[LogRecord]:
        self._check_open()
        return self.state.read(log, after, bytes_max)

    async def position_before(self, log: LogId, epoch: Epoch) -> Position:
        self._check_open()
        return self.state.position_before(log, epoch)

    def follow(self, log: LogId, wake: Callable[[], None]) -> Callable[[], None]:
        key = object()
        self._followers.setdefault(log, {})[key] = wake

        def end() -> None:
            self._followers.get(log, {}).pop(key, None)

        return end

    async def save_checkpoint(self, log: LogId, position: Position, chunks: AsyncIterator[bytes]) -> None:
        self._check_open()
        self.state.save_checkpoint(log, position, [chunk async for chunk in chunks])

    async def load_checkpoint(self, log: LogId) -> Checkpoint | None:
        self._check_open()
        found = self.state.load_checkpoint(log)
        return Checkpoint(log, *found) if found is not None else None

    async def compact(self, log: LogId, through: Position, fold: Fold) -> int:
        """Folds in a thread, with rests, as a local log does: a grid in memory may tick for days, too."""
        async with self._compact_turn:
            self._check_open()
            records = self.state.records_through(log, through)
            if records is None:
                return 0
            stopping = self._compact_stopping = threading.Event()
            try:
                payload = await asyncio.to_thread(_fold, fold, records, stopping)
            finally:
                stopping.set()  # in a cancellation
            return self.state.replace(log, through, payload) if payload is not None else 0

    @property
    def bytes_written(self) -> int:
        return self.state.bytes_written - self._written_before

    @property
    def failed(self) -> bool:
        return self.state.failed

    async def close(self) -> None:
        """Lets go of a hold, and ends after appends in flight have landed."""
        if self._closing is not None:
            await asyncio.shield(self._closing)
            return
        self._closing = asyncio.get_running_loop().create_future()
        self._compact_stopping.set()
        self.release()
        if self._waiting:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained
        self._closing.set_result(None)

    # For tests -----------------------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Appends from here on stay in flight until `release`."""
        self._held = True

    def release(self) -> None:
        self._held = False
        if self._waiting:
            self._schedule(asyncio.get_running_loop())

    @property
    def in_flight(self) -> int:
        """How many appends have not landed."""
        return len(self._waiting)

    def fail_next(self, error: GridError, *, landed: bool = False) -> None:
        """See `MemoryLogState.fail_next`; counts from the oldest append in flight."""
        self.state.fail_next(error, landed=landed)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._held and not self._drain_scheduled:
            self._drain_scheduled = True
            loop.call_soon(self._drain)

    def _drain(self) -> None:
        self._drain_scheduled = False
        grown: set[LogId] = set()
        for _ in range(len(self._waiting)):  # what follows from it comes in the next turn: others want theirs
            if self._held:
                break
            entries, settled = self._waiting.popleft()
            try:
                positions = self.state.append(entries)
            except GridError as error:
                settled((), error)
                continue
            grown.update(entry.log for entry in entries)
            settled(positions, None)
        for log in grown:
            for wake in tuple(self._followers.get(log, {}).values()):
                wake()
        if self._waiting:
            self._schedule(asyncio.get_running_loop())
        elif self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _check_open(self) -> None:
        if self._closing is not None:
            raise StoppingError("the log is closed; open it again")


class _Stopped(Exception):
    """Not an error: nobody waits for the fold any more."""


def _fold(fold: Fold, records: Iterable[LogRecord], stopping: threading.Event) -> bytes | None:
    try:
        return fold(_rested(records, stopping))
    except _Stopped:
        return None


def _rested(records: Iterable[LogRecord], stopping: threading.Event) -> Iterator[LogRecord]:
    for number, record in enumerate(records, 1):
        yield record
        if stopping.is_set() or (number % _FOLDED_AT_ONCE == 0 and stopping.wait(_REST_SECONDS)):
            raise _Stopped
