"""The package that authors test their triggers with."""

import sys
import threading
from pathlib import Path

import pytest
from tidegrid.grid.model.errors import (
    DerivedMapError,
    InvalidKeyError,
    InvalidValueError,
    TriggerModuleError,
    UnknownMapError,
    UnknownSchemaError,
)
from tidegrid.grid.model.keys import encode_key
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.maps import MapSpec
from tidegrid.grid.model.partitioner import partition_of
from tidegrid.triggers import Delete, Event, Put
from tidegrid.triggers.testing import Result, TriggerTest

SOURCE = """
from tidegrid.triggers import *
table("raw", key=("name",), schema=2)
table("typed", like="raw")
table("twice", like="raw")
stream("late")
reference("ref", key=("name",))

@trigger(on="raw", emits=("typed", "late"), schema=2)
def translate(write, grid):
    if write.op == "delete":
        return [Delete("typed", write.key)]
    if write.value == "bad":
        raise Reject("bad")
    found = [write.value, write.previous, grid.get("ref", "r"), grid.get("raw", write.key), write.version, write.epoch, write.time_ms]
    return [Put("typed", write.key, found), Event("late", write.key, 1)]

@trigger(on="typed", emits="twice")
def again(write):
    yield Put("twice", write.key, write.op)
"""


def test_put_delete_and_reject():
    test = TriggerTest(SOURCE)
    assert test.put("raw", "a", 1) == Result(
        [Put("typed", ("a",), [1, None, None, 1, 1, 1, 0]), Put("twice", ("a",), "put"), Event("late", ("a",), 1)],
        None,
    )
    result = test.put(
        "raw",
        ("a",),
        2,
        state={"raw": {"a": 1}},
        references={"ref": {"r": {"x": 3}}},
        epoch=8,
        time_ms=9,
    )
    assert result.outputs[0].value == [2, 1, {"x": 3}, 2, 2, 8, 9]
    assert test.delete("raw", "a").outputs == [Delete("typed", ("a",)), Put("twice", ("a",), "delete")]
    rejected = test.put("raw", "a", "bad")
    assert rejected.outputs == []
    assert (rejected.rejected.reason, rejected.rejected.line) == ("bad", 14)
    with pytest.raises(UnknownSchemaError, match="schema 1, only 2"):
        test.put("raw", "a", 1, schema=1)
    assert test.put("ref", "a", 1) == Result([], None)


def test_wrong_questions():
    test = TriggerTest(SOURCE)
    with pytest.raises(UnknownMapError):
        test.put("rwa", "a", 1)
    with pytest.raises(UnknownMapError):
        test.put("raw", "a", 1, state={"rwa": {}, "nope": {1: 2}})
    with pytest.raises(DerivedMapError):
        test.delete("typed", "a")
    with pytest.raises(InvalidKeyError):
        test.put("raw", [1], 1)
    with pytest.raises(InvalidKeyError, match=r"no key of map 'raw'; its keys are \(name:str\)"):
        test.put("raw", 1, 1)
    with pytest.raises(InvalidValueError):
        test.put("raw", "a", object())


MUTATING = """
from tidegrid.triggers import *
table("raw"); table("typed")
@trigger(on="raw", emits="typed")
def careless(write):
    {}
    yield Put("typed", write.key, write.value)
"""


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("write.value['a'] = 2", "value"),
        ("write.value['b'] = object()", "value"),
        ("write.value['c']['d'] = 1.0", "value"),
        ("write.previous.clear()", "previous"),
    ],
)
def test_a_trigger_that_changes_what_it_is_given_is_found_out(body, field):
    value = {"a": 1, "c": {"d": 1}, "nan": float("nan")}
    with pytest.raises(
        TriggerModuleError, match=f"'careless' changed write.{field} of key \\('k',\\) in place; copy it first"
    ):
        TriggerTest(MUTATING.format(body)).put("raw", "k", value, state={"raw": {"k": {"x": 1}}})
    assert TriggerTest(MUTATING.format("dict(write.value)['a'] = 2")).put("raw", "k", value).rejected is None


