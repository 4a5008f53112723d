"""Names of a module's source and what they are bound to: imports, module-level objects, parameters, local variables.

Read from the syntax tree alone, for contract.py. Python's own rules, with two simplifications: the target of a
comprehension counts as local to its function, and a class body adds nothing to the module around it.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from tidegrid.triggers.impurities import CONTAINERS, rule_of

FunctionNode: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Resolve: TypeAlias = Callable[[ast.AST], "tuple[str, Binding | None]"]

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_DISPLAYS = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)


@dataclass(slots=True)
class Binding:
    """`name`: the dotted name it stands for, "" if it stands for none. `node`: the import.

    `kept`: it outlives a call; `container`: and is a list, dict or set. `what` says it in words.
    """

    name: str = ""
    node: ast.AST | None = None
    kept: bool = False
    container: bool = False
    what: str = ""
    used: bool = False


@dataclass(slots=True)
class Scope:
    """`stored`: every name that is assigned to; `trigger`: the function of a trigger."""

    names: dict[str, Binding] = field(default_factory=dict)
    stored: set[str] = field(default_factory=set)
    imports: list[Binding] = field(default_factory=list)
    trigger: bool = False


def module_scope(tree: ast.Module) -> Scope:
    scope = Scope()

    def resolve(node: ast.AST) -> tuple[str, Binding | None]:
        return _dotted(node, scope)

    _bind(scope, tree.body, resolve, kept="the module's ")
    return scope


def function_scope(node: FunctionNode, resolve: Resolve) -> Scope:
    """`resolve` looks names up in the scopes around."""
    scope = Scope(trigger=not isinstance(node, ast.Lambda) and decorated_as(node, "trigger"))
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    defaults += arguments.defaults
    pairs = [*zip(positional, defaults, strict=True), *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    for argument, default in pairs:
        scope.names[argument.arg] = Binding()
        if default is not None and _is_container(default, resolve):
            what = f"the default of {argument.arg}, which is kept from one call to the next"
            scope.names[argument.arg] = Binding(kept=True, container=True, what=what)
    for extra in (arguments.vararg, arguments.kwarg):
        if extra is not None:
            scope.names[extra.arg] = Binding()
    if not isinstance(node, ast.Lambda):
        _bind(scope, node.body, resolve, kept="")
    return scope


def runs_here(test: ast.expr) -> bool:
    """False for `if __name__ == "__main__"` and `if TYPE_CHECKING`: what is under these runs in no grid."""
    if isinstance(test, ast.Compare) and isinstance(test.left, ast.Name) and test.left.id == "__name__":
        return not isinstance(test.ops[0], ast.Eq)
    return ast.unparse(test).rpartition(".")[2] != "TYPE_CHECKING"


def decorated_as(node: ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> bool:
    """Whether it has a decorator of this name, as in `@effect(...)`, `@triggers.effect(...)` or `@effect`."""
    for decorator in node.decorator_list:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        last = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
        if last == name:
            return True
    return False


def _bind(scope: Scope, body: Sequence[ast.stmt], resolve: Resolve, kept: str) -> None:
    """Everything that these statements bind, nested functions and classes left out. `kept`: of a module, not a call."""
    elsewhere: set[str] = set()
    nodes = list(own_nodes(body))
    for node in nodes:
        if isinstance(node, ast.Global | ast.Nonlocal):
            elsewhere.update(node.names)
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name, dotted in _imported(node):
                binding = Binding(dotted, node, kept=True, what=f"the module's {name}")
                scope.imports.append(binding)
                if name != "*":
                    scope.names[name] = binding
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            scope.names.setdefault(node.name, Binding(kept=bool(kept), what=f"{kept}{node.name}"))
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            scope.stored.add(node.id)
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            scope.stored.add(node.name)
    for name in scope.stored - elsewhere:
        scope.names.setdefault(name, Binding(kept=bool(kept), what=f"{kept}{name}"))
    for node in nodes:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name) and target.id not in elsewhere:
                    _describe(scope, target.id, node.value, resolve)


def _describe(scope: Scope, name: str, value: ast.expr, resolve: Resolve) -> None:
    """A module-level container, or another name for something else."""
    binding = scope.names[name]
    if binding.kept and _is_container(value, resolve):
        binding.container = True
    elif isinstance(value, ast.Name | ast.Attribute) and not binding.name:
        dotted, through = resolve(value)
        if through is not None and (dotted or (isinstance(value, ast.Name) and through.kept)):
            told = rule_of(dotted) is not None  # where it got this name
            name_here = "" if told else dotted
            scope.names[name] = Binding(name_here, through.node, through.kept, through.container, through.what)


def _is_container(value: ast.expr, resolve: Resolve) -> bool:
    if isinstance(value, _DISPLAYS):
        return True
    return isinstance(value, ast.Call) and resolve(value.func)[0] in CONTAINERS


def _dotted(node: ast.AST, scope: Scope) -> tuple[str, Binding | None]:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return "", None
    binding = scope.names.get(node.id)
    name = "builtins." + node.id if binding is None else binding.name
    return (".".join((name, *reversed(parts))) if name else ""), binding


def _imported(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
    """(local name, dotted name)"""
    for alias in node.names:
        if isinstance(node, ast.Import):
            yield (alias.asname, alias.name) if alias.asname else (alias.name.split(".")[0], alias.name.split(".")[0])
        elif node.level == 0:
            name = f"{node.module}.{alias.name}" if alias.name != "*" else f"{node.module}"
            yield alias.asname or alias.name, name


def own_nodes(body: Sequence[ast.AST]) -> Iterator[Any]:
    """The nodes of a body, without those inside nested functions and classes, but with these themselves."""
    for node in body:
        yield node
        if isinstance(node, ast.If) and not runs_here(node.test):
            yield from own_nodes(node.orelse)
        elif not isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            yield from own_nodes(list(ast.iter_child_nodes(node)))
