"""Deployments as a client asks for them: the plan, the deployment, and the list.

A plan is made here, on any node: its own declarations, and what every member says of loading the code and of its newest
writes. A deployment asks every member again whether it can load it, and only then appends the record; a member that
cannot, or does not answer, ends it with nothing done. A node that becomes a member between asking and appending is
asked too (the record is appended against the view that was asked), and one that comes later checks before it joins.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from tidegrid.grid.engine.plan import map_changes, plan_id, touched_maps, trigger_changes
from tidegrid.grid.model.error_message import error_of
from tidegrid.grid.model.errors import ConfigurationError, DeployRefusedError, GridError, PeerError, TooLargeError
from tidegrid.grid.model.ids import Epoch, NodeId
from tidegrid.grid.ring.declarations import spec_message
from tidegrid.grid.rpc.exchange import DEFAULT_TIMEOUT
from tidegrid.grid.rpc.rehearsing import Rehearsing
from tidegrid.grid.rpc.sample_sums import summed
from tidegrid.grid.rpc.wire import carry_message, error_message
from tidegrid.grid.runtime.deployments import append_deploy, earlier, load_beside, members_of, modules_of
from tidegrid.grid.runtime.driver import Driver
from tidegrid.grid.runtime.local_grid import LocalGrid
from tidegrid.grid.runtime.opening import fold_control
from tidegrid.triggers.conflicts import conflicts
from tidegrid.triggers.deployment import Deployment, Module
from tidegrid.triggers.requirements import requirements_of
from tidegrid.triggers.runtime import TriggerRuntime
from tidegrid.v1 import control_pb2, grid_pb2, ring_pb2

_log = logging.getLogger(__name__)
_ASK_SECONDS: Final = 10.0  # a member that takes longer to load it is no member to deploy to
_RECORD_ROOM: Final = 64 * 1024  # for names, maps and all else in the record


class SourceFinding(Protocol):
    """What the checks of the trigger contract find in a source text (tidegrid.triggers.contract)."""

    @property
    def line(self) -> int: ...

    @property
    def rule(self) -> str: ...

    @property
    def words(self) -> str: ...


def source_findings(modules: Iterable[Module]) -> list[grid_pb2.PlanFinding]:
    try:
        find = importlib.import_module("tidegrid.triggers.contract").findings
    except ModuleNotFoundError:
        return []
    found: list[grid_pb2.PlanFinding] = []
    for module in modules:
        listed: Sequence[SourceFinding] = find(module.name, module.source)
        found.extend(
            grid_pb2.PlanFinding(rule=one.rule, module=module.name, line=one.line, words=one.words) for one in listed
        )
    return found


@dataclass(frozen=True, slots=True)
class Answer:
    """Of one member."""

    node: NodeId
    reply: ring_pb2.RehearseReply
    error: GridError | None


class Deploying:
    def __init__(self, grid: LocalGrid, driver: Driver, rehearsing: Rehearsing) -> None:
        self._grid = grid
        self._driver = driver
        self._rehearsing = rehearsing

    # As a client asks --------------------------------------------------------------------------------------------

    async def plan_deploy(self, request: grid_pb2.PlanDeployRequest) -> grid_pb2.PlanDeployReply:
        try:
            modules = await self._content(request.content)
            plan = await self.plan(modules, request.sample_max, _seconds(request.deadline_ms))
        except GridError as error:
            return grid_pb2.PlanDeployReply(carry=self._carry(), error=error_message(error))
        return grid_pb2.PlanDeployReply(carry=self._carry(), plan=plan)

    async def deploy(self, request: grid_pb2.DeployRequest) -> grid_pb2.DeployReply:
        try:
            modules = await self._content(request.content)
            return await self.activate(modules, request.by, request.plan, _seconds(request.deadline_ms))
        except GridError as error:
            return grid_pb2.DeployReply(carry=self._carry(), error=error_message(error))

    async def deployments(self, request: grid_pb2.DeploymentsRequest) -> grid_pb2.DeploymentsReply:
        node = self._driver.node
        resumed = node.suspensions.resume(request.trigger) if request.resume else []
        active = node.control.deployment_at(Epoch(node.control.closed + 1))
        listed = [
            grid_pb2.DeploymentInfo(
                hash=found.hash,
                modules=[name for name, _ in found.modules],
                acts_at=found.acts_at,
                state="active" if found is active else "pending" if found.acts_at > node.control.closed + 1 else "past",
                time_ms=found.time_ms,
                by=found.by,
                python=found.python,
                requirements=found.requirements,
                maps=[spec.name for spec in found.maps],
            )
            for found in node.control.deployments
        ]
        return grid_pb2.DeploymentsReply(carry=self._carry(), deployments=listed, resumed=resumed)

    async def _content(self, content: grid_pb2.DeployContent) -> list[Module]:
        """Raises DeployNotAllowedError, ConfigurationError."""
        rules = self._grid.options.deploy
        rules.check()
        if content.rollback:
            modules = list(modules_of(earlier(await fold_control(self._grid.log), content.rollback_to)))
        elif content.modules:
            modules = [Module(module.name, module.source) for module in content.modules]
        else:
            raise ConfigurationError("there is nothing to deploy; name at least one module")
        rules.check(modules)
        return modules

    # The work ----------------------------------------------------------------------------------------------------

    async def plan(self, modules: Sequence[Module], sample_max: int, seconds: float) -> grid_pb2.DeployPlan:
        """Raises TriggerModuleError when it cannot be loaded here; of other members the plan says so. What is deployed
        already is planned once it acts: whoever asks again after a deadline goes on as if it had been in time."""
        until = asyncio.get_running_loop().time() + seconds
        control = self._driver.node.control
        coming, runtime = await self._load(modules)
        try:
            active, _ = await self._rehearsing.active()
        except GridError:
            active = None
        answers = await self._ask_all(coming, runtime, sample_max, seconds)
        newest = control.deployments[-1] if control.deployments else None
        unchanged = newest is not None and newest.hash == coming.hash
        if unchanged and newest is not None:
            await self._in_force(newest.acts_at, until)
        changes = trigger_changes(active, coming)
        maps = map_changes(active, coming, control.declared)
        touched = touched_maps(active, coming, changes)
        for change in maps:
            if change.spec.name in touched:
                change.followers = _followers(change.spec.name, answers)
        specs = dict(control.declared) | {spec.name: spec for spec in coming.maps}
        findings = source_findings(modules)
        findings += [
            grid_pb2.PlanFinding(rule=one.rule, module=one.module, line=one.line, words=one.words)
            for one in conflicts(coming, specs)
        ]
        return grid_pb2.DeployPlan(
            id=plan_id(control, coming.hash),
            hash=coming.hash,
            modules=[module.name for module in modules],
            replaces=newest.hash if newest is not None else b"",
            unchanged=unchanged,
            triggers=changes,
            maps=maps,
            findings=findings,
            requirements=requirements_of(modules),
            nodes=[
                grid_pb2.NodeVerdict(
                    node=answer.node, error=None if answer.error is None else error_message(answer.error)
                )
                for answer in answers
            ],
            samples=summed([answer.reply.samples for answer in answers]),
        )

    async def activate(self, modules: Sequence[Module], by: str, plan: str, seconds: float) -> grid_pb2.DeployReply:
        """Returns when it is in force at every node. Raises StalePlanError, DeployRefusedError, TriggerModuleError."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while True:
            members = members_of(self._driver.node.control)
            coming, runtime = await self._load(modules)
            for answer in await self._ask_all(coming, runtime, 0, until - loop.time()):
                if answer.error is not None:
                    raise DeployRefusedError.of(answer.node, answer.error.message)
            time_ms = self._driver.instant().time_ms
            deployed, fresh = await append_deploy(self._grid.log, coming, by, time_ms, plan=plan, members=members)
            if deployed is not None:
                break
            await self._driver.turned()  # somebody has joined, and is to be asked, too
        await self._in_force(deployed.acts_at, until)
        return grid_pb2.DeployReply(
            carry=self._carry(), hash=deployed.hash, acts_at=deployed.acts_at, unchanged=not fresh
        )

    async def _in_force(self, acts_at: Epoch, until: float) -> None:
        """`until`: by the loop's clock. Raises DeadlineError."""
        if self._grid.options.tick is not None:
            seconds = until - asyncio.get_running_loop().time()
            await self._grid.wait_closed(self._driver, Epoch(acts_at - 1), max(0.001, seconds))

    async def _load(self, modules: Sequence[Module]) -> tuple[Deployment, TriggerRuntime]:
        """Raises TriggerModuleError, TooLargeError."""
        control, limits = self._driver.node.control, self._driver.node.limits
        size = sum(len(module.source.encode("utf-8", "surrogatepass")) for module in modules)
        if size > limits.record_bytes_max - _RECORD_ROOM:
            raise TooLargeError.of("source text of the deployment", size, limits.record_bytes_max - _RECORD_ROOM)
        return await load_beside(modules, control.declared, control.partitions, limits, self._driver.rehearsed)

    async def _ask_all(
        self, coming: Deployment, runtime: TriggerRuntime, sample_max: int, seconds: float
    ) -> list[Answer]:
        """Every member of the view, by number."""
        node = self._driver.node
        sample_max = -(-sample_max // max(1, len(node.control.view.members)))  # of each: partitions are dealt evenly
        request = ring_pb2.RehearseRequest(
            grid_id=node.control.grid_id,
            modules=[control_pb2.Module(name=module.name, source=module.source) for module in coming.modules],
            maps=[spec_message(spec) for spec in node.control.declared.values()],
            sample_max=sample_max,
        )
        timeout = max(0.1, min(_ASK_SECONDS, seconds - 0.5))

        async def ask(to: NodeId) -> Answer:
            try:
                if to == node.me:
                    reply = await self._rehearsing.sample(coming, runtime, sample_max)
                else:
                    reply = await self._driver.ask(to, request, timeout)
            except PeerError as problem:
                text = f"{problem.message}; start it, or wait until the others have taken over from it"
                return Answer(to, ring_pb2.RehearseReply(), type(problem)(text, **problem.fields))
            return Answer(to, reply, error_of(reply.error) if reply.HasField("error") else None)

        return list(await asyncio.gather(*(ask(member) for member in sorted(node.control.view.members))))

    def _carry(self) -> grid_pb2.Carry:
        return carry_message(self._driver.node)


def _followers(map_name: str, answers: Iterable[Answer]) -> int:
    """Whoever follows a whole map has a feed at each node that owns some of it."""
    return max((sum(feed.map == map_name for feed in answer.reply.feeds) for answer in answers), default=0)


def _seconds(deadline_ms: int) -> float:
    return deadline_ms / 1000 if deadline_ms else DEFAULT_TIMEOUT
