"""Copies SQLite's write-ahead log into the file, beside the commits instead of within them.

A commit that finds the log long would copy it itself, and sync twice, which is most of what a row waits for. Here a
second connection in a thread of its own does that (a PASSIVE checkpoint waits for nobody and stops nobody), so the
writer finds the log short again and begins it anew. If this falls behind, the writer's own threshold still holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

ROWS_BETWEEN: Final = 500
COMMITS_BETWEEN: Final = 500


class Checkpointer:
    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tidegrid-sqlite-checkpoint")
        self._running: asyncio.Future[None] | None = None
        self._rows = self._commits = 0

    def committed(self, rows: int) -> None:
        """Begins a checkpoint if enough has come together and none is running."""
        self._rows += rows
        self._commits += 1
        if self._rows < ROWS_BETWEEN and self._commits < COMMITS_BETWEEN:
            return
        if self._running is None or self._running.done():
            self._rows = self._commits = 0
            self._running = asyncio.get_running_loop().run_in_executor(self._thread, self._checkpoint)

    def _checkpoint(self) -> None:
        with contextlib.suppress(sqlite3.Error):  # the next one, or the writer, does it
            if self._connection is None:
                self._connection = self._connect()
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    async def close(self) -> None:
        if self._running is not None:
            await self._running
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._thread.shutdown(wait=True)
