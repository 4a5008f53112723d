"""Regenerating derived maps: today's triggers over all that was ever written, beside what is live.

    report = await grid.regenerate("flights", dry_run=True, progress=lambda so_far: print(so_far.writes))
    await grid.regenerate("flights")                 # and readers see the new generation, at one epoch
    await grid.show_generations({"flights": 1})      # go back
    await grid.drop_generations({"flights": 2})

The grid does it in processes of its own, as long as this waits for it: when this is cancelled, it ends, and begun again it
goes on where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final

from tidegrid.client.closes import Closes
from tidegrid.client.deploy import this_user
from tidegrid.client.dispatcher import Dispatcher
from tidegrid.grid.model.errors import EpochTooOldError, GridError
from tidegrid.v1 import control_pb2, grid_pb2

ASK_SECONDS: Final = 30.0  # until a question has to be answered; the work itself takes as long as it takes
Progress = Callable[[grid_pb2.RegenerationProgress], None]


async def first_epoch_after(closes: Closes, time: datetime, until: float) -> int:
    """Raises EpochTooOldError: times are known as far back as history."""
    try:
        return await closes.at(time, until) + 1
    except EpochTooOldError as error:
        raise EpochTooOldError(
            f"{error.message.partition(';')[0]}; name an epoch instead, as reads and `tidegrid history` show it, or leave it out",
            **error.fields,
        ) from None


async def regenerate(
    dispatcher: Dispatcher,
    maps: Sequence[str],
    start: int,
    dry_run: bool,
    workers: int,
    nice: int,
    share: float,
    rate: float,
    by: str,
    progress: Progress | None,
) -> grid_pb2.RegenerationReport:
    loop = asyncio.get_running_loop()
    request = grid_pb2.RegenerateRequest(
        maps=maps,
        start=start,
        dry_run=dry_run,
        workers=workers,
        nice=nice,
        share=share,
        rate=rate,
        by=by or this_user(),
    )
    try:
        while True:
            reply: grid_pb2.RegenerateReply = await dispatcher.ask("Regenerate", request, loop.time() + ASK_SECONDS)
            request.name = reply.name
            if progress is not None:
                progress(reply.progress)
            if reply.HasField("report"):
                return reply.report
    except asyncio.CancelledError:
        stop = grid_pb2.RegenerateRequest(name=request.name, stop=True)
        with contextlib.suppress(GridError):
            await dispatcher.ask("Regenerate", stop, loop.time() + 2.0)
        raise


async def generations(
    dispatcher: Dispatcher, show: Mapping[str, int], drop: Mapping[str, int], by: str, deadline: float
) -> list[grid_pb2.GenerationEntry]:
    request = grid_pb2.GenerationsRequest(show=_pairs(show), drop=_pairs(drop), by=by or this_user())
    reply: grid_pb2.GenerationsReply = await dispatcher.ask("Generations", request, deadline)
    return list(reply.generations)


def _pairs(numbers: Mapping[str, int]) -> list[control_pb2.MapGeneration]:
    return [control_pb2.MapGeneration(map=name, number=number) for name, number in numbers.items()]
