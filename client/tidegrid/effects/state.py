"""The state file beside the event loop: one thread uses it, and what waits for it shares a transaction.

Whoever settles a change waits until that is on disk. While one transaction is being synced, the next collects; they
land in the order they came, so a later change of a key is never on disk before an earlier one. After a write that
failed nothing is written any more: a cursor might pass what was lost.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from tidegrid.effects.place import Place
from tidegrid.effects.state_file import Cursor, Entry, Parked, StateFile, translated

T = TypeVar("T")


class State:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tidegrid-effects-state")
        self._file: StateFile | None = None
        self._entries: list[tuple[Entry, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._problem: Exception | None = None

    async def open(self, grid_id: bytes) -> None:
        """Raises InUseError, WrongGridError, ConfigurationError, FormatError."""

        def open_file() -> StateFile:
            file = StateFile(self.path)
            try:
                file.lock(grid_id)
            except BaseException:
                file.close()
                raise
            return file

        self._file = await self._run(open_file)

    async def close(self) -> None:
        """Idempotent. What was settled is written first."""
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)
        if self._file is not None:
            file, self._file = self._file, None
            await self._run(file.close)
        self._thread.shutdown(wait=True)

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as problem:
            raise translated(problem, self.path) from problem
        except PermissionError as problem:  # of the lock file
            raise translated(sqlite3.OperationalError("readonly"), self.path) from problem

    def _opened(self) -> StateFile:
        assert self._file is not None
        return self._file

    # Settling -----------------------------------------------------------------------------------------------------

    async def settle(self, entry: Entry) -> None:
        """Returns once it is on disk."""
        loop = asyncio.get_running_loop()
        written: asyncio.Future[None] = loop.create_future()
        self._entries.append((entry, written))
        if self._writing is None:
            self._writing = loop.create_task(self._write(), name="tidegrid effects state")
        await written

    async def _write(self) -> None:
        while self._entries:
            entries, self._entries = self._entries, []
            if self._problem is None:
                try:
                    await self._run(partial(self._opened().apply, [entry for entry, _ in entries]))
                except Exception as problem:
                    self._problem = problem
            for _, written in entries:
                if not written.done():
                    if self._problem is None:
                        written.set_result(None)
                    else:
                        written.set_exception(self._problem)
        self._writing = None

    async def advance(self, cursors: Iterable[tuple[str, int]]) -> None:
        """Epochs with nothing to do went by."""
        if self._problem is not None:
            raise self._problem
        await self._run(partial(self._opened().advance, list(cursors)))

    # Looking ------------------------------------------------------------------------------------------------------

    async def cursors(self) -> list[Cursor]:
        return await self._run(self._opened().cursors)

    async def check(self, effects: Iterable[tuple[str, str]]) -> None:
        """See `StateFile.check`."""
        await self._run(partial(self._opened().check, list(effects)))

    async def begin(self, effect: str, map_name: str, epoch: int) -> tuple[Cursor, list[Place]]:
        """See `StateFile.begin`."""
        return await self._run(partial(self._opened().begin, effect, map_name, epoch))

    async def parked(self, effect: str | None = None, *, again: bool = False, limit: int = -1) -> list[Parked]:
        return await self._run(partial(self._opened().parked, effect, again=again, limit=limit))

    async def parked_count(self, effect: str) -> int:
        return await self._run(partial(self._opened().parked_count, effect))

    async def drive_again(self, numbers: Iterable[int] | None) -> list[int]:
        return await self._run(partial(self._opened().drive_again, None if numbers is None else list(numbers)))

    async def changed_elsewhere(self) -> int:
        return await self._run(self._opened().changed_elsewhere)
