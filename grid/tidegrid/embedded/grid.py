"""A whole grid inside the caller's event loop: nodes, log and client, connected by direct calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

from tidegrid.client.deploy import Deployed
from tidegrid.client.dispatcher import Dispatcher
from tidegrid.client.grid import DEADLINE_SECONDS, Grid
from tidegrid.client.map import Map
from tidegrid.client.token import Token, token_of
from tidegrid.embedded.transport import DirectTransport
from tidegrid.grid.journal.local import LocalLog
from tidegrid.grid.journal.memory import MemoryLog
from tidegrid.grid.journal.seam import Log
from tidegrid.grid.model.ids import Epoch
from tidegrid.grid.model.maps import MapSpec
from tidegrid.grid.ring.ring import TokenPlace
from tidegrid.grid.rpc.grid_service import GridService
from tidegrid.grid.runtime.driver import Driver
from tidegrid.grid.runtime.local_grid import GridOptions, LocalGrid
from tidegrid.grid.runtime.peers import DirectPeers
from tidegrid.triggers.packages import find_sources

T = TypeVar("T")
_PAUSE_SECONDS: Final = 0.001  # between two rounds that did not get there


class EmbeddedGrid(Grid):
    """A `tidegrid.client.Grid` with its nodes beside it. `local` is for tests that want to look inside."""

    def __init__(self, dispatcher: Dispatcher, deadline: float, local: LocalGrid) -> None:
        super().__init__(dispatcher, deadline)
        self.local = local

    async def tick(self, *, deadline: float | None = None) -> Epoch:
        """Steps time: closes everything up to now, with as many rounds of the token as that takes.

        Returns the newly closed epoch. Every write that was acknowledged before the call is in it, every later one is
        not. Each call closes a new epoch, also when nothing was written. With `tick=None` time moves by this alone.
        Raises DeadlineError when something keeps it from closing, such as a log that does not answer.
        """
        drivers = self.local.drivers
        now = max(driver.node.epoch for driver in drivers)
        timeout = self._deadline if deadline is None else deadline
        closing = asyncio.ensure_future(self.local.wait_closed(drivers[0], now, timeout))
        await asyncio.sleep(0)  # the node knows that somebody waits before the round begins
        try:
            while not closing.done():
                await self._round(drivers)
                await asyncio.wait([closing], timeout=_PAUSE_SECONDS)
            await closing
        finally:
            closing.cancel()
        closed = max(driver.node.control.closed for driver in drivers)
        for driver in drivers:
            await driver.closed_above(Epoch(closed - 1))
        self._dispatcher.see_closed(closed)
        return closed

    async def _round(self, drivers: Sequence[Driver]) -> None:
        origin = drivers[0]
        origin.start_round()
        while origin.node.ring.place is not TokenPlace.RESTING or any(driver.node.ring.closing for driver in drivers):
            await origin.turned()

    async def tick_until(self, work: Awaitable[T]) -> T:
        """Steps time until `work` is done, and returns what it returns: for what waits for a close, such as

        ack = await grid.tick_until(prices.put("ACME", 9.5, ack="closed"))
        """
        doing = asyncio.ensure_future(work)
        try:
            while not doing.done():
                await self.tick()
                await asyncio.wait([doing], timeout=_PAUSE_SECONDS)
            return await doing
        finally:
            doing.cancel()

    async def create_map(self, spec: MapSpec | str, **options: Any) -> Map:
        """As `Grid.create_map`; where time is stepped by hand, it is stepped until the map acts."""
        if self.local.options.tick is not None:
            return await super().create_map(spec, **options)
        return await self.tick_until(super().create_map(spec, **options))

    async def deploy(self, *modules: str | Path | tuple[str, str], **options: Any) -> Deployed:
        """As `Grid.deploy`; where time is stepped by hand, it is stepped until the code acts."""
        done = await super().deploy(*modules, **options)
        if self.local.options.tick is None and done.epoch is not None:
            while self.local.drivers[0].node.control.closed < done.epoch - 1:
                await self.tick()
        return done


@asynccontextmanager
async def open(
    path: str | Path | None = None,
    *,
    nodes: int = 1,
    triggers: Iterable[str | Path] | None = None,
    tick: float | None = 0.02,
    partitions: int | None = None,
    deadline: float = DEADLINE_SECONDS,
    options: GridOptions | None = None,
    log: Log | None = None,
    token: Token | str | None = None,
) -> AsyncIterator[EmbeddedGrid]:
    """Opens a grid in this process and closes it at the end of the block.

    `path`: directory of its log (None: in memory, gone at the end). `triggers`: modules, as files or installed module
    paths; what is deployed stays when none are given. `tick`: seconds between rounds; None: `await grid.tick()`.
    `token`: see `tidegrid.client.connect`. `options` sets everything else. Raises InUseError, CorruptionError,
    ConfigurationError, TriggerModuleError, InvalidTokenError, WrongGridError.
    """
    seen = None if token is None else token_of(token)
    chosen = replace(options or GridOptions(), nodes=nodes, tick=tick, partitions=partitions)
    modules = None if triggers is None else find_sources(triggers)
    chosen.validate()
    if log is None:
        log = MemoryLog() if path is None else await LocalLog.open(Path(path))
    peers = DirectPeers()
    addresses: Sequence[tuple[str, str]] = [(f"embedded:{number}", f"embedded:{number}") for number in range(nodes)]
    local = await LocalGrid.open(
        log, chosen, modules, lambda _node: peers, addresses, lambda driver: peers.join(driver.node.me, driver.receive)
    )
    services = {driver.node.me: GridService(local, driver) for driver in local.drivers}
    for node, service in services.items():
        peers.answer_with(node, service.rehearse)
    transport = DirectTransport(services)
    dispatcher = Dispatcher(transport, [addresses[0][0]])
    grid = EmbeddedGrid(dispatcher, deadline, local)
    try:
        if tick is None:
            while local.drivers[0].node.control.activation_pending:
                await grid.tick()
        await local.ready(deadline)
        await dispatcher.start(deadline, True)
        if seen is not None:
            grid.advance(seen)
        yield grid
    finally:
        await grid.close()
        await transport.close()
        await local.close()
