"""What behaviour is in force at an epoch: maps and deployments, by the epoch from which each acts.

Rule E3: a record that changes behaviour acts from the stamping limit in force at its position. Nobody can have
stamped that epoch without having read the record, so everything here is a function of the epoch alone.

Invariants: activations never decrease in log order (the limit never does); between two activations the maps in
force do not change, so `maps_at` answers from one dictionary per interval; a map name keeps the first specification
it was declared with, except that a deployment may turn a map derived, or direct again, and give it another schema
number.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from tidegrid.grid.model.errors import FormatError
from tidegrid.grid.model.ids import Epoch, Position
from tidegrid.grid.model.maps import KeyField, MapKind, MapSpec
from tidegrid.v1 import control_pb2

_NO_MAPS: Mapping[str, MapSpec] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Deployment:
    """A set of trigger modules. `modules` are (name, source); `maps` are what they declare.

    `time_ms`, `by` and `requirements` are for people and for checks; records of before they were kept have none.
    """

    hash: bytes
    modules: tuple[tuple[str, str], ...]
    maps: tuple[MapSpec, ...]
    acts_at: Epoch
    position: Position
    python: str = ""
    time_ms: int = 0
    by: str = ""
    requirements: tuple[str, ...] = ()


class Declarations:
    """Appended to in log order, read by epoch."""

    __slots__ = ("_deployment_epochs", "_deployments", "_intervals", "_map_activations", "_map_epochs", "_specs")

    def __init__(self) -> None:
        self._deployments: list[Deployment] = []
        self._deployment_epochs: list[Epoch] = []
        self._map_epochs: list[Epoch] = []  # activations of maps, distinct
        self._intervals: list[Mapping[str, MapSpec]] = []  # all maps in force from that activation on
        self._specs: dict[str, MapSpec] = {}  # newest, in force or not yet
        self._map_activations: dict[str, Epoch] = {}

    # Reading ----------------------------------------------------------------------------------------------------

    def maps_at(self, epoch: Epoch) -> Mapping[str, MapSpec]:
        """Read only; the same object for every epoch between two activations. O(log activations)."""
        index = bisect_right(self._map_epochs, epoch)
        return self._intervals[index - 1] if index else _NO_MAPS

    def deployment_at(self, epoch: Epoch) -> Deployment | None:
        index = bisect_right(self._deployment_epochs, epoch)
        return self._deployments[index - 1] if index else None

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        return tuple(self._deployments)

    @property
    def specs(self) -> Mapping[str, MapSpec]:
        """Every map declared so far, in force or not yet."""
        return MappingProxyType(self._specs)

    def map_activation(self, name: str) -> Epoch | None:
        """From which epoch the map is there. None: it is not declared."""
        return self._map_activations.get(name)

    def next_activation(self, after: Epoch) -> Epoch | None:
        found = [
            epochs[index]
            for epochs in (self._map_epochs, self._deployment_epochs)
            if (index := bisect_right(epochs, after)) < len(epochs)
        ]
        return min(found, default=None)

    def activation_at(self, epoch: Epoch) -> Epoch:
        """Since when what is in force at `epoch` has been in force; 0: nothing was ever declared by then."""
        found = [
            epochs[index - 1]
            for epochs in (self._map_epochs, self._deployment_epochs)
            if (index := bisect_right(epochs, epoch))
        ]
        return max(found, default=Epoch(0))

    @property
    def highest_activation(self) -> Epoch:
        return max((epochs[-1] for epochs in (self._map_epochs, self._deployment_epochs) if epochs), default=Epoch(0))

    def conflict(self, spec: MapSpec, *, deploy: bool = False) -> str | None:
        """Why `spec` cannot be declared, in words; None if it can, or if it is declared already just so."""
        known = self._specs.get(spec.name)
        if known is None or known == spec:
            return None
        if deploy and replace(known, derived=spec.derived, schema=spec.schema) == spec:
            return None
        differing = [
            f"{name} {getattr(known, name)!r}, not {getattr(spec, name)!r}"
            for name in ("kind", "key", "affinity", "derived", "schema", "merged")
            if getattr(known, name) != getattr(spec, name)
        ]
        return f"map {spec.name!r} is declared already with {'; '.join(differing)}; declare it the same, or take a new name"

    # Folding ----------------------------------------------------------------------------------------------------

    def declare(self, spec: MapSpec, acts_at: Epoch, *, deploy: bool = False) -> bool:
        """Whether it changed anything: the first declaration of a name wins, the same way everywhere."""
        known = self._specs.get(spec.name)
        if known == spec or self.conflict(spec, deploy=deploy) is not None:
            return False
        assert not self._map_epochs or acts_at >= self._map_epochs[-1], "activations decrease"
        self._specs[spec.name] = spec
        self._map_activations.setdefault(spec.name, acts_at)
        maps = {**(self._intervals[-1] if self._intervals else _NO_MAPS), spec.name: spec}
        if self._map_epochs and self._map_epochs[-1] == acts_at:
            self._intervals[-1] = MappingProxyType(maps)
        else:
            self._map_epochs.append(acts_at)
            self._intervals.append(MappingProxyType(maps))
        return True

    def deploy(self, deployment: Deployment) -> None:
        """Replaces the deployment before it; of two with one activation the later record wins."""
        self._deployments.append(deployment)
        self._deployment_epochs.append(deployment.acts_at)
        for spec in deployment.maps:
            self.declare(spec, deployment.acts_at, deploy=True)

    # Checkpoint -------------------------------------------------------------------------------------------------

    def to_plain(self) -> list[object]:
        return [
            [[d.hash, [list(m) for m in d.modules], [_spec_plain(s) for s in d.maps], d.acts_at, d.position, d.python,
              d.time_ms, d.by, list(d.requirements)]
             for d in self._deployments],
            [[epoch, [_spec_plain(maps[name]) for name in sorted(maps)]]
             for epoch, maps in zip(self._map_epochs, self._intervals, strict=True)],
            sorted(self._map_activations.items()),
        ]  # fmt: skip

    @classmethod
    def from_plain(cls, plain: list[object]) -> Declarations:
        made = cls()
        deployments, intervals, activations = plain
        for hash_, modules, maps, acts_at, position, python, *noted in deployments:  # type: ignore[attr-defined]
            time_ms, by, requirements = noted or (0, "", ())  # checkpoints of before have no more
            made._deployments.append(
                Deployment(
                    hash_,
                    tuple((name, source) for name, source in modules),
                    tuple(_spec_of_plain(spec) for spec in maps),
                    Epoch(acts_at),
                    Position(position),
                    python,
                    time_ms,
                    by,
                    tuple(requirements),
                )
            )
            made._deployment_epochs.append(Epoch(acts_at))
        for epoch, maps in intervals:  # type: ignore[attr-defined]
            specs = [_spec_of_plain(spec) for spec in maps]
            made._map_epochs.append(Epoch(epoch))
            made._intervals.append(MappingProxyType({spec.name: spec for spec in specs}))
        if made._intervals:
            made._specs = dict(made._intervals[-1])
        made._map_activations = {name: Epoch(epoch) for name, epoch in activations}  # type: ignore[attr-defined]
        return made


def spec_message(spec: MapSpec) -> control_pb2.MapSpec:
    return control_pb2.MapSpec(
        name=spec.name,
        kind=spec.kind,
        key=[control_pb2.KeyField(name=part.name, type=part.type) for part in spec.key],
        affinity=spec.affinity,
        derived=spec.derived,
        schema=spec.schema,
        merged=spec.merged,
    )


def spec_from(message: control_pb2.MapSpec) -> MapSpec:
    """Raises FormatError: a kind that this version does not know."""
    try:
        kind = MapKind(message.kind)
    except ValueError:
        raise FormatError(
            f"map {message.name!r} is of kind {message.kind}, which this version does not know; use a newer one",
            map=message.name,
        ) from None
    return MapSpec(
        message.name,
        kind,
        tuple(KeyField(part.name, part.type) for part in message.key),
        message.affinity,
        message.derived,
        message.schema,
        message.merged,
    )


def _spec_plain(spec: MapSpec) -> bytes:
    return spec_message(spec).SerializeToString(deterministic=True)


def _spec_of_plain(plain: bytes) -> MapSpec:
    return spec_from(control_pb2.MapSpec.FromString(plain))
