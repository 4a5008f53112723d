"""Runs the source text of trigger modules and puts a deployment together.

Each module gets a namespace of its own, under a name that no import statement can reach by accident, so that two
deployments, or two nodes in one process, never share a module. Whatever goes wrong while its code runs becomes a
TriggerModuleError with module and line. KeyboardInterrupt alone passes.

The source is run as it is recorded: modules of one deployment import one another (siblings.py), all else that is
*imported* is the node's own, so a module should import what is installed on every node, and nothing that changes.
"""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from types import FunctionType, MappingProxyType, ModuleType
from typing import Any, Final

from tidegrid.grid.model.errors import GridError, TriggerModuleError
from tidegrid.grid.model.maps import MapSpec
from tidegrid.triggers.blame import line_of, text_of
from tidegrid.triggers.deployment import Deployment, Module, TriggerSpec, content_hash
from tidegrid.triggers.resolve import LoadedModule, module_error, resolve
from tidegrid.triggers.siblings import Prepare, Siblings
from tidegrid.triggers.typed import converter

NOTHING_KNOWN: Final[Mapping[str, MapSpec]] = MappingProxyType({})

_UNKNOWN_OPTION: Final = re.compile(r"(\w+)\(\) got an unexpected keyword argument '(\w+)'")


def load_modules(modules: Iterable[tuple[str, str]], known: Mapping[str, MapSpec] = NOTHING_KNOWN) -> Deployment:
    """The deployment that (name, source) pairs make. `known` are the maps that the grid has already.

    Raises TriggerModuleError: the code does not compile or run, or a declaration breaks a rule (resolve.py).
    """
    sources = tuple(Module(name, source) for name, source in modules)
    _check_module_names(sources)
    digest = content_hash(sources)
    siblings = Siblings(sources, lambda module, prepare: execute(module, digest, prepare))
    loaded = [LoadedModule(module.name, siblings.namespace(module.name)) for module in sources]
    return assemble(loaded, sources, known)


def assemble(
    loaded: Iterable[LoadedModule], sources: Iterable[Module], known: Mapping[str, MapSpec] = NOTHING_KNOWN
) -> Deployment:
    """A deployment of modules whose code ran already."""
    sources = tuple(sources)
    modules = tuple(loaded)
    maps, triggers = resolve(modules, known)
    for trigger in triggers:
        _check_type(trigger)
    folds = {
        declared.name: declared.fold
        for module in modules
        for declared in module.declarations.maps
        if declared.fold is not None
    }
    return Deployment(modules=sources, maps=maps, triggers=triggers, hash=content_hash(sources), folds=folds)


def execute(module: Module, digest: bytes, prepare: Prepare = lambda _: None) -> dict[str, Any]:
    """Runs the module and returns its namespace, which `prepare` sees first. Raises TriggerModuleError."""
    try:
        code = compile(module.source, f"<trigger module {module.name}>", "exec", dont_inherit=True)
    except SyntaxError as error:
        raise module_error(module.name, error.lineno or 0, f"{error.msg}: {(error.text or '').strip()}") from None
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        raise module_error(module.name, 0, f"cannot be compiled: {text_of(error)}") from None
    python = ModuleType(f"tidegrid_deployed_{digest.hex()[:16]}.{module.name}")
    prepare(python)
    namespace = python.__dict__
    sys.modules[python.__name__] = python  # dataclasses and type hints look their module up
    try:
        exec(code, namespace)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        del sys.modules[python.__name__]
        raise _explained(module.name, namespace, error) from None
    return namespace


def _check_type(trigger: TriggerSpec) -> None:
    if trigger.value is None:
        return
    try:
        converter(trigger.value)
    except Exception as error:  # msgspec and the author's annotations, which it evaluates, may say it in any way
        text = f"trigger {trigger.name!r} has a value= that values cannot be made into: {text_of(error)}"
        raise module_error(trigger.module, trigger.line, text) from None


def _explained(name: str, namespace: dict[str, Any], error: BaseException) -> TriggerModuleError:
    line = line_of(error, namespace)
    if isinstance(error, ModuleNotFoundError) and error.name:
        text = f"imports {error.name!r}, which is not installed here; install it where the grid runs, on every node"
    elif isinstance(error, ImportError):
        text = f"an import failed: {error.msg}"
    elif isinstance(error, SyntaxError):
        text = f"imports a module that does not compile: {text_of(error)}"
    elif isinstance(error, GridError):
        text = error.message
    else:
        text = f"its code failed while it was loaded: {text_of(error)}{_option_meant(error, namespace)}"
    return module_error(name, line, text)


def _option_meant(error: BaseException, namespace: dict[str, Any]) -> str:
    """`@trigger(emit="flights")`: what options of that function look alike. From 3.13 on Python says so itself."""
    found = _UNKNOWN_OPTION.fullmatch(str(error)) if type(error) is TypeError else None
    if found is None:
        return ""
    name, option = found.groups()
    libraries = [vars(value) for value in namespace.values() if isinstance(value, ModuleType)]
    for value in (*namespace.values(), *(library.get(name) for library in libraries)):
        if isinstance(value, FunctionType) and value.__qualname__ == name:
            near = difflib.get_close_matches(option, inspect.signature(value).parameters, n=3)
            return f"; did you mean {' or '.join(near)}?" if near else ""
    return ""


def _check_module_names(modules: tuple[Module, ...]) -> None:
    names = [module.name for module in modules]
    for name in names:
        if names.count(name) > 1:
            raise module_error(name, 0, "two modules have this name; rename one of them")
