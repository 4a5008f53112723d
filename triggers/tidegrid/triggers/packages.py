"""Finds the source text of what somebody wants to deploy: files, packages (folders), installed modules and packages.

A package is deployed whole: each of its modules becomes one module of the deployment, under its dotted name, so that
they can import one another (siblings.py). Reads files, runs nothing of them.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path

from tidegrid.grid.model.errors import TriggerModuleError
from tidegrid.triggers.deployment import Module
from tidegrid.triggers.resolve import module_error
from tidegrid.triggers.sources import find_module, origin_of

INIT = "__init__.py"


def find_sources(names: Iterable[str | Path]) -> tuple[Module, ...]:
    """The modules of all names, in order. Raises TriggerModuleError."""
    return tuple(module for name in names for module in _find(name))


def files_of(names: Iterable[str | Path]) -> tuple[Path, ...]:
    """The files that these names are read from, as far as there are any now: what to watch."""
    found: list[Path] = []
    for name in names:
        folder = _folder(name)
        if folder is not None:
            found.extend(path for path, _ in _members(folder, folder.name))
        elif _is_path(name):
            found.append(Path(name))
        else:
            with contextlib.suppress(TriggerModuleError):
                found.append(origin_of(str(name)))
    return tuple(found)


def _find(name: str | Path) -> tuple[Module, ...]:
    text = str(name)
    folder = _folder(name)
    if folder is None:
        if Path(name).is_dir():
            raise module_error(
                text, 0, f"{text} is a folder without {INIT}, so it is no package; name a .py file in it, or add {INIT}"
            )
        return (find_module(name),)
    package = folder.name if _is_path(name) else text
    if not all(part.isidentifier() for part in package.split(".")):
        raise module_error(
            package, 0, f"the folder {folder} cannot be a package: its name is no Python name; rename it"
        )
    return tuple(Module(module, find_module(path).source) for path, module in _members(folder, package))


def _is_path(name: str | Path) -> bool:
    return isinstance(name, Path) or Path(name).is_dir() or str(name).endswith(".py") or "/" in str(name)


def _folder(name: str | Path) -> Path | None:
    """That of a package; None for what is one module."""
    path = Path(name).resolve()
    if path.is_dir():
        return path if (path / INIT).is_file() else None
    text = str(name)
    if _is_path(name) or not all(part.isidentifier() for part in text.split(".")):
        return None
    try:
        spec = importlib.util.find_spec(text)
    except Exception:  # find_module says it
        return None
    if spec is None or spec.origin is None or Path(spec.origin).name != INIT:
        return None
    return Path(spec.origin).parent


def _members(folder: Path, package: str) -> list[tuple[Path, str]]:
    """(file, dotted name), packages before what is in them."""
    members: list[tuple[Path, str]] = []
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder).with_suffix("").parts
        if all(part.isidentifier() for part in parts):
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            members.append((path, ".".join((package, *parts))))
    return sorted(members, key=lambda member: member[1])
