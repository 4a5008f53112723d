"""Holds on history: an epoch that stays readable for as long as a block of code runs, however far time goes on.

    async with grid.hold() as hold:                  # at the newest closed epoch
        await prices.get(key, as_of=hold.epoch)      # never EpochTooOldError
        await hold.move(later)                       # forward, when what lies before is done with

A hold is renewed while its block runs and released at the end; that of a client that is gone expires. The grid may end
one earlier: when it is as old as holds may get, when the history that it holds outgrows the memory for it, or when
somebody takes its name or releases it. Then the next use says so (HoldLostError).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from tidegrid.client.dispatcher import Dispatcher
from tidegrid.client.moment import check_number
from tidegrid.grid.model.errors import CallerError, GridError, HoldLostError
from tidegrid.grid.model.ids import Epoch
from tidegrid.v1 import grid_pb2

HOLD_SECONDS: Final = 30.0  # without a word from its client
_SECONDS_MAX: Final = 1e9  # the grid allows less
_RENEWALS: Final = 3  # in that time: two may go wrong


class Hold:
    """Made by `Grid.hold`. Until it is lost, reads as of `epoch` or later are never too old."""

    def __init__(self, dispatcher: Dispatcher, name: str, owner: str, seconds: float) -> None:
        self.name = name
        self.owner = owner
        self.epoch = Epoch(0)
        self.error: GridError | None = None  # why it is lost
        self._dispatcher = dispatcher
        self._for_ms = max(1, int(min(seconds, _SECONDS_MAX) * 1_000))
        self._taken = 0
        self._expires = 0.0  # by the event loop's clock, and a little early
        self._turn = asyncio.Lock()
        self._loop = asyncio.get_running_loop()

    @property
    def lost(self) -> bool:
        return self.error is not None

    def check(self) -> None:
        """Raises HoldLostError once the grid has ended the hold, as far as is known here."""
        if self.error is not None:
            raise type(self.error)(self.error.message, **self.error.fields)

    async def move(self, epoch: int, *, deadline: float = 10.0) -> None:
        """Holds `epoch` from now on, and no longer what lies before it, also when no answer comes.
        Raises HoldLostError, EpochTooNewError, DeadlineError."""
        check_number("epoch", epoch, 1, 1 << 64)
        self.check()
        await self._ask(epoch, self._loop.time() + deadline)

    async def take(self, epoch: int, until: float) -> None:
        await self._ask(epoch, until)

    async def keep(self) -> None:
        """Renews it until it is lost, or cancelled."""
        while not self.lost:
            left = self._expires - self._loop.time()
            await asyncio.sleep(max(0.01, left / _RENEWALS))
            with contextlib.suppress(GridError):  # no answer: again, until it must have expired
                await self._ask(0, max(self._expires, self._loop.time() + 0.01))
            if self._loop.time() >= self._expires:
                self.error = self.error or HoldLostError.of(self.name, "it could not be renewed in time")

    async def release(self, until: float) -> None:
        """What cannot be told expires by itself."""
        if self._taken and not self.lost:
            request = grid_pb2.HoldRequest(name=self.name, taken=self._taken, release=True)
            with contextlib.suppress(GridError):
                await self._dispatcher.ask("Hold", request, until)

    async def _ask(self, epoch: int, until: float) -> None:
        async with self._turn:
            asked_at = self._loop.time()
            request = grid_pb2.HoldRequest(
                name=self.name, owner=self.owner, epoch=epoch, for_ms=self._for_ms, taken=self._taken
            )
            held, self.epoch = self.epoch, Epoch(max(self.epoch, epoch))  # a move without an answer may yet be done
            try:
                reply = await self._dispatcher.ask("Hold", request, until)
            except CallerError as error:
                self.epoch = held
                if isinstance(error, HoldLostError):
                    self.error = error
                raise
            self.epoch, self._taken = Epoch(max(self.epoch, reply.epoch)), reply.taken
            self._expires = asked_at + reply.left_ms / 1_000


@asynccontextmanager
async def holding(
    dispatcher: Dispatcher, name: str | None, epoch: int, seconds: float, owner: str | None, until: float
) -> AsyncIterator[Hold]:
    """Takes the hold, keeps it up while the block runs, and releases it."""
    if not seconds > 0:
        raise CallerError(f"seconds is {seconds!r}; a hold lasts for more than 0")
    hold = Hold(dispatcher, name or f"hold-{secrets.token_hex(6)}", owner or this_process(), seconds)
    await hold.take(epoch, until)
    loop = asyncio.get_running_loop()
    allowed = until - loop.time()
    keeping = asyncio.create_task(hold.keep())
    try:
        yield hold
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await hold.release(loop.time() + max(0.1, allowed))


def this_process() -> str:
    """Who holds, for people."""
    return f"{socket.gethostname()}, process {os.getpid()}"
