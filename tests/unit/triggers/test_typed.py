"""`@trigger(value=...)`: instances, refusals that name the field, and nothing for triggers without."""

import pytest
from tidegrid.grid.model.errors import ConfigurationError, TriggerModuleError
from tidegrid.triggers import Put
from tidegrid.triggers.loader import load_modules
from tidegrid.triggers.testing import TriggerTest

HEAD = """
from __future__ import annotations
import dataclasses, datetime, typing
import msgspec
from tidegrid.triggers import *
table("flights.raw"); table("flights", like="flights.raw"); stream("seen")

@dataclasses.dataclass
class Leg:
    carrier: str

@dataclasses.dataclass
class Flight:
    dep_delay: int
    legs: list[Leg] = dataclasses.field(default_factory=list)
    speed: float | None = None
    at: datetime.datetime | None = None

class Row(typing.TypedDict, total=False):
    dep_delay: typing.Required[int]
    speed: float

class Named(typing.NamedTuple):
    dep_delay: int
    legs: list[str] = []

class Packed(msgspec.Struct, forbid_unknown_fields=True):
    dep_delay: int
"""
TRIGGER = """
@trigger(on="flights.raw", emits="flights", value={})
def translate(write):
    yield Put("flights", write.key, [type(write.value).__name__, repr(write.value), write.previous])
"""
TRIGGER_LINE = (HEAD + TRIGGER).split("\n").index('@trigger(on="flights.raw", emits="flights", value={})') + 1


def put(kind, value, **state):
    return TriggerTest(HEAD + TRIGGER.format(kind)).put("flights.raw", "k", value, **state)


def said(kind, value):
    result = put(kind, value)
    assert result.outputs == [] and not result.rejected.failed and result.rejected.line == TRIGGER_LINE
    return result.rejected.message


@pytest.mark.parametrize(
    ("kind", "value", "name", "shown"),
    [
        ("Flight", {"dep_delay": 2}, "Flight", "Flight(dep_delay=2, legs=[], speed=None, at=None)"),
        (
            "Flight",
            {"dep_delay": 2, "speed": 3, "more": 1},
            "Flight",
            "Flight(dep_delay=2, legs=[], speed=3.0, at=None)",
        ),
        ("Row", {"dep_delay": 2, "more": 1}, "dict", "{'dep_delay': 2}"),
        ("Named", {"dep_delay": 2}, "Named", "Named(dep_delay=2, legs=[])"),
        ("Named", [2, ["a"]], "Named", "Named(dep_delay=2, legs=['a'])"),
        ("Packed", {"dep_delay": 2}, "Packed", "Packed(dep_delay=2)"),
        ("dict[int, float]", {"1": 2}, "dict", "{1: 2.0}"),
        ("Flight, strict=False", {"dep_delay": "2"}, "Flight", "Flight(dep_delay=2, legs=[], speed=None, at=None)"),
        ("Named, strict=False", {"dep_delay": "2"}, "Named", "Named(dep_delay=2, legs=[])"),
    ],
)
def test_the_value_is_an_instance_and_the_previous_one_is_plain(kind, value, name, shown):
    result = put(kind, value, state={"flights.raw": {"k": {"old": True}}})
    assert result.outputs == [Put("flights", ("k",), [name, shown, {"old": True}])]


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("Flight", {"dep_delay": "2"}, "field 'dep_delay': expected int, got str"),
        ("Flight", {}, "field 'dep_delay': missing"),
        ("Flight", {"dep_delay": 1, "legs": [{"carrier": "UA"}, {}]}, "field 'legs[1].carrier': missing"),
        ("Flight", {"dep_delay": 1, "legs": [{"carrier": 7}]}, "field 'legs[0].carrier': expected str, got int"),
        ("Flight", {"dep_delay": 1, "at": "noon"}, "field 'at': invalid RFC3339 encoded datetime"),
        ("Flight", "text", "expected object, got str"),
        ("Flight, strict=False", {"dep_delay": "NA"}, "field 'dep_delay': expected int, got str"),
        ("Row", {"dep_delay": None}, "field 'dep_delay': expected int, got null"),
        ("Named", {"dep_delay": 1.5}, "field 'dep_delay': expected int, got float"),
        ("Named", ["x"], "field '[0]': expected int, got str"),
        ("Packed", {"dep_delay": 1, "more": 2}, "object contains unknown field 'more'"),
        ("dict[int, float]", {"x": 2}, "a key: expected int, got str"),
    ],
)
def test_what_does_not_fit_is_rejected_with_the_field(kind, value, text):
    assert said(kind, value) == f"trigger 'translate' rejected key ('k',): value of flights.raw: {text}"


