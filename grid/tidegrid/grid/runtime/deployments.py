"""Deploying as a node does it: whether it may, whether the code loads here, and the record that makes it act.

Rule E3 does the rest: the record acts from the stamping limit in force at its position, at every node alike.
"""

from __future__ import annotations

import asyncio
import enum
import getpass
import platform
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tidegrid.grid.engine.plan import plan_id
from tidegrid.grid.journal.seam import Log
from tidegrid.grid.model.errors import (
    ConfigurationError,
    DeployNotAllowedError,
    GridError,
    StalePlanError,
    TriggerModuleError,
)
from tidegrid.grid.model.ids import Incarnation, NodeId
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.maps import MapSpec
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.declarations import Deployment as Deployed
from tidegrid.grid.ring.declarations import spec_message
from tidegrid.grid.runtime.opening import append_control, fold_control
from tidegrid.grid.runtime.requirements import check_requirements
from tidegrid.triggers.budget import Watch
from tidegrid.triggers.deployment import Deployment, Module, content_hash
from tidegrid.triggers.loader import load_modules
from tidegrid.triggers.packages import INIT
from tidegrid.triggers.requirements import requirements_of
from tidegrid.triggers.runtime import TriggerRuntime
from tidegrid.triggers.sources import find_module, origin_of
from tidegrid.v1 import control_pb2

Members = frozenset[tuple[NodeId, Incarnation]]
_HASH_DIGITS_MIN: Final = 8
_loading = threading.Lock()  # modules of one name in `sys.modules`, for as long as they run


class DeployPolicy(enum.StrEnum):
    """What may be deployed over the network. Trigger code runs in the node's process: it is trusted with everything."""

    OFF = "off"
    ON = "on"
    INSTALLED = "installed"  # only what is installed on the node, or has one of the listed hashes


@dataclass(frozen=True, slots=True)
class DeployRules:
    policy: DeployPolicy = DeployPolicy.ON
    hashes: tuple[str, ...] = ()  # in hex, or the first digits

    def validate(self) -> DeployRules:
        """Returns itself. Raises ConfigurationError."""
        for text in self.hashes:
            if len(text) < _HASH_DIGITS_MIN or not all(digit in "0123456789abcdef" for digit in text.lower()):
                raise ConfigurationError(
                    f"deploy hash {text!r}: write at least {_HASH_DIGITS_MIN} hexadecimal digits, as a plan shows them"
                )
        return self

    def check(self, modules: Sequence[Module] | None = None) -> None:
        """`modules` None: whether there is any use in asking. Raises DeployNotAllowedError."""
        if self.policy is DeployPolicy.OFF:
            raise DeployNotAllowedError(
                'this grid takes no code over the network; start it with --allow-deploy (deploy = "on" in its '
                "configuration), or give the code at its start: tidegrid serve --triggers FILE"
            )
        if self.policy is DeployPolicy.ON or modules is None:
            return
        digits = content_hash(modules).hex()
        if any(digits.startswith(text.lower()) for text in self.hashes):
            return
        foreign = [module.name for module in modules if not _is_installed(module)]
        if foreign:
            raise DeployNotAllowedError(
                f"this grid takes only code that is installed on its nodes, or listed: {foreign[0]!r} is not, or is installed "
                f"with another text; install it there, or start the nodes with --allow-hash {digits[:16]}",
                hash=digits,
            )


def _is_installed(module: Module) -> bool:
    """An import of that name, on this node, would run this very text. What merely lies in the folder that the node was
    started in is not installed, though `python -m` would find it there."""
    parts = module.name.split(".")
    if not all(part.isidentifier() for part in parts):
        return False
    try:
        origin = origin_of(module.name)
        folder = origin.parents[len(parts) if origin.name == INIT else len(parts) - 1]
        return folder.resolve() != Path.cwd() and find_module(origin).source == module.source
    except TriggerModuleError:
        return False


async def load_beside(
    modules: Sequence[Module],
    maps: Mapping[str, MapSpec],
    partitions: int,
    limits: Limits,
    watch: Watch | None = None,
) -> tuple[Deployment, TriggerRuntime]:
    """The code, made ready to run on this interpreter, over these maps and its own. Raises TriggerModuleError.

    It is loaded in a thread, while the node goes on: an import may take seconds, and the others would miss it. What
    needs the syntax tree is done before: CPython 3.11 confuses `ast.parse` in one thread with that in another.
    """
    requirements = requirements_of(modules)
    deployment, specs = await asyncio.to_thread(_load, modules, requirements, dict(maps))
    return deployment, TriggerRuntime(deployment, specs, partitions, limits, watch=watch)


