"""The catalogs of a grid by epoch. The code of a deployment runs once, when its record is learned: before it is in
force, so that no write waits for an import."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from tidegrid.grid.engine.catalog import Catalog
from tidegrid.grid.model.errors import GridError, TriggerModuleError
from tidegrid.grid.model.ids import Epoch, Position
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.maps import MapKind, MapSpec
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.declarations import Deployment
from tidegrid.grid.store.merged import Fold
from tidegrid.triggers import deployment as triggers
from tidegrid.triggers.budget import Watch
from tidegrid.triggers.loader import load_modules
from tidegrid.triggers.runtime import TriggerRuntime

KEPT_MAX: Final = 4  # what is routed late runs by the catalog of its own epoch


class Catalogs:
    """`at(epoch)` is a function of the control log's prefix and the epoch alone; the newest answers are kept."""

    def __init__(self, control: ControlState, limits: Limits, strict: bool = False, watch: Watch | None = None) -> None:
        self._control = control
        self._strict = strict
        self._watch = watch
        self._suspended: Mapping[str, str] = {}
        self._limits = limits
        self._kept: OrderedDict[Epoch, Catalog] = OrderedDict()
        self._last: tuple[Epoch, Catalog] | None = None  # what was asked for, which is asked for again and again
        self._problem: GridError | None = None
        self._loaded: dict[Position, triggers.Deployment] = {}

    def forget(self) -> None:
        """The control log has declared something, which may act from an epoch that was asked for already.

        What is to come is loaded now; that it does not load is for `check` to say.
        """
        self._last = None
        self._kept.pop(self._control.highest_activation, None)
        for newest in self._control.deployments[-1:]:
            try:
                self._load(newest, self._control.declared)
            except GridError as error:
                self._problem = TriggerModuleError(
                    f"code was deployed that this node cannot run, so it stops, and the others take over: {error.message}",
                    hash=newest.hash.hex(),
                )

    def check(self) -> None:
        """Raises TriggerModuleError, once, when code was deployed that does not load here: this node cannot go on."""
        problem, self._problem = self._problem, None
        if problem is not None:
            raise problem

    def at(self, epoch: Epoch) -> Catalog:
        """Raises TriggerModuleError when the deployment in force does not load here."""
        last = self._last
        if last is not None and last[0] == epoch:
            return last[1]
        since = self._control.activation_at(epoch)
        known = self._kept.get(since)
        if known is not None:
            self._kept.move_to_end(since)
        else:
            known = self._kept[since] = self._make(since, self._control.deployment_at(epoch))
            if len(self._kept) > KEPT_MAX:
                self._kept.popitem(last=False)
        self._last = (epoch, known)
        return known

    def fold(self, map_name: str, epoch: Epoch) -> Fold:
        """That of a map with one, for operands of `epoch`."""
        runtime = self.at(epoch).runtime
        assert runtime is not None, "only triggers emit operands"
        return runtime.folds[map_name]

    def _make(self, since: Epoch, deployment: Deployment | None) -> Catalog:
        specs = self._control.maps_at(since)
        runtime = None
        if deployment is not None and deployment.modules:
            loaded = self._load(deployment, specs)
            runtime = TriggerRuntime(
                loaded, specs, self._control.partitions, self._limits, strict=self._strict, watch=self._watch
            )
            runtime.suspend(self._suspended)
            self._loaded = {at: one for at, one in self._loaded.items() if at >= deployment.position}
        return Catalog(since, specs, runtime, self._control.partitions)

    def _load(self, deployment: Deployment, specs: Mapping[str, MapSpec]) -> triggers.Deployment:
        """Raises TriggerModuleError."""
        loaded = self._loaded.get(deployment.position)
        if loaded is None:
            loaded = self._loaded[deployment.position] = load_modules(deployment.modules, specs)
        return loaded

    def suspend(self, why: Mapping[str, str]) -> None:
        """These triggers, by name, are not run any more; all others are."""
        self._suspended = why
        for catalog in self._kept.values():
            if catalog.runtime is not None:
                catalog.runtime.suspend(why)

    def reference_maps(self) -> frozenset[str]:
        return frozenset(name for name, spec in self._control.declared.items() if spec.kind is MapKind.REFERENCE)
