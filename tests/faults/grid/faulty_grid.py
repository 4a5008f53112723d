"""Several nodes over one log in one process, talking by gRPC, each behind a gate that a fault can close.

Lifecycle: `open` -> nodes die and come back as new incarnations, some at other ports, pause and go on, lose each
other -> `heal` ends all faults and waits until every partition is open and time goes on -> `close`. A grid that is
opened again over the same directory is a full restart.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tidegrid.grid.app.serving import GRACE_SECONDS
from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.journal.local import LocalLog
from tidegrid.grid.journal.memory import MemoryLog
from tidegrid.grid.journal.seam import Log
from tidegrid.grid.model.errors import DeadlineError
from tidegrid.grid.model.ids import CONTROL_LOG, NodeId
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.rpc.peers import GrpcPeers
from tidegrid.grid.rpc.server import NodeServer
from tidegrid.grid.rpc.tls import TlsFiles
from tidegrid.grid.runtime.driver import Driver
from tidegrid.grid.runtime.local_grid import GridOptions, LocalGrid
from tidegrid.triggers.deployment import Module
from tidegrid.v1.control_pb2 import ControlRecord

from tests.faults.grid.gate import Gate, GatedDriver, GatedPeers, GatedService, Links

CLOSE_SECONDS = 50.0  # what was routed meanwhile may be much, and comes in frame by frame
HOST = "127.0.0.1"
_TLS = TlsFiles(None, None, None)
_READ_BYTES = 4 * 1024 * 1024


@dataclass(slots=True)
class LiveNode:
    server: NodeServer
    driver: GatedDriver
    peers: GatedPeers
    ending: asyncio.Task[None] | None = None

    @property
    def gate(self) -> Gate:
        return self.driver.gate


class FaultyGrid:
    def __init__(self, log: Log, options: GridOptions, seed: int) -> None:
        self.log = log
        self.options = options
        self.nodes: dict[NodeId, LiveNode] = {}
        self.links = Links()  # of every node
        self._choose = random.Random(seed)
        self._drivers: dict[NodeId, GatedDriver] = {}  # the newest incarnation of each
        self._reviving: set[asyncio.Task[None]] = set()
        self._grid: LocalGrid | None = None

    @classmethod
    async def open(
        cls, directory: Path | None, options: GridOptions, seed: int, modules: Iterable[Module] | None = None
    ) -> FaultyGrid:
        """`directory` None: a log in memory. `modules` None: what is deployed stays."""
        log: Log = MemoryLog() if directory is None else await LocalLog.open(directory)
        made = cls(log, options, seed)
        servers = [made._bind() for _ in range(options.nodes)]
        peers: dict[NodeId, GatedPeers] = {}

        def peers_of(me: NodeId) -> GatedPeers:
            peers[me] = made._peers_of(me)
            return peers[me]

        addresses = [(server.address, server.peer_address) for server in servers]
        made._grid = await LocalGrid.open(log, options, modules, peers_of, addresses, made._join, driver_of=GatedDriver)
        for number, server in enumerate(servers):
            me = NodeId(number)
            await made._serve(me, LiveNode(server, made._drivers[me], peers[me]))
        await made.grid.ready()
        return made

    @property
    def grid(self) -> LocalGrid:
        assert self._grid is not None
        return self._grid

    @property
    def addresses(self) -> list[str]:
        return [node.server.address for node in self.nodes.values() if not node.gate.is_dead]

    def _bind(self, port: int = 0) -> NodeServer:
        server = NodeServer(_TLS, self.options.limits)
        server.bind(HOST, port, 0)
        return server

    def _peers_of(self, me: NodeId) -> GatedPeers:
        def address_of(to: NodeId) -> str | None:
            driver = self._drivers.get(me)
            member = driver.node.control.view.members.get(to) if driver is not None else None
            return member.peer_address if member is not None else None

        gate = Gate(self._choose)
        gate.links = Links(False, self.links.lost, self.links.doubled, self.links.late)
        return GatedPeers(GrpcPeers(address_of, _TLS), gate)

    def _join(self, driver: Driver) -> None:
        assert isinstance(driver, GatedDriver)
        self._drivers[driver.node.me] = driver

    async def _serve(self, me: NodeId, node: LiveNode) -> None:
        self.nodes[me] = node
        await node.server.start(GatedService(self.grid, node.driver), node.driver)

    # Faults ------------------------------------------------------------------------------------------------------

    def kill(self, me: NodeId, *, silent: bool) -> None:
        """Dead at once. `silent`: its connections stay, and nobody answers on them until it comes back."""
        node = self.nodes[me]
        node.gate.die()
        if not silent:
            self._retire(node)

    def _retire(self, node: LiveNode) -> None:
        if node.ending is None:
            node.ending = asyncio.create_task(self._end(node))

    async def _end(self, node: LiveNode) -> None:
        await self.grid.remove_node(node.driver)
        await node.peers.close()
        await node.server.stop(0)

    async def revive(self, me: NodeId) -> None:
        """A new incarnation. Node 0 is always found where it was, so that no client loses all addresses it knows.

        Begun, it is finished, also when who asked for it is cancelled.
        """
        task = asyncio.create_task(self._revive(me))
        self._reviving.add(task)
        task.add_done_callback(self._reviving.discard)
        await asyncio.shield(task)

    async def _revive(self, me: NodeId) -> None:
        dead = self.nodes[me]
        assert dead.gate.is_dead
        self._retire(dead)
        assert dead.ending is not None
        await dead.ending
        keeps = me == 0 or self._choose.random() < 0.5
        port = int(dead.server.address.rpartition(":")[2]) if keeps else 0
        server, peers = self._bind(port), self._peers_of(me)
        self._drivers.pop(me, None)
        driver = await self.grid.add_node(me, server.address, server.peer_address, peers)
        self._join(driver)
        await self._serve(me, LiveNode(server, self._drivers[me], peers))

    def set_links(self, links: Links) -> None:
        """Of all nodes, and of those that come back."""
        self.links = links
        for node in self.nodes.values():
            node.gate.links = Links(node.gate.links.cut, links.lost, links.doubled, links.late)

    # Calm --------------------------------------------------------------------------------------------------------

    async def heal(self) -> None:
        """Ends all faults; returns when every node is there, every partition open, and time goes on."""
        self.set_links(Links())
        await asyncio.gather(*self._reviving)
        for me, node in list(self.nodes.items()):
            node.gate.links.cut = False
            node.gate.deafen(False)
            if node.gate.is_dead:
                await self.revive(me)
            else:
                node.gate.resume()
        if self.grid.failure is not None:
            raise self.grid.failure
        drivers = [node.driver for node in self.nodes.values()]
        while not all(self._at_home(driver) for driver in drivers):
            await asyncio.wait([asyncio.create_task(driver.turned()) for driver in drivers], timeout=0.1)
        highest = max(driver.node.epoch for driver in drivers)
        try:
            await asyncio.gather(*(self.grid.wait_closed(driver, highest, CLOSE_SECONDS) for driver in drivers))
        except DeadlineError as error:
            raise AssertionError(f"epoch {highest} does not close:\n{self.stuck()}") from error

    def _at_home(self, driver: GatedDriver) -> bool:
        """Its log is known to the end, it is a member, and all that it is given is open."""
        node = driver.node
        newest = max(other.driver.node.control.position for other in self.nodes.values())
        view = node.control.view
        return (
            node.control.position == newest
            and set(view.members) == set(self.nodes)
            and view.has(node.me, node.incarnation)
            and node.standing.ready()
        )

    def stuck(self) -> str:
        """Where every node stands, for a grid that does not come to rest."""
        lines = []
        for me, node in self.nodes.items():
            state = node.driver.node
            view = state.control.view
            lines.append(
                f"node {me}.{state.incarnation}: control {state.control.position}, closed {state.control.closed}, "
                f"epoch {state.epoch}, members { {m.node: m.incarnation for m in view.members.values()} }, owns "
                f"{sorted(view.owned_by(state.me, state.incarnation))}, opening {sorted(state.openings)}, "
                f"partitions { {number: p.state.name for number, p in state.partitions.items()} }"
            )
            lines += [f"  {_held_back(partition)}" for partition in state.partitions.values()]
        return "\n".join(lines)

    async def close(self) -> None:
        """As it is: nothing is drained, as in a crash."""
        await asyncio.gather(*self._reviving, return_exceptions=True)
        if self._grid is not None:
            await asyncio.gather(*(node.ending for node in self.nodes.values() if node.ending is not None))
            await self._grid.close(drain=False)
        for node in self.nodes.values():
            if node.ending is None:
                await node.peers.close()
                await node.server.stop(GRACE_SECONDS if node.gate.is_open else 0)


def _held_back(partition: Partition) -> str:
    """What it holds time back by."""
    routes, waiting = partition.routes, list(partition.routes.parcels())
    return (
        f"partition {partition.id} at {partition.tail}: {len(partition.queue)} requests and {len(partition.deliveries)} "
        f"deliveries queued, in flight {partition.lowest_in_flight}, lent {partition.lowest_lent}, undelivered from "
        f"{routes.undelivered}, {len(waiting)} parcels on their way, first {waiting[0].source if waiting else None} to "
        f"{waiting[0].target if waiting else None}"
    )


async def takeovers(log: Log) -> int:
    """How often a partition got another owner, in the whole life of the grid: starts of all nodes do not count."""
    state, count = ControlState(), 0
    while records := await log.read(CONTROL_LOG, state.position, _READ_BYTES):
        for record in records:
            before = state.view
            state.apply(record.position, ControlRecord.FromString(record.payload))
            if any(state.view.has(member.node, member.incarnation) for member in before.members.values()):
                owners = state.view.owners.items()
                count += sum(before.owners.get(number, owner) != owner for number, owner in owners)
    return count
