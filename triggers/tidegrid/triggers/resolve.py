"""From the declarations of all modules to map specs and triggers, with every name checked.

1. A map is declared once (the same declaration in two modules counts as one). `like` lends key and affinity.
2. A stream without a key takes key and affinity of the map whose trigger emits to it, if all its triggers agree.
3. A map that receives outputs, or has a fold, is derived. It is not a reference map, and not one that was written
   directly before. Triggers run on no map with a fold: its values are not final before their epoch is closed.
4. A trigger has a name of its own, runs on maps that exist, emits to maps that exist, and not to the map it runs on.

Errors are TriggerModuleError with module and line of the declaration at fault.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tidegrid.grid.model.errors import ConfigurationError, TriggerModuleError, UnknownMapError
from tidegrid.grid.model.maps import KeyField, MapKind, MapSpec
from tidegrid.triggers.declare import Declarations, MapDeclaration, TriggerDeclaration, declarations_of
from tidegrid.triggers.deployment import TriggerSpec


class LoadedModule(NamedTuple):
    """A module after its code ran."""

    name: str
    namespace: dict[str, Any]

    @property
    def declarations(self) -> Declarations:
        return declarations_of(self.namespace)


class _Placed(NamedTuple):
    module: str
    declaration: MapDeclaration


def module_error(module: str, line: int, text: str) -> TriggerModuleError:
    where = f"trigger module {module!r}, line {line}" if line else f"trigger module {module!r}"
    return TriggerModuleError(f"{where}: {text}", module=module, line=line)


def resolve(
    modules: Sequence[LoadedModule], known: Mapping[str, MapSpec]
) -> tuple[tuple[MapSpec, ...], tuple[TriggerSpec, ...]]:
    """Maps and triggers of a deployment. `known` are the maps that the grid has already."""
    placed = _collect(modules)
    specs = {name: _spec(name, placed, known, ()) for name in placed}
    names = {**known, **specs}
    for module in modules:
        for trigger in module.declarations.triggers:
            _check_trigger(module.name, trigger, names, specs)
    _check_trigger_names(modules)
    triggers = [trigger for module in modules for trigger in module.declarations.triggers]
    _lend_keys_to_streams(placed, specs, known, triggers)
    emitted = {name for trigger in triggers for name in trigger.emits}
    maps = tuple(_finish(placed[name], spec, name in emitted, known.get(name)) for name, spec in specs.items())
    return maps, tuple(_bind(module, trigger) for module in modules for trigger in module.declarations.triggers)


def _collect(modules: Sequence[LoadedModule]) -> dict[str, _Placed]:
    placed: dict[str, _Placed] = {}
    for module in modules:
        for declared in module.declarations.maps:
            before = placed.setdefault(declared.name, _Placed(module.name, declared))
            if _comparable(declared) != _comparable(before.declaration):
                raise module_error(
                    module.name,
                    declared.line,
                    f"map {declared.name!r} is declared differently in module {before.module!r}, line {before.declaration.line}; "
                    "declare it once, or twice alike",
                )
    return placed


def _comparable(declared: MapDeclaration) -> MapDeclaration:
    """Two folds of one name are two functions, and count as alike; the module's own comes last."""
    return dataclasses.replace(declared, line=0, fold=None if declared.fold is None else _no_fold)


def _no_fold(state: Any, _operand: Any) -> Any:
    return state


def _spec(name: str, placed: Mapping[str, _Placed], known: Mapping[str, MapSpec], asked: tuple[str, ...]) -> MapSpec:
    """The spec as declared, `like` followed. `asked` are the maps that led here by their `like`."""
    if name not in placed:
        return known[name]
    module, declared = placed[name]
    key, affinity = declared.key, declared.affinity
    if declared.like is not None:
        if declared.like not in placed and declared.like not in known:
            problem = UnknownMapError.of(declared.like, [*placed, *known])
            raise module_error(module, declared.line, f"map {name!r} is like={declared.like!r}, but {problem.message}")
        if declared.like == name or declared.like in asked:
            raise module_error(
                module,
                declared.line,
                f"map {name!r} is declared like itself, by way of {declared.like!r}; give one a key=",
            )
        model = _spec(declared.like, placed, known, (*asked, name))
        key, affinity = model.key, model.affinity if affinity is None else affinity
    try:
        merged = declared.fold is not None
        return MapSpec(name, declared.kind, key or (), affinity or 0, merged, declared.schema, merged).validate()
    except ConfigurationError as error:
        raise module_error(module, declared.line, error.message) from None


