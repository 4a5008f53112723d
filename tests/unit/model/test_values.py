from __future__ import annotations

import collections
import datetime
import decimal
import enum
import uuid
from typing import Any

import pytest
from tidegrid.grid.model.errors import FormatError, InvalidValueError, TooLargeError
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.values import check_value, decode_value, encode_value

LIMITS = Limits()


class Level(enum.IntEnum):
    HIGH = 3


class Name(enum.StrEnum):
    UA = "ua"


def nest(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (None, None),
        ({"a": 1, "b": [1.5, "x", b"y", None, True]}, {"a": 1, "b": [1.5, "x", b"y", None, True]}),
        ((1, (2,)), [1, [2]]),
        (collections.OrderedDict(a=(1,)), {"a": [1]}),
        ({"a": Level.HIGH, "b": Name.UA}, {"a": 3, "b": "ua"}),
        ({Name.UA: 1}, {"ua": 1}),
        (type("Text", (str,), {})("x"), "x"),
        (type("Real", (float,), {})(1.5), 1.5),
        (type("Raw", (bytes,), {})(b"x"), b"x"),
        (2**64 - 1, 2**64 - 1),
        (-(2**63), -(2**63)),
        (nest(LIMITS.value_depth_max), nest(LIMITS.value_depth_max)),
    ],
)
def test_what_is_stored(value: object, stored: object) -> None:
    encoded = encode_value(value, LIMITS)
    assert check_value(encoded, LIMITS) == stored == decode_value(encoded)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (datetime.datetime(2013, 1, 1), "value is of type datetime.*isoformat"),
        ({"a": datetime.date(2013, 1, 1)}, r"value\['a'\] is of type date.*isoformat"),
        ({"a": [1, {"b": decimal.Decimal(1)}]}, r"value\['a'\]\[1\]\['b'\] is of type Decimal.*str"),
        ({"a": uuid.UUID(int=1)}, r"value\['a'\] is of type UUID"),
        ({"a": {1, 2}}, "use a list"),
        (object(), "convert it to a dict"),
        ({1: 2}, "the int 1 as a key; keys of a value are str"),
        ({"a": {(1,): 2}}, r"value\['a'\] has the tuple"),
        ({"a": 2**64}, "does not fit 64 bits"),
        ({"a": "\ud800"}, "lone surrogate"),
    ],
)
def test_what_cannot_be_stored_says_what_to_do(value: object, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        encode_value(value, LIMITS)


def test_too_large_and_too_deep() -> None:
    limits = Limits(value_bytes_max=10)
    with pytest.raises(TooLargeError, match="limit is 10") as large:
        encode_value("x" * 20, limits)
    assert large.value.what == "value"
    with pytest.raises(TooLargeError, match="limit is 10"):
        check_value(b"\xc4\x10" + b"x" * 16, limits)
    deep = nest(LIMITS.value_depth_max + 1)
    with pytest.raises(TooLargeError, match="nested too deep"):
        encode_value(deep, LIMITS)
    with pytest.raises(TooLargeError, match="nested too deep"):
        check_value(encode_value(deep, Limits(value_depth_max=100)), LIMITS)
    for levels in range(6):
        with pytest.raises(TooLargeError):
            check_value(encode_value(nest(levels + 1), LIMITS), Limits(value_depth_max=levels))
    with pytest.raises(TooLargeError):
        check_value(b"\x91" * 100_000 + b"\xc0", LIMITS)
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(TooLargeError):
        encode_value(endless, LIMITS)


@pytest.mark.parametrize(
    "encoded",
    [
        b"", b"\xc1", b"\x91", b"\x91\xc1", b"\x01\x02", b"\xa1\xff", b"\xa3\xed\xa0\x80", b"\xdd\xff\xff\xff\xff", b"\x81\x91\x01\x02",
        b"\x81\x81\x01\x02\x03", b"\x81\xc0\xc0", b"\x81\x01\x02", b"\x81\xc4\x01a\x02", b"\xd4\x05a", b"\xc7\x01\x05a", b"\x91\xd4\x05a",
        b"\xd6\xff\x00\x00\x00\x01", b"\x81\xa1a\xd6\xff\x00\x00\x00\x01",
    ],
)  # fmt: skip
def test_bytes_that_are_no_value_are_refused(encoded: bytes) -> None:
    with pytest.raises(InvalidValueError):
        check_value(encoded, LIMITS)


def test_bytes_that_do_not_decode() -> None:
    for encoded in (b"", b"\x91", b"\xa1\xff", b"\xd4\x05a", b"\x91" * 5000):
        with pytest.raises(FormatError):
            decode_value(encoded)
