"""Where the rows of a bulk write come from: any iterable, or an async one that may be slow.

Of an iterable rows are taken by the chunk. An async one is read ahead by a task into a bounded list, so that rows of
a slow source go out as they come and those of a fast one gather into chunks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterable, Sequence
from itertools import islice
from typing import Any, Protocol


class Rows(Protocol):
    @property
    def ended(self) -> bool:
        """Nothing is left to take."""
        ...

    async def take(self, count: int, instead: asyncio.Future[None] | None) -> Sequence[Any]:
        """Up to `count` rows. Waits for one, unless `instead` is given and done first: then none."""
        ...

    async def close(self) -> None: ...


class IterableRows:
    def __init__(self, rows: Iterable[Any]) -> None:
        self._rows = iter(rows)
        self.ended = False

    async def take(self, count: int, instead: asyncio.Future[None] | None) -> Sequence[Any]:
        taken = list(islice(self._rows, count))
        self.ended = len(taken) < count
        return taken

    async def close(self) -> None:
        pass


class AsyncRows:
    def __init__(self, rows: AsyncIterable[Any], ahead: int) -> None:
        self._rows = rows
        self._ahead = ahead
        self._buffer: list[Any] = []
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._pump = asyncio.get_running_loop().create_task(self._read(), name="tidegrid rows")

    @property
    def ended(self) -> bool:
        return self._pump.done() and not self._buffer and self._pump.exception() is None

    async def _read(self) -> None:
        try:
            async for row in self._rows:
                self._buffer.append(row)
                self._changed.set()
                while len(self._buffer) >= self._ahead:
                    self._room.clear()
                    await self._room.wait()
        finally:
            self._changed.set()

    async def take(self, count: int, instead: asyncio.Future[None] | None) -> Sequence[Any]:
        while not self._buffer:
            if self._pump.done():
                self._pump.result()  # raises what the source raised
                return []
            if instead is not None and instead.done():
                return []
            self._changed.clear()
            changed = asyncio.ensure_future(self._changed.wait())
            waits: list[asyncio.Future[Any]] = [changed] if instead is None else [changed, instead]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        self._room.set()
        return taken

    async def close(self) -> None:
        self._pump.cancel()
        await asyncio.gather(self._pump, return_exceptions=True)
