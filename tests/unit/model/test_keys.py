from __future__ import annotations

import enum
import json
import math
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from tidegrid.grid.model.errors import FormatError, InvalidKeyError, TooLargeError
from tidegrid.grid.model.key_grammar import DEPTH_MAX
from tidegrid.grid.model.keys import KEY_BYTES_MAX, check_key, decode_key, encode_key, is_key, key_pattern, prefix_range
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.maps import KeyField
from tidegrid.grid.model.partitioner import partition_of

VECTORS = json.loads(Path(__file__).with_name("key_vectors.json").read_text(encoding="utf-8"))


def from_tagged(tagged: dict[str, Any]) -> Any:
    ((kind, value),) = tagged.items()
    match kind:
        case "int":
            return int(value)
        case "float":
            return float.fromhex(value)
        case "bytes":
            return bytes.fromhex(value)
        case "tuple":
            return tuple(map(from_tagged, value))
    return value


@pytest.mark.parametrize("vector", VECTORS["keys"], ids=lambda vector: vector["encoded"])
def test_golden_vectors(vector: dict[str, Any]) -> None:
    key, encoded = tuple(map(from_tagged, vector["key"])), bytes.fromhex(vector["encoded"])
    assert encode_key(key).hex() == vector["encoded"]
    assert repr(decode_key(encoded)) == repr(key)
    for affinity in (0, 1, 2):
        assert partition_of(encoded, 16, affinity) == vector["partitions_16"][f"affinity_{affinity}"]


def test_golden_vectors_are_in_order_and_many() -> None:
    encoded = [bytes.fromhex(vector["encoded"]) for vector in VECTORS["keys"]]
    assert encoded == sorted(set(encoded)) and len(encoded) > 70


def test_a_prefix_scan_is_a_range_and_not_a_comparison_of_leading_bytes() -> None:
    vector = VECTORS["prefix_range"]
    begin, end = prefix_range(tuple(map(from_tagged, vector["prefix"])))
    assert (begin.hex(), end.hex()) == (vector["begin"], vector["end"])
    assert all(begin <= bytes.fromhex(inside) < end for inside in vector["inside"])
    strangers = [bytes.fromhex(outside) for outside in vector["outside_though_they_start_with_the_same_bytes"]]
    assert encode_key("UA\0") in strangers
    assert all(stranger.startswith(encode_key("UA")) and not begin <= stranger < end for stranger in strangers)


@pytest.mark.parametrize("reason", VECTORS["refused"])
def test_rubbish_is_refused(reason: str) -> None:
    encoded = bytes.fromhex(VECTORS["refused"][reason])
    assert not is_key(encoded)
    with pytest.raises(FormatError, match="not an encoded key"):
        decode_key(encoded)
    with pytest.raises(InvalidKeyError, match=r"encode it as docs/formats.md says"):
        check_key(encoded)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("bits", range(1, 53))
def test_a_fraction_finer_than_a_double_is_refused(bits: int, sign: int) -> None:
    whole = (1 << bits) - 1
    finest = math.ulp(float(whole))
    fine = bytearray(encode_key(sign * (whole + finest)))
    assert decode_key(bytes(fine)) == (sign * (whole + finest),)
    unit = int(finest * 2**56) >> 1
    tail = int.from_bytes(fine[-7:], "big")
    fine[-7:] = (tail | unit if sign > 0 else tail ^ unit).to_bytes(7, "big")
    assert not is_key(bytes(fine))


@pytest.mark.parametrize("bits", range(54, 65))
def test_a_whole_float_finer_than_a_double_is_refused(bits: int) -> None:
    finest = 1 << (bits - 53)
    value = float((1 << bits) - finest)
    encoded = encode_key(value)
    assert decode_key(encoded) == (value,)
    half = (int(value) + finest // 2).to_bytes(8 if bits > 56 else 7, "big")
    assert not is_key(encoded[:1] + half + b"\1")


class Airline(enum.IntEnum):
    UA = 7


class Code(str):
    __slots__ = ()


def test_subclasses_are_what_they_are_a_kind_of() -> None:
    pair = namedtuple("pair", "a b")
    assert encode_key((Airline.UA, Code("x\0"))) == encode_key((7, "x\0"))
    assert encode_key(pair(1, "x")) == encode_key((1, "x"))
    assert encode_key("UA") == encode_key(("UA",))


def test_one_one_point_nought_and_true_are_three_keys() -> None:
    assert len({encode_key(1), encode_key(1.0), encode_key(True)}) == 3
    assert encode_key(-0.0) == encode_key(0.0) != encode_key(0)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ((), "at least one element"),
        (("a", math.nan), "element 2: NaN.*use None"),
        (("a", "\ud800"), "element 2: .*lone surrogate"),
        (("a", "\0\ud800"), "element 2: .*lone surrogate"),
        (("a", ("\ud800",)), "element 2: .*lone surrogate"),
        (2**64, "element 1: .*does not fit 64 bits; use a str"),
        (-(2**63) - 1, "does not fit 64 bits"),
        pytest.param(1 << 5000, "of 5001 bits does not fit", id="huge"),
        ([1], "list cannot be in a key; use a tuple"),
        ((1, [1]), "element 2: .*use a tuple"),
        ((1, {}), "dict cannot be in a key; convert it"),
        (bytearray(b"x"), "use bytes"),
    ],
)
def test_what_cannot_be_in_a_key(key: object, message: str) -> None:
    with pytest.raises(InvalidKeyError, match=message):
        encode_key(key)


def test_too_long_and_too_deep() -> None:
    assert Limits().key_bytes_max == KEY_BYTES_MAX
    assert len(encode_key("x" * (KEY_BYTES_MAX - 2))) == KEY_BYTES_MAX
    with pytest.raises(TooLargeError) as long:
        encode_key("x" * (KEY_BYTES_MAX - 1))
    assert (long.value.what, long.value.size, long.value.limit) == ("key", KEY_BYTES_MAX + 1, KEY_BYTES_MAX)
    with pytest.raises(TooLargeError, match="limit is 8"):
        encode_key("0123456", 8)
    deep: tuple[Any, ...] = ()
    for _ in range(DEPTH_MAX - 1):
        deep = (deep,)
    assert decode_key(encode_key((deep,))) == (deep,)
    with pytest.raises(TooLargeError, match="depth of the key"):
        encode_key(((deep,),))


@pytest.mark.parametrize("kind", ["str", "int", "float", "bool", "bytes", "any"])
def test_a_key_field_takes_its_type_alone(kind: str) -> None:
    samples = {"str": "a\0é", "int": -5, "float": 2.5, "bool": True, "bytes": b"\0", "none": None, "tuple": (1,)}
    matches = key_pattern((KeyField("a", kind), KeyField("b", "int"))).fullmatch
    for name, sample in samples.items():
        assert (matches(encode_key((sample, 1))) is not None) == (kind in ("any", name))
    assert not matches(encode_key((samples.get(kind), 1, 1))) and not matches(encode_key((samples.get(kind),)))


def test_checking_a_long_key_takes_linear_time() -> None:
    """Would take ages if the grammar were ambiguous: everything fits but the last byte."""
    for encoded in (
        b"0" + b"a" * 100_000,
        (b"0\xc3\xa9\0" * 20_000) + b"\0",
        b"2" + b"!\1\0" * 30_000,
        b"1" + b"\0\xff" * 50_000,
    ):
        assert not is_key(encoded)
