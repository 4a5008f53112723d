from __future__ import annotations

from typing import Any

import pytest
from tidegrid.grid.model.errors import InvalidKeyError
from tidegrid.grid.model.key_text import conform_key, format_key, key_from_fields, parse_key_text
from tidegrid.grid.model.maps import KeyField

FLIGHT = tuple(map(KeyField.parse, ("year:int", "month:int", "day:int", "carrier", "flight:int", "origin")))
MIXED = tuple(map(KeyField.parse, ("on:bool", "raw:bytes", "at:float", "what:any")))


@pytest.mark.parametrize(
    ("text", "fields", "key"),
    [
        ("2013,1,1,UA,1545,EWR", FLIGHT, (2013, 1, 1, "UA", 1545, "EWR")),
        ("2013, 1, 1, UA, 1545, EWR", FLIGHT, (2013, 1, 1, "UA", 1545, "EWR")),
        ('2013,1,1,"U,A",-7,EWR', FLIGHT, (2013, 1, 1, "U,A", -7, "EWR")),
        ('[2013, 1, 1, "UA", 1545, "EWR"]', FLIGHT, (2013, 1, 1, "UA", 1545, "EWR")),
        ("true,00ff,2,17", MIXED, (True, b"\0\xff", 2.0, "17")),
        ('[false, {"bytes": "00FF"}, 2, 17]', MIXED, (False, b"\0\xff", 2.0, 17)),
        ('"UA"', (), ("UA",)),
        ("17", (), (17,)),
        ('[["a", 1], null]', (), (("a", 1), None)),
        ("N14228", (KeyField("tailnum"),), ("N14228",)),
    ],
)
def test_reading_keys(text: str, fields: tuple[KeyField, ...], key: tuple[Any, ...]) -> None:
    assert repr(parse_key_text(text, fields)) == repr(key)


def test_a_prefix_may_be_shorter() -> None:
    assert parse_key_text("2013,1", FLIGHT, prefix=True) == (2013, 1)
    assert parse_key_text('["UA"]', prefix=True) == ("UA",)
    assert parse_key_text("[]", prefix=True) == ()


@pytest.mark.parametrize(
    ("text", "fields", "message"),
    [
        ("2013,1,x,UA,1545,EWR", FLIGHT, "key field 'day' wants an int, not 'x'"),
        ("2013,1,,UA,1545,EWR", FLIGHT, "key field 'day' wants an int, not ''"),
        ("2013,1,1.5,UA,1545,EWR", FLIGHT, "key field 'day' wants an int"),
        ("2013,1,99999999999999999999,UA,1545,EWR", FLIGHT, "key field 'day': .*64 bits"),
        ("2013,1," + "9" * 5000 + ",UA,1545,EWR", FLIGHT, "key field 'day' wants an int"),
        ("2013,1,1", FLIGHT, "has 3 elements, this map wants 6: year:int,"),
        ('[2013, 1, 1, "UA", "1545", "EWR"]', FLIGHT, "key field 'flight' is of type int, not str"),
        ('[2013, 1, true, "UA", 1545, "EWR"]', FLIGHT, "key field 'day' is of type int, not bool"),
        ("maybe,00,1,x", MIXED, "key field 'on' wants true or false"),
        ("true,0x,1,x", MIXED, "key field 'raw' wants bytes in hex"),
        ("true,00,nan,x", MIXED, "key field 'at': .*NaN"),
        ('"a"x', (KeyField("a"),), "no comma list.*quote as in CSV"),
        ("UA", (), 'no JSON; write .*"UA"'),
        ("", (), "no JSON"),
        ("[]", (), "at least one element"),
        ('{"a": 1}', (), "JSON object"),
        ("[NaN]", (), "NaN"),
        ("[" * 5000, (), "no JSON"),
    ],
)
def test_bad_text_is_refused_with_the_field(text: str, fields: tuple[KeyField, ...], message: str) -> None:
    with pytest.raises(InvalidKeyError, match=message):
        parse_key_text(text, fields)


def test_keys_of_rows() -> None:
    row: dict[str, object] = {
        "year": "2013", "month": "1", "day": "1", "carrier": "UA", "flight": "1545", "origin": "EWR", "dest": "IAH",
    }  # fmt: skip
    assert key_from_fields(row, FLIGHT) == (2013, 1, 1, "UA", 1545, "EWR")
    assert key_from_fields({**row, "flight": 1545}, FLIGHT) == (2013, 1, 1, "UA", 1545, "EWR")
    for name, value, message in (
        ("flight", "NA", "'flight' wants an int, not 'NA'"),
        ("flight", 1.5, "'flight' is of type int, not float"),
        ("origin", None, "'origin' is missing; the row has year, month"),
    ):
        with pytest.raises(InvalidKeyError, match=message) as caught:
            key_from_fields({**row, name: value}, FLIGHT)
        assert caught.value.field == name


def test_conforming_keys() -> None:
    assert repr(conform_key((True, b"", 3, "x"), MIXED)) == repr((True, b"", 3.0, "x"))
    assert conform_key("x", (KeyField("a"),)) == ("x",)
    with pytest.raises(InvalidKeyError, match="key field 'at' is of type float, not int"):
        conform_key((True, b"", 2**53 + 1, "x"), MIXED)
    with pytest.raises(InvalidKeyError, match="wants 4"):
        conform_key((True,), MIXED)


def test_showing_keys() -> None:
    assert format_key((2013, "UA", 1.0, True, None, b"\0\xff")) == '[2013, "UA", 1.0, true, null, {"bytes": "00ff"}]'
    assert format_key(("é",)) == '"é"'
    assert format_key((("a",),)) == '[["a"]]'
    assert format_key(("\x1b[31m\x9b\u202e",)) == '"\\u001b[31m\\u009b\\u202e"'
