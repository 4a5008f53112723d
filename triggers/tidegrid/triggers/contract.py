"""What can be seen in the source of a trigger module, before it runs, of the contract that triggers are pure.

`findings(module_name, source)` reads the text and runs nothing. It resolves imports, aliases and scopes, so `time` as a
parameter is no clock and `from time import time as t` is one. What an @effect does is its own business, and so is what
only effects call, and what stands under `if __name__ == "__main__"` or `if TYPE_CHECKING`. An import counts where it is
used, or where it stands if nothing uses it.

    started = time.monotonic()  # tidegrid: allow clock

allows it knowingly, on that line; on the line of an import, wherever that import is used.

What a trigger that yields returns beside that is lost without a word at run time, so it is told here.

It sees names, not values: what a library does inside, what `getattr` finds, and what comes in as an argument, it cannot
see. It helps honest authors and holds nobody back (docs/triggers.md). Prior art: Bandit's and Ruff's checks by qualified
name; Temporal's workflow sandbox, for the list.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from tidegrid.triggers.impurities import LOCAL_TIME_WITHOUT, MUTATORS, PURE_WITH, RULES, rule_of
from tidegrid.triggers.resolve import module_error
from tidegrid.triggers.scopes import (
    Binding,
    FunctionNode,
    Scope,
    decorated_as,
    function_scope,
    module_scope,
    own_nodes,
    runs_here,
)

_ALLOW: Final = re.compile(r"#\s*tidegrid:\s*allow\s+([a-z]+(?:\s*,\s*[a-z]+)*)")


class Finding(NamedTuple):
    """`rule` is one of RULES; `words` say what the code does and what to use instead."""

    module: str
    line: int
    rule: str
    words: str

    def __str__(self) -> str:
        return f"trigger module {self.module!r}, line {self.line}: {self.words} [{self.rule}]"


def findings(module_name: str, source: str) -> list[Finding]:
    """In order of lines, each once. Raises TriggerModuleError for a source that is no Python."""
    try:
        tree = ast.parse(source)
        reader = _Reader(tree, _allowed(source))
        reader.read()
    except SyntaxError as error:
        raise module_error(module_name, error.lineno or 0, f"{error.msg}: {(error.text or '').strip()}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise module_error(module_name, 0, f"cannot be read: {error}") from None
    return [Finding(module_name, line, rule, text) for line, rule, text in sorted(set(reader.found))]


def _allowed(source: str) -> dict[int, frozenset[str]]:
    """Line -> rules that its comment allows."""
    allowed: dict[int, frozenset[str]] = {}
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT and (said := _ALLOW.search(token.string)) is not None:
                allowed[token.start[0]] = frozenset(name.strip() for name in said[1].split(","))
    except (tokenize.TokenError, SyntaxError):  # what follows is not code, or `ast` would have complained
        pass
    return allowed


class _Reader:
    """Walks the tree with the scopes that are open. `statement` is the simple statement around, for its lines."""

    def __init__(self, tree: ast.Module, allowed: dict[int, frozenset[str]]) -> None:
        self.found: list[tuple[int, str, str]] = []
        self._tree = tree
        self._allowed = allowed
        self._scopes: list[Scope] = [module_scope(tree)]
        self._statement: ast.stmt | None = None
        self._exempt = _of_effects_alone(tree)

    def read(self) -> None:
        self._all(self._tree.body)
        self._unused_imports(self._scopes[0])

    # The walk ----------------------------------------------------------------------------------------------------

    def _all(self, nodes: list[Any]) -> None:
        for node in nodes:
            self._visit(node)

    def _visit(self, node: ast.AST) -> None:
        before = self._statement
        if isinstance(node, ast.stmt):
            self._statement = node if not hasattr(node, "body") else None
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            self._function(node)
        elif isinstance(node, ast.If) and not runs_here(node.test):
            self._all(node.orelse)
        elif isinstance(node, ast.Attribute | ast.Name):
            self._name(node, None)
        elif isinstance(node, ast.Call):
            self._call(node)
        else:
            if len(self._scopes) > 1:
                self._kept(node)
            annotation = self._annotation(node.annotation) if isinstance(node, ast.AnnAssign) else None
            self._all([child for child in ast.iter_child_nodes(node) if child is not annotation])
        self._statement = before

    def _function(self, node: FunctionNode) -> None:
        if not isinstance(node, ast.Lambda):
            self._all(node.decorator_list)
            for annotated in (node, *ast.walk(node.args)):
                self._annotation(getattr(annotated, "returns", None) or getattr(annotated, "annotation", None))
        self._all([*node.args.defaults, *(default for default in node.args.kw_defaults if default is not None)])
        outside = len(self._scopes) == 1 and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        exempt = outside and node.name in self._exempt  # type: ignore[union-attr]
        found = len(self.found)
        self._scopes.append(function_scope(node, self._resolved))
        self._all([node.body] if isinstance(node, ast.Lambda) else node.body)
        if self._scopes[-1].trigger:
            self._dropped(own_nodes(node.body))  # type: ignore[arg-type]
        self._unused_imports(self._scopes.pop())
        if exempt:
            del self.found[found:]

    def _annotation(self, node: ast.expr | None) -> ast.expr | None:
        """Says what types there are, and does nothing: what it names is used, harmlessly."""
        for inner in ast.walk(node) if node is not None else ():
            if isinstance(inner, ast.Name) and (binding := self._resolved(inner)[1]) is not None:
                binding.used = True
        return node

    def _kept(self, node: ast.AST) -> None:
        """Statements in a function that leave something behind."""
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Delete | ast.For):
            targets = node.targets if isinstance(node, ast.Assign | ast.Delete) else [node.target]
            for target in targets:
                self._stored(target)
        elif isinstance(node, ast.Global):
            names = [name for name in node.names if name in self._scopes[-1].stored]
            if names:
                self._note(node, "globals", f"changes the module's {', '.join(names)}", None)
        elif isinstance(node, ast.Nonlocal) and self._scopes[-1].trigger:
            self._note(node, "globals", f"keeps {', '.join(node.names)} from one call to the next", None)

    def _dropped(self, nodes: Iterable[ast.AST]) -> None:
        """`return output` where other outputs are yielded."""
        seen = list(nodes)
        if any(isinstance(node, ast.Yield | ast.YieldFrom) for node in seen):
            for node in seen:
                if isinstance(node, ast.Return) and not (
                    node.value is None or (isinstance(node.value, ast.Constant) and node.value.value is None)
                ):
                    self._note(node, "dropped", f"returns {ast.unparse(node.value):.60}", None)

    def _unused_imports(self, scope: Scope) -> None:
        for binding in scope.imports:
            if not binding.used and binding.node is not None and (rule := rule_of(binding.name)) is not None:
                self._note(binding.node, rule, f"imports {binding.name}", None)

    # Names -------------------------------------------------------------------------------------------------------

    def _resolved(self, node: ast.AST) -> tuple[str, Binding | None]:
        """The dotted name that an expression stands for ("" if none), and the binding it goes through."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return "", None
        for scope in reversed(self._scopes):
            if (binding := scope.names.get(node.id)) is not None:
                return (".".join((binding.name, *reversed(parts))) if binding.name else ""), binding
        return ".".join(("builtins", node.id, *reversed(parts))), None

    def _name(self, node: ast.Attribute | ast.Name, call: ast.Call | None) -> None:
        name, binding = self._resolved(node)
        if binding is not None and isinstance(node.ctx, ast.Load):
            binding.used = True
        if not name:
            if isinstance(node, ast.Attribute):
                self._visit(node.value)
            return
        if call is not None:
            given = len(call.args) + len(call.keywords)
            if given >= PURE_WITH.get(name, 99):
                return
            if given < LOCAL_TIME_WITHOUT.get(name, 0):
                text = f"converts to the time zone of the machine ({name}); name a zone, such as datetime.UTC: machines differ"
                self._note(node, "environment", text, binding, advice=False)
        rule = rule_of(name)
        if rule is not None and isinstance(node.ctx, ast.Load):
            self._note(node, rule, f"uses {name.removeprefix('builtins.')}", binding)

    def _call(self, node: ast.Call) -> None:
        function = node.func
        if isinstance(function, ast.Attribute | ast.Name):
            self._name(function, node)
        else:
            self._visit(function)
        self._all([*node.args, *node.keywords])
        if len(self._scopes) == 1:
            return
        if isinstance(function, ast.Attribute) and function.attr in MUTATORS:
            kept = self._root(function.value)
            if kept is not None and kept.container:
                self._note(node, "globals", f"changes {kept.what}", kept)
        if isinstance(function, ast.Name) and function.id == "next" and node.args:
            kept = self._root(node.args[0])
            if kept is not None and kept.kept:
                self._note(node, "globals", f"moves {kept.what} on", kept)

    # Kept state --------------------------------------------------------------------------------------------------

    def _stored(self, target: ast.AST) -> None:
        if isinstance(target, ast.Tuple | ast.List):
            for element in target.elts:
                self._stored(element)
        elif isinstance(target, ast.Starred):
            self._stored(target.value)
        elif isinstance(target, ast.Attribute | ast.Subscript):
            kept = self._root(target)
            if kept is not None and kept.kept:
                self._note(target, "globals", f"changes {kept.what}", kept)

    def _root(self, node: ast.AST) -> Binding | None:
        """What `a.b["c"]` hangs on, if that outlives the call."""
        while isinstance(node, ast.Attribute | ast.Subscript):
            node = node.value
        return self._resolved(node)[1]

    # Findings ----------------------------------------------------------------------------------------------------

    def _note(self, node: ast.AST, rule: str, text: str, binding: Binding | None, *, advice: bool = True) -> None:
        around: Any = self._statement or node
        lines = {*range(around.lineno, (around.end_lineno or around.lineno) + 1)}
        if binding is not None and binding.node is not None:
            lines.add(binding.node.lineno)  # type: ignore[attr-defined]
        if any(rule in self._allowed.get(line, ()) for line in lines):
            return
        line: int = node.lineno  # type: ignore[attr-defined]
        self.found.append((line, rule, f"{text}; {RULES[rule]}" if advice else text))


def _of_effects_alone(tree: ast.Module) -> set[str]:
    """Functions of the module that are effects, or that nothing but those refers to."""
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    referring: dict[str, set[str]] = {name: set() for name in functions}
    for node in tree.body:
        source = node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else ""
        for name in _names_in(node):
            if name in referring and name != source:
                referring[name].add(source)
    exempt = {name for name, node in functions.items() if decorated_as(node, "effect")}
    while True:
        more = {name for name, sources in referring.items() if sources and sources <= exempt} - exempt
        more -= {name for name in more if decorated_as(functions[name], "trigger")}
        if not more:
            return exempt
        exempt |= more


def _names_in(node: ast.AST) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Load):
            yield inner.id