def _check_trigger(
    module: str, trigger: TriggerDeclaration, names: Mapping[str, MapSpec], own: Mapping[str, MapSpec]
) -> None:
    for role, wanted in (("on", trigger.on), ("emits", trigger.emits)):
        for name in wanted:
            if name not in names:
                problem = UnknownMapError.of(name, names)
                raise module_error(module, trigger.line, f"trigger {trigger.name!r} {role} {name!r}: {problem.message}")
    for name in trigger.on:
        if names[name].merged:
            raise module_error(
                module,
                trigger.line,
                f"trigger {trigger.name!r} runs on {name!r}, a map with a fold, whose values are not final before their epoch "
                "is closed; put it on what is merged into that map",
            )
    for name in trigger.emits:
        if names[name].merged and name not in own:
            raise module_error(
                module,
                trigger.line,
                f"trigger {trigger.name!r} emits to {name!r}, whose fold is not in this deployment; declare that map here, with its fold",
            )
        if name in trigger.on:
            raise module_error(
                module,
                trigger.line,
                f"trigger {trigger.name!r} emits to {name!r}, the map it runs on, and would set itself off; emit to another map",
            )
        if names[name].kind is MapKind.REFERENCE:
            raise module_error(
                module,
                trigger.line,
                f"trigger {trigger.name!r} emits to {name!r}, a reference map; triggers read those and clients write them: make it a table",
            )
        if name not in own and not names[name].derived:
            raise module_error(module, trigger.line, _written_directly(trigger.name, name))


def _written_directly(trigger: str, name: str) -> str:
    return (
        f"trigger {trigger!r} emits to {name!r}, a map that clients write directly; "
        "a map has one master: emit to a map of its own, and declare that here"
    )


def _check_trigger_names(modules: Sequence[LoadedModule]) -> None:
    seen: dict[str, tuple[str, int]] = {}
    for module in modules:
        for trigger in module.declarations.triggers:
            if trigger.name in seen:
                where, line = seen[trigger.name]
                raise module_error(
                    module.name,
                    trigger.line,
                    f"a trigger named {trigger.name!r} is defined in module {where!r}, line {line} already; rename one of them",
                )
            seen[trigger.name] = (module.name, trigger.line)


def _lend_keys_to_streams(
    placed: Mapping[str, _Placed],
    specs: dict[str, MapSpec],
    known: Mapping[str, MapSpec],
    triggers: Sequence[TriggerDeclaration],
) -> None:
    """Repeats until nothing changes: a stream may take its key from a stream that took its own."""
    lenders = {
        name: [source for trigger in triggers if name in trigger.emits for source in trigger.on]
        for name, (_, declared) in placed.items()
        if declared.kind is MapKind.STREAM and declared.key is None and declared.like is None
    }
    for _ in range(len(lenders)):
        for name, sources in lenders.items():
            lent: set[tuple[tuple[KeyField, ...], int]] = set()
            for source in sources:
                model = specs.get(source) or known[source]
                lent.add((model.key, model.affinity))
            if len(lent) == 1:
                key, affinity = lent.pop()
                if (chosen := placed[name].declaration.affinity) is not None:
                    affinity = chosen
                specs[name] = dataclasses.replace(specs[name], key=key, affinity=affinity)


def _finish(placed: _Placed, spec: MapSpec, emitted: bool, before: MapSpec | None) -> MapSpec:
    module, declared = placed
    if before is not None:
        if (before.kind, before.key, before.affinity, before.merged) != (
            spec.kind,
            spec.key,
            spec.affinity,
            spec.merged,
        ):
            raise module_error(
                module,
                declared.line,
                f"map {spec.name!r} exists with another kind, key or affinity, or without a fold; those stay as they are for its life: use another name",
            )
        if emitted and not before.derived:
            raise module_error(module, declared.line, _written_directly("of this deployment", spec.name))
        emitted = emitted or before.derived
    emitted = emitted or spec.merged
    try:
        return dataclasses.replace(spec, derived=emitted).validate()
    except ConfigurationError as error:
        raise module_error(module, declared.line, error.message) from None


def _bind(module: LoadedModule, trigger: TriggerDeclaration) -> TriggerSpec:
    return TriggerSpec(
        name=trigger.name,
        module=module.name,
        line=trigger.line,
        function=trigger.function,
        on=trigger.on,
        emits=trigger.emits,
        schema=trigger.schema,
        takes_context=trigger.takes_context,
        generator=trigger.generator,
        namespace=module.namespace,
        value=trigger.value,
        on_error=trigger.on_error,
        isolation=trigger.isolation,
        budget=trigger.budget,
    )
