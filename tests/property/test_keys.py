"""Encoded keys against the stated order, and against every string of bytes: one encoding per key, nothing else let in."""

from __future__ import annotations

import math
from functools import cmp_to_key
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from tidegrid.grid.model.errors import FormatError, InvalidKeyError
from tidegrid.grid.model.key_text import format_key, parse_key_text
from tidegrid.grid.model.keys import (
    check_key,
    decode_key,
    decode_stored_key,
    encode_key,
    is_key,
    key_pattern,
    prefix_range,
)
from tidegrid.grid.model.maps import KeyField
from tidegrid.grid.model.partitioner import Partitioner, leading, partition_of

THOROUGH = settings(max_examples=500)

INTEGERS = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.integers(-300, 5000),
    st.integers(0, 63).flatmap(lambda bits: st.integers(-2, 2).map(lambda by: (1 << bits) + by)),
    st.integers(0, 62).flatmap(lambda bits: st.integers(-2, 2).map(lambda by: -(1 << bits) + by)),
)
FLOATS = st.one_of(
    st.floats(allow_nan=False),
    st.integers(-(2**53), 2**53).map(float),
    st.integers(-40, 40).map(lambda quarters: quarters / 4),
    st.integers(-70, 70).flatmap(
        lambda power: st.sampled_from([1.0, -1.0, 1.5, -1.5, 1 + 2**-52]).map(lambda x: x * 2.0**power)
    ),
    st.sampled_from(
        [math.inf, -math.inf, 0.0, -0.0, 5e-324, 2.0**64, 2.0**63, -(2.0**63), math.nextafter(2.0**64, 0), 0.1]
    ),
)
TEXTS = st.one_of(
    st.text(max_size=6), st.text("\0\x01a\x7f\x80\xff\u07ff\u0800\ud7ff\ue000\uffff\U00010000", max_size=6)
)
SCALARS = st.one_of(
    st.none(), st.booleans(), INTEGERS, FLOATS, TEXTS, st.binary(max_size=6), st.sampled_from([b"\0\xff", b"\0\0"])
)


def nested(depth: int) -> st.SearchStrategy[Any]:
    if depth == 0:
        return SCALARS
    return st.one_of(SCALARS, SCALARS, st.lists(nested(depth - 1), max_size=3).map(tuple))


KEYS = st.lists(nested(4), min_size=1, max_size=4).map(tuple)


def rank(element: Any) -> int:
    if element is None:
        return 0
    return {bool: 1, int: 2, float: 2, str: 3, bytes: 4, tuple: 5}[type(element)]


def compare(a: Any, b: Any) -> int:
    """The stated order, element by element; Python compares int and float exactly."""
    if rank(a) != rank(b):
        return -1 if rank(a) < rank(b) else 1
    if isinstance(a, tuple):
        for left, right in zip(a, b, strict=False):
            if (found := compare(left, right)) != 0:
                return found
        return (len(a) > len(b)) - (len(a) < len(b))
    if a is None:
        return 0
    if a != b:
        return -1 if a < b else 1
    return (type(a) is float) - (type(b) is float)


def sign(difference: int) -> int:
    return (difference > 0) - (difference < 0)


def same(a: Any, b: Any) -> bool:
    return compare(a, b) == 0


@THOROUGH
@given(KEYS, KEYS)
@example((1,), (1.0,))
@example((-1.0,), (-1,))
@example((-1.5,), (-1,))
@example((2**53 + 1,), (2.0**53,))
@example((-(2**63),), (-(2.0**63),))
@example(("a",), ("a\0",))
@example((("a",), 1), (("a", 0),))
@example(((), 0), ((None,),))
def test_the_order_of_the_bytes_is_the_order_of_the_keys(a: tuple[Any, ...], b: tuple[Any, ...]) -> None:
    left, right = encode_key(a), encode_key(b)
    assert sign((left > right) - (left < right)) == compare(a, b)


@given(st.lists(KEYS, min_size=2, max_size=12))
def test_sorting_bytes_sorts_keys(keys: list[tuple[Any, ...]]) -> None:
    by_bytes = [decode_key(encoded) for encoded in sorted(map(encode_key, keys))]
    assert all(map(same, by_bytes, sorted(keys, key=cmp_to_key(compare))))


