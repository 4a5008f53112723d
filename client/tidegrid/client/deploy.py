"""Deploying trigger code: first a plan, then, if it is agreed to, the deployment that the plan was made for.

    done = await grid.deploy("flights.py", confirm=lambda plan: not plan.findings)

Every node loads the code before it is recorded, and all change to it at one epoch. When code or maps have been
declared since the plan, the deployment is refused (StalePlanError): plan again.
"""

from __future__ import annotations

import asyncio
import getpass
import socket
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tidegrid.client.dispatcher import Dispatcher
from tidegrid.grid.model.errors import ConfigurationError, DeployRefusedError
from tidegrid.grid.model.ids import Epoch
from tidegrid.v1 import control_pb2, grid_pb2

SAMPLE_WRITES: Final = 200  # of each map
Module = tuple[str, str]
"""(name, source text)"""
Confirm = Callable[[grid_pb2.DeployPlan], bool]


class Deployed(NamedTuple):
    """`epoch`: from which the code acts. None: nothing was deployed, as it was a dry run, was not confirmed, or is what
    is deployed already (`plan.unchanged`)."""

    plan: grid_pb2.DeployPlan
    epoch: Epoch | None


class DeploymentEntry(NamedTuple):
    """One of the deployments there have been. `state`: pending, active or past. `time_ms`: 0 where nobody noted it."""

    hash: bytes
    modules: tuple[str, ...]
    epoch: Epoch
    state: str
    time_ms: int
    by: str
    python: str
    requirements: tuple[str, ...]
    maps: tuple[str, ...]


def content_of(modules: Sequence[str | Path | Module], rollback: str | bool) -> grid_pb2.DeployContent:
    """Reads the files. Raises TriggerModuleError, ConfigurationError."""
    if rollback is not False:
        if modules:
            raise ConfigurationError("give either modules, or a deployment to go back to")
        return grid_pb2.DeployContent(rollback=True, rollback_to="" if rollback is True else rollback)
    if not modules:
        raise ConfigurationError("there is nothing to deploy; name at least one module, such as 'flights.py'")
    found = [control_pb2.Module(name=name, source=source) for name, source in _sources(modules)]
    return grid_pb2.DeployContent(modules=found)


def _sources(modules: Iterable[str | Path | Module]) -> Iterable[Module]:
    from tidegrid.triggers.packages import find_sources  # a client that deploys nothing needs none of it

    for module in modules:
        if isinstance(module, tuple):
            yield module
        else:
            yield from find_sources([module])


async def deploy(
    dispatcher: Dispatcher,
    content: grid_pb2.DeployContent,
    until: Callable[[], float],
    confirm: Confirm | None,
    dry_run: bool,
    sample: int,
    by: str | None,
) -> Deployed:
    request = grid_pb2.PlanDeployRequest(content=content, sample_max=sample)
    plan: grid_pb2.DeployPlan = (await dispatcher.ask("PlanDeploy", request, until())).plan
    if dry_run or plan.unchanged:
        return Deployed(plan, None)
    for verdict in plan.nodes:
        if verdict.HasField("error"):
            raise DeployRefusedError.of(verdict.node, verdict.error.message)
    if confirm is not None and not confirm(plan):
        return Deployed(plan, None)
    asked = grid_pb2.DeployRequest(content=content, plan=plan.id, by=by or this_user())
    reply = await dispatcher.ask("Deploy", asked, until())
    return Deployed(plan, Epoch(reply.acts_at))


async def deployments(dispatcher: Dispatcher, until: float) -> list[DeploymentEntry]:
    reply = await dispatcher.ask("Deployments", grid_pb2.DeploymentsRequest(), until)
    return [
        DeploymentEntry(
            found.hash, tuple(found.modules), Epoch(found.acts_at), found.state, found.time_ms, found.by, found.python,
            tuple(found.requirements), tuple(found.maps),
        )
        for found in reply.deployments
    ]  # fmt: skip


async def resume(dispatcher: Dispatcher, trigger: str, timeout: float) -> list[str]:
    """Asks every member; returns which triggers were suspended on any of them."""
    routing = dispatcher.routing
    assert routing is not None
    request = grid_pb2.DeploymentsRequest(carry=dispatcher.causality.carry(), resume=True, trigger=trigger)
    calls = (dispatcher.transport.call(member, "Deployments", request, timeout) for member in routing.members)
    return sorted({name for reply in await asyncio.gather(*calls) for name in reply.resumed})


def this_user() -> str:
    """Who deploys, for people."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):  # no such user, as in some containers
        return socket.gethostname()
