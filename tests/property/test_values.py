"""Values: what encodes passes the check and comes back; any other bytes are refused or are a value."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import msgpack
from hypothesis import given, settings
from hypothesis import strategies as st
from tidegrid.grid.model.errors import FormatError, InvalidValueError, TooLargeError
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.values import check_value, decode_value, encode_value

THOROUGH = settings(max_examples=500)

LIMITS = Limits()
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=8),
    st.binary(max_size=8),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=20,
)


@THOROUGH
@given(VALUES)
def test_a_value_comes_back(value: Any) -> None:
    encoded = encode_value(value, LIMITS)
    assert check_value(encoded, LIMITS) == value == decode_value(encoded)
    assert msgpack.unpackb(encoded) == value, "any msgpack library reads it"
    assert check_value(msgpack.packb(value), LIMITS) == value, "and writes it"


def storable(value: Any, depth: int) -> bool:
    if isinstance(value, dict):
        return depth > 0 and all(isinstance(key, str) and storable(child, depth - 1) for key, child in value.items())
    if isinstance(value, list):
        return depth > 0 and all(storable(child, depth - 1) for child in value)
    return value is None or isinstance(value, bool | int | float | str | bytes)


MESSY = st.recursive(
    st.one_of(SCALARS, st.just(msgpack.ExtType(3, b"x")), st.just(msgpack.Timestamp(5, 0))),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.text(max_size=3), st.integers(), st.binary(max_size=3)), inner, max_size=3),
    ),
    max_leaves=8,
)


@THOROUGH
@given(MESSY, st.integers(0, 6))
def test_what_is_let_in_is_storable_within_the_depth(value: Any, depth: int) -> None:
    try:
        data = msgpack.packb(value)
    except (OverflowError, ValueError):
        return
    limits = Limits(value_depth_max=depth)
    try:
        found = check_value(data, limits)
    except (InvalidValueError, TooLargeError):
        assert not storable(value, depth)
        return
    assert storable(value, depth) and found == value


@THOROUGH
@given(st.binary(max_size=20))
def test_any_bytes_are_a_value_or_refused(data: bytes) -> None:
    try:
        value = check_value(data, LIMITS)
    except (InvalidValueError, TooLargeError):
        return
    again = decode_value(data)
    assert storable(value, LIMITS.value_depth_max)
    assert again == value or (isinstance(value, float) and math.isnan(value)) or "nan" in repr(value)


@given(st.binary(max_size=20))
def test_decoding_is_total(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        decode_value(data)
