"""From source text to a deployment, and every way in which it can be refused."""

import dataclasses
import hashlib
import re
import sys
from types import ModuleType

import pytest
from tidegrid.grid.model.errors import TriggerModuleError
from tidegrid.grid.model.maps import KeyField, MapKind, MapSpec
from tidegrid.triggers.deployment import EMPTY, Module, content_hash
from tidegrid.triggers.loader import load_modules

HEAD = "from tidegrid.triggers import *\n"


def load(source: str, known: tuple[MapSpec, ...] = ()):
    return load_modules([("flights", HEAD + source)], {spec.name: spec for spec in known})


def refused(source: str, known: tuple[MapSpec, ...] = ()) -> TriggerModuleError:
    with pytest.raises(TriggerModuleError) as caught:
        load(source, known)
    assert caught.value.module == "flights"
    assert "flights" in caught.value.message
    return caught.value


def spec_of(source: str, name: str, known: tuple[MapSpec, ...] = ()) -> MapSpec:
    return next(spec for spec in load(source, known).maps if spec.name == name)


TRANSLATE = "@trigger(on='raw', emits=('typed', 'late'))\ndef translate(write): ...\n"


def test_maps_and_triggers():
    deployment = load("table('raw', key=('n:int',))\ntable('typed', like='raw')\nstream('late')\n" + TRANSLATE)
    raw, typed, late = deployment.maps
    assert raw == MapSpec("raw", MapKind.TABLE, (KeyField("n", "int"),))
    assert typed == dataclasses.replace(raw, name="typed", derived=True)
    assert late == MapSpec("late", MapKind.STREAM, raw.key, derived=True)
    (trigger,) = deployment.triggers
    assert (trigger.name, trigger.module, trigger.line) == ("translate", "flights", 5)
    assert trigger.namespace["translate"] is trigger.function


def test_the_hash_covers_names_sources_and_order():
    one, other = Module("a", "x = 1"), Module("b", "x = 2")
    hashes = {
        content_hash(modules)
        for modules in ([one], [other], [one, other], [other, one], [Module("b", "x = 1")], [Module("ax", " = 1")])
    }
    assert len(hashes) == 6
    assert load_modules([("a", "x = 1")]).hash == content_hash([one])
    assert len(EMPTY.hash) == hashlib.sha256().digest_size


def test_a_hash_does_not_hang_on_where_one_module_ends():
    assert content_hash([Module("a", "b"), Module("c", "")]) != content_hash([Module("a", ""), Module("bc", "")])


def test_like_reaches_over_modules_and_forward():
    deployment = load_modules(
        [
            ("first", HEAD + "table('b', like='a')\nstream('c', like='b', affinity=2)\n"),
            ("second", HEAD + "table('a', key=('x', 'y'), affinity=1)\n"),
        ]
    )
    specs = {spec.name: spec for spec in deployment.maps}
    assert specs["b"].key == specs["c"].key == specs["a"].key
    assert (specs["b"].affinity, specs["c"].affinity) == (1, 2)


def test_like_and_triggers_know_the_maps_of_the_grid():
    known = MapSpec("raw", key=(KeyField("x"), KeyField("y")), affinity=1)
    assert spec_of("table('t', like='raw')", "t", (known,)).affinity == 1
    assert spec_of("stream('s')\n@trigger(on='raw', emits='s')\ndef f(write): ...", "s", (known,)).key == known.key


def test_streams_take_the_key_of_what_they_come_from():
    chain = (
        "stream('second')\nstream('first')\ntable('raw', key=('x', 'y'), affinity=1)\n"
        "@trigger(on='raw', emits='first')\ndef f(write): ...\n"
        "@trigger(on='first', emits='second')\ndef g(write): ...\n"
    )
    for name in ("first", "second"):
        assert (spec_of(chain, name).key, spec_of(chain, name).affinity) == ((KeyField("x"), KeyField("y")), 1)


def test_a_stream_may_choose_its_affinity_and_its_key():
    source = "table('raw', key=('x', 'y'))\nstream('s', {})\n@trigger(on='raw', emits='s')\ndef f(write): ..."
    assert spec_of(source.format("affinity=1"), "s").affinity == 1
    assert spec_of(source.format("key=('z',)"), "s").key == (KeyField("z"),)


def test_a_stream_of_two_kinds_of_sources_takes_any_key():
    source = (
        "table('a', key=('x',))\ntable('b', key=('y:int',))\nstream('s')\n"
        "@trigger(on=('a', 'b'), emits='s')\ndef f(write): ..."
    )
    assert spec_of(source, "s").key == ()


def test_a_derived_map_stays_derived():
    known = MapSpec("typed", derived=True)
    assert spec_of("table('typed')", "typed", (known,)).derived
    assert spec_of(
        "table('typed')\ntable('raw')\n@trigger(on='raw', emits='typed')\ndef f(w): ...", "typed", (known,)
    ).derived


def test_two_modules_may_declare_a_map_alike():
    deployment = load_modules([("a", HEAD + "table('m')"), ("b", HEAD + "\n\ntable('m')")])
    assert [spec.name for spec in deployment.maps] == ["m"]


