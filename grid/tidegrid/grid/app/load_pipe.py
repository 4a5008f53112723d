"""Rows from a pipe, whose writer may be slow: a thread reads, so that rows go out as they come.

The thread is a daemon: it may wait on the pipe for ever, and nothing waits for it at the end.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

AHEAD_ROWS: Final = 10_000  # read before the reader waits for the grid


async def from_pipe(rows: Iterable[Any]) -> AsyncIterator[Any]:
    """The rows, read in a thread of their own. What reading raises is raised here, after the rows before it."""
    loop = asyncio.get_running_loop()
    room = threading.Semaphore(AHEAD_ROWS)
    changed = asyncio.Event()
    buffer: list[Any] = []
    ended: list[BaseException | None] = []

    def wake() -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(changed.set)

    def read() -> None:
        problem: BaseException | None = None
        try:
            for row in rows:
                room.acquire()
                buffer.append(row)
                if len(buffer) == 1:
                    wake()
        except BaseException as error:
            problem = error
        ended.append(problem)
        wake()

    threading.Thread(target=read, name="tidegrid load", daemon=True).start()
    while True:
        last = bool(ended)  # before looking at the buffer: what came before the end is in it
        count = len(buffer)
        for row in buffer[:count]:
            yield row
        del buffer[:count]
        if count:
            room.release(count)
        if last and not buffer:
            if ended[0] is not None:
                raise ended[0]
            return
        if not buffer and not ended:
            await changed.wait()
            changed.clear()
