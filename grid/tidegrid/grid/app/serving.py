"""A grid that serves: log, nodes, their gRPC servers and the links between them, in one process.

    open: trigger sources -> ports -> log -> nodes -> servers -> all that is declared is in force
    close: drain (new requests are refused, what is under way is answered) -> checkpoints -> log -> servers

The order of opening makes the cheap refusals come first: nothing is written before the ports are ours. Reused by the
command line, tests and the demo.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tidegrid.grid.app.config import ServeOptions
from tidegrid.grid.journal.local import LocalLog
from tidegrid.grid.journal.memory import MemoryLog
from tidegrid.grid.journal.seam import Log
from tidegrid.grid.model.errors import ConfigurationError
from tidegrid.grid.model.ids import NodeId
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.rpc.deploying import Deploying
from tidegrid.grid.rpc.grid_service import GridService
from tidegrid.grid.rpc.peers import GrpcPeers
from tidegrid.grid.rpc.server import NodeServer
from tidegrid.grid.rpc.tls import TlsFiles
from tidegrid.grid.runtime.deployments import DeployPolicy, DeployRules
from tidegrid.grid.runtime.driver import Driver
from tidegrid.grid.runtime.local_grid import GridOptions, LocalGrid
from tidegrid.grid.runtime.opening import Progress
from tidegrid.grid.runtime.peers import Peers
from tidegrid.grid.runtime.pool import WorkerOptions
from tidegrid.triggers.packages import find_sources

READY_SECONDS = 60.0  # for what is declared to be in force: a few rounds of the token
GRACE_SECONDS = 0.5  # for answers on their way to clients when the servers end


@dataclass(frozen=True, slots=True)
class ServedNode:
    node: int
    address: str
    peer_address: str


class Serving:
    """Use `serve`."""

    def __init__(self, options: ServeOptions) -> None:
        self.options = options
        self._tls = TlsFiles(options.tls_cert, options.tls_key, options.tls_ca)
        self._grid_options = grid_options(options)
        self._servers: list[NodeServer] = []
        self._peers: list[GrpcPeers] = []
        self._drivers: dict[NodeId, Driver] = {}
        self._services: dict[NodeId, GridService] = {}
        self._grid: LocalGrid | None = None
        self.nodes: tuple[ServedNode, ...] = ()

    @property
    def grid(self) -> LocalGrid:
        assert self._grid is not None, "the grid is open"
        return self._grid

    async def open(self, progress: Progress | None) -> None:
        options = self.options
        modules = find_sources(options.triggers) if options.triggers else None
        for number in range(options.nodes):
            server = NodeServer(self._tls, self._grid_options.limits)
            self._servers.append(server)
            port, peer_port = options.port, options.first_peer_port
            server.bind(bracketed(options.host), port and port + number, peer_port and peer_port + number)
        self.nodes = tuple(
            ServedNode(number, self._advertised(server.address), self._advertised(server.peer_address))
            for number, server in enumerate(self._servers)
        )
        log: Log = MemoryLog() if options.memory else await LocalLog.open(options.data)
        self._grid = await LocalGrid.open(
            log,
            self._grid_options,
            modules,
            self._peers_of,
            [(node.address, node.peer_address) for node in self.nodes],
            self._join,
            progress,
        )
        for me, driver in self._drivers.items():
            service = self._services[me] = GridService(self._grid, driver)
            await self._servers[me].start(service, driver)
        await self._grid.ready(READY_SECONDS)
        if options.ready_file is not None:
            write_ready_file(options.ready_file, self.describe())

    @property
    def deploying(self) -> Deploying:
        """That of the first node."""
        return self._services[NodeId(0)].deploying

    def describe(self) -> dict[str, object]:
        """What scripts need to know of it."""
        return {
            "pid": os.getpid(),
            "data": None if self.options.memory else str(self.options.data.absolute()),
            "grid": self.grid.drivers[0].node.control.grid_id.hex(),
            "partitions": self.grid.drivers[0].node.control.partitions,
            "nodes": [
                {"node": node.node, "address": node.address, "peer_address": node.peer_address} for node in self.nodes
            ],
        }

    def _advertised(self, address: str) -> str:
        if self.options.advertise is None:
            return address
        return f"{bracketed(self.options.advertise)}:{address.rpartition(':')[2]}"

    def _peers_of(self, me: NodeId) -> Peers:
        def address_of(to: NodeId) -> str | None:
            driver = self._drivers.get(me)
            member = driver.node.control.view.members.get(to) if driver is not None else None
            return member.peer_address if member is not None else None

        peers = GrpcPeers(address_of, self._tls)
        self._peers.append(peers)
        return peers

    def _join(self, driver: Driver) -> None:
        self._drivers[driver.node.me] = driver

    async def close(self, *, drain: bool) -> None:
        """Idempotent."""
        if self.options.ready_file is not None:
            with contextlib.suppress(OSError):
                self.options.ready_file.unlink()
        if self._grid is not None:
            await self._grid.close(drain=drain)
        await asyncio.gather(*(peers.close() for peers in self._peers))
        await asyncio.gather(*(server.stop(GRACE_SECONDS if drain else 0) for server in self._servers))


@asynccontextmanager
async def serve(options: ServeOptions, *, progress: Progress | None = None) -> AsyncIterator[Serving]:
    """Serves while the block runs; drains at its end, and just ends when the block raised or the log failed.

    Raises ConfigurationError, TriggerModuleError, InUseError, CorruptionError, FormatError, StorageFullError.
    """
    serving = Serving(options.validate())
    try:
        await serving.open(progress)
        yield serving
    except BaseException:
        await serving.close(drain=False)
        raise
    await serving.close(drain=True)


def grid_options(options: ServeOptions) -> GridOptions:
    return GridOptions(
        nodes=options.nodes,
        partitions=options.partitions,
        tick=options.tick_ms / 1000,
        history_seconds=options.history_seconds,
        history_bytes_max=options.history_bytes,
        checkpoint_bytes=options.checkpoint_bytes,
        strict=options.strict,
        workers=WorkerOptions(count=options.workers),
        limits=Limits(hold_seconds_max=options.hold_seconds),
        deploy=DeployRules(DeployPolicy(options.deploy), options.deploy_hashes),
    ).validate()


def bracketed(host: str) -> str:
    """An IPv6 address as it stands before a port."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def write_ready_file(path: Path, content: dict[str, object]) -> None:
    """All of it or nothing. Raises ConfigurationError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise ConfigurationError(f"cannot write the ready file {path}: {error.strerror}") from None