def _load(
    modules: Sequence[Module], requirements: Sequence[str], maps: Mapping[str, MapSpec]
) -> tuple[Deployment, dict[str, MapSpec]]:
    check_requirements(requirements)
    with _loading:
        deployment = load_modules(modules, maps)
    return deployment, {**maps, **{spec.name: spec for spec in deployment.maps}}


def modules_of(deployed: Deployed) -> tuple[Module, ...]:
    return tuple(Module(name, source) for name, source in deployed.modules)


def earlier(control: ControlState, digits: str) -> Deployed:
    """The deployment to go back to: of that hash, or the one before the newest. Raises ConfigurationError."""
    found = control.deployments
    if digits:
        suit = {d.hash: d for d in found if d.hash.hex().startswith(digits.lower())}
        if len(suit) == 1:
            return suit.popitem()[1]
        what = "no deployment begins" if not suit else "several deployments begin"
        raise ConfigurationError(f"{what} with {digits!r}; `tidegrid deployments` lists them")
    others = [d for d in found if d.hash != found[-1].hash]
    if not others:
        raise ConfigurationError("there is no earlier deployment to go back to; `tidegrid deployments` lists them")
    return others[-1]


def deploy_record(
    control: ControlState, deployment: Deployment, by: str, time_ms: int
) -> control_pb2.ControlRecord | None:
    """None: it is what is deployed already. Raises TriggerModuleError for a map that is another one in the grid."""
    newest = control.deployments[-1] if control.deployments else None
    if newest is not None and newest.hash == deployment.hash:
        return None
    for spec in deployment.maps:
        reason = control.conflict(spec, deploy=True)
        if reason is not None:
            raise TriggerModuleError(reason, map=spec.name)
    return control_pb2.ControlRecord(
        deploy=control_pb2.Deploy(
            hash=deployment.hash,
            modules=[control_pb2.Module(name=module.name, source=module.source) for module in deployment.modules],
            maps=[spec_message(spec) for spec in deployment.maps],
            python=platform.python_version(),
            time_ms=time_ms,
            by=by,
            requirements=requirements_of(deployment.modules),
        )
    )


async def check_deployed(log: Log, node: NodeId, limits: Limits) -> None:
    """Before a node becomes a member: whether it can run the code in force, and what is to come.

    Raises TriggerModuleError that says what to do.
    """
    control = await fold_control(log)
    newest = control.deployments[-1] if control.deployments else None
    if newest is None:
        return
    try:
        await load_beside(modules_of(newest), control.declared, control.partitions, limits)
    except GridError as error:
        names, here = ", ".join(name for name, _ in newest.modules), platform.python_version()
        other = f", deployed with Python {newest.python}; this is {here}" if newest.python not in ("", here) else ""
        raise TriggerModuleError(
            f"node {node} cannot run the deployed code {newest.hash.hex()[:_HASH_DIGITS_MIN]} ({names}{other}), so it does "
            f"not start: {error.message}. Make that load here, or start the grid with other code: --triggers FILE",
            node=node,
            hash=newest.hash.hex(),
        ) from None


async def append_deploy(
    log: Log, deployment: Deployment, by: str, time_ms: int, *, plan: str = "", members: Members | None = None
) -> tuple[Deployed | None, bool]:
    """Appends the record, unless it is what is deployed. Returns the deployment with its epoch, and whether it is new.

    `plan`: the id of what was agreed to. `members`: who can load it; (None, False) when there is another one by now.
    Raises StalePlanError, TriggerModuleError.
    """
    strangers = False

    def make(control: ControlState) -> control_pb2.ControlRecord | None:
        nonlocal strangers
        record = deploy_record(control, deployment, by, time_ms)
        if record is None:
            return None
        now = plan_id(control, deployment.hash)
        if plan and plan != now:
            raise StalePlanError.of(plan, now)
        strangers = members is not None and not members_of(control) <= members
        return None if strangers else record

    control = await fold_control(log)
    appended = await append_control(log, control, make)
    return (None, False) if strangers else (control.deployments[-1], appended)


def members_of(control: ControlState) -> Members:
    return frozenset((member.node, member.incarnation) for member in control.view.members.values())


def this_user() -> str:
    """Who deploys, for people."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):  # no such user, as in some containers
        return socket.gethostname()
