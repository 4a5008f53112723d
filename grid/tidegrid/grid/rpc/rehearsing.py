"""One node's part in a deployment that is not there yet: may it run here, does it load, and what would it make of the
newest writes of the partitions that this node owns. It changes nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

from tidegrid.grid.engine.plan import source_maps
from tidegrid.grid.engine.rehearsal import Rehearsal, rehearse
from tidegrid.grid.model.errors import GridError, WrongGridError
from tidegrid.grid.ring.declarations import spec_from
from tidegrid.grid.rpc.feeds import Feeds
from tidegrid.grid.rpc.wire import error_message
from tidegrid.grid.runtime.deployments import load_beside, modules_of
from tidegrid.grid.runtime.driver import Driver
from tidegrid.grid.runtime.local_grid import LocalGrid
from tidegrid.triggers.deployment import Deployment, Module, content_hash
from tidegrid.triggers.runtime import TriggerRuntime
from tidegrid.v1 import grid_pb2, ring_pb2

_log = logging.getLogger(__name__)
SAMPLE_MAX = 10_000  # writes of each map
UNTRIED = "runs in a worker process"


class Rehearsing:
    def __init__(self, driver: Driver, grid: LocalGrid, feeds: Feeds) -> None:
        self._driver = driver
        self._grid = grid
        self._feeds = feeds

    async def rehearse(self, request: ring_pb2.RehearseRequest) -> ring_pb2.RehearseReply:
        """For another node: what is wrong is in the reply."""
        try:
            if request.grid_id != self._driver.node.control.grid_id:
                raise WrongGridError("this is a node of another grid")
            modules = [Module(module.name, module.source) for module in request.modules]
            if content_hash(modules) not in self._grid.own_code:
                self._grid.options.deploy.check(modules)
            maps = {spec.name: spec_from(spec) for spec in request.maps} | dict(self._driver.node.control.declared)
            coming, runtime = await load_beside(
                modules, maps, self._driver.node.control.partitions, self._driver.node.limits, self._driver.rehearsed
            )
        except GridError as error:
            return ring_pb2.RehearseReply(error=error_message(error))
        return await self.sample(coming, runtime, request.sample_max)

    async def sample(self, coming: Deployment, runtime: TriggerRuntime, sample_max: int) -> ring_pb2.RehearseReply:
        """Of what this node owns. It gives others a turn again and again."""
        reply = ring_pb2.RehearseReply(
            feeds=[
                grid_pb2.FeedStatus(map=feed.map, after=feed.after, from_log=feed.from_log, peer=feed.peer)
                for feed in self._feeds.open
            ]
        )
        try:
            active, active_runtime = await self.active()
        except GridError:  # what is active does not load here: then there is nothing to compare with
            active, active_runtime = None, None
        node = self._driver.node
        if not sample_max:
            return reply
        declared = node.control.declared
        for name in source_maps(active, coming, declared):
            if any(_runs_apart(code, name) for code in (active_runtime, runtime)):
                reply.samples.append(grid_pb2.SampleDifference(map=name, untried=UNTRIED))
                continue  # it is kept out of this process, here too
            rehearsal = Rehearsal(
                name,
                declared[name].schema,
                active_runtime,
                runtime,
                node.copies,
                int.from_bytes(node.control.grid_id[:8], "big"),
            )
            steps = rehearse(node.partitions.values(), rehearsal, name, min(sample_max, SAMPLE_MAX))
            difference = await _in_steps(steps)
            if difference is not None:
                reply.samples.append(difference)
        self._driver.rehearsed.overruns.clear()  # the plan shows them as rejected
        return reply

    async def active(self) -> tuple[Deployment | None, TriggerRuntime | None]:
        """The newest deployment, in force or about to be. Raises TriggerModuleError."""
        control = self._driver.node.control
        if not control.deployments:
            return None, None
        return await load_beside(
            modules_of(control.deployments[-1]),
            control.declared,
            control.partitions,
            self._driver.node.limits,
            self._driver.rehearsed,
        )


def _runs_apart(runtime: TriggerRuntime | None, map_name: str) -> bool:
    program = runtime.program(map_name) if runtime is not None else None
    return program is not None and program.reach.isolated


async def _in_steps(steps: Iterator[grid_pb2.SampleDifference | None]) -> grid_pb2.SampleDifference | None:
    difference = None
    for difference in steps:  # noqa: B007 (the last one counts)
        await asyncio.sleep(0)
    return difference
