"""Strict mode: which rule was broken, by which trigger, at which line; and no word where none was."""

import itertools

import pytest
from tidegrid.grid.model.errors import TriggerModuleError
from tidegrid.grid.model.keys import encode_key
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.values import encode_value
from tidegrid.triggers import Put
from tidegrid.triggers.bound import PUT
from tidegrid.triggers.loader import load_modules
from tidegrid.triggers.runtime import FrameContext, Rejection, TriggerRuntime
from tidegrid.triggers.strict import StrictSession
from tidegrid.triggers.testing import TriggerTest

from tests.unit.triggers.test_testing import FLIGHTS, KEY, PLANES, ROW

HEAD = """
from __future__ import annotations
import dataclasses, itertools
from tidegrid.triggers import *
table("raw"); table("out", like="raw"); table("second", like="raw"); reference("ref")
count = itertools.count()
kept = []
@dataclasses.dataclass
class Row:
    a: int
    b: list[int]
@trigger(on="raw", emits="out"{})
def first(write, grid):
"""
LINE = HEAD.count("\n")  # of "def first"; the body begins one further down


def breach(body, value=None, options="", **rows):
    source = HEAD.format(options) + "".join(f"    {line}\n" for line in body.split("\n"))
    with pytest.raises(TriggerModuleError) as caught:
        TriggerTest(source, partitions=1).put("raw", "k", {"a": 1, "b": [1]} if value is None else value, **rows)
    return caught.value


@pytest.mark.parametrize(
    ("body", "line", "text"),
    [
        (
            "n = next(count)\nyield Put('out', write.key, n)",
            2,
            "gave Put('out', ('k',), 0), and again Put('out', ('k',), 1)",
        ),
        ("yield Put('out', 'a', 1)\nyield Put('out', str(next(count)), 1)", 2, "gave Put('out', ('0',), 1), and again"),
        ("return [Put('out', write.key, next(count))]", -1, "and again Put("),
        ("return Put('out', write.key, next(count))", -1, "and again Put("),
        (
            "yield Put('out', 'k', 1)\nif next(count):\n    yield Delete('out', 'k')",
            3,
            "gave Delete('out', ('k',)) the one time and not",
        ),
        (
            "yield Put('out', 'k', 1)\nif not next(count):\n    yield Delete('out', 'k')",
            -1,
            "gave Delete('out', ('k',)) the one time and not",
        ),
        ("if next(count): raise Reject('late')", 1, "refused the write the one time (late) and not the other"),
        ("if not next(count): raise Reject('late')", 1, "refused the write the one time (late) and not the other"),
    ],
)
def test_what_differs_the_second_time(body, line, text):
    error = breach(body)
    assert error.rule == "deterministic" and text in error.message and "grid.random" in error.message
    assert (error.module, error.line) == ("module", LINE + line)
    assert error.message.startswith(f"trigger module 'module', line {LINE + line}: trigger 'first' ")


@pytest.mark.parametrize(
    ("body", "line", "text"),
    [
        ("pass\nwrite.value['a'] = 2", 2, "changed write.value of key ('k',) in place; copy it first"),
        ("write.value['a'] = 1.0", 1, "changed write.value"),
        ("write.value['b'].append(2)", 1, "changed write.value"),
        ("write.value['c'] = {1}", 1, "changed write.value"),
        ("if write.previous: write.previous.clear()", 1, "changed write.previous"),
        ("write.version = 7", -1, "changed the write of key"),
        ("write._key = ('other',)", -1, "changed the write of key"),
        ("grid.get('raw', 'k')['a'] = 2", 1, "changed the value that grid.get('raw', 'k') gave"),
        ("grid.get('ref', 'r')['a'] = 2", 1, "changes a value that it looked up"),
    ],
)
def test_what_is_changed_in_place(body, line, text):
    error = breach(body, state={"raw": {"k": {"a": 0}}}, references={"ref": {"r": {"a": 0}}})
    assert error.rule == "read-only" and text in error.message
    assert (error.module, error.line) == ("module", LINE + line)


def test_a_typed_value_is_read_only_too():
    assert "write.value" in breach("write.value.b.append(1)", options=", value=Row").message
    assert "write.value" in breach("write.value.a = 3", options=", value=Row").message


