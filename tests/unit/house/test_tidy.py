"""House rules that no linter knows, checked over the whole tree, and each rule shown to bite on a planted offence.

A rule is a function from the root of a tree to the offences it found, one line each: where, what, and what to do.
Prior art: TigerBeetle's `tidy.zig`.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]

SOURCE_ROOTS = ("grid", "triggers", "client", "proto")
CODE_FOLDERS = ("grid", "triggers", "client", "bench", "examples")
PROSE = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "pyproject.toml", ".ci/run")

# A file is one concept. About 350 lines is where a reader loses the thread; past this it holds two concepts.
FILE_LINES_MAX = 450

# A file of tests is a list of cases and reads on for longer.
TEST_LINES_MAX = 600

# Names that say nothing about what is inside, so that everything ends up there.
EMPTY_NAMES = {"util", "utils", "helper", "helpers", "common", "misc", "shared"}

PURE_FLOORS = (
    "grid/tidegrid/grid/model",
    "grid/tidegrid/grid/store",
    "grid/tidegrid/grid/log",
    "grid/tidegrid/grid/ring",
    "grid/tidegrid/grid/query",
    "grid/tidegrid/grid/engine",
    "triggers/tidegrid/triggers",
)
IMPURE = {"asyncio", "grpc", "time", "random", "os", "socket", "datetime", "threading", "subprocess", "secrets", "uuid"}
# The one thread beside the pure code of triggers: for the shells above, and for authors' tests, which have no shell.
# That nothing else of a pure floor imports it is a contract of lint-imports.
THREADS_OF_SHELLS = {"triggers/tidegrid/triggers/watchdog.py"}

# Nothing from the wire or the log is ever unpickled.
UNPICKLERS = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}


def python_files(root: Path, *folders: str) -> Iterator[Path]:
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            if "__pycache__" not in path.parts and "_pb2" not in path.name:
                yield path


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, those inside functions and `if TYPE_CHECKING` included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or "."


def long_files(root: Path) -> Iterator[str]:
    for most, folders in ((FILE_LINES_MAX, CODE_FOLDERS), (TEST_LINES_MAX, ("tests",))):
        for path in python_files(root, *folders):
            lines = path.read_text(encoding="utf-8").count("\n")
            if lines > most:
                yield f"{path.relative_to(root)}: {lines} lines, at most {most}; it holds two concepts, split it"


def empty_names(root: Path) -> Iterator[str]:
    for path in python_files(root, *CODE_FOLDERS, "tests"):
        for part in path.relative_to(root).with_suffix("").parts:
            if part.strip("_") in EMPTY_NAMES:
                yield f"{path.relative_to(root)}: {part!r} says nothing; name the file after its concept"


def closed_namespace(root: Path) -> Iterator[str]:
    for source in SOURCE_ROOTS:
        if (root / source / "tidegrid" / "__init__.py").exists():
            yield f"{source}/tidegrid/__init__.py: tidegrid is a namespace of several source roots (PEP 420); remove it"


def untyped_portions(root: Path) -> Iterator[str]:
    for source in SOURCE_ROOTS:
        for portion in sorted((root / source / "tidegrid").glob("*/")):
            if portion.name != "__pycache__" and not (portion / "py.typed").exists():
                yield f"{portion.relative_to(root)}: no py.typed, so its types are invisible to users; add the empty file"


def unfinished(root: Path) -> Iterator[str]:
    marks = ("TO" + "DO", "FIX" + "ME", "XX" + "X")
    prose = (
        [root / name for name in PROSE]
        + sorted((root / "docs").glob("*.md"))
        + sorted((root / "proto").rglob("*.proto"))
    )
    for path in [*python_files(root, *CODE_FOLDERS, "tests"), *prose]:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.exists() else (), 1):
            if any(mark in line for mark in marks):
                yield f"{path.relative_to(root)}:{number}: finish it, or say in plain words what is not there"


def undocumented(root: Path) -> Iterator[str]:
    for path in python_files(root, *CODE_FOLDERS):
        if not ast.get_docstring(parsed(path)):
            yield f"{path.relative_to(root)}: open with what it is, its invariants, and prior art if there is any"


def impure(root: Path) -> Iterator[str]:
    for path in python_files(root, *PURE_FLOORS):
        if path.relative_to(root).as_posix() in THREADS_OF_SHELLS:
            continue
        for line, module in imported(parsed(path)):
            if module.split(".")[0] in IMPURE:
                yield f"{path.relative_to(root)}:{line}: a pure floor imports {module}; pass it in, or move it up"


def unpickling(root: Path) -> Iterator[str]:
    for path in python_files(root, *CODE_FOLDERS):
        for line, module in imported(parsed(path)):
            if module.split(".")[0] in UNPICKLERS:
                yield f"{path.relative_to(root)}:{line}: {module} runs what it reads; use msgpack or protobuf"


def sleeping_tests(root: Path) -> Iterator[str]:
    """`asyncio.sleep(0)` gives others a turn; any other sleep waits for a state by hoping.

    Not in tests/faults: those look at other processes from outside, and kill them at moments of chance.
    """
    for path in python_files(root, "tests"):
        if path.is_relative_to(root / "tests" / "faults"):
            continue
        for node in ast.walk(parsed(path)):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "sleep"):
                continue
            owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
            zero = len(node.args) == 1 and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
            if owner == "time" or (owner == "asyncio" and not zero):
                yield f"{path.relative_to(root)}:{node.lineno}: a test sleeps; wait for the state itself"


def packages_without_a_floor(root: Path) -> Iterator[str]:
    """Every package must be named in a layers contract of import-linter: it says nothing about one it does not know."""
    linter = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    placed = {
        name.strip(" ()")
        for contract in linter["contracts"]
        if contract["type"] == "layers"
        for layer in contract["layers"]
        for name in layer.replace("|", ":").split(":")
    }
    for source in SOURCE_ROOTS:
        for portion in sorted((root / source / "tidegrid").glob("*/")):
            if portion.name == "__pycache__":
                continue
            if f"tidegrid.{portion.name}" not in linter["root_packages"]:
                yield f"{portion.relative_to(root)}: not among the root_packages of import-linter in pyproject.toml"
            inner = [path for path in sorted(portion.glob("*/")) if (path / "__init__.py").exists()]
            names = (
                [f"tidegrid.{portion.name}.{path.name}" for path in inner]
                if portion.name == "grid"
                else [f"tidegrid.{portion.name}"]
            )
            for name in names:
                if name not in placed:
                    yield f"{name}: on no floor; add it to a layers contract in pyproject.toml"


RULES: tuple[Callable[[Path], Iterator[str]], ...] = (
    long_files,
    empty_names,
    closed_namespace,
    untyped_portions,
    unfinished,
    undocumented,
    impure,
    unpickling,
    sleeping_tests,
    packages_without_a_floor,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_tree_keeps(rule: Callable[[Path], Iterator[str]]) -> None:
    offences = list(rule(REPOSITORY))
    assert not offences, "\n" + "\n".join(offences)


OFFENCES: tuple[tuple[Callable[[Path], Iterator[str]], str, str], ...] = (
    (long_files, "grid/tidegrid/grid/model/big.py", "x = 1\n" * (FILE_LINES_MAX + 1)),
    (long_files, "tests/unit/test_big.py", "x = 1\n" * (TEST_LINES_MAX + 1)),
    (empty_names, "client/tidegrid/client/utils.py", ""),
    (empty_names, "client/tidegrid/helpers/thing.py", ""),
    (closed_namespace, "grid/tidegrid/__init__.py", ""),
    (untyped_portions, "client/tidegrid/new/__init__.py", ""),
    (unfinished, "bench/thing.py", "# TO" + "DO later\n"),
    (unfinished, "docs/formats.md", "FIX" + "ME\n"),
    (undocumented, "triggers/tidegrid/triggers/bare.py", "x = 1\n"),
    (impure, "grid/tidegrid/grid/store/clock.py", "def now():\n    from time import time\n    return time()\n"),
    (impure, "grid/tidegrid/grid/query/chance.py", "import random as dice\n"),
    (impure, "triggers/tidegrid/triggers/files.py", "import os.path\n"),
    (unpickling, "client/tidegrid/client/load.py", "import pickle\n"),
    (sleeping_tests, "tests/unit/test_slow.py", "import time\ntime.sleep(1)\n"),
    (sleeping_tests, "tests/unit/test_slow.py", "import asyncio\nasync def f(): await asyncio.sleep(0.1)\n"),
    (packages_without_a_floor, "grid/tidegrid/grid/cellar/__init__.py", ""),
    (packages_without_a_floor, "grid/tidegrid/attic/__init__.py", ""),
)


@pytest.mark.parametrize(
    ("rule", "path", "text"), OFFENCES, ids=[f"{rule.__name__}-{path}" for rule, path, _ in OFFENCES]
)
def test_a_planted_offence_is_found(
    rule: Callable[[Path], Iterator[str]], path: str, text: str, tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").write_text((REPOSITORY / "pyproject.toml").read_text())
    assert not list(rule(tmp_path))
    planted = tmp_path / path
    planted.parent.mkdir(parents=True)
    planted.write_text(text)
    found = list(rule(tmp_path))
    assert found and all(str(Path(path).parent.name) in line or path in line for line in found)
