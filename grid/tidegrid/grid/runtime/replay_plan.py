"""What a regeneration is of, as any process can take it up: plain values, and what follows from them alone.

Its name is a hash of what it depends on: grid, code, limits, maps and the epoch from which the code acts. Asked for again, it
is the same one, and goes on where the one before ended. How it is done (workers, pace) is not part of it.

    <log directory>/regeneration/<name>/p00007-0.piece      partition 7, pass 0          (journal/pieces.py)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, astuple, dataclass, fields
from typing import Any, Final

import msgspec
from tidegrid.grid.engine.catalogs import Catalogs
from tidegrid.grid.engine.replaying import ReplayCode
from tidegrid.grid.model.errors import ConfigurationError, EpochTooOldError, UnknownMapError, WrongKindError
from tidegrid.grid.model.ids import Epoch, PartitionId, Position
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.maps import MapKind, MapSpec
from tidegrid.grid.ring.control import ControlState

DIRECTORY: Final = "regeneration"
FORMAT: Final = 1  # of pieces
MADE: Final = 2  # goes up when passes write something else about the same logs
FROM_THE_BEGINNING: Final = Epoch(0)


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """`before`: the code acts from that epoch on, and all below it is closed. `through`: the generations are compared as
    of this closed epoch. `start`: writes of below it are not run again, what readers see of them is kept; 0: all are run. `tails`: of the cut at `through`, which is how far the logs are read."""

    name: str
    control: bytes
    limits: Limits
    maps: tuple[str, ...]
    before: Epoch
    through: Epoch
    tails: dict[PartitionId, Position]
    start: Epoch = FROM_THE_BEGINNING

    def to_plain(self) -> list[Any]:
        limits = list(asdict(self.limits).values())
        return [
            self.name, self.control, limits, list(self.maps), self.before, self.through, list(self.tails.items()),
            self.start,
        ]  # fmt: skip

    @classmethod
    def of_plain(cls, plain: list[Any]) -> ReplayPlan:
        name, control, limits, maps, before, through, tails, start = plain
        return cls(
            name,
            control,
            Limits(**dict(zip((field.name for field in fields(Limits)), limits, strict=True))),
            tuple(maps),
            Epoch(before),
            Epoch(through),
            {PartitionId(number): Position(position) for number, position in tails},
            Epoch(start),
        )

    def piece_name(self, number: PartitionId, depth: int) -> str:
        return f"p{number:05}-{depth}.piece"

    def identity(self, number: PartitionId, depth: int) -> bytes:
        return piece_identity(self.name, number, depth)


def piece_identity(name: str, number: PartitionId, depth: int) -> bytes:
    identity: bytes = msgspec.msgpack.encode([FORMAT, name, number, depth])
    return identity


def base_name(number: PartitionId) -> str:
    return f"p{number:05}.base"


def plan_of(
    control: ControlState, limits: Limits, names: Iterable[str], start: Epoch = FROM_THE_BEGINNING
) -> ReplayPlan:
    """Of these derived maps (none: all) by the code in force, over what was written from `start` on. Raises
    ConfigurationError, UnknownMapError, WrongKindError, EpochTooOldError."""
    deployed = control.deployment_at(Epoch(control.closed + 1))
    if deployed is None or not deployed.modules:
        raise ConfigurationError("no trigger code is deployed, so nothing derives a map; deploy some first")
    emitted = {spec.name: spec for spec in control.maps_at(Epoch(control.closed + 1)).values() if spec.derived}
    maps = tuple(sorted(_checked(emitted, control, names)))
    before = deployed.acts_at
    if start > control.closed:
        raise ConfigurationError(f"there is no epoch {start:,} yet; the newest that is closed is {control.closed:,}")
    if start >= before:
        raise ConfigurationError(
            f"the code in force has made everything from epoch {before:,} on, so there is nothing to run again from {start:,} on"
        )
    for name in maps if start else ():
        seen = control.generations.generation(name, control.generations.at(name, control.closed))
        if seen is not None and start <= seen.horizon:
            raise EpochTooOldError(
                f"what readers see of {name!r} was regenerated, and is known as of epoch {seen.horizon:,} and later: run again "
                "what was written from an epoch after that on, or everything (without --from)",
                requested=start,
                earliest=seen.horizon + 1,
            )
    facts = [MADE, control.grid_id, control.partitions, deployed.hash, before, maps, astuple(limits)]
    if start:
        facts += [start, [control.generations.at(name, control.closed) for name in maps]]
    name = hashlib.sha256(msgspec.msgpack.encode(facts)).hexdigest()[:24]
    return ReplayPlan(name, control.to_bytes(), limits, maps, before, control.closed, dict(control.tails), start)


def _checked(derived: dict[str, MapSpec], control: ControlState, names: Iterable[str]) -> Iterable[str]:
    chosen = list(dict.fromkeys(names))
    if not chosen:
        chosen = [name for name, spec in derived.items() if spec.kind is MapKind.TABLE]
        if not chosen:
            raise ConfigurationError("there is no derived table to regenerate; triggers emit to none")
    for name in chosen:
        spec = derived.get(name)
        if spec is None:
            if name not in control.declared:
                raise UnknownMapError.of(name, control.declared)
            raise WrongKindError(
                f"map {name!r} is written by clients, not by triggers: it is what others are made from", map=name
            )
        if spec.kind is not MapKind.TABLE:
            kind = spec.kind.name.lower()
            raise WrongKindError(
                f"map {name!r} is a {kind}; only derived tables are regenerated: what a stream has handed out stays as it "
                "was, and triggers have looked up what a reference map held",
                map=name,
                kind=kind,
            )
    return chosen


def code_of(plan: ReplayPlan, control: ControlState, catalogs: Catalogs) -> ReplayCode:
    """Loads the code. Raises TriggerModuleError."""
    catalog = catalogs.at(Epoch(plan.through + 1))
    assert catalog.runtime is not None
    seed = int.from_bytes(control.grid_id[:8], "big")
    specs = {name: entry.spec for name, entry in catalog.maps.items()}
    return ReplayCode(catalog.runtime, specs, plan.maps, plan.before, control.limit_span, seed, plan.limits, plan.start)