@pytest.mark.parametrize(
    ("source", "line", "said"),
    [
        ("def f(:\n", 2, "invalid syntax"),
        ("x = '\0'", 0, "null byte"),
        ("x = '\ud800'", 0, "cannot be compiled"),
        ("x = " + "-" * 100_000 + "1", 0, "cannot be compiled"),
        ("\nimport pandas_that_is_not_here\n", 3, "imports 'pandas_that_is_not_here', which is not installed"),
        ("from tidegrid.triggers import Trigger", 2, "an import failed: cannot import name 'Trigger'"),
        ("\n\n1 / 0", 4, "ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(3)", 3, "SystemExit"),
        ("def f():\n    raise ValueError\nf()", 3, "ValueError"),
        ("\ntable('a', key=('x:decimal',))", 3, "NAME:TYPE"),
        ("\ntable('7 a')", 3, "map name"),
        ("table('a', key=('x',), affinity=2)", 2, "affinity"),
        ("table('a', key=('x', 'x'))", 2, "twice"),
        ("stream('s', affinity=3)\ntable('raw', key='x')\n@trigger(on='raw', emits='s')\ndef f(w): ...", 2, "affinity"),
        ("table('a')\nstream('a')", 3, "declared differently"),
        ("table('flights')\ntable('b', like='flihgts')", 3, "did you mean flights"),
        ("table('a', like='a')", 2, "like itself"),
        ("table('a', like='b')\ntable('b', like='a')", 3, "like itself"),
        (
            "table('flights')\n@trigger(on='fligths')\ndef f(w): ...",
            3,
            "on 'fligths': there is no map 'fligths'; did you mean flights?",
        ),
        ("table('a')\n@trigger(on='a', emits='zzzz')\ndef f(w): ...", 3, "emits 'zzzz': there is no map"),
        ("table('a')\n@trigger(on='a', emits='a')\ndef f(w): ...", 3, "would set itself off"),
        ("table('a')\nreference('r')\n@trigger(on='a', emits='r')\ndef f(w): ...", 4, "a reference map"),
        (
            "table('a')\n@trigger(on='a')\ndef f(w): ...\n@trigger(on='a')\ndef f(w): ...",
            5,
            "named 'f' is defined in module 'flights', line 3",
        ),
        ("@trigger(on='a')\nasync def f(w): ...", 2, "is async"),
    ],
)
def test_refused_with_module_line_and_a_way_out(source, line, said):
    error = refused(source)
    assert said in error.message
    assert error.line == line
    assert (f"line {line}" in error.message) == bool(line)


def test_a_map_that_clients_write_receives_no_outputs():
    known = MapSpec("typed")
    source = "table('raw')\n{}@trigger(on='raw', emits='typed')\ndef f(w): ..."
    for declared in ("", "table('typed')\n"):
        assert "clients write directly" in refused(source.format(declared), (known,)).message


@pytest.mark.parametrize("declared", ["stream('m')", "table('m', key=('x',))", "table('m', affinity=1)"])
def test_a_map_keeps_kind_key_and_affinity(declared):
    assert "exists with another" in refused(declared, (MapSpec("m"),)).message


def test_two_modules_of_one_name():
    with pytest.raises(TriggerModuleError, match="two modules"):
        load_modules([("a", ""), ("a", "x = 1")])


def test_a_failed_module_leaves_nothing_behind():
    before = set(sys.modules)
    refused("raise ValueError")
    assert not {name for name in set(sys.modules) - before if name.startswith("tidegrid_deployed")}


def test_an_import_that_does_not_compile(tmp_path, monkeypatch):
    (tmp_path / "broken_module_of_a_test.py").write_text("def f(:")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "imports a module that does not compile" in refused("import broken_module_of_a_test").message


def test_keyboard_interrupt_passes():
    with pytest.raises(KeyboardInterrupt):
        load("raise KeyboardInterrupt")


def test_dataclasses_and_late_annotations_work_in_a_module():
    deployment = load_modules(
        [
            (
                "a",
                "from __future__ import annotations\nimport dataclasses, typing\nfrom typing import ClassVar\n"
                "@dataclasses.dataclass\nclass Row:\n    x: ClassVar[int] = 1\n    y: int = 2\n"
                "hints = typing.get_type_hints(Row.__init__)\n",
            )
        ]
    )
    assert deployment.triggers == ()


def test_a_line_is_never_that_of_an_evaluated_string():
    source = "\nfrom __future__ import annotations\nimport typing\ndef f(x: Missing): ...\ntyping.get_type_hints(f)\n"
    with pytest.raises(TriggerModuleError, match=r"line 5: .*NameError: name 'Missing'"):
        load_modules([("flights", source)])


def test_each_load_has_a_namespace_of_its_own():
    source = [("a", HEAD + "seen = []\ntable('m')\n@trigger(on='m')\ndef f(w): ...")]
    one, other = load_modules(source), load_modules(source)
    assert one.triggers[0].namespace["seen"] is not other.triggers[0].namespace["seen"]
    assert one.hash == other.hash


def test_the_module_knows_its_name():
    deployment = load("table('m')\n@trigger(on='m')\ndef f(w): ...")
    module = sys.modules[deployment.triggers[0].function.__module__]
    assert isinstance(module, ModuleType)
    assert module.__name__.endswith(".flights")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ('@trigger(on="raw", emit="out")\ndef f(write): ...\n', "'emit'[;.] [dD]id you mean '?emits\\b"),
        ('table("raw")\ntable("out", lik="raw")\n', "'lik'[;.] [dD]id you mean '?like\\b"),
        ('@effect(on="raw", retry=3)\ndef f(event): ...\n', "'retry'[;.] [dD]id you mean '?retries\\b"),
        (
            'from tidegrid.triggers import shelf\nshelf.selected(on="a", emits="b", column=["x"])\n',
            "'column'[;.] [dD]id you mean '?columns\\b",
        ),
        (
            'import tidegrid.triggers as t\n@t.trigger(on="a", budgets=1)\ndef f(write): ...\n',
            "'budgets'[;.] [dD]id you mean '?budget\\b",
        ),
        ('table("raw", zzz=1)\n', "argument 'zzz'$"),
    ],
)
def test_a_misspelt_option_is_told_the_right_one(source: str, says: str) -> None:
    told = refused(source).message
    assert "its code failed while it was loaded: TypeError: " in told and re.search(says, told)
