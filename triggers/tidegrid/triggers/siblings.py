"""How the modules of one deployment import one another: from the deployment, never from what a node has installed.

`from .rows import typed`, `from flights.rows import typed` and `import flights.rows` all find the module that was
deployed beside this one. Each load of a deployment has modules of its own, so two nodes of one process, or two
deployments with a module of one name, do not meet. Whatever is not of the deployment is imported as ever.

A module runs when it is first imported, and once; a circle of imports sees what is there so far, as in Python.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from tidegrid.triggers.deployment import Module

Prepare = Callable[[ModuleType], None]
Execute = Callable[[Module, Prepare], dict[str, Any]]
"""Runs a module's code in a new namespace, which `Prepare` sees first."""


class Siblings:
    def __init__(self, sources: Sequence[Module], execute: Execute) -> None:
        self._sources = {module.name: module for module in sources}
        self._packages = {name[:at] for name in self._sources for at in _dots(name)}
        self._execute = execute
        self._made: dict[str, ModuleType] = {}
        self._builtins = {**vars(builtins), "__import__": self._import}

    def namespace(self, name: str) -> dict[str, Any]:
        """Of a module, whose code runs now unless it has. Raises what `execute` raises."""
        return self._module(name).__dict__

    def _module(self, name: str) -> ModuleType:
        made = self._made.get(name)
        if made is None:
            parent, _, leaf = name.rpartition(".")
            if parent:
                self._module(parent)
            made = self._made.get(name)  # its package may have imported it
            if made is None:
                if name in self._sources:
                    self._run(name)
                    made = self._made[name]
                else:
                    made = self._made[name] = ModuleType(name)
            if parent:
                setattr(self._made[parent], leaf, made)
        return made

    def _run(self, name: str) -> None:
        def prepare(made: ModuleType) -> None:
            self._made[name] = made
            if len(self._sources) > 1:
                made.__dict__["__builtins__"] = self._builtins
                made.__package__ = name if name in self._packages else name.rpartition(".")[0]

        try:
            self._execute(self._sources[name], prepare)
        except BaseException:
            self._made.pop(name, None)
            raise

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """As `builtins.__import__`."""
        wanted = _absolute(name, str((globals or {}).get("__package__") or ""), level) if level else name
        if not self._has(wanted):
            if level or self._has(wanted.partition(".")[0]):
                raise ImportError(f"the deployment has no module {wanted!r}; deploy the whole package, or all files")
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        module = self._module(wanted)
        if not fromlist:
            return self._made[wanted.partition(".")[0]]
        for part in fromlist:
            if not hasattr(module, part) and self._has(f"{wanted}.{part}"):
                self._module(f"{wanted}.{part}")
        return module

    def _has(self, name: str) -> bool:
        return name in self._sources or name in self._packages


def _dots(name: str) -> list[int]:
    return [at for at, character in enumerate(name) if character == "."]


def _absolute(name: str, package: str, level: int) -> str:
    """Raises ImportError."""
    parts = package.split(".") if package else []
    if level > len(parts):
        raise ImportError("a relative import that leaves the package; deploy the folder that holds it all")
    return ".".join([*parts[: len(parts) - level + 1], *([name] if name else [])])
