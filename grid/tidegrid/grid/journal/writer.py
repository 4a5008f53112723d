"""The writing end of a local log: one batch, one write, one sync; a new segment when the active one has no room.

`SegmentWriter` is plain synchronous code, called by one thread at a time. `CommitThread` runs it beside the event
loop and reports back. A failed write or sync is final: nobody knows what the disk holds afterwards, and a second sync
may lie ("fsyncgate", 2018), so it is never retried. Space runs out only where a segment is born, where nothing was
written yet: that one is reported as StorageFullError and may be tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable

from tidegrid.grid.journal.files import FULL_ERRORS, NO_MORE_FILES, Files, write_file
from tidegrid.grid.journal.options import LocalLogOptions
from tidegrid.grid.journal.segments import Segment, create_segment, offset_of
from tidegrid.grid.log.batch import salt_of
from tidegrid.grid.log.index import SegmentIndex
from tidegrid.grid.log.segment import SegmentHeader, index_name
from tidegrid.grid.log.sequence import Batch
from tidegrid.grid.model.errors import GridError, LogFailedError, StorageFullError

SAMPLES = 4
logger = logging.getLogger(__name__)


class SegmentWriter:
    """Invariant: all before `synced` is durable; `active.index` holds exactly the records before it in its segment."""

    def __init__(self, files: Files, options: LocalLogOptions, identity: bytes, active: Segment, synced: int) -> None:
        self.active = active
        self.synced = synced
        self.sync_seconds = 0.0  # moving average of how long the disk takes for a write with its sync; 0: none yet
        self._in_thread: deque[float] = deque(maxlen=SAMPLES)
        self._files = files
        self._options = options
        self._identity = identity
        self._salt = salt_of(identity)

    def has_room(self, batch: Batch) -> bool:
        return batch.end <= self.active.limit

    def write(self, batch: Batch, *, in_thread: bool = False) -> None:
        """Raises StorageFullError (nothing was written) and LogFailedError (write no more)."""
        try:
            if not self.has_room(batch):
                self._roll(batch)
            active = self.active
            began = time.perf_counter()
            buffers = [batch.header(self._salt, self.synced), *batch.body]
            put = active.file.pwritev_sync if self._options.sync else active.file.pwritev
            put(buffers, offset_of(active.base, batch.start))
            self._took(time.perf_counter() - began, in_thread)
        except OSError as error:
            raise log_failed(self._files.path(self.active.name), error) from error
        self.synced = batch.end

    def _took(self, seconds: float, in_thread: bool) -> None:
        """Beside a busy event loop most of it is the wait for the interpreter, so of some in a row the quickest counts."""
        if in_thread:
            self._in_thread.append(seconds)
            seconds = min(self._in_thread)
        else:
            self._in_thread.clear()
        self.sync_seconds += ((seconds - self.sync_seconds) / 8) if self.sync_seconds else seconds

    def _roll(self, batch: Batch) -> None:
        old = self.active
        capacity = max(self._options.segment_bytes - offset_of(0, 0), batch.size_bytes)
        header = SegmentHeader(batch.start, capacity, self._identity)
        try:
            file = create_segment(self._files, header, sync=self._options.sync)
        except OSError as error:
            if error.errno in FULL_ERRORS:
                raise storage_full(self._files, error) from error
            raise
        index = SegmentIndex(batch.start, dict(old.index.tails))
        self.active = Segment(file, batch.start, batch.start + capacity, index)
        if self._options.sync:
            self._files.sync_directory()
        seal(self._files, old, self._salt)


def seal(files: Files, segment: Segment, salt: int) -> None:
    """Gives back the space that the segment does not use, and writes its index. Nothing depends on either."""
    try:
        segment.file.truncate(offset_of(segment.base, segment.index.end))
        write_file(files, index_name(segment.base), [segment.index.encode(salt)])
    except OSError as error:
        logger.warning("the index of %s was not written (%s); it will be rebuilt when needed", segment.name, error)


def log_failed(path: str, error: Exception) -> LogFailedError:
    return LogFailedError(
        f"writing {path} failed ({error}). The log has stopped, as nobody knows what the disk holds now; "
        "what was in flight may be there or not. Check the disk, then start again",
        file=path,
    )


def storage_full(files: Files, error: OSError) -> StorageFullError:
    if error.errno in NO_MORE_FILES:
        return StorageFullError(
            f"no more files can be opened for {files.path('')} ({error.strerror}); nothing was written. Reads go on, and writes "
            "will be taken again once there are some: raise the limit (ulimit -n), or have fewer connections"
        )
    return StorageFullError(
        f"there is no space for another segment in {files.path('')}; nothing was written. Reads go on, and writes "
        "will be taken again once there is space: free some, or give the volume more"
    )


Report = Callable[[Batch, GridError | None], None]


class CommitThread:
    """Writes one batch at a time in a thread of its own, and calls `report` on the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, writer: SegmentWriter, report: Report) -> None:
        self._loop = loop
        self._writer = writer
        self._report = report
        self._batches: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="tidegrid-log-commit", daemon=True)
        self._thread.start()

    def submit(self, batch: Batch) -> None:
        self._batches.put(batch)

    def stop(self) -> None:
        """Ends the thread; waits for the batch in hand."""
        self._batches.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            error = write_reporting(self._writer, batch, in_thread=True)
            with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
                self._loop.call_soon_threadsafe(self._report, batch, error)


def write_reporting(writer: SegmentWriter, batch: Batch, *, in_thread: bool = False) -> GridError | None:
    """Writes; an error is returned. One that nobody foresaw stops the log like a failed write."""
    try:
        writer.write(batch, in_thread=in_thread)
    except (StorageFullError, LogFailedError) as error:
        return error
    except Exception as error:
        logger.exception("the log writer failed")
        return log_failed(writer.active.name, error)
    return None
