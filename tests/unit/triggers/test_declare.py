"""Declarations: what a module says about itself, wherever its code runs."""

import sys
from types import ModuleType
from typing import Any

import pytest
from tidegrid.grid.model.errors import ConfigurationError
from tidegrid.grid.model.maps import KeyField, MapKind
from tidegrid.triggers import Merge, Put, table, trigger
from tidegrid.triggers.declare import DECLARATIONS, Declarations, declarations_of


def executed(source: str) -> Declarations:
    module = ModuleType("author")
    exec(source, module.__dict__)
    return declarations_of(module.__dict__)


def test_declarations_are_kept_with_the_module_that_makes_them():
    declared = executed(
        "from tidegrid.triggers import *\n"
        "table('a', key=('n:int', 'name'), affinity=1, schema=3)\n"
        "stream('s')\n"
        "reference('r', like='a')\n"
        "@trigger(on='a', emits='s', schema=3)\n"
        "def f(write, grid):\n"
        "    yield\n"
    )
    first, second, third = declared.maps
    assert (first.name, first.kind, first.line) == ("a", MapKind.TABLE, 2)
    assert (first.key, first.affinity, first.schema) == ((KeyField("n", "int"), KeyField("name")), 1, 3)
    assert (second.kind, second.key, second.affinity) == (MapKind.STREAM, None, None)
    assert (third.kind, third.like) == (MapKind.REFERENCE, "a")
    (found,) = declared.triggers
    assert (found.name, found.on, found.emits, found.schema) == ("f", ("a",), ("s",), 3)
    assert found.generator
    assert found.takes_context
    assert found.line == 5
    assert DECLARATIONS not in globals()


def test_a_module_that_is_imported_declares_too(tmp_path, monkeypatch):
    (tmp_path / "author_module_of_a_test.py").write_text("from tidegrid.triggers import table\ntable('a')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import author_module_of_a_test as module

    assert [declared.name for declared in declarations_of(module.__dict__).maps] == ["a"]
    del sys.modules["author_module_of_a_test"]


def test_a_module_that_declares_nothing():
    assert declarations_of({}) == Declarations()


def test_the_function_stays_itself():
    namespace: dict[str, object] = {}
    exec(
        "from tidegrid.triggers import trigger\ndef f(write): return 7\ng = trigger(on=['a', 'b'])(f)\n",
        namespace,
    )
    assert namespace["g"] is namespace["f"]
    (found,) = declarations_of(namespace).triggers
    assert found.on == ("a", "b")
    assert not found.takes_context
    assert not found.generator


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("@trigger(on='a')\nasync def f(write): ...", "is async"),
        ("@trigger(on='a')\nasync def f(write): yield", "is async"),
        ("@trigger(on='a')\ndef f(): ...", "called with \\(write, grid\\)"),
        ("@trigger(on='a')\ndef f(a, b, c): ...", "called with \\(write, grid\\)"),
        ("trigger(on='a')(len)", "written with def"),
        ("@trigger(on=())\ndef f(write): ...", "names no map"),
        ("@trigger(on=(1,))\ndef f(write): ...", "write names as text"),
        ("table('a', key='x', like='b')", "keep one of them"),
        ("table('a', key=('x:decimal',))", "NAME:TYPE"),
    ],
)
def test_a_wrong_declaration_says_what_to_write(source, said):
    with pytest.raises(ConfigurationError, match=said):
        executed("from tidegrid.triggers import *\n" + source)


def test_default_arguments_do_not_count_as_context():
    declared = executed("from tidegrid.triggers import *\n@trigger(on='a')\ndef f(write, *rest): ...")
    assert declared.triggers[0].takes_context
    declared = executed("from tidegrid.triggers import *\n@trigger(on='a')\ndef f(write, *, way=1): ...")
    assert not declared.triggers[0].takes_context


def test_a_fold_is_a_function():
    with pytest.raises(ConfigurationError, match="give a function of"):
        table("counts", fold=7)


def test_outputs_are_values():
    assert Merge("counts", ("a",), 1) == Merge("counts", ("a",), 1)
    assert Put("a", (1,), {"x": 1}) == Put("a", (1,), {"x": 1})
    with pytest.raises(AttributeError):
        Put("a", (1,), 1).value = 2  # type: ignore[misc]
    assert callable(table)
    assert callable(trigger)


def test_what_becomes_of_a_write_that_a_trigger_fails_on():
    declared = executed(
        "from tidegrid.triggers import *\n"
        "@trigger(on='a')\n"
        "def f(write):\n"
        "    pass\n"
        "@trigger(on='a', on_error='park')\n"
        "def g(write):\n"
        "    pass\n"
    )
    assert [found.on_error for found in declared.triggers] == ["reject", "park"]
    with pytest.raises(ConfigurationError, match=r"on_error='drop'.*\"park\""):
        trigger(on="a", on_error="drop")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"isolation": "thread"}, 'give "inline", or "process"'),
        ({"budget": 0.0}, "give seconds for one write, from 0.01 to 60"),
        ({"budget": 61}, "give seconds for one write"),
    ],
)
def test_isolation_and_budget_that_make_no_sense(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        trigger(on="raw", **options)
