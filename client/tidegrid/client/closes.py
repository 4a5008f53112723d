"""Waiting for closes, asking when they were, and when reads are of. Whoever waits for the same epoch shares one question."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Final

from tidegrid.client.dispatcher import Dispatcher
from tidegrid.client.entry import Ack, Outcome
from tidegrid.client.moment import Moment, moment_of, time_ms_of
from tidegrid.grid.model.errors import (
    DeadlineError,
    EpochTooNewError,
    EpochTooOldError,
    GridError,
    OverloadError,
    PeerError,
)
from tidegrid.grid.model.ids import Epoch
from tidegrid.v1 import grid_pb2

UNSEEN: Final = (PeerError, OverloadError)  # nobody has said that the epoch is closed
_GRACE_SECONDS: Final = 0.3  # for the node to say itself that it is late, and why


class Closes:
    """`until` is always a time of the event loop."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._loop = asyncio.get_running_loop()
        self._asking: dict[int, asyncio.Task[None]] = {}  # by epoch

    async def wait(self, epoch: int, until: float) -> Epoch:
        """Returns the highest closed epoch known, once it is `epoch` or later. Raises DeadlineError, EpochTooNewError."""
        dispatcher = self._dispatcher
        while epoch > dispatcher.closed:
            if epoch >= 1 << 64:
                raise EpochTooNewError.of(epoch, dispatcher.causality.epoch)
            asking = self._asking.get(epoch)
            others = asking is not None
            if asking is None:
                asking = self._asking[epoch] = self._loop.create_task(self._ask(epoch, until))
                asking.add_done_callback(_looked_at)
            try:
                async with asyncio.timeout_at(until + _GRACE_SECONDS):
                    await asyncio.shield(asking)
            except TimeoutError:
                raise DeadlineError(
                    f"epoch {epoch} did not close within the deadline; see `tidegrid status` for who holds time back",
                    epoch=epoch,
                ) from None
            except PeerError:
                if not others or self._loop.time() >= until:
                    raise  # else whoever asked first had less time
        return dispatcher.closed

    async def _ask(self, epoch: int, until: float) -> None:
        try:
            reply = await self._dispatcher.ask("WaitEpoch", grid_pb2.WaitEpochRequest(closed=epoch), until)
            self._dispatcher.see_closed(reply.closed)
        finally:
            del self._asking[epoch]

    async def newest(self, until: float) -> Epoch:
        """The newest close that a node knows, and no older than what this client has been told of."""
        reply = await self._dispatcher.ask("WaitEpoch", grid_pb2.WaitEpochRequest(closed=0), until)
        self._dispatcher.see_closed(reply.closed)
        return self._dispatcher.closed

    async def at(self, time: datetime, until: float) -> Epoch:
        """The epoch that was closed at `time`, or last before it. Raises CallerError, EpochTooOldError."""
        request = grid_pb2.EpochAtRequest(time_ms=time_ms_of(time))
        try:
            return Epoch((await self._dispatcher.ask("EpochAt", request, until)).epoch)
        except EpochTooOldError as error:
            since_ms = int(error.fields.get("since_ms") or 0)
            since = datetime.fromtimestamp(since_ms / 1_000, time.tzinfo).isoformat(timespec="milliseconds")
            earliest = int(error.fields.get("earliest") or 0)
            raise EpochTooOldError.at_time(time.isoformat(), since, earliest, since_ms) from None

    async def close(self) -> None:
        """Ends what is being asked for nobody any more."""
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    # Acknowledgements that wait ------------------------------------------------------------------------------------

    async def covering(self, ack: Ack, until: float) -> Ack:
        """`ack`, once its epoch is closed. Raises DeadlineError, whose fields say what was stored all the same."""
        try:
            await self.wait(ack.epoch, until)
        except UNSEEN as error:
            raise _stored(ack, error) from None
        return ack

    async def covering_all(self, outcomes: list[Outcome], until: float) -> list[Outcome]:
        """As `covering`, for each of many: who was stored and not closed in time gets the DeadlineError."""
        highest = max((outcome.epoch for outcome in outcomes if isinstance(outcome, Ack)), default=Epoch(0))
        try:
            await self.wait(highest, until)
        except UNSEEN as error:
            closed = self._dispatcher.closed
            return [
                outcome if isinstance(outcome, GridError) or outcome.epoch <= closed else _stored(outcome, error)
                for outcome in outcomes
            ]
        return outcomes


def _looked_at(task: asyncio.Task[None]) -> None:
    """Whoever asked may be gone by now."""
    if not task.cancelled():
        task.exception()


def _stored(ack: Ack, error: GridError) -> DeadlineError:
    return DeadlineError(
        f"the write is durable (version {ack.version}), but {not_seen(ack.epoch, error)}",
        version=ack.version,
        epoch=ack.epoch,
    )


def not_seen(epoch: int, error: GridError) -> str:
    """Why nobody can say that it is closed."""
    if isinstance(error, DeadlineError):
        return f"its epoch {epoch} did not close within the deadline; see `tidegrid status` for who holds time back"
    return f"whether its epoch {epoch} has closed could not be learned: {error.message}"


async def moment_at(
    closes: Closes,
    pinned: Moment,
    as_of: int | datetime | None,
    at_least: int | None,
    wait: bool,
    max_staleness: float | None,
    consistency: str,
    *,
    expires: float,
) -> Moment:
    """A time is resolved once, so that all that one call reads is of one epoch. `pinned`: the generation that is read."""
    if as_of is None and at_least is None and wait and max_staleness is None and consistency == "causal":
        return pinned
    if isinstance(as_of, datetime):
        moment_of(None, at_least, wait, max_staleness, consistency)  # its errors before anybody is asked
        as_of = await closes.at(as_of, expires)
    found = moment_of(as_of, at_least, wait, max_staleness, consistency)
    return found._replace(generation=pinned.generation, seen_at=pinned.seen_at)


async def in_one_generation(closes: Closes, moment: Moment, expires: float) -> Moment:
    """For reads that take several answers: all of them in the same generation, if they are to be of one epoch."""
    if not moment.as_of or moment.generation or moment.seen_at:
        return moment
    return moment._replace(seen_at=max(moment.as_of, await closes.newest(expires)))