@pytest.mark.parametrize(
    "body",
    [
        "value = dict(write.value, a=2); value['c'] = 1; yield Put('out', write.key, value)",
        "yield Put('out', write.key, [*write.value['b'], grid.random.random(), write.time_ms, write.version])",
        "yield Put('out', write.key, [grid.random.randint(1, 9)] * 2); yield Put('out', write.key, grid.get('out', 'k'))",
        "raise Reject(str(object()))",
        "raise ValueError(str(object()))",
        "yield Put('out', write.key, float('nan')); write.previous; grid.get('ref', 'r')",
        "return iter([Put('out', write.key, 1), Delete('out', write.key)])",
        "return None",
        "return 7",
        "yield 7",
    ],
)
def test_a_trigger_that_keeps_the_rules_does_as_without(body):
    source = HEAD.format("") + f"    {body}\n"
    tests = [TriggerTest(source, strict=strict, seed=3) for strict in (True, False)]
    values = [{"a": 1, "b": [1], "x": float("nan")}, {"b": [], "y": b"bytes"}]
    for value in values:
        found = [test.put("raw", "k", value, time_ms=7, references={"ref": {"r": [1]}}) for test in tests]
        if found[0].rejected is not None and "object object" in found[0].rejected.reason:
            found = [result.rejected[:4] for result in found]
        assert str(found[0]) == str(found[1])


def test_a_trigger_in_a_chain_is_named():
    chained = (
        HEAD.format("")
        + "    yield Put('out', write.key, 1)\n    yield Put('out', write.key, 2)\n"
        + "@trigger(on='out', emits='second')\ndef then(write):\n    yield Put('second', write.key, next(count))\n"
    )
    with pytest.raises(TriggerModuleError, match=f"line {LINE + 5}: trigger 'then' gave") as caught:
        TriggerTest(chained).put("raw", "k", {})
    assert caught.value.rule == "deterministic"


def test_without_strict_nothing_is_said():
    source = HEAD.format("") + "    write.value['a'] = next(count)\n    yield Put('out', write.key, write.value)\n"
    assert TriggerTest(source, strict=False).put("raw", "k", {}).outputs == [Put("out", ("k",), {"a": 0})]


def test_the_flights_example_keeps_the_rules():
    assert TriggerTest(FLIGHTS).put("flights.raw", KEY, ROW, references=PLANES).rejected is None


class Rows(dict):
    def get(self, map_name, key):
        return dict.get(self, (map_name, key))

    reference = get


def session(body, strict=True):
    deployment = load_modules([("author", HEAD.format("") + f"    {body}\n")])
    maps = {spec.name: spec for spec in deployment.maps}
    runtime = TriggerRuntime(deployment, maps, 1, Limits(), strict=strict)
    frame = FrameContext(0, 5, 1234, 4, 7)
    return runtime.program("raw"), runtime.bind(frame, Rows())


def test_in_a_node_a_breach_rejects_the_write_and_the_next_one_is_judged_anew():
    program, bound = session("return Put('out', write.key, next(count) if write.value else 0)")
    assert isinstance(bound, StrictSession)
    key = encode_key("k")
    for value in (1, 0, 1):
        outcome = bound.activate(program, PUT, key, encode_value(value, Limits()), 1, (b"s", 1))
        if value:
            assert type(outcome) is Rejection and outcome.failed and outcome.line == LINE - 1
            assert outcome.message.startswith("trigger 'first', module 'author', line") and bound.breach
        else:
            assert outcome == [(PUT, "out", key, encode_value(0, Limits()))] and bound.breach is None
    bound.end()


def test_random_numbers_are_those_of_a_plain_session():
    draws = "yield Put('out', write.key, grid.random.getrandbits(60) if write.value else 0)"
    bounds = [session(draws, strict) for strict in (True, False)]
    sequence = list(itertools.product((1, 2), (1, 0, 1)))
    found = [
        [
            bound.activate(program, PUT, encode_key("k"), encode_value(value, Limits()), version, (b"s", version))
            for version, value in sequence
        ]
        for program, bound in bounds
    ]
    assert found[0] == found[1]


def test_a_trigger_that_gives_nothing_takes_no_blame():
    source = (
        HEAD.format("")
        + "    yield Put('out', write.key, 1)\n    yield Put('out', write.key, next(count))\n"
        + "@trigger(on='out')\ndef silent(write): return None\n"
    )
    with pytest.raises(TriggerModuleError, match=f"line {LINE + 2}: trigger 'first' gave"):
        TriggerTest(source).put("raw", "k", {})
