"""Maps and triggers as the runtime holds them: everything that can be known before a write comes is computed here.

A `BoundMap` is one map of the grid, with the triggers on it; the engine knows it as the map's *program*. A trigger on
two maps is bound twice, because a `Target` says what holds between one source and one target.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

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

    __slots__ = ("kind", "name", "partition_of", "read_key", "schema", "spec", "triggers")

    def __init__(self, spec: MapSpec, partition_of: Callable[[bytes], int]) -> None:
        self.name = spec.name
        self.kind = spec.kind
        self.schema = spec.schema
        self.spec = spec
        self.partition_of = partition_of
        self.read_key = key_reader(spec.key)
        self.triggers: tuple[BoundTrigger, ...] = ()


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
        self.function = function_of(spec)
        self.takes_context = spec.takes_context
        self.generator = spec.generator
        self.schema = spec.schema
        self.targets = targets


def same_partition(one: MapSpec, other: MapSpec) -> bool:
    """Whether equal keys of the two maps are in one partition, whatever the key."""
    return one.affinity == other.affinity


def _takes(spec: MapSpec) -> frozenset[int]:
    if spec.kind is MapKind.STREAM:
        return frozenset((EVENT,))
    return frozenset((PUT, DELETE, MERGE) if spec.merged else (PUT, DELETE))


def _types(spec: MapSpec) -> tuple[str, ...]:
    return tuple(field.type for field in spec.key)
