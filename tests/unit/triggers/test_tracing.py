"""Which trigger put out what, and where."""

from __future__ import annotations

from typing import Any

from tidegrid.grid.model.ids import Epoch, PartitionId
from tidegrid.grid.model.keys import decode_key, encode_key
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.values import encode_value
from tidegrid.triggers.loader import load_modules
from tidegrid.triggers.rejection import Rejection
from tidegrid.triggers.runtime import FrameContext
from tidegrid.triggers.tracing import Emission, Tracing

SOURCE = """
from dataclasses import dataclass
from tidegrid.triggers import *
for name in ("raw", "one", "two", "elsewhere", "unreached"):
    table(name, key=("k",))
stream("log")
table("sum", key=("k",), fold=lambda state, operand: operand)

@dataclass
class Row:
    n: int

@trigger(on="raw", emits=("one", "two"))
def first(write):
    if write.value is None:
        return [Delete("one", write.key)]
    yield Put("one", write.key, write.value["n"])
    yield Put("two", write.key, "from first")

@trigger(on="one", emits=("two", "log"))
def chained(write):
    return Put("two", write.key, "chained"), Event("log", write.key, 1)

@trigger(on="raw", emits=("sum", "elsewhere"), value=Row, schema=1)
def typed(write):
    return Merge("sum", "all", write.value.n)

@trigger(on="raw", emits="log", schema=7)
def late(write):
    if write.value["n"] < 0:
        raise Reject("negative")

@trigger(on="unreached", emits="two")
def unreached(write):
    pass
"""


class Nothing:
    def get(self, map_name: str, key: bytes, /) -> bytes | None:
        return None

    reference = get


def tracing(source: str = SOURCE) -> Tracing:
    deployment = load_modules([("m", source)])
    return Tracing(deployment, {spec.name: spec for spec in deployment.maps}, 3, Limits())


def run(value: Any, schema: int = 0, source: str = SOURCE) -> list[Emission] | Rejection:
    traced = tracing(source)
    program = traced.program("raw")
    assert program is not None
    session = traced.bind(FrameContext(PartitionId(0), Epoch(5), 5_000, Epoch(4), 1), Nothing())
    return traced.run(session, program, 1, encode_key("a"), encode_value(value, Limits()), 1, (b"s", 1), schema)


def line(text: str) -> int:
    return next(number for number, found in enumerate(SOURCE.splitlines(), 1) if text in found)


def test_chains_know_what_set_them_off() -> None:
    found = run({"n": 4})
    assert isinstance(found, list)
    assert [(e.trigger.name, e.map, [p.trigger.name for p in e.chain()]) for e in found] == [
        ("first", "one", ["first"]),
        ("chained", "two", ["first", "chained"]),
        ("chained", "log", ["first", "chained"]),
        ("first", "two", ["first"]),
    ]
    assert [e.line for e in found] == [line('yield Put("one"'), 0, 0, line('yield Put("two"')]
    assert (decode_key(found[0].key), found[0].value) == (("a",), encode_value(4, Limits()))


def test_a_trigger_that_a_library_made_has_the_line_of_the_call_and_none_of_the_library() -> None:
    made = """
from tidegrid.triggers import shelf, table
table("raw")
table("out", like="raw")
shelf.selected(on="raw", emits="out", columns=["n"])
"""
    found = run({"n": 4}, source=made)
    assert isinstance(found, list)
    assert [(e.map, e.line, e.trigger.line) for e in found] == [("out", 0, 5)]


def test_all_kinds_of_triggers_and_outputs_to_other_partitions() -> None:
    found = run({"n": 4}, schema=1)
    assert isinstance(found, list)
    (merged,) = (e for e in found if e.map == "sum")
    assert (merged.trigger.name, merged.op, merged.value, merged.parent) == (
        "typed",
        4,
        encode_value(4, Limits()),
        None,
    )


def test_a_refusal_is_told() -> None:
    refused = run({"n": -1}, schema=7)
    assert isinstance(refused, Rejection) and refused.reason == "negative" and refused.trigger == "late"
    failed = run({})
    assert isinstance(failed, Rejection) and failed.line == line('yield Put("one"')


def test_candidates_are_those_that_the_write_reaches() -> None:
    def names(target: str, schema: int = 0, source: str = "raw") -> list[str]:
        return [trigger.name for trigger in tracing().candidates(source, target, schema)]

    assert names("two") == ["first", "chained"]
    assert names("sum") == [] and names("sum", schema=1) == ["typed"]
    assert names("two", source="unreached") == ["unreached"]
    assert names("log", schema=7) == ["chained", "late"]
