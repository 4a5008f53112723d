"""Checkpoints by themselves: when so much was appended since the last ones, each log's state is saved, slice by slice.

Between two slices the event loop serves; writes go on. A checkpoint is what restart time depends on; the log keeps
the whole history all the same, but for old records of the control log: those that every node has read, and the
checkpoint covers, are compacted beside it (ring/folding.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Sequence

from tidegrid.grid.engine.checkpoint import checkpoint_chunks
from tidegrid.grid.journal.seam import Log
from tidegrid.grid.model.errors import GridError
from tidegrid.grid.model.ids import CONTROL_LOG, Position, partition_log
from tidegrid.grid.ring.folding import fold_records
from tidegrid.grid.runtime.driver import Driver

_log = logging.getLogger(__name__)


class Checkpointing:
    """`bytes_between`: appended to the log between two rounds of checkpoints; less: faster restarts, more writing."""

    def __init__(self, log: Log, drivers: Sequence[Driver], bytes_between: int) -> None:
        self._log = log
        self._drivers = drivers
        self._bytes_between = bytes_between
        self._saved_at = log.bytes_written
        self._compacting: asyncio.Task[None] | None = None
        self.rounds = 0
        self.saved_bytes = 0  # by compaction
        self.last_error: GridError | None = None

    async def run(self) -> None:
        """Until cancelled. A checkpoint that fails leaves the one before it in place, and is tried again."""
        try:
            await self._compact_what_is_covered()
            await self._run()
        finally:
            if self._compacting is not None:
                self._compacting.cancel()
                await asyncio.wait([self._compacting])

    async def _run(self) -> None:
        while True:
            grown = asyncio.Event()
            unfollow = self._log.follow(CONTROL_LOG, grown.set)
            try:
                while self._log.bytes_written - self._saved_at < self._bytes_between:
                    await grown.wait()
                    grown.clear()
            finally:
                unfollow()
            try:
                self._compact_soon(await self.save())
            except GridError as error:
                self.last_error = error.with_traceback(None)  # which would keep what was being saved
                _log.warning("checkpoint: %s", error)
            self._saved_at = self._log.bytes_written

    async def save(self) -> Position:
        """One round over all logs. Returns the position of the checkpoint of the control log."""
        self._saved_at = self._log.bytes_written
        for driver in list(self._drivers):  # nodes come and go, and partitions move, while a checkpoint is written
            for partition in list(driver.node.partitions.values()):
                if partition.serving:
                    with contextlib.closing(checkpoint_chunks(partition)) as chunks:  # pins what it has not told yet
                        first = next(chunks)
                        log = partition_log(partition.id)
                        await self._log.save_checkpoint(log, partition.tail, _paced(first, chunks))
        control = self._drivers[0].node.control
        position = control.position
        await self._log.save_checkpoint(CONTROL_LOG, position, _paced(control.to_bytes(), iter(())))
        self.rounds += 1
        return position

    async def _compact_what_is_covered(self) -> None:
        """By the checkpoint of an earlier life: one that is ended every day may never come to another round."""
        try:
            saved = await self._log.load_checkpoint(CONTROL_LOG)
        except GridError as error:
            self.last_error = error
            return
        if saved is not None:
            self._compact_soon(saved.position)

    def _compact_soon(self, covered: Position) -> None:
        if self._compacting is None or self._compacting.done():
            self._compacting = asyncio.create_task(self._compact(covered))

    async def _compact(self, covered: Position) -> None:
        """Up to what all nodes here have read: a node that joins later begins above it, and nobody goes back."""
        through = min([covered, *(driver.node.control.position for driver in self._drivers)])
        try:
            saved = await self._log.compact(CONTROL_LOG, through, fold_records)
        except GridError as error:
            self.last_error = error
            _log.warning("compaction of the control log: %s", error)
        else:
            self.saved_bytes += saved


async def _paced(first: bytes, rest: Iterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    for chunk in rest:
        await asyncio.sleep(0)
        yield chunk
