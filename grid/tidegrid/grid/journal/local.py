"""LocalLog: the log on the disk of one process. All logs share one write-ahead sequence of segment files.

The event loop sequences (log/sequence.py); one batch at a time is written and synced, in the commit thread or, when it
is small and alone and the disk is quick, right on the loop; meanwhile the next one collects. What is durable is then
published: indexed, readable, answered, followers woken. Reads of the active segment are done at once, as its pages
are in memory; reads of sealed segments in a reader thread; checkpoints and compaction in threads of their own.

Lifecycle: `open` (which recovers) -> appends and reads -> *failed* for good after a failed write or sync, when only
reads go on -> `close`. A call that is cancelled does not take its append back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from tidegrid.grid.journal import checkpoints
from tidegrid.grid.journal.checkpoints import CheckpointWriter
from tidegrid.grid.journal.compaction import Compactor
from tidegrid.grid.journal.files import FULL_ERRORS, Files, Lock, PosixFiles
from tidegrid.grid.journal.history import read_rows
from tidegrid.grid.journal.options import LocalLogOptions
from tidegrid.grid.journal.recovery import Recovered, recover
from tidegrid.grid.journal.seam import Checkpoint, Fold, Settled, resolve
from tidegrid.grid.journal.writer import CommitThread, log_failed, storage_full, write_reporting
from tidegrid.grid.log.batch import RECORD_HEADER_BYTES
from tidegrid.grid.log.entry import Entry, LogRecord
from tidegrid.grid.log.index import NO_TAIL
from tidegrid.grid.log.segment import LOCK_NAME
from tidegrid.grid.log.sequence import Batch, LogSequence, Undecided
from tidegrid.grid.model.errors import (
    ConfigurationError,
    GridError,
    StoppingError,
    StorageFullError,
    UnavailableError,
    error_from,
)
from tidegrid.grid.model.ids import Epoch, LogId, Position

_INLINE_READ_BYTES_MAX = 256 * 1024


@dataclass(slots=True)
class _Ticket:
    """Who waits for an append, and what it is told."""

    settled: Settled
    positions: tuple[Position, ...] = ()


class LocalLog:
    def __init__(self, files: Files, options: LocalLogOptions, lock: Lock, recovered: Recovered) -> None:
        """Use `open`."""
        self._files = files
        self._options = options
        self._lock = lock
        self._salt = recovered.salt
        self._history = recovered.history
        self._writer = recovered.writer
        self._active = recovered.writer.active
        self._loop = asyncio.get_running_loop()
        self._sequence = LogSequence(
            recovered.salt,
            self._active.index.end,
            self._active.index.tails,
            batch_bytes_max=options.batch_bytes_max,
            record_bytes_max=options.record_bytes_max,
        )
        self._commit = CommitThread(self._loop, self._writer, self._settle)
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tidegrid-log-read")
        self._checkpointer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tidegrid-log-checkpoint")
        self._checkpoint_turn = asyncio.Lock()
        self._compactor = Compactor(files, options, recovered.identity, recovered.history, self._reader)
        self._followers: dict[LogId, dict[object, Callable[[], None]]] = {}
        self._flush_scheduled = False
        self._settled: list[asyncio.Future[None]] = []  # who wait for any batch to land or fail
        self._failure: GridError | None = None
        self._closing: asyncio.Future[None] | None = None
        self._opened_at = self._sequence.durable_end

    @classmethod
    async def open(
        cls,
        directory: str | os.PathLike[str],
        *,
        options: LocalLogOptions | None = None,
        files: Files | None = None,
    ) -> LocalLog:
        """Opens, creating or recovering, the log in `directory`.

        Raises InUseError (another process has it), CorruptionError (fields file, offset; nothing was changed),
        FormatError (written by another version), StorageFullError, LogFailedError, ConfigurationError.
        """
        chosen = (options or LocalLogOptions()).validate()
        where = files or PosixFiles(directory)
        work = asyncio.get_running_loop().run_in_executor(None, _lock_and_recover, where, chosen)
        try:
            lock, recovered = await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(_abandon)
            raise
        return cls(where, chosen, lock, recovered)

    @property
    def directory(self) -> str:
        """Where its files are."""
        return self._files.path("")

    # Appends -----------------------------------------------------------------------------------------------------

    async def append(self, entries: Sequence[Entry]) -> tuple[Position, ...]:
        """See `Log.append`. Concurrent calls share one write and one sync."""
        future: asyncio.Future[tuple[Position, ...]] = self._loop.create_future()
        self.start(entries, partial(resolve, future))
        return await future

    def start(self, entries: Sequence[Entry], settled: Settled) -> None:
        ticket = _Ticket(settled)
        try:
            self._check_open()
            ticket.positions = self._sequence.add(entries, ticket)
        except Undecided:
            self._next_settled().add_done_callback(lambda _: self.start(entries, settled))
            return
        except GridError as error:
            self._loop.call_soon(settled, (), error)
            return
        if self._sequence.in_flight is None and not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)  # not at once: calls of the same turn of the loop share a batch

    def flush(self) -> None:
        if self._flush_scheduled:
            self._flush()

    def _flush(self, *, may_block: bool = True) -> None:
        self._flush_scheduled = False
        sequence = self._sequence
        if sequence.in_flight is not None or not sequence.collecting:
            return
        batch = sequence.take()
        writer, options = self._writer, self._options
        if (
            may_block
            and batch.size_bytes <= options.inline_sync_bytes_max
            and writer.sync_seconds <= options.inline_sync_seconds_max
            and writer.has_room(batch)
        ):
            self._settle(batch, write_reporting(writer, batch))
        else:
            self._commit.submit(batch)

    def _settle(self, batch: Batch, error: GridError | None) -> None:
        """A batch has landed, or was refused, or killed the log."""
        assert batch is self._sequence.in_flight
        settled, self._settled = self._settled, []
        if error is None:
            self._publish(batch)
        else:
            if not isinstance(error, StorageFullError):
                self._failure = error
                self._compactor.halt()
            for lost in self._sequence.refused():
                for ticket in lost.tickets:
                    ticket.settled((), _again(error))
        for waiter in settled:
            if not waiter.done():
                waiter.set_result(None)

    def _publish(self, batch: Batch) -> None:
        if self._writer.active is not self._active:  # rolled: what was active is sealed
            sealed, self._active = self._active, self._writer.active
            self._reader.submit(sealed.file.close)  # after the reads that use it
            self._history.add(sealed.base, sealed.index.end, sealed.index)
        self._active.index.add(batch.rows, batch.end)
        self._sequence.landed()
        if self._sequence.collecting:
            self._flush(may_block=False)  # before the answers: the thread writes while they are worked on
        for ticket in batch.tickets:
            ticket.settled(ticket.positions, None)
        if self._followers:
            for log in {row.log for row in batch.rows}:
                for wake in tuple(self._followers.get(log, {}).values()):
                    wake()

    def _next_settled(self) -> asyncio.Future[None]:
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._settled.append(waiter)
        return waiter

    def _check_open(self) -> None:
        if self._closing is not None:
            raise StoppingError("the log is closed; open it again")
        if self._failure is not None:
            raise _again(self._failure)

    # Reads -------------------------------------------------------------------------------------------------------

    async def tail(self, log: LogId) -> Position:
        self._check_readable()
        return self._sequence.tail(log)

    async def read(self, log: LogId, after: Position, bytes_max: int) -> list[LogRecord]:
        """See `Log.read`. Every record is checked. Raises CorruptionError, UnavailableError."""
        with self._reading():
            return await self._read(log, after, bytes_max)

    async def _read(self, log: LogId, after: Position, bytes_max: int) -> list[LogRecord]:
        self._check_readable()
        if self._sequence.tail(log) <= after:
            return []
        active = self._active
        column = active.index.columns.get(log)
        records: list[LogRecord] = []
        if self._history.bases and (column is None or after < column.positions[0]):
            sealed = self._loop.run_in_executor(self._reader, self._history.read, log, after, bytes_max)
            records, complete = await sealed
            bytes_max -= sum(len(record.payload) + RECORD_HEADER_BYTES for record in records)
            if active is not self._active and not records:
                return await self._read(log, after, bytes_max)
            if active is not self._active or bytes_max <= 0 or not complete:
                return records
            after = records[-1].position if records else after
        if column is None:
            return records
        first, stop = column.span(after, bytes_max)
        if records and column.lengths[first] + RECORD_HEADER_BYTES > bytes_max:
            return records
        work = (self._files, active.file, active.base, self._salt, log, column, first, stop)
        if sum(column.lengths[first:stop]) <= _INLINE_READ_BYTES_MAX:
            return records + read_rows(*work)
        return records + await self._loop.run_in_executor(self._reader, read_rows, *work)

    async def position_before(self, log: LogId, epoch: Epoch) -> Position:
        self._check_readable()
        tail = self._sequence.durable.get(log, NO_TAIL)
        if tail.epoch <= epoch:
            return tail.position
        column = self._active.index.columns.get(log)
        found = column.position_before(epoch) if column is not None else None
        if found is not None:
            return found
        with self._reading():
            return await self._loop.run_in_executor(self._reader, self._history.position_before, log, epoch)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Appends do not depend on it, so the log lives on."""
        try:
            yield
        except OSError as error:
            raise UnavailableError(
                f"the log in {self.directory} could not be read ({error}); try again, and look after the disk and the open files",
                address="",
            ) from error

    def follow(self, log: LogId, wake: Callable[[], None]) -> Callable[[], None]:
        key = object()
        self._followers.setdefault(log, {})[key] = wake

        def end() -> None:
            of_log = self._followers.get(log)
            if of_log is not None and of_log.pop(key, None) is not None and not of_log:
                del self._followers[log]

        return end

    def _check_readable(self) -> None:
        if self._closing is not None:
            raise StoppingError("the log is closed; open it again")

    # Checkpoints -------------------------------------------------------------------------------------------------

    async def save_checkpoint(self, log: LogId, position: Position, chunks: AsyncIterator[bytes]) -> None:
        """See `Log.save_checkpoint`. Raises StorageFullError (the older checkpoint stays) and LogFailedError."""
        async with self._checkpoint_turn:
            self._check_open()
            assert position <= self._sequence.tail(log), "a checkpoint covers what is in the log"
            options = self._options
            writer: CheckpointWriter | None = None

            def begin() -> CheckpointWriter:
                nonlocal writer
                writer = CheckpointWriter(
                    self._files, self._salt, log, position, options.checkpoint_sync_bytes, sync=options.sync
                )
                return writer

            def discard() -> None:
                if writer is not None:
                    writer.discard()

            run = self._loop.run_in_executor
            try:
                saving = await run(self._checkpointer, begin)
                async for chunk in chunks:
                    await run(self._checkpointer, saving.write, chunk)
                await run(self._checkpointer, saving.commit)
            except BaseException as error:
                self._checkpointer.submit(discard)  # after whatever the thread is doing
                if isinstance(error, OSError):
                    raise self._failed_beside("checkpoint", error) from error
                raise

    def _failed_beside(self, what: str, error: OSError) -> GridError:
        """Beside the appends, but what the disk holds of them is not known any more either."""
        if error.errno in FULL_ERRORS:
            return storage_full(self._files, error)
        self._failure = self._failure or log_failed(self._files.path(what), error)
        self._compactor.halt()
        return _again(self._failure)

    async def load_checkpoint(self, log: LogId) -> Checkpoint | None:
        """See `Log.load_checkpoint`. A damaged one is passed over, with a warning: the log has all of it. Raises UnavailableError."""
        self._check_readable()
        with self._reading():
            found = await self._loop.run_in_executor(self._checkpointer, checkpoints.load, self._files, self._salt, log)
        return Checkpoint(log, *found) if found is not None else None

    async def compact(self, log: LogId, through: Position, fold: Fold) -> int:
        """See `Log.compact`: sealed segments only, each at most once (journal/compaction.py)."""
        self._check_open()
        try:
            return await self._compactor.compact(log, through, fold)
        except OSError as error:
            raise self._failed_beside("compaction", error) from error

    # The end -----------------------------------------------------------------------------------------------------

    @property
    def bytes_written(self) -> int:
        return self._sequence.durable_end - self._opened_at

    @property
    def failed(self) -> bool:
        return self._failure is not None

    async def close(self) -> None:
        if self._closing is not None:
            await asyncio.shield(self._closing)
            return
        self._closing = self._loop.create_future()
        try:
            while not self._sequence.idle:
                await self._next_settled()
            async with self._checkpoint_turn:
                await self._loop.run_in_executor(None, self._shut)
        finally:
            self._closing.set_result(None)

    def _shut(self) -> None:
        self._commit.stop()
        self._compactor.stop()
        self._checkpointer.shutdown()
        self._reader.shutdown()
        try:
            if self._failure is None and self._unmarked:
                self._writer.write(Batch(self._sequence.durable_end))  # says that all before it is durable
        except GridError:
            pass  # a mark, no more: without it the end is told from a tear a little less well
        finally:
            self._active.file.close()
            self._history.close()
            self._lock.release()

    @property
    def _unmarked(self) -> bool:
        return self._sequence.durable_end > self._opened_at and self._writer.has_room(Batch(self._sequence.durable_end))


def _lock_and_recover(files: Files, options: LocalLogOptions) -> tuple[Lock, Recovered]:
    with contextlib.ExitStack() as opened:
        try:
            files.prepare()
            lock = files.lock(LOCK_NAME)
        except OSError as error:
            raise ConfigurationError(
                f"{files.path('')} cannot hold the log ({error.strerror or error}); choose another directory, or grant access to it"
            ) from error
        opened.callback(lock.release)
        recovered = recover(files, options)
        opened.pop_all()
    return lock, recovered


def _abandon(work: asyncio.Future[tuple[Lock, Recovered]]) -> None:
    if not work.cancelled() and work.exception() is None:
        lock, recovered = work.result()
        recovered.writer.active.file.close()
        recovered.history.close()
        lock.release()


def _again(error: GridError) -> GridError:
    """The same error as an exception of its own, as each is raised somewhere else."""
    return error_from(type(error).code, error.message, error.fields)
