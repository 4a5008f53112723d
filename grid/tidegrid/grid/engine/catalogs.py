"""The catalogs of a grid by epoch: compiles a deployment once, when it is first in force."""

from __future__ import annotations

from tidegrid.grid.engine.catalog import Catalog
from tidegrid.grid.model.ids import Epoch
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.maps import MapKind
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.declarations import Deployment
from tidegrid.triggers.loader import load_modules
from tidegrid.triggers.runtime import TriggerRuntime


class Catalogs:
    """`at(epoch)` is a function of the control log's prefix and the epoch alone; the newest answer is kept."""

    def __init__(self, control: ControlState, limits: Limits, strict: bool = False) -> None:
        self._control = control
        self._strict = strict
        self._limits = limits
        self._newest: Catalog | None = None
        self._until: Epoch | None = None

    def forget(self) -> None:
        """The control log has declared something: the span of the newest catalog may have shrunk."""
        self._until = self._control.next_activation(self._newest.since) if self._newest is not None else None

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
            runtime = TriggerRuntime(
                load_modules(deployment.modules, specs),
                specs,
                self._control.partitions,
                self._limits,
                strict=self._strict,
            )
        return Catalog(epoch, specs, runtime, self._control.partitions)

    def reference_maps(self) -> frozenset[str]:
        return frozenset(name for name, spec in self._control.declared.items() if spec.kind is MapKind.REFERENCE)
