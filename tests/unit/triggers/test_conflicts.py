"""What the declarations of a deployment say about each other."""

from __future__ import annotations

import pytest
from tidegrid.grid.model.maps import MapSpec
from tidegrid.triggers.conflicts import Conflict, conflicts
from tidegrid.triggers.loader import load_modules

HEAD = "from tidegrid.triggers import *\n"


def found(source: str, known: tuple[MapSpec, ...] = ()) -> list[Conflict]:
    maps = {spec.name: spec for spec in known}
    deployment = load_modules([("m", HEAD + source)], maps)
    return conflicts(deployment, maps | {spec.name: spec for spec in deployment.maps})


def trigger(name: str, on: str, emits: str, schema: int | None = None) -> str:
    return f"@trigger(on={on!r}, emits={emits!r}, schema={schema})\ndef {name}(write): ...\n"


def test_a_usual_deployment_has_none() -> None:
    source = "table('raw')\ntable('typed')\nstream('late')\ntable('sums')\n"
    assert not found(
        source + trigger("f", "raw", "typed") + trigger("g", "typed", "sums") + trigger("h", "raw", "late")
    )


def test_a_circle_is_told_once() -> None:
    source = "table('raw')\ntable('a')\ntable('b')\ntable('c')\n"
    chain = trigger("start", "raw", "a") + trigger("f", "a", "b") + trigger("g", "b", "c") + trigger("h", "c", "a")
    one, masters = found(source + chain)
    assert (one.rule, one.module, one.line) == ("circle", "m", 8)
    assert "a -> b -> c -> a" in one.words and masters.rule == "masters"


def test_two_masters() -> None:
    source = "table('raw')\ntable('other')\ntable('t')\nstream('s')\n"
    (one,) = found(source + trigger("f", "raw", "t") + trigger("g", "raw", "t"))
    assert one.rule == "masters" and "'f' and 'g' both emit to 't', for the same writes to 'raw'" in one.words
    (one,) = found(source + trigger("f", "raw", "t", 1) + trigger("g", "other", "t", 2) + trigger("h", "raw", "s", 0)
                   + trigger("i", "other", "s", 0))  # fmt: skip
    assert one.rule == "masters" and "from different maps" in one.words


def test_translators_of_two_schemas_are_one_master() -> None:
    source = "table('raw', schema=2)\ntable('t')\n"
    assert not found(source + trigger("f", "raw", "t", 1) + trigger("g", "raw", "t", 2))
    assert [one.rule for one in found(source + trigger("f", "raw", "t", 1) + trigger("g", "raw", "t"))] == ["masters"]


@pytest.mark.parametrize("schema", [0, 3])
def test_a_schema_that_nothing_handles(schema: int) -> None:
    source = f"table('raw', schema={schema})\ntable('t')\n"
    (one,) = found(source + trigger("f", "raw", "t", 1) + trigger("g", "raw", "t", 2))
    assert one.rule == "schema" and f"declared with schema {schema}" in one.words and "handle schema 1, 2" in one.words
    assert not found(f"table('raw', schema={schema})\ntable('t')\n" + trigger("f", "raw", "t", schema))


def test_a_map_that_nobody_writes_any_more() -> None:
    (one,) = found("table('raw')", (MapSpec("typed", derived=True), MapSpec("direct")))
    assert one.rule == "orphan" and "'typed'" in one.words
