"""What a trigger module says it needs of the node that runs it.

    __requires__ = ("numpy>=1.26", "python>=3.12")

Names are those of distributions, as pip knows them; `python` is the interpreter. The statement is read from the
source text before any of it runs, so that a node can say what to install instead of which import failed. What is
installed is for the shells above to find out.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from typing import Final

from tidegrid.triggers.deployment import Module
from tidegrid.triggers.resolve import module_error

NAME: Final = "__requires__"
_FORM: Final = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\s*((===|[<>=!~]=|[<>])\s*[^\s,;]+(\s*,\s*(===|[<>=!~]=|[<>])\s*[^\s,;]+)*)?"
)


def requirements_of(modules: Iterable[Module]) -> tuple[str, ...]:
    """Of all modules, each once, in order. Raises TriggerModuleError for a statement that is no list of requirements."""
    found: dict[str, None] = {}
    for module in modules:
        found.update(dict.fromkeys(_of_module(module)))
    return tuple(found)


def _of_module(module: Module) -> tuple[str, ...]:
    try:
        tree = ast.parse(module.source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ()  # the loader says it better
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target, value = statement.targets[0], statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            target, value = statement.target, statement.value
        else:
            continue
        if isinstance(target, ast.Name) and target.id == NAME:
            return _listed(module.name, statement.lineno, value)
    return ()


def _listed(module: str, line: int, value: ast.expr) -> tuple[str, ...]:
    try:
        listed = ast.literal_eval(value)
    except ValueError:
        listed = None
    names = [listed] if isinstance(listed, str) else listed
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise module_error(module, line, f"{NAME} is a plain tuple of text, such as {NAME} = ('numpy>=1.26',)")
    for name in names:
        if not _FORM.fullmatch(name.strip()):
            raise module_error(
                module, line, f"{NAME} has {name!r}; write a name, or a name and versions, such as 'numpy>=1.26,<3'"
            )
    return tuple(name.strip() for name in names)
