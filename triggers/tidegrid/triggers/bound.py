"""Maps and triggers as the runtime holds them: everything that can be known before a write comes is computed here.

A `BoundMap` is one map of the grid, with the triggers on it; the engine knows it as the map's *program*. A trigger on
two maps is bound twice, because a `Target` says what holds between one source and one target.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tidegrid.grid.model.errors import TriggerSuspendedError
from tidegrid.grid.model.keys import key_pattern
from tidegrid.grid.model.maps import MapKind, MapSpec
from tidegrid.triggers.deployment import TriggerSpec
from tidegrid.triggers.key_reader import key_reader
from tidegrid.triggers.typed import function_of

PUT: Final = 1
DELETE: Final = 2
EVENT: Final = 3
MERGE: Final = 4
OP_NAMES: Final = ("", "put", "delete", "event", "merge")

Output = tuple[int, str, bytes, bytes | None]
"""(op, map, encoded key, encoded value; None for a delete). A plain tuple: one is made per output."""

Routed = tuple[int, int, Output]
"""(partition, how many triggers lie behind it, output)"""


class BoundMap:
    """`partition_of` and `read_key` take an encoded key. `triggers` is filled once all maps are there."""

    __slots__ = ("kind", "name", "partition_of", "reach", "read_key", "schema", "spec", "triggers")

    def __init__(self, spec: MapSpec, partition_of: Callable[[bytes], int]) -> None:
        self.name = spec.name
        self.kind = spec.kind
        self.schema = spec.schema
        self.spec = spec
        self.partition_of = partition_of
        self.read_key = key_reader(spec.key)
        self.triggers: tuple[BoundTrigger, ...] = ()
        self.reach = Reach((), 0.0)


class Reach:
    """What a write may set off in its partition, chains included. `budget`: the largest of the triggers' own, in seconds.

    `isolated`: one of them runs in worker processes, so all of them do. `targets`: the maps that they emit to.
    """

    __slots__ = ("blamed", "budget", "isolated", "targets", "triggers")

    def __init__(self, triggers: tuple[BoundTrigger, ...], budget: float) -> None:
        self.triggers = triggers
        self.budget = max((one.spec.budget if one.spec.budget is not None else budget for one in triggers), default=0.0)
        apart = [one.spec for one in triggers if one.spec.isolation == "process"]
        self.isolated = bool(apart)
        self.blamed = apart[0] if apart else None  # when nobody can say which one it was
        self.targets = {name: target for one in triggers for name, target in one.targets.items()}


class Target:
    """A map that a trigger may emit to.

    `same_key`: a key of the source is a key of the target, in the same partition, so its bytes can be used as they are.
    `matches` accepts exactly the encoded keys of the target; None where any key will do. `takes`: ops.
    """

    __slots__ = ("map", "matches", "name", "same_key", "takes")

    def __init__(self, source: BoundMap, target: BoundMap) -> None:
        self.map = target
        self.name = target.name
        self.takes = _takes(target.spec)
        self.matches = key_pattern(target.spec.key).fullmatch if target.spec.key else None
        self.same_key = same_partition(source.spec, target.spec) and (
            not target.spec.key or _types(source.spec) == _types(target.spec)
        )


class BoundTrigger:
    __slots__ = ("function", "generator", "schema", "spec", "takes_context", "targets")

    def __init__(self, spec: TriggerSpec, targets: dict[str, Target]) -> None:
        self.spec = spec
        self.schema = spec.schema
        self.targets = targets
        self.function: Callable[..., Any]
        self.resume()

    def resume(self) -> None:
        self.function = function_of(self.spec)
        self.takes_context = self.spec.takes_context
        self.generator = self.spec.generator

    def suspend(self, why: str) -> None:
        """It is not run any more, and fails on every write."""

        def refuse(_: object) -> None:
            raise TriggerSuspendedError(why)

        self.function, self.takes_context, self.generator = refuse, False, False


def reach_of(program: BoundMap, budget: float) -> Reach:
    """`budget`: of triggers that declare none."""
    found: dict[BoundTrigger, None] = {}
    maps, seen = [program], {program.name}
    while maps:
        for trigger in maps.pop().triggers:
            found[trigger] = None
            for target in trigger.targets.values():
                if target.name not in seen:
                    seen.add(target.name)
                    maps.append(target.map)
    return Reach(tuple(found), budget)


def same_partition(one: MapSpec, other: MapSpec) -> bool:
    """Whether equal keys of the two maps are in one partition, whatever the key."""
    return one.affinity == other.affinity


def _takes(spec: MapSpec) -> frozenset[int]:
    if spec.kind is MapKind.STREAM:
        return frozenset((EVENT,))
    return frozenset((PUT, DELETE, MERGE) if spec.merged else (PUT, DELETE))


def _types(spec: MapSpec) -> tuple[str, ...]:
    return tuple(field.type for field in spec.key)
