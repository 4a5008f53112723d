"""Where a grid runs while it suffers: nodes of this process behind gates, or a `tidegrid serve` that is killed -9."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Protocol

from tidegrid.grid.journal.local import LocalLog
from tidegrid.grid.runtime.local_grid import GridOptions
from tidegrid.triggers.deployment import Module

from tests.faults.grid.consequences import MODULE
from tests.faults.grid.faults import Faults
from tests.faults.grid.faulty_grid import FaultyGrid, takeovers
from tests.faults.kills.campaign import Child, free_ports

PARTITIONS = 9


class Host(Protocol):
    counts: dict[str, int]

    @property
    def addresses(self) -> list[str]: ...

    async def start(self) -> None:
        """Also after `stop`: a full restart over the same log."""
        ...

    async def suffer(self) -> None:
        """Until it is cancelled."""
        ...

    async def heal(self) -> None:
        """Returns when everything runs as it should again."""
        ...

    def state(self) -> str:
        """For who has to find out why it does not."""
        ...

    async def stop(self) -> None: ...

    async def takeovers(self) -> int:
        """After `stop`."""
        ...


class GatedHost:
    """`module`: the triggers it starts with; None: those that are deployed stay."""

    def __init__(
        self, directory: Path, fault: str, nodes: int, evict_seconds: float, seed: int, module: Module | None = MODULE
    ) -> None:
        self._modules = [module] if module is not None else None
        self._directory = directory
        self._fault = fault
        self._seed = seed
        self._options = GridOptions(
            nodes=nodes, partitions=PARTITIONS, evict_seconds=evict_seconds, checkpoint_bytes=1_000_000
        )
        self._grid: FaultyGrid | None = None
        self.counts: dict[str, int] = {}

    @property
    def grid(self) -> FaultyGrid:
        assert self._grid is not None
        return self._grid

    @property
    def addresses(self) -> list[str]:
        return self.grid.addresses

    async def start(self) -> None:
        self._grid = await FaultyGrid.open(self._directory, self._options, self._seed, self._modules)

    async def suffer(self) -> None:
        faults = Faults(self.grid, random.Random(self._seed), self.counts)
        await faults.named(self._fault)()

    async def heal(self) -> None:
        await self.grid.heal()

    def state(self) -> str:
        return self.grid.stuck()

    async def stop(self) -> None:
        if self._grid is not None:
            await self._grid.close()
            self._grid = None

    async def takeovers(self) -> int:
        return await _takeovers(self._directory)


class KilledHost:
    """One process; its nodes die together. `module` as above; clients may deploy."""

    def __init__(self, directory: Path, nodes: int, seed: int, module: Module | None = MODULE) -> None:
        self._choose = random.Random(seed)
        self._data = directory / "log"
        self._nodes = nodes
        port = free_ports(2 * nodes)
        self._ports = range(port, port + nodes)
        checkpoint_bytes = self._choose.choice([200_000, 2_000_000])
        arguments = ["serve", "--nodes", str(nodes), "--partitions", str(PARTITIONS), "--data", str(self._data)]
        arguments += ["--port", str(port), "--peer-port", str(port + nodes)]
        arguments += ["--allow-deploy"]
        if module is not None:
            source = directory / f"{module.name}.py"
            source.write_text(module.source)
            arguments += ["--triggers", str(source)]
        self._restarting: asyncio.Task[None] | None = None
        self._server = Child("serve", directory, *arguments, "--checkpoint-bytes", str(checkpoint_bytes))
        self.counts: dict[str, int] = {}

    @property
    def addresses(self) -> list[str]:
        return [f"127.0.0.1:{port}" for port in self._ports]

    async def start(self) -> None:
        await self._server.start()

    async def suffer(self) -> None:
        while True:
            await asyncio.sleep(self._choose.uniform(0.3, 6.0))
            self._restarting = asyncio.create_task(self._restart())
            await asyncio.shield(self._restarting)

    async def _restart(self) -> None:
        await self._server.kill()
        self.counts["killed"] = self.counts.get("killed", 0) + 1
        await self._server.start()

    async def heal(self) -> None:
        """Clients find out by themselves that it runs."""
        if self._restarting is not None:
            await self._restarting

    def state(self) -> str:
        return self._server.story()

    async def stop(self) -> None:
        await self._server.kill()

    async def takeovers(self) -> int:
        return await _takeovers(self._data)


async def _takeovers(directory: Path) -> int:
    log = await LocalLog.open(directory)
    try:
        return await takeovers(log)
    finally:
        await log.close()
