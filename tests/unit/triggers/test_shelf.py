"""The standard shelf: each example of its documentation is loaded and run, and what it does is what it says."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
import textwrap

import pytest
from tidegrid.grid.model.errors import TriggerModuleError
from tidegrid.triggers import Delete, Event, Put, shelf, table
from tidegrid.triggers.contract import findings
from tidegrid.triggers.loader import load_modules
from tidegrid.triggers.testing import Result, TriggerTest

FOLDS = "fold" in inspect.signature(table).parameters
needs_folds = pytest.mark.skipif(not FOLDS, reason="tables have no folds in this version")
ITEMS = [name for _, name, _ in pkgutil.iter_modules(shelf.__path__)]


def examples(name):
    """The indented blocks of a module's documentation: the first is a trigger module, others are more of its lines."""
    text = inspect.getdoc(importlib.import_module(f"tidegrid.triggers.shelf.{name}"))
    return [textwrap.dedent(block) for block in re.findall(r"(?:^    .*\n|^\n(?=    ))+", text + "\n", re.MULTILINE)]


def example(name, **options):
    return TriggerTest(examples(name)[0], **options)


def module(lines, **options):
    return TriggerTest(f"from tidegrid.triggers import *\nfrom tidegrid.triggers import shelf\n{lines}\n", **options)


RAW = "table('raw', key=('k',)); table('out', like='raw'); stream('events')\n"


def test_everything_on_the_shelf_is_offered_and_documented():
    for name in ITEMS:
        assert callable(getattr(shelf, name)) and getattr(shelf, name).__doc__
        assert name in shelf.__all__ and examples(name)


@pytest.mark.parametrize("name", ITEMS)
def test_the_examples_load_and_keep_the_contract(name):
    if name == "merged" and not FOLDS:
        pytest.skip("tables have no folds in this version")
    source = examples(name)[0]
    deployment = load_modules([("example", source)])
    (trigger,) = deployment.triggers
    assert trigger.module == "example" and trigger.name == f"{name}:{trigger.on[0]}:{trigger.emits[0]}"
    assert source.split("\n")[trigger.line - 1].startswith(f"shelf.{name}(")
    assert findings("example", source) == []
    code = inspect.getsource(sys.modules[f"tidegrid.triggers.shelf.{name}"])
    assert findings(name, code) == []


@pytest.mark.parametrize("strict", [True, False])
def test_what_is_refused_of_an_item_names_the_line_of_the_call(strict):
    test = module(f"{RAW}shelf.validated(on='raw', emits='events', schema={{}})", strict=strict)  # a Put for a stream
    rejected = test.put("raw", "a", 1).rejected
    assert rejected is not None and rejected.line == 4 and "is a stream" in rejected.reason


def test_what_varies_of_an_item_names_the_line_of_the_call():
    casts = "casts = []\ndef odd(value):\n    casts.append(value)\n    return len(casts)\n"
    test = module(f"{RAW}{casts}\nshelf.selected(on='raw', emits='out', columns={{'a': ('a', odd)}})")
    with pytest.raises(TriggerModuleError) as raised:
        test.put("raw", "a", {"a": 1})
    assert raised.value.fields["line"] == 9 and raised.value.fields["rule"] == "deterministic"


# audited ---------------------------------------------------------------------------------------------------------


def test_audited():
    test = example("audited")
    first = test.put("prices", "A", 1)
    assert first.outputs == [
        Event("prices.audit", ("A",), {"map": "prices", "op": "put", "version": 1, "value": 1, "previous": None})
    ]
    gone = test.delete("prices", "A", state={"prices": {"A": 1}}).outputs[0].value
    assert (gone["op"], gone["value"], gone["previous"], gone["version"]) == ("delete", None, 1, 2)
    short = module(RAW + "shelf.audited(on='raw', emits='events', previous=False)")
    assert "previous" not in short.put("raw", "A", 1).outputs[0].value


# deduplicated ----------------------------------------------------------------------------------------------------


def test_deduplicated_by_key():
    test = example("deduplicated")
    key = ("acme", "m1")
    assert test.put("payments.raw", key, {"n": 1}).outputs == [Put("payments", key, {"n": 1})]
    assert test.put("payments.raw", key, {"n": 2}, state={"payments.raw": {key: {"n": 1}}}).outputs == []
    assert test.delete("payments.raw", key, state={"payments.raw": {key: {"n": 1}}}).outputs == [
        Delete("payments", key)
    ]


