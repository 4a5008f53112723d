"""The catalogs of a grid by epoch. The code of a deployment runs once, when its record is learned: before it is in
force, so that no write waits for an import."""

from __future__ import annotations

from collections.abc import Mapping

from tidegrid.grid.engine.catalog import Catalog
from tidegrid.grid.model.errors import GridError, TriggerModuleError
from tidegrid.grid.model.ids import Epoch, Position
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.maps import MapKind, MapSpec
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.declarations import Deployment
from tidegrid.triggers import deployment as triggers
from tidegrid.triggers.loader import load_modules
from tidegrid.triggers.runtime import TriggerRuntime


class Catalogs:
    """`at(epoch)` is a function of the control log's prefix and the epoch alone; the newest answer is kept."""

    def __init__(self, control: ControlState, limits: Limits) -> None:
        self._control = control
        self._limits = limits
        self._newest: Catalog | None = None
        self._until: Epoch | None = None
        self._problem: GridError | None = None
        self._loaded: dict[Position, triggers.Deployment] = {}

    def forget(self) -> None:
        """The control log has declared something: the span of the newest catalog may have shrunk.

        What is to come is loaded now; that it does not load is for `check` to say.
        """
        for newest in self._control.deployments[-1:]:
            try:
                self._load(newest, self._control.declared)
            except GridError as error:
                self._problem = TriggerModuleError(
                    f"code was deployed that this node cannot run, so it stops, and the others take over: {error.message}",
                    hash=newest.hash.hex(),
                )
        self._until = self._control.next_activation(self._newest.since) if self._newest is not None else None

    def check(self) -> None:
        """Raises TriggerModuleError, once, when code was deployed that does not load here: this node cannot go on."""
        problem, self._problem = self._problem, None
        if problem is not None:
            raise problem

    def at(self, epoch: Epoch) -> Catalog:
        """Raises TriggerModuleError when the deployment in force does not load here."""
        newest = self._newest
        if newest is not None and newest.since <= epoch and (self._until is None or epoch < self._until):
            return newest
        deployment = self._control.deployment_at(epoch)
        made = self._make(epoch, deployment)
        self._newest, self._until = made, self._control.next_activation(epoch)
        return made

    def _make(self, epoch: Epoch, deployment: Deployment | None) -> Catalog:
        specs = self._control.maps_at(epoch)
        runtime = None
        if deployment is not None and deployment.modules:
            runtime = TriggerRuntime(self._load(deployment, specs), specs, self._control.partitions, self._limits)
            self._loaded = {at: loaded for at, loaded in self._loaded.items() if at >= deployment.position}
        return Catalog(epoch, specs, runtime, self._control.partitions)

    def _load(self, deployment: Deployment, specs: Mapping[str, MapSpec]) -> triggers.Deployment:
        """Raises TriggerModuleError."""
        loaded = self._loaded.get(deployment.position)
        if loaded is None:
            loaded = self._loaded[deployment.position] = load_modules(deployment.modules, specs)
        return loaded

    def reference_maps(self) -> frozenset[str]:
        return frozenset(name for name, spec in self._control.declared.items() if spec.kind is MapKind.REFERENCE)
