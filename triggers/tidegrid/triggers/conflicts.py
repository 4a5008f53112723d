"""What the declarations of a deployment say about each other that is likely a mistake, and yet lets it load.

    circle      triggers set one another off: the chain ends at the limit of its depth, with the write refused
    masters     two triggers write one table for the same writes, or from two maps: the later output wins
    schema      writes with the schema number of their map, which no trigger on it handles
    orphan      a derived map that no trigger emits to any more: nobody can write it

What cannot load at all (a map that clients write receives outputs, a map of another kind) is refused by resolve.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from tidegrid.grid.model.maps import MapKind, MapSpec
from tidegrid.triggers.deployment import Deployment, TriggerSpec


class Conflict(NamedTuple):
    rule: str
    module: str
    line: int
    words: str


def conflicts(deployment: Deployment, maps: Mapping[str, MapSpec]) -> list[Conflict]:
    """`maps` are all maps of the grid, those of the deployment included."""
    triggers = deployment.triggers
    return [*_circles(triggers), *_masters(triggers, maps), *_schemas(triggers, maps), *_orphans(triggers, maps)]


def _circles(triggers: Sequence[TriggerSpec]) -> Iterator[Conflict]:
    """Each circle once, from the trigger that comes first."""
    after: dict[str, list[tuple[str, TriggerSpec]]] = {}
    for trigger in triggers:
        for source in trigger.on:
            after.setdefault(source, []).extend((target, trigger) for target in trigger.emits)
    seen: set[frozenset[str]] = set()
    for start in after:
        path = _way_back(start, after)
        if path is not None and frozenset(path) not in seen:
            seen.add(frozenset(path))
            first = next(trigger for target, trigger in after[start] if target == path[1])
            yield Conflict(
                "circle", first.module, first.line,
                f"triggers set one another off: {' -> '.join(path)}; a write goes round until one emits nothing, and is "
                "refused when the chain gets too deep: emit to a map outside the circle",
            )  # fmt: skip


def _way_back(start: str, after: Mapping[str, list[tuple[str, TriggerSpec]]]) -> list[str] | None:
    """The shortest way from a map to itself, along what triggers emit."""
    paths, visited = [[start]], {start}
    for path in paths:
        for target, _ in after.get(path[-1], ()):
            if target == start:
                return [*path, start]
            if target not in visited:
                visited.add(target)
                paths.append([*path, target])
    return None


def _masters(triggers: Sequence[TriggerSpec], maps: Mapping[str, MapSpec]) -> Iterator[Conflict]:
    for at, one in enumerate(triggers):
        for other in triggers[at + 1 :]:
            shared = [name for name in one.emits if name in other.emits and maps[name].kind is MapKind.TABLE]
            if not shared:
                continue
            sources = set(one.on) & set(other.on)
            if sources and one.schema is not None and other.schema is not None and one.schema != other.schema:
                continue  # translators of two schemas
            where = f"for the same writes to {sorted(sources)[0]!r}" if sources else "from different maps"
            yield Conflict(
                "masters", other.module, other.line,
                f"triggers {one.name!r} and {other.name!r} both emit to {shared[0]!r}, {where}: where their keys meet, "
                "the later output wins; emit to a map each, or be sure that the keys differ",
            )  # fmt: skip


def _schemas(triggers: Sequence[TriggerSpec], maps: Mapping[str, MapSpec]) -> Iterator[Conflict]:
    by_source: dict[str, list[TriggerSpec]] = {}
    for trigger in triggers:
        for name in trigger.on:
            by_source.setdefault(name, []).append(trigger)
    for name, handlers in by_source.items():
        schema = maps[name].schema
        if all(trigger.schema is not None and trigger.schema != schema for trigger in handlers):
            handled = ", ".join(str(number) for number in sorted({trigger.schema or 0 for trigger in handlers}))
            yield Conflict(
                "schema", handlers[0].module, handlers[0].line,
                f"map {name!r} is declared with schema {schema}, which is that of writes that name none, and its triggers "
                f"handle schema {handled} only; add a trigger with schema={schema}, or one without",
            )  # fmt: skip


def _orphans(triggers: Sequence[TriggerSpec], maps: Mapping[str, MapSpec]) -> Iterator[Conflict]:
    emitted = {name for trigger in triggers for name in trigger.emits}
    for name, spec in maps.items():
        if spec.derived and name not in emitted:
            yield Conflict(
                "orphan", "", 0,
                f"map {name!r} is derived, and no trigger emits to it: it keeps what it has, and nobody can write it",
            )  # fmt: skip
