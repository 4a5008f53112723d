"""What goes wrong, by seed: one coroutine per fault, which runs until it is cancelled; `FaultyGrid.heal` ends it all.

Times are drawn around the time after which a node that is missed loses its partitions: some faults end before it,
some long after, so that nodes come back to a grid that went on without them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tidegrid.grid.model.ids import NodeId

from tests.faults.grid.faulty_grid import FaultyGrid
from tests.faults.grid.gate import Links

STALL_SECONDS_MAX = 0.05
CALM_SECONDS = (0.1, 1.0)  # between two faults: somebody has to be well for something to happen


@dataclass(slots=True)
class Faults:
    grid: FaultyGrid
    choose: random.Random
    counts: dict[str, int] = field(default_factory=dict)

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    async def _for_a_while(self) -> None:
        await asyncio.sleep(self.choose.uniform(0.05, 2.5 * self.grid.options.evict_seconds))

    async def _calm(self) -> None:
        await asyncio.sleep(self.choose.uniform(*CALM_SECONDS))

    async def _stall(self, victims: list[NodeId]) -> None:
        """Appends that land while nobody hears of it: mostly there are some when a node stops."""
        if self.choose.random() < 0.7:
            for node in victims:
                self.grid.nodes[node].gate.stall()
            await asyncio.sleep(self.choose.uniform(0.0, STALL_SECONDS_MAX))

    def _victims(self) -> list[NodeId]:
        """One, and now and then all but one."""
        nodes = sorted(self.grid.nodes)
        self.choose.shuffle(nodes)
        return nodes[: len(nodes) - 1] if self.choose.random() < 0.15 else nodes[:1]

    async def dead(self) -> None:
        """Cut dead in the middle of whatever it does, and back later as a new incarnation."""
        while True:
            await self._calm()
            victims = self._victims()
            await self._stall(victims)
            for node in victims:
                self.grid.kill(node, silent=self.choose.random() < 0.5)
                self._count("died")
            await self._for_a_while()
            for node in victims:
                await self.grid.revive(node)

    async def paused(self) -> None:
        """Stands still, and goes on as if nothing had been."""
        while True:
            await self._calm()
            victims = self._victims()
            await self._stall(victims)
            for node in victims:
                self.grid.nodes[node].gate.pause()
                self._count("paused")
            await self._for_a_while()
            for node in victims:
                self.grid.nodes[node].gate.resume()

    async def cut(self) -> None:
        """Hears nothing of the other nodes, nor they of it; its partitions' logs and clients still reach it.

        Half of them do not read the control log either: those go on as owners of what is another's.
        """
        while True:
            await self._calm()
            victims = self._victims()
            for node in victims:
                self._cut_off(node)
                self._count("cut off")
            await self._for_a_while()
            for node in victims:
                self._join_again(node)

    def _cut_off(self, node: NodeId) -> None:
        gate = self.grid.nodes[node].gate
        gate.links.cut = True
        gate.deafen(self.choose.random() < 0.5)

    def _join_again(self, node: NodeId) -> None:
        gate = self.grid.nodes[node].gate
        gate.links.cut = False
        gate.deafen(False)

    async def lossy(self) -> None:
        """Messages between nodes are lost, doubled and late, and overtake each other; now and then all goes well."""
        while True:
            bad = Links(False, lost=0.2, doubled=0.1, late=self.choose.choice([0.005, 0.05, 0.2]))
            self.grid.set_links(bad)
            self._count("bad times")
            await asyncio.sleep(self.choose.uniform(1.0, 3.0))
            self.grid.set_links(Links())
            await self._calm()

    async def all(self) -> None:
        """Bad links, and a node dead, paused or cut off on top of it."""
        self.grid.set_links(Links(False, lost=0.1, doubled=0.05, late=0.03))
        while True:
            await self._calm()
            what = self.choose.choice(["dead", "paused", "cut"])
            node = self._victims()[0]
            self._count(what)
            if what != "cut":
                await self._stall([node])
            if what == "dead":
                self.grid.kill(node, silent=self.choose.random() < 0.5)
                await self._for_a_while()
                await self.grid.revive(node)
            elif what == "paused":
                self.grid.nodes[node].gate.pause()
                await self._for_a_while()
                self.grid.nodes[node].gate.resume()
            else:
                self._cut_off(node)
                await self._for_a_while()
                self._join_again(node)

    def named(self, name: str) -> Callable[[], Awaitable[None]]:
        return {"dead": self.dead, "paused": self.paused, "cut": self.cut, "lossy": self.lossy, "all": self.all}[name]


NAMES = ("dead", "paused", "cut", "lossy", "all")
