"""The effects of a trigger module: found and run as a node would run it, the triggers in it left alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tidegrid.grid.model.errors import ConfigurationError
from tidegrid.triggers.declare import declarations_of
from tidegrid.triggers.deployment import content_hash
from tidegrid.triggers.effect import EffectDeclaration
from tidegrid.triggers.loader import execute
from tidegrid.triggers.resolve import module_error
from tidegrid.triggers.sources import find_module


@dataclass(frozen=True, slots=True)
class EffectModule:
    """`namespace` is the module's own: frames with these globals are the author's."""

    name: str
    effects: tuple[EffectDeclaration, ...]
    namespace: dict[str, Any]

    def only(self, names: Iterable[str]) -> EffectModule:
        """With these effects alone. Raises ConfigurationError."""
        wanted = set(names)
        missing = wanted - {effect.name for effect in self.effects}
        if missing:
            known = ", ".join(effect.name for effect in self.effects)
            raise ConfigurationError(
                f"module {self.name!r} has no effect {', '.join(map(repr, sorted(missing)))}; it has {known}"
            )
        return EffectModule(
            self.name, tuple(effect for effect in self.effects if effect.name in wanted), self.namespace
        )


def effect_module(module: ModuleType | Path | str) -> EffectModule:
    """`flights.py`, `pkg.flights`, or a module that is imported already.

    Raises TriggerModuleError: it does not load, has two effects of one name, or none.
    """
    if isinstance(module, ModuleType):
        name, namespace = module.__name__, module.__dict__
    else:
        source = find_module(module)
        name, namespace = source.name, execute(source, content_hash([source]))
    effects = tuple(declarations_of(namespace).effects)
    if not effects:
        raise module_error(name, 0, "declares no effect; put @effect(on=...) on a function")
    lines: dict[str, int] = {}
    for effect in effects:
        if effect.name in lines:
            raise module_error(
                name,
                effect.line,
                f"an effect named {effect.name!r} is declared in line {lines[effect.name]} already; give one of them a name=",
            )
        lines[effect.name] = effect.line
    return EffectModule(name, effects, namespace)