@pytest.mark.parametrize(
    ("value", "before", "passes"),
    [
        ({"value": 1, "unit": "C", "at": 2}, {"value": 1, "unit": "C", "at": 1}, False),
        ({"value": 1, "unit": "F"}, {"value": 1, "unit": "C"}, True),
        ({"value": 2, "unit": "C"}, {"value": 1, "unit": "C"}, True),
        ({"unit": "C"}, {"unit": "C"}, False),
        (5, 5, False),
        (5, 6, True),
        (5, None, True),
    ],
)
def test_deduplicated_by_fields(value, before, passes):
    line = examples("deduplicated")[1]
    assert "by=(" in line
    head = "table('readings.raw'); table('readings', like='readings.raw')\n"
    state = {} if before is None else {"readings.raw": {"k": before}}
    result = module(head + line).put("readings.raw", "k", value, state=state)
    assert result.outputs == ([Put("readings", ("k",), value)] if passes else [])
    events = module(RAW + "shelf.deduplicated(on='raw', emits='events', by='value', events=True)")
    assert events.put("raw", "k", {"value": 1}).outputs == [Event("events", ("k",), {"value": 1})]
    assert events.delete("raw", "k", state={"raw": {"k": {}}}) == Result([], None)


@pytest.mark.parametrize("name", ["deduplicated", "latest"])
def test_what_compares_with_the_previous_value_says_that_a_stream_has_none(name):
    at = ", at='at'" * (name == "latest")
    test = module(f"stream('in'); table('out')\nshelf.{name}(on='in', emits='out'{at})")
    rejected = test.put("in", "k", {"at": 1}).rejected
    assert rejected.failed and "'in' is a stream and keeps no previous value" in rejected.reason


def test_the_fold_that_keeps_the_first():
    assert shelf.first(None, {"a": 1}) == {"a": 1} and shelf.first({"a": 1}, {"a": 2}) == {"a": 1}
    assert shelf.first(0, 7) == 0


# latest ----------------------------------------------------------------------------------------------------------


def test_latest():
    test = example("latest")

    def put(at, before=None):
        state = {} if before is None else {"positions.raw": {"v": before}}
        return test.put("positions.raw", "v", {"seen_at": at}, state=state)

    assert put(5).outputs == [Put("positions", ("v",), {"seen_at": 5})]
    assert put(6, {"seen_at": 5}).outputs and put(5, {"seen_at": 5}).outputs and put(5, {"else": 9}).outputs
    late = put(4, {"seen_at": 5}).rejected
    assert late.reason == "it is of seen_at=4, and there is one of 5 already" and not late.failed
    assert test.put("positions.raw", "v", {}).rejected.reason == "field 'seen_at': missing"
    assert test.delete("positions.raw", "v").outputs == [Delete("positions", ("v",))]


def test_the_fold_that_keeps_the_newest_comes_to_the_same_in_any_order():
    fold = shelf.newest("at")
    rows = [{"at": 3}, {"at": 1}, {"at": 5, "first": True}, {"at": 5}, {"at": 4}]
    state = None
    for row in rows:
        state = fold(state, row)
    assert state == {"at": 5}


# merged ----------------------------------------------------------------------------------------------------------


@needs_folds
def test_merged():
    from tidegrid.triggers import Merge

    test = example("merged", partitions=1)
    value, key = {"message_id": "m"}, ("acme", 1)
    assert test.put("payments.raw", key, value).outputs == [Merge("payments", ("m",), value)]
    assert test.put("payments.raw", key, {}).rejected.reason == "field 'message_id': missing"
    assert test.delete("payments.raw", key, state={"payments.raw": {key: value}}).outputs == [
        Delete("payments", ("m",))
    ]
    assert test.delete("payments.raw", key).outputs == []
    own = module(
        "table('raw', key=('k',)); table('out', like='raw', fold=shelf.first)\nshelf.merged(on='raw', emits='out')"
    )
    assert own.put("raw", "a", 1).outputs == [Merge("out", ("a",), 1)]
    assert own.delete("raw", "a").outputs == [Delete("out", ("a",))]


