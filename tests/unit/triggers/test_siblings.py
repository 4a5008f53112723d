"""Modules of one deployment import one another, and nobody else's of the same name."""

from __future__ import annotations

import json

import pytest
from tidegrid.grid.model.errors import TriggerModuleError
from tidegrid.triggers.loader import load_modules

HEAD = "from tidegrid.triggers import *\ntable('m')\n"
ASK = "@trigger(on='m')\ndef ask(write): return FOUND\n"


def found(*modules: tuple[str, str]) -> object:
    (trigger,) = load_modules(modules).triggers
    return trigger.namespace["FOUND"]


@pytest.mark.parametrize(
    "statement",
    [
        "from .rows import FOUND",
        "from . import rows\nFOUND = rows.FOUND",
        "from rules.rows import FOUND",
        "from rules import rows\nFOUND = rows.FOUND",
        "import rules.rows\nFOUND = rules.rows.FOUND",
        "import rules.rows as other\nFOUND = other.FOUND",
        "from .rows import *",
    ],
)
def test_ways_to_import(statement: str) -> None:
    assert found(("rules", HEAD + statement + "\n" + ASK), ("rules.rows", "FOUND = 7")) == 7


def test_packages_in_packages_and_files_side_by_side() -> None:
    inner = "from ..rows import BASE\nfrom .deep import MORE\nFOUND = BASE + MORE"
    modules = [
        ("rules", HEAD + "from .inner import FOUND\n" + ASK), ("rules.inner", inner), ("rules.inner.deep", "MORE = 2"),
        ("rules.rows", "BASE = 5"),
    ]  # fmt: skip
    assert found(*modules) == 7
    assert found(("a", HEAD + "from b import FOUND\n" + ASK), ("b", "FOUND = 3")) == 3


def test_a_package_without_a_module_of_its_own() -> None:
    assert found(("x.a", HEAD + "from .b import FOUND\n" + ASK), ("x.b", "FOUND = 4")) == 4


def test_each_runs_once_and_circles_see_what_is_there() -> None:
    modules = [
        ("rules", HEAD + "SEEN = []\nfrom . import a, b\nFOUND = SEEN\n" + ASK),
        ("rules.a", "from . import SEEN\nSEEN.append('a')\nfrom . import b"),
        ("rules.b", "from . import SEEN\nfrom . import a\nSEEN.append('b')"),
    ]
    assert found(*modules) == ["a", "b"]


def test_what_is_not_deployed_is_imported_as_ever() -> None:
    assert found(("a", HEAD + "import json as FOUND\n" + ASK), ("b", "")) is json
    assert found(("a", HEAD + "import os.path\nFOUND = os.path.sep\n" + ASK), ("b", "")) == "/"
    late = HEAD + "def later():\n    import json\n    return json.dumps(1)\nFOUND = later()\n" + ASK
    assert found(("a", late), ("b", "")) == "1"


def test_two_loads_do_not_meet() -> None:
    one = load_modules([("rules", HEAD + "from .rows import FOUND\n" + ASK), ("rules.rows", "FOUND = []")])
    other = load_modules([("rules", HEAD + "from .rows import FOUND\n" + ASK), ("rules.rows", "FOUND = []")])
    lists = [loaded.triggers[0].namespace["FOUND"] for loaded in (one, other)]
    assert lists[0] is not lists[1]


def test_declarations_of_an_imported_sibling_count_once() -> None:
    helper = "from tidegrid.triggers import *\ntable('n')\n@trigger(on='n')\ndef other(write): ..."
    deployment = load_modules([("rules", HEAD + "from . import rows"), ("rules.rows", helper)])
    assert [trigger.name for trigger in deployment.triggers] == ["other"]
    assert sorted(spec.name for spec in deployment.maps) == ["m", "n"]


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("from .rwos import x", "the deployment has no module 'rules.rwos'; deploy the whole package"),
        ("import rules.rwos", "has no module 'rules.rwos'"),
        ("from ...above import x", "leaves the package"),
        ("from .rows import nothing", "cannot import name 'nothing'"),
        ("from .broken import x", "trigger module 'rules.broken', line 1"),
    ],
)
def test_refused_with_a_way_out(statement: str, said: str) -> None:
    modules = [("rules", "\n" + statement), ("rules.rows", ""), ("rules.broken", "1 / 0")]
    with pytest.raises(TriggerModuleError) as caught:
        load_modules(modules)
    assert said in caught.value.message and caught.value.module == "rules" and caught.value.line == 2
