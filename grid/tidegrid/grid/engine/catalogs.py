"""The catalogs of a grid by epoch: compiles a deployment once, when it is first in force."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from tidegrid.grid.engine.catalog import Catalog
from tidegrid.grid.model.ids import Epoch
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.maps import MapKind
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.declarations import Deployment
from tidegrid.grid.store.merged import Fold
from tidegrid.triggers.loader import load_modules
from tidegrid.triggers.runtime import TriggerRuntime

KEPT_MAX: Final = 4  # what is routed late runs by the catalog of its own epoch


class Catalogs:
    """`at(epoch)` is a function of the control log's prefix and the epoch alone; the newest answers are kept."""

    def __init__(self, control: ControlState, limits: Limits, strict: bool = False) -> None:
        self._control = control
        self._strict = strict
        self._limits = limits
        self._kept: OrderedDict[Epoch, Catalog] = OrderedDict()

    def forget(self) -> None:
        """The control log has declared something, which may act from an epoch that was asked for already."""
        self._kept.pop(self._control.highest_activation, None)

    def at(self, epoch: Epoch) -> Catalog:
        """Raises TriggerModuleError when the deployment in force does not load here."""
        since = self._control.activation_at(epoch)
        known = self._kept.get(since)
        if known is not None:
            self._kept.move_to_end(since)
            return known
        made = self._kept[since] = self._make(since, self._control.deployment_at(epoch))
        if len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)
        return made

    def fold(self, map_name: str, epoch: Epoch) -> Fold:
        """That of a map with one, for operands of `epoch`."""
        runtime = self.at(epoch).runtime
        assert runtime is not None, "only triggers emit operands"
        return runtime.folds[map_name]

    def _make(self, since: Epoch, deployment: Deployment | None) -> Catalog:
        specs = self._control.maps_at(since)
        runtime = None
        if deployment is not None and deployment.modules:
            runtime = TriggerRuntime(
                load_modules(deployment.modules, specs),
                specs,
                self._control.partitions,
                self._limits,
                strict=self._strict,
            )
        return Catalog(since, specs, runtime, self._control.partitions)

    def reference_maps(self) -> frozenset[str]:
        return frozenset(name for name, spec in self._control.declared.items() if spec.kind is MapKind.REFERENCE)