@needs_folds
@pytest.mark.parametrize("name", ["deduplicated", "latest"])
def test_the_lines_that_fold(name):
    source = examples(name)
    head = source[0][: source[0].index("table(")] + "table('payments.raw'); table('positions.raw')\n"
    assert len(load_modules([("m", head + source[-1])]).triggers) == 1


# selected --------------------------------------------------------------------------------------------------------

FLIGHT = (2013, 1, 1, "UA", 1545, "EWR")


def test_selected():
    test = example("selected")
    row = {"carrier": "UA", "tailnum": "N1", "dep_delay": "75", "more": "x"}
    wanted = {"carrier": "UA", "plane": "N1", "minutes_late": 75}
    assert test.put("flights.raw", FLIGHT, row).outputs == [Put("flights", FLIGHT, wanted)]
    for none in ("NA", None):
        nulls = test.put("flights.raw", FLIGHT, {**row, "tailnum": "", "dep_delay": none}).outputs[0].value
        assert nulls == {"carrier": "UA", "plane": None, "minutes_late": None}
    assert test.delete("flights.raw", FLIGHT).outputs == [Delete("flights", FLIGHT)]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"carrier": "UA", "tailnum": "N1"}, "field 'dep_delay': missing"),
        ({"carrier": "UA", "tailnum": "N1", "dep_delay": "far"}, "field 'dep_delay': 'far' cannot be read as int"),
        ({"carrier": "UA", "tailnum": "N1", "dep_delay": []}, "field 'dep_delay': [] cannot be read as int"),
        ("text", "field 'carrier': missing"),
    ],
)
def test_what_cannot_be_selected(value, reason):
    rejected = example("selected").put("flights.raw", FLIGHT, value).rejected
    assert rejected.reason == reason and not rejected.failed


def test_selected_by_names_alone_and_to_a_stream():
    test = module(RAW + "shelf.selected(on='raw', emits='events', columns=['a', 'b'], events=True)")
    assert test.put("raw", "k", {"a": None, "b": 2, "c": 3}).outputs == [Event("events", ("k",), {"a": None, "b": 2})]
    assert test.delete("raw", "k") == Result([], None)


# validated -------------------------------------------------------------------------------------------------------


def test_validated():
    test = example("validated")
    good = {"amount": 1.5, "currency": "EUR", "more": [1]}
    assert test.put("orders.raw", 1, good).outputs == [Put("orders", (1,), good)]
    assert test.delete("orders.raw", 1).outputs == [Delete("orders", (1,))]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"amount": 0, "currency": "EUR"}, "field 'amount': 0 is less than or equal to the minimum of 0"),
        ({"amount": 1, "currency": "XYZ"}, "field 'currency': 'XYZ' is not one of ['EUR', 'USD']"),
        ({"amount": 1}, "'currency' is a required property"),
        ("text", "'text' is not of type 'object'"),
        ("x" * 400, "'" + "x" * 299 + "..."),
    ],
)
def test_what_does_not_match(value, reason):
    rejected = example("validated").put("orders.raw", 1, value).rejected
    assert rejected.reason == reason and not rejected.failed


def test_validated_says_where_inside_and_takes_one_schema_number():
    schema = {"properties": {"legs": {"items": {"properties": {"to": {"type": "string"}}}}}}
    test = module(RAW + f"shelf.validated(on='raw', emits='events', schema={schema}, for_schema=3, events=True)")
    refused = test.put("raw", "k", {"legs": [{"to": "a"}, {"to": 1}]}, schema=3).rejected
    assert refused.reason == "field 'legs[1].to': 1 is not of type 'string'"
    assert test.put("raw", "k", {"legs": []}, schema=3).outputs == [Event("events", ("k",), {"legs": []})]
    assert test.delete("raw", "k", schema=3) == Result([], None)
    assert test.deployment.triggers[0].schema == 3


def test_a_schema_that_is_none_and_one_that_points_outside():
    with pytest.raises(TriggerModuleError, match=r"line 4: shelf.validated: the schema is none: 'nothing' is not"):
        module(RAW + "shelf.validated(on='raw', emits='out', schema={'type': 'nothing'})")
    outside = module(RAW + "shelf.validated(on='raw', emits='out', schema={'$ref': 'http://localhost:1/x.json'})")
    rejected = outside.put("raw", "k", 1).rejected
    assert rejected.failed and "http://localhost:1/x.json" in rejected.reason


