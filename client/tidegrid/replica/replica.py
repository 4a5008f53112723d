"""A replica, running: a follower in a task, and its sink.

async with Replica(grid, "flights", "sqlite:///flights.db") as replica:
    await replica.wait(ack.epoch)
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from types import TracebackType

from tidegrid.client.grid import Grid
from tidegrid.grid.model.errors import CallerError, GridError
from tidegrid.grid.model.ids import Epoch
from tidegrid.replica.follower import Follower, Progress
from tidegrid.replica.sink import Sink
from tidegrid.replica.sqlite import SqliteSink, parse_url


class Replica:
    """An async context manager. `to` is a URL (sqlite:///file.db) or a Sink; see `SqliteSink` for the options."""

    def __init__(
        self,
        grid: Grid,
        map_name: str,
        to: str | Sink,
        *,
        table: str | None = None,
        rename: Mapping[str, str] | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self._sink: Sink = SqliteSink(parse_url(to), table=table, rename=rename) if isinstance(to, str) else to
        self._follower = Follower(grid, map_name, self._sink, progress)
        self._task: asyncio.Task[None] | None = None

    @property
    def epoch(self) -> Epoch:
        """Everything up to it is in the sink."""
        return self._follower.epoch

    @property
    def rows(self) -> int:
        """Rows written and deleted since the start."""
        return self._follower.rows

    async def __aenter__(self) -> Replica:
        self._task = asyncio.get_running_loop().create_task(self._follower.run(), name="tidegrid replica")
        return self

    async def wait(self, epoch: int, *, deadline: float | None = None) -> Epoch:
        """Returns once the sink has everything up to `epoch`, with its position.

        Raises DeadlineError, and what ended the replica, if something did.
        """
        if self._task is None:
            raise CallerError("a replica is used as `async with Replica(...) as replica:`")
        waiting = asyncio.ensure_future(self._follower.wait(epoch, deadline))
        try:
            await asyncio.wait([waiting, self._task], return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                await self.finished()
            return await waiting
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    async def finished(self) -> None:
        """Waits until the replica ends by itself, which is an error, and raises that."""
        assert self._task is not None
        await asyncio.shield(self._task)
        raise CallerError("the replica has ended, as its client was closed")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._task is not None:
                self._task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await self._task
        except GridError:
            if kind is None:
                raise
        finally:
            await self._sink.close()
