"""A whole grid in one process: one log, its nodes, their checkpoints. `serve` and the embedded grid both run one.

Lifecycle: `open` creates the grid in an empty log or checks what is there, records the trigger code, starts the nodes
together; `ready` returns when all that was declared is in force; `close` drains, saves and ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tidegrid.grid.engine.intake import Carry
from tidegrid.grid.engine.node import Node
from tidegrid.grid.engine.reads import CloseRequest
from tidegrid.grid.engine.retention import RetentionOptions
from tidegrid.grid.journal.seam import Log
from tidegrid.grid.model.errors import ConfigurationError, GridError, MapExistsError
from tidegrid.grid.model.ids import Epoch, NodeId
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.maps import MapSpec
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.declarations import spec_message
from tidegrid.grid.ring.local import RingOptions
from tidegrid.grid.ring.view import Member
from tidegrid.grid.runtime.bases import Bases
from tidegrid.grid.runtime.checkpointing import Checkpointing
from tidegrid.grid.runtime.clock import Clock, SystemClock
from tidegrid.grid.runtime.deployments import DeployRules, append_deploy, check_deployed, load_beside, this_user
from tidegrid.grid.runtime.driver import Driver
from tidegrid.grid.runtime.opening import (
    NodeOptions,
    Progress,
    append_control,
    fold_control,
    new_member,
    new_node,
    start_together,
)
from tidegrid.grid.runtime.peers import Peers
from tidegrid.grid.runtime.pool import Pool, WorkerOptions
from tidegrid.grid.runtime.regenerations import Regenerations
from tidegrid.triggers.deployment import Module
from tidegrid.triggers.watchdog import Watchdog
from tidegrid.v1.control_pb2 import ControlRecord, GridCreated, MapDeclared

FORMAT = 1


@dataclass(frozen=True, slots=True)
class GridOptions:
    nodes: int = 1  # front-end nodes, all in this process
    partitions: int | None = None  # fixed when the grid is created (16 unless given); another number later is refused
    tick: float | None = 0.02  # seconds between rounds of the token; None: stepped by hand
    evict_seconds: float = (
        3.0  # closes wait so long for a silent member, which then loses its partitions; shorter: also the slow do
    )
    limit_span: int = 64  # K: how far stamps may run ahead of the last close
    history_seconds: float = 3600.0
    history_bytes_max: int = 1024 * 1024 * 1024
    checkpoint_bytes: int = 512 * 1024 * 1024  # appended between two checkpoints
    recent_bytes: int = 64 * 1024 * 1024
    drain_seconds: float = 10.0
    strict: bool = False  # finds triggers that break their contract, at more than twice their cost: for development
    limits: Limits = field(default_factory=Limits)
    workers: WorkerOptions = field(default_factory=WorkerOptions)  # processes for triggers with isolation="process"
    deploy: DeployRules = field(default_factory=DeployRules)

    def validate(self) -> GridOptions:
        """Returns itself. Raises ConfigurationError."""
        if not 1 <= self.nodes <= 64:
            raise ConfigurationError(f"nodes is {self.nodes}; a process runs 1 to 64")
        if self.partitions is not None and not 1 <= self.partitions <= 4096:
            raise ConfigurationError(f"partitions is {self.partitions}; it lies between 1 and 4096")
        if self.partitions is not None and self.partitions < self.nodes:
            raise ConfigurationError(
                f"{self.nodes} nodes cannot share {self.partitions} partitions; give every node at least one"
            )
        if self.tick is not None and not 0.001 <= self.tick <= 60:
            raise ConfigurationError(f"tick is {self.tick} seconds; it lies between 0.001 and 60")
        if not 0.1 <= self.evict_seconds <= 3600:
            raise ConfigurationError(f"evict_seconds is {self.evict_seconds}; it lies between 0.1 and 3600")
        if self.limit_span < 3:
            raise ConfigurationError("limit_span is at least 3, or time cannot advance")
        RetentionOptions(self.history_seconds, self.history_bytes_max).validate()
        self.deploy.validate()
        self.workers.validate()
        return self

    def node_options(self) -> NodeOptions:
        retention = RetentionOptions(self.history_seconds, self.history_bytes_max)
        ring = RingOptions(tick=self.tick, evict_after=self.evict_seconds)
        return NodeOptions(self.limits, ring, retention, self.recent_bytes, self.strict)


DriverOf = Callable[[Node, Log, Peers, Clock, Callable[[GridError], None]], Driver]


class LocalGrid:
    """`driver_of` makes the shell of a node: tests put faults between the node and its seams there."""

    def __init__(self, log: Log, options: GridOptions, clock: Clock, driver_of: DriverOf = Driver) -> None:
        self.log = log
        self.options = options
        self.clock = clock
        self._driver_of = driver_of
        self.drivers: list[Driver] = []
        self.pool = Pool(options.workers)
        self._watchdog = Watchdog()
        self.failure: GridError | None = None
        self.failed = asyncio.Event()
        self.bases = Bases.of(log)
        self.regenerations = Regenerations(log, self.bases, self.drivers, clock)
        self.own_code: set[bytes] = set()  # hashes of what the operator of this process deploys, whatever clients may
        self._checkpointing: Checkpointing | None = None
        self._checkpoint_task: asyncio.Task[None] | None = None
        self._closed = False

    @classmethod
    async def open(
        cls,
        log: Log,
        options: GridOptions,
        modules: Sequence[tuple[str, str]] | None,
        peers: Callable[[NodeId], Peers],
        addresses: Sequence[tuple[str, str]],
        join: Callable[[Driver], None],
        progress: Progress | None = None,
        clock: Clock | None = None,
        driver_of: DriverOf = Driver,
    ) -> LocalGrid:
        """`modules`: trigger code to record (None: leave what is deployed). `addresses`: (client, peer) per node.

        Raises ConfigurationError, TriggerModuleError, CorruptionError.
        """
        options.validate()
        grid = cls(log, options, clock or SystemClock(), driver_of)
        try:
            await grid._create()
            if modules is not None:
                await grid._deploy(modules)
            await check_deployed(log, NodeId(0), options.limits)
            members = [await new_member(log, NodeId(number), *addresses[number]) for number in range(options.nodes)]
            await start_together(log, members)
            for member in members:
                join(await grid._start(member, peers(member.node)))
            for driver in grid.drivers:
                await driver.opened(progress)
        except BaseException:
            await grid.close(drain=False)
            raise
        grid._checkpointing = Checkpointing(log, grid.drivers, options.checkpoint_bytes)
        grid._checkpoint_task = asyncio.create_task(grid._checkpointing.run())
        return grid

    async def add_node(self, number: NodeId, address: str, peer_address: str, peers: Peers) -> Driver:
        """Starts a node, as a new incarnation if it was there before: it joins, and takes over its share, by itself."""
        await check_deployed(self.log, number, self.options.limits)
        return await self._start(await new_member(self.log, number, address, peer_address), peers)

    async def _start(self, member: Member, peers: Peers) -> Driver:
        node = await new_node(self.log, member, self.options.node_options())
        driver = self._driver_of(node, self.log, peers, self.clock, self._node_failed)
        driver.pool = self.pool
        for watch in (node.watch, driver.rehearsed):
            self._watchdog.watch(watch)
        self.drivers.append(driver)
        driver.bases = self.bases
        driver.start()
        return driver

    async def remove_node(self, driver: Driver) -> None:
        """Ends a node as it is; the others take over what it owned when they have missed it for long enough."""
        self.drivers.remove(driver)
        for watch in (driver.node.watch, driver.rehearsed):
            self._watchdog.forget(watch)
        await driver.stop()

    async def _create(self) -> None:
        wanted, options = self.options.partitions, self.options

        def make(control: ControlState) -> ControlRecord | None:
            if control.created:
                return None
            return ControlRecord(
                created=GridCreated(
                    grid_id=secrets.token_bytes(16),
                    partitions=wanted or 16,
                    limit=options.limit_span,
                    session_epochs=options.limits.session_epochs,
                    format=FORMAT,
                    time_ms=self.clock.instant().time_ms,
                )
            )

        control = ControlState()
        await append_control(self.log, control, make)
        if wanted is not None and control.partitions != wanted:
            raise ConfigurationError(
                f"this grid was created with {control.partitions} partitions, and that is for ever; start without --partitions, or create a new grid in another directory"
            )

    async def _deploy(self, modules: Sequence[tuple[str, str]]) -> None:
        """Records the code before any node serves; nothing to do when it is what is deployed already."""
        control = await fold_control(self.log)
        sources = [Module(name, source) for name, source in modules]
        deployment, _ = await load_beside(sources, control.declared, control.partitions, self.options.limits)
        by, time_ms = f"{this_user()}, at the start of the grid", self.clock.instant().time_ms
        await append_deploy(self.log, deployment, by, time_ms)

    def _node_failed(self, error: GridError) -> None:
        self.failure = self.failure or error
        self.failed.set()

    # Serving -----------------------------------------------------------------------------------------------------

    async def ready(self, timeout: float = 60.0) -> None:
        """Returns when everything declared so far is in force at every node. Raises DeadlineError."""
        driver = self.drivers[0]
        control = driver.node.control
        if control.activation_pending and self.options.tick is not None:
            await self.wait_closed(driver, Epoch(control.highest_activation - 1), timeout)

    async def wait_closed(self, driver: Driver, epoch: Epoch, timeout: float) -> None:
        """Returns when this node knows that the epoch is closed. Raises DeadlineError, EpochTooNewError."""
        await self._wait(driver, epoch, Carry(b"", driver.node.control.position, Epoch(0)), timeout)

    async def wait_seen(self, driver: Driver, carry: Carry, timeout: float) -> None:
        """Returns when this node has seen what `carry` has (rule J). Raises WrongGridError, EpochTooNewError."""
        await self._wait(driver, Epoch(0), carry, timeout)

    async def _wait(self, driver: Driver, epoch: Epoch, carry: Carry, timeout: float) -> None:
        done: asyncio.Future[CloseRequest] = asyncio.get_running_loop().create_future()

        def answered(request: CloseRequest) -> None:
            if not done.done():
                done.set_result(request)

        request = CloseRequest(epoch, answered)
        driver.submit(request, carry, timeout)
        await done
        if request.error is not None:
            raise request.error

    async def declare_map(self, driver: Driver, spec: MapSpec, timeout: float) -> Epoch:
        """Declares a map and returns when it is in force; once more is no error if it is the same.

        Raises MapExistsError, ConfigurationError, DeadlineError.
        """
        spec.validate()

        def make(control: ControlState) -> ControlRecord | None:
            reason = control.conflict(spec)
            if reason is not None:
                raise MapExistsError(reason, map=spec.name)
            if control.map_activation(spec.name) is not None:
                return None
            if len(control.declared) >= self.options.limits.maps_max:
                raise ConfigurationError(
                    f"the grid has {self.options.limits.maps_max} maps, which is the most it takes"
                )
            return ControlRecord(map=MapDeclared(spec=spec_message(spec)))

        control = await fold_control(self.log)
        await append_control(self.log, control, make)
        acts_at = control.map_activation(spec.name)
        assert acts_at is not None
        if self.options.tick is not None:
            await self.wait_closed(driver, Epoch(acts_at - 1), timeout)
        return acts_at

    async def checkpoint(self) -> None:
        if self._checkpointing is not None:
            await self._checkpointing.save()

    @property
    def checkpointing(self) -> Checkpointing | None:
        return self._checkpointing

    async def close(self, *, drain: bool = True) -> None:
        """Ends: drains what is on its way, saves checkpoints, closes the log. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._checkpoint_task is not None:
            self._checkpoint_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._checkpoint_task
        await self.regenerations.close()
        if drain and self.failure is None:
            await asyncio.gather(*(driver.drain(self.options.drain_seconds) for driver in self.drivers))
            if self._checkpointing is not None and self.log.bytes_written:
                with contextlib.suppress(GridError):
                    await self._checkpointing.save()
        for driver in self.drivers:
            await driver.stop()
        self.pool.close()
        self._watchdog.close()
        await self.log.close()
