"""A whole grid inside the caller's event loop: nodes, log and client, connected by direct calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tidegrid.client.dispatcher import Dispatcher
from tidegrid.client.grid import DEADLINE_SECONDS, Grid
from tidegrid.client.map import Map
from tidegrid.embedded.transport import DirectTransport
from tidegrid.grid.journal.local import LocalLog
from tidegrid.grid.journal.memory import MemoryLog
from tidegrid.grid.journal.seam import Log
from tidegrid.grid.model.ids import Epoch
from tidegrid.grid.model.maps import MapSpec
from tidegrid.grid.ring.ring import TokenPlace
from tidegrid.grid.rpc.grid_service import GridService
from tidegrid.grid.runtime.local_grid import GridOptions, LocalGrid
from tidegrid.grid.runtime.peers import DirectPeers
from tidegrid.triggers.sources import find_modules


class EmbeddedGrid(Grid):
    """A `tidegrid.client.Grid` with its nodes beside it. `local` is for tests that want to look inside."""

    def __init__(self, dispatcher: Dispatcher, deadline: float, local: LocalGrid) -> None:
        super().__init__(dispatcher, deadline)
        self.local = local

    async def tick(self) -> Epoch:
        """One round of the token, through to the close it leads to; returns the closed epoch.

        With `tick=None` time moves by this alone. Where nothing was written since the last close, nothing is closed.
        """
        drivers = self.local.drivers
        origin = drivers[0]
        origin.start_round()
        while origin.node.ring.place is not TokenPlace.RESTING or any(driver.node.ring.closing for driver in drivers):
            await origin.turned()
        closed = max(driver.node.control.closed for driver in drivers)
        for driver in drivers:
            await driver.closed_above(Epoch(closed - 1))
        self._dispatcher.see_closed(closed)
        return closed

    async def create_map(self, spec: MapSpec | str, **options: Any) -> Map:
        """As `Grid.create_map`; where time is stepped by hand, it is stepped until the map acts."""
        if self.local.options.tick is not None:
            return await super().create_map(spec, **options)
        declaring = asyncio.ensure_future(super().create_map(spec, **options))
        await self._tick_until_done(declaring)
        return await declaring

    async def _tick_until_done(self, work: asyncio.Future[Any]) -> None:
        while not work.done():
            await self.tick()
            await asyncio.wait([work], timeout=0)


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
) -> AsyncIterator[EmbeddedGrid]:
    """Opens a grid in this process and closes it at the end of the block.

    `path`: directory of its log (None: in memory, gone at the end). `triggers`: modules, as files or installed module
    paths; what is deployed stays when none are given. `tick`: seconds between rounds; None: `await grid.tick()`.
    `options` sets everything else. Raises InUseError, CorruptionError, ConfigurationError, TriggerModuleError.
    """
    chosen = replace(options or GridOptions(), nodes=nodes, tick=tick, partitions=partitions)
    modules = None if triggers is None else find_modules(triggers)
    chosen.validate()
    if log is None:
        log = MemoryLog() if path is None else await LocalLog.open(Path(path))
    peers = DirectPeers()
    addresses: Sequence[tuple[str, str]] = [(f"embedded:{number}", f"embedded:{number}") for number in range(nodes)]
    local = await LocalGrid.open(
        log, chosen, modules, lambda _node: peers, addresses, lambda driver: peers.join(driver.node.me, driver.receive)
    )
    transport = DirectTransport({driver.node.me: GridService(local, driver) for driver in local.drivers})
    dispatcher = Dispatcher(transport, [addresses[0][0]])
    grid = EmbeddedGrid(dispatcher, deadline, local)
    try:
        if tick is None:
            while local.drivers[0].node.control.activation_pending:
                await grid.tick()
        await local.ready(deadline)
        await dispatcher.start(deadline, True)
        yield grid
    finally:
        await grid.close()
        await transport.close()
        await local.close()