def test_lines_are_those_of_the_author():
    result = TriggerTest(MUTATING.format("yield 7")).put("raw", "k", 1)
    assert result.rejected.line == 6


def test_events_on_a_stream():
    source = "from tidegrid.triggers import *\nstream('in'); stream('out')\n@trigger(on='in', emits='out')\ndef f(w): return Event('out', w.key, w.op)\n"
    assert TriggerTest(source).put("in", 1, None).outputs == [Event("out", (1,), "event")]


def test_partitions_are_real():
    source = "from tidegrid.triggers import *\ntable('a'); table('b')\n@trigger(on='a', emits='b')\ndef f(w): return Put('b', w.value, 1)\n"
    other = next(n for n in range(99) if partition_of(encode_key(n), 16) != partition_of(encode_key("k"), 16))
    for partitions in (16, 1):
        assert TriggerTest(source, partitions=partitions).put("a", "k", other).outputs == [Put("b", (other,), 1)]
    looking = source.replace("1)", "grid.get('a', w.value))").replace("f(w)", "f(w, grid)")
    assert "same partition" in TriggerTest(looking).put("a", "k", other).rejected.message
    assert TriggerTest(looking, partitions=1).put("a", "k", other).rejected is None


def test_from_a_path_an_installed_module_and_a_module(tmp_path, monkeypatch):
    path = tmp_path / "author_of_a_trigger.py"
    path.write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    import author_of_a_trigger as module

    expected = TriggerTest(SOURCE).put("raw", "a", 1)
    for given in (path, str(path), "author_of_a_trigger", module):
        assert TriggerTest(given).put("raw", "a", 1) == expected
    assert TriggerTest(module).put("raw", "a", "bad").rejected.line == 14
    del sys.modules["author_of_a_trigger"]


def test_maps_of_other_modules():
    source = "from tidegrid.triggers import *\ntable('typed')\n@trigger(on='raw', emits='typed')\ndef f(w): return Put('typed', w.key, w.value)\n"
    assert len(TriggerTest(source, maps={"raw": MapSpec("raw")}).put("raw", 1, 2).outputs) == 1


FLIGHTS = Path(__file__).parents[3] / "examples" / "flights" / "flights.py"
KEY = (2013, 1, 1, "UA", 1545, "EWR")
NAMES = (
    "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,origin,dest,"
    "air_time,distance,hour,minute,time_hour"
)
ROW = dict(
    zip(
        NAMES.split(","),
        [
            "2013",
            "1",
            "1",
            "517",
            "515",
            "2",
            "830",
            "819",
            "11",
            "UA",
            "1545",
            "N14228",
            "EWR",
            "IAH",
            "227",
            "1400",
            "5",
            "15",
            "2013-01-01T10:00:00Z",
        ],
        strict=True,
    )
)
PLANES = {"planes": {"N14228": {"tailnum": "N14228", "seats": "149", "speed": "NA"}}}
TYPED = {
    "year": 2013,
    "month": 1,
    "day": 1,
    "dep_time": 517,
    "sched_dep_time": 515,
    "dep_delay": 2,
    "arr_time": 830,
    "sched_arr_time": 819,
    "arr_delay": 11,
    "carrier": "UA",
    "flight": 1545,
    "tailnum": "N14228",
    "origin": "EWR",
    "dest": "IAH",
    "air_time": 227,
    "distance": 1400,
    "hour": 5,
    "minute": 15,
    "time_hour": "2013-01-01T10:00:00Z",
}