def test_without_the_library_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(
        TriggerModuleError, match=re.escape("line 4: shelf.validated needs the jsonschema library; install")
    ):
        module(RAW + "shelf.validated(on='raw', emits='out', schema={})")


# expiring --------------------------------------------------------------------------------------------------------

HALF_AN_HOUR = 30 * 60 * 1000


def test_expiring():
    test = example("expiring")
    result = test.put("sessions.raw", "u", {"n": 1}, time_ms=1000)
    value = {"n": 1, "expires_ms": 1000 + HALF_AN_HOUR}
    assert result.outputs == [Put("sessions", ("u",), value)]
    assert not shelf.expired(value, 999 + HALF_AN_HOUR) and shelf.expired(value, 1000 + HALF_AN_HOUR)
    assert test.delete("sessions.raw", "u").outputs == [Delete("sessions", ("u",))]
    assert "is of type int" in test.put("sessions.raw", "u", 7).rejected.reason


def test_expiring_by_business_time():
    test = module(RAW + "shelf.expiring(on='raw', emits='out', after_ms=10, at='seen_ms', field='until')")
    assert test.put("raw", "k", {"seen_ms": 95}, time_ms=100).outputs == [
        Put("out", ("k",), {"seen_ms": 95, "until": 105})
    ]
    assert test.put("raw", "k", {"seen_ms": 90}, time_ms=100).outputs == [Delete("out", ("k",))]
    for wrong in ({}, {"seen_ms": "95"}, {"seen_ms": True}):
        assert test.put("raw", "k", wrong).rejected.reason.startswith("field 'seen_ms': expected ms since 1970, got ")
    with pytest.raises(TriggerModuleError, match="after_ms is 0"):
        module(RAW + "shelf.expiring(on='raw', emits='out', after_ms=0)")


# Factories -------------------------------------------------------------------------------------------------------


def test_a_factory_declares_for_its_caller_at_the_line_of_the_call():
    source = (
        "from tidegrid.triggers import *\n"
        "@factory\n"
        "def copied(on, emits):\n"
        "    table(emits, like=on)\n"
        "    @trigger(on=on, emits=emits, name=f'copied:{on}')\n"
        "    def copy(write): return Put(emits, write.key, 1 // write.value)\n"
        "@factory\n"
        "def twice(on):\n"
        "    copied(on, 'a')\n"
        "table('raw')\n"
        "twice('raw')\n"
    )
    deployment = load_modules([("m", source)])
    assert [(trigger.name, trigger.line) for trigger in deployment.triggers] == [("copied:raw", 11)]
    assert [spec.name for spec in deployment.maps] == ["raw", "a"]
    failed = TriggerTest(source).put("raw", 1, 0).rejected
    assert failed.line == 6  # where it went wrong, since the code is of this module


def test_a_library_of_factories_declares_nothing_itself(tmp_path, monkeypatch):
    (tmp_path / "our_factories.py").write_text(
        "from tidegrid.triggers import *\n"
        "@factory\n"
        "def copied(on, emits):\n"
        "    table(emits)\n"
        "    @trigger(on=on, emits=emits)\n"
        "    def copy(write): return Put(emits, write.key, 1 // write.value)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    source = "from tidegrid.triggers import *\nfrom our_factories import copied\ntable('a')\ncopied('a', 'b')\n"
    test = TriggerTest(source)
    assert test.put("a", 1, 1).outputs == [Put("b", (1,), 1)]
    assert test.put("a", 1, 0).rejected.line == 4
    assert "__tidegrid_declarations__" not in vars(sys.modules["our_factories"])
    del sys.modules["our_factories"]


def test_two_of_a_kind_need_names():
    twice = "shelf.audited(on='raw', emits='events')\n" * 2
    with pytest.raises(TriggerModuleError, match="'audited:raw:events' is defined in module 'module', line 4 already"):
        module(RAW + twice)
    named = twice.replace("events')", "events', name='second')", 1)
    assert len(module(RAW + named).deployment.triggers) == 2