@THOROUGH
@given(KEYS)
def test_a_key_survives_its_encoding(key: tuple[Any, ...]) -> None:
    encoded = encode_key(key)
    decoded = decode_key(encoded)
    assert same(decoded, key) and same(decode_stored_key(encoded), key)
    assert encode_key(decoded) == encoded
    assert 0 not in encoded[:1] and 255 not in encoded[:1]
    check_key(encoded)


MUTATIONS = st.lists(st.tuples(st.integers(0, 63), st.integers(0, 255), st.sampled_from("sid")), max_size=3)
CODES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                bytes([code])
                for code in (0, 1, 2, 3, 0x15, 0x16, 0x17, 0x1F, 0x20, 0x21, 0x28, 0x29, 0x30, 0x31, 0x32, 0xFF)
            ]
        ),
        st.binary(min_size=1, max_size=9),
    ),
    max_size=6,
).map(b"".join)


@THOROUGH
@given(st.one_of(st.binary(max_size=24), CODES, KEYS.map(encode_key)), MUTATIONS)
@example(b"\x22\x00\x01\x00", [])
@example(b"\x21\x01\x02" + bytes(7), [])
@example(b"\x28" + b"\xff" * 8 + b"\x01", [])
@example(b"\x17" + b"\x7f" + b"\xfe" * 7 + b"\x01", [])
@example(b"\x20\x02" + bytes(8), [])
@example(b"\x29\x7f\xf8" + bytes(6), [])
@example(b"\x30\xed\xa0\x80\x00", [])
@example(b"\x32" * 5 + b"\x00" * 5, [])
def test_bytes_are_the_one_encoding_of_a_key_or_refused(encoded: bytes, mutations: list[tuple[int, int, str]]) -> None:
    data = bytearray(encoded)
    for at, byte, kind in mutations:
        if data and kind == "s":
            data[at % len(data)] = byte
        elif kind == "i":
            data.insert(at % (len(data) + 1), byte)
        elif data:
            del data[at % len(data)]
    candidate = bytes(data)
    try:
        key = decode_key(candidate)
    except FormatError:
        assert not is_key(candidate)
        return
    assert encode_key(key) == candidate


def shallow(key: tuple[Any, ...]) -> list[KeyField]:
    kinds = {type(None): "any", tuple: "any"}
    return [KeyField(f"f{at}", kinds.get(type(element), type(element).__name__)) for at, element in enumerate(key)]


@given(KEYS, KEYS)
def test_the_pattern_of_key_fields_lets_in_their_keys_alone(key: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    fields = shallow(key)
    matches = key_pattern(tuple(fields)).fullmatch
    assert matches(encode_key(key))
    fits = len(other) == len(key) and all(
        field.type in ("any", type(element).__name__) for field, element in zip(fields, other, strict=True)
    )
    assert (matches(encode_key(other)) is not None) == fits


@THOROUGH
@given(KEYS, KEYS)
def test_a_prefix_range_holds_the_keys_that_go_on(prefix: tuple[Any, ...], key: tuple[Any, ...]) -> None:
    begin, end = prefix_range(prefix)
    for candidate in (key, prefix, prefix + key, prefix[:-1] + key):
        goes_on = len(candidate) > len(prefix) and same(candidate[: len(prefix)], prefix)
        assert (begin <= encode_key(candidate) < end) == goes_on


@given(KEYS, st.integers(1, 64), st.integers(0, 6))
def test_affinity_hashes_leading_elements(key: tuple[Any, ...], partitions: int, affinity: int) -> None:
    encoded = encode_key(key)
    head = encode_key(key[:affinity]) if affinity else encoded
    assert leading(encoded, affinity or len(key)) == head
    expected = partition_of(head, partitions)
    partitioner = Partitioner(partitions, affinity)
    assert partition_of(encoded, partitions, affinity) == partitioner.of(encoded) == expected
    assert partitioner.many([encoded, encoded]) == [expected, expected]


@given(st.binary(max_size=24), st.integers(0, 4))
def test_the_partitioner_is_total(encoded: bytes, affinity: int) -> None:
    try:
        assert 0 <= partition_of(encoded, 16, affinity) < 16
    except FormatError:
        assert affinity and not is_key(encoded)


@given(KEYS)
def test_key_text_reads_back(key: tuple[Any, ...]) -> None:
    text = format_key(key)
    assert text.isprintable()
    assert same(parse_key_text(text), key)
    assert same(parse_key_text(text, ()), key)


@given(st.text(max_size=20))
def test_key_text_is_total(text: str) -> None:
    try:
        key = parse_key_text(text)
    except InvalidKeyError:
        return
    encode_key(key)