def test_the_flights_example():
    flights = TriggerTest(FLIGHTS)
    assert flights.put("flights.raw", KEY, ROW, references=PLANES).outputs == [
        Put("flights", KEY, {**TYPED, "seats": 149})
    ]
    assert flights.put("flights.raw", KEY, ROW).outputs == [Put("flights", KEY, {**TYPED, "seats": None})]
    late = flights.put("flights.raw", KEY, {**ROW, "dep_delay": "61", "tailnum": "NA"})
    assert late.outputs == [
        Put("flights", KEY, {**TYPED, "dep_delay": 61, "tailnum": None, "seats": None}),
        Event("delays", KEY, {"minutes": 61}),
    ]
    assert len(flights.put("flights.raw", KEY, {**ROW, "dep_delay": "60"}).outputs) == 1
    assert flights.put("flights.raw", KEY, {**ROW, "dep_delay": "NA"}).outputs[0].value["dep_delay"] is None
    assert flights.put("flights.raw", KEY, {**ROW, "carrier": ""}).rejected.reason == "no carrier"
    assert "ValueError" in flights.put("flights.raw", KEY, {**ROW, "distance": "far"}).rejected.message
    assert flights.delete("flights.raw", KEY).outputs == [Delete("flights", KEY)]
    specs = {spec.name: spec for spec in flights.deployment.maps}
    assert specs["delays"].key == specs["flights"].key == specs["flights.raw"].key
    assert [name for name, spec in specs.items() if spec.derived] == ["flights", "delays"]


def test_isolated_triggers_run_in_the_process_of_the_test():
    import os

    source = """
import os
from tidegrid.triggers import Put, table, trigger
table("raw", key=("k",)); table("out", like="raw")

@trigger(on="raw", emits="out", isolation="process")
def make(write):
    yield Put("out", write.key, os.getpid())
"""
    assert TriggerTest(source).put("raw", "a", 1).outputs[0].value == os.getpid()


ENDLESS = """
from tidegrid.triggers import *
table("raw")
table("cooked")
@trigger(on="raw", emits="cooked", budget={budget}, on_error="{on_error}")
def cook(write):
    while write.value == "wild":
        pass
    yield Put("cooked", write.key, write.value)
"""


@pytest.mark.parametrize("on_error", ["reject", "park"])
@pytest.mark.parametrize("strict", [True, False])
def test_a_trigger_that_does_not_end_is_stopped_as_a_node_stops_it(on_error, strict):
    before = threading.active_count()
    test = TriggerTest(ENDLESS.format(budget=0.05, on_error=on_error), strict=strict)
    rejected = test.put("raw", "a", "wild").rejected
    assert rejected is not None and rejected.reason == "it ran for longer than its budget of 0.05 s"
    assert (rejected.trigger, rejected.failed, rejected.parks) == ("cook", True, on_error == "park")
    assert rejected.line in (7, 8)
    assert test.put("raw", "a", "mild").outputs == [Put("cooked", ("a",), "mild")]  # nothing is left to come
    assert threading.active_count() == before


def test_the_default_budget_is_that_of_the_limits():
    test = TriggerTest(ENDLESS.format(budget=None, on_error="reject"), limits=Limits(trigger_seconds=0.05))
    rejected = test.put("raw", "a", "wild").rejected
    assert rejected is not None and "its budget of 0.05 s" in rejected.reason


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ('Put("cooked", write.key)', "Missing required argument 'value'; an output is Put(map, key, value)"),
        ('Merge("cooked", write.key)', "Missing required argument 'operand'; an output is Merge(map, key, operand)"),
        ('Delete("cooked", write.key, 1)', "Extra positional arguments provided; an output is Delete(map, key)"),
        ('Put("cooked", write.key, valeu=1)', "argument 'valeu'; an output is Put(map, key, value)"),
        ('Put("cooked", write.key, 1, key=2)', "by name and position; an output is Put(map, key, value)"),
        ('outputs.Event("cooked")', "Missing required argument 'key'; an output is Event(map, key, value)"),
        ('P("cooked", 1) if 1 else Delete("cooked", 1)', "argument 'value'; an output is Put(map, key, value)"),
        ("Own()", "TypeError: Missing required argument 'value'"),
    ],
)
def test_what_is_missing_in_an_output_is_told_with_its_name(output, says):
    source = f"""
import msgspec
from tidegrid.triggers import *
from tidegrid.triggers import outputs
class Own(msgspec.Struct):
    value: int
P = Put
table("raw")
table("cooked")
@trigger(on="raw", emits="cooked")
def cook(write):
    yield {output}
"""
    rejected = TriggerTest(source).put("raw", "a", 1).rejected
    assert rejected is not None and rejected.line == 12
    assert rejected.reason.startswith("TypeError: ") and rejected.reason.endswith(says)