def test_a_write_that_is_not_looked_at_is_converted_all_the_same():
    source = HEAD + '@trigger(on="flights.raw", value=Flight)\ndef blind(write): pass\n'
    assert "dep_delay" in TriggerTest(source).put("flights.raw", "k", {}).rejected.reason


def test_a_delete_has_no_value_and_an_event_has_one():
    result = TriggerTest(HEAD + TRIGGER.format("Flight")).delete("flights.raw", "k")
    assert result.outputs[0].value[:2] == ["NoneType", "None"]
    source = (
        HEAD
        + '@trigger(on="seen", emits="flights", value=Flight)\ndef f(write, grid): return Put("flights", 1, write.value.dep_delay)\n'
    )
    assert TriggerTest(source, partitions=1).put("seen", 1, {"dep_delay": 3}).outputs == [Put("flights", (1,), 3)]


def test_each_schema_has_a_type_of_its_own():
    source = HEAD + "".join(
        f'@trigger(on="flights.raw", emits="flights", schema={number}, value={kind})\n'
        f'def f{number}(write): return Put("flights", write.key, type(write.value).__name__)\n'
        for number, kind in enumerate(("Flight", "Named"))
    )
    test = TriggerTest(source)
    values = [test.put("flights.raw", 1, {"dep_delay": 1}, schema=number).outputs[0].value for number in (0, 1)]
    assert values == ["Flight", "Named"]


def test_a_type_on_an_output_of_another_trigger():
    source = HEAD + (
        '@trigger(on="flights.raw", emits="seen")\ndef first(write): return Event("seen", write.key, write.value)\n'
        '@trigger(on="seen", value=Flight)\ndef second(write): pass\n'
    )
    refused = TriggerTest(source).put("flights.raw", 1, {"dep_delay": "x"}).rejected
    assert refused.trigger == "second" and "value of seen: field 'dep_delay'" in refused.reason


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("Nothing", "'Nothing' is no dataclass, TypedDict, NamedTuple or msgspec.Struct"),
        ("Loose", "NameError: name 'Lost' is not defined"),
        ("Flight | Leg", "may not contain more than one dataclass"),
    ],
)
def test_a_type_that_cannot_be_is_told_when_the_module_is_loaded(kind, text):
    source = f"{HEAD}\nclass Nothing: pass\n@dataclasses.dataclass\nclass Loose:\n    lost: Lost\n" + TRIGGER.format(
        kind
    )
    with pytest.raises(TriggerModuleError, match="trigger 'translate' has a value= that values cannot") as caught:
        load_modules([("flights", source)])
    assert text in caught.value.message and caught.value.line == source[: source.index("@trigger")].count("\n") + 1


def test_strict_belongs_to_a_type():
    with pytest.raises(TriggerModuleError, match="name the type there"):
        load_modules([("m", "from tidegrid.triggers import *\ntrigger(on='a', strict=False)\n")])
    assert issubclass(ConfigurationError, Exception)


def test_a_trigger_without_a_type_is_called_as_it_is():
    deployment = load_modules([("m", HEAD + '@trigger(on="flights.raw")\ndef f(write): pass\n')])
    test = TriggerTest(HEAD + '@trigger(on="flights.raw")\ndef f(write): pass\n', strict=False)
    (bound,) = test._runtime.program("flights.raw").triggers
    assert bound.function is test.deployment.triggers[0].function and deployment.triggers[0].value is None
