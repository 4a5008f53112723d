"""The grammar of encoded keys, as regular expressions over bytes.

    key     := element+                                          all elements, nothing between or after them
    element := 01                                                None
             | 02 | 03                                           False, True
             | number
             | 30 (utf-8 byte, 00 written as 00 FF)* 00          str
             | 31 (byte, 00 written as 00 FF)* 00                bytes
             | 32 element* 00                                    tuple, at most DEPTH_MAX deep
    number  := 20 00                                             int 0
             | 20 01                                             float 0.0
             | 20 02 ieee                                        float between 0 and 1
             | 20+n whole{n} 00                                  int, n = 1..8: bytes of the magnitude, first not 00
             | 20+n whole{n} 01                                  float without a fraction, below 2**64
             | 20+n whole{n} 02 fraction                         float with a fraction
             | 29 ieee                                           float from 2**64 on, infinity included
             | 1F 00 ~ieee | 1F-n ~whole{n} (00 ~fraction | 01 | 02) | 16 ~ieee      the same below zero: int 01, float 02
    ieee    := 8 bytes, the magnitude as a big-endian IEEE 754 double
    fraction:= 7 bytes, the part behind the point in units of 2**-56, big-endian

`~` complements every byte, so that a larger magnitude sorts lower. A key that Python could not have made (a float
that no double holds, a leading 00, a lone surrogate) does not match: there is one encoding of each key, and only that
one is let in. The grammar is regular because nesting is bounded, and unambiguous, so that a match takes linear time.

Invariant: no code is 00 or FF. Prior art: the tuple layer of FoundationDB.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Final

from tidegrid.grid.model.maps import KeyField

DEPTH_MAX: Final = 4  # of tuples within the key

ZERO: Final = 0x20
FRACTION_BYTES: Final = 7
_DOUBLE_BITS: Final = 53

_ANY_BYTE = range(256)
_Bytes = list[range]  # one range of allowed values per byte


def _class(allowed: range, flip: bool) -> bytes:
    if len(allowed) == 256:
        return b"."
    values = sorted(255 - value for value in allowed) if flip else list(allowed)
    if len(values) == 1:
        return b"\\x%02x" % values[0]
    if allowed.step == 1:
        return b"[\\x%02x-\\x%02x]" % (values[0], values[-1])
    return b"[" + b"".join(b"\\x%02x" % value for value in values) + b"]"


def _render(allowed: _Bytes, flip: bool) -> bytes:
    return b"".join(_class(one, flip) for one in allowed)


def _multiples(count: int, zero_bits: int) -> _Bytes:
    """`count` bytes, as one number, whose lowest `zero_bits` bits are zero."""
    zero_bytes, bits = divmod(zero_bits, 8)
    free = count - zero_bytes - (bits > 0)
    return [_ANY_BYTE] * free + [range(0, 256, 1 << bits)] * (bits > 0) + [range(1)] * zero_bytes


def _whole(bits: int, zero_bits: int = 0) -> _Bytes:
    """A number of exactly so many bits, the lowest ones zero."""
    count = (bits + 7) // 8
    top = (bits - 1) % 8
    return [range(1 << top, 2 << top), *_multiples(count - 1, zero_bits)]


def _code(length: int, flip: bool) -> bytes:
    return b"\\x%02x" % (ZERO - 1 - length if flip else ZERO + length)


def _ints(flip: bool) -> Iterable[bytes]:
    marker = b"\\x01" if flip else b"\\x00"
    for length in range(1, 8 if flip else 9):
        yield _code(length, flip) + _render([range(1, 256)] + [_ANY_BYTE] * (length - 1), flip) + marker
    if flip:  # magnitudes up to 2**63
        yield _code(8, flip) + _render([range(1, 128)] + [_ANY_BYTE] * 7, flip) + marker
        yield _code(8, flip) + _render([range(128, 129)] + [range(1)] * 7, flip) + marker


def _floats(flip: bool) -> Iterable[bytes]:
    whole, fraction = (b"\\x02", b"\\x00") if flip else (b"\\x01", b"\\x02")
    for length in range(1, 7):
        yield _code(length, flip) + _render([range(1, 256)] + [_ANY_BYTE] * (length - 1), flip) + whole
    for bits in range(49, 65):
        yield _code((bits + 7) // 8, flip) + _render(_whole(bits, max(0, bits - _DOUBLE_BITS)), flip) + whole
    nonzero = b"(?!\\x%02x{%d})" % (255 if flip else 0, FRACTION_BYTES)
    for bits in range(1, _DOUBLE_BITS):
        unit_bits = 8 * FRACTION_BYTES - (_DOUBLE_BITS - bits)
        rest = _render(_multiples(FRACTION_BYTES, unit_bits), flip)
        yield _code((bits + 7) // 8, flip) + _render(_whole(bits), flip) + fraction + nonzero + rest
    nonzero = b"(?!\\x%02x{8})" % (255 if flip else 0)
    yield _code(0, flip) + fraction + nonzero + _render([range(0x3F)] + [_ANY_BYTE] * 7, flip)
    yield _code(0, flip) + fraction + _render([range(0x3F, 0x40), range(0xF0)] + [_ANY_BYTE] * 6, flip)
    yield _code(9, flip) + _render([range(0x43, 0x44), range(0xF0, 0x100)] + [_ANY_BYTE] * 6, flip)
    yield _code(9, flip) + _render([range(0x44, 0x7F)] + [_ANY_BYTE] * 7, flip)
    yield _code(9, flip) + _render([range(0x7F, 0x80), range(0xF0)] + [_ANY_BYTE] * 6, flip)
    yield _code(9, flip) + _render([range(0x7F, 0x80), range(0xF0, 0xF1)] + [range(1)] * 6, flip)


_BEYOND_ASCII = (
    rb"(?:\x00\xff|[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}"
    rb"|\xed[\x80-\x9f][\x80-\xbf]|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2})"
)
_STR: Final = rb"\x30[\x01-\x7f]*(?:" + _BEYOND_ASCII + rb"[\x01-\x7f]*)*\x00"
_BYTES: Final = rb"\x31[^\x00]*(?:\x00\xff[^\x00]*)*\x00"
_INT: Final = b"|".join([rb"\x20\x00", *_ints(False), *_ints(True)])
_COMMON: Final = rb"\x30[\x01-\x7f]*+\x00(?!\xff)|\x21[^\x00]\x00|\x22[^\x00].\x00"
_PLAIN: Final = b"|".join([_STR, _INT, _BYTES, rb"[\x01-\x03]"])
_QUICK: Final = b"(?:" + _COMMON + b"|" + _PLAIN + b")++"
"""Plain elements, ASCII without NUL and ints up to 65,535 first. Possessive, because two branches match these."""


@functools.cache
def _element(kind: str) -> bytes:
    """What one element of a key field's type may be, as a group. `plain` is any but floats and tuples."""
    if kind == "float":
        return b"(?:" + b"|".join([rb"\x20\x01", *_floats(False), *_floats(True)]) + b")"
    if kind == "any":
        scalar = _PLAIN + b"|" + _element("float")
        nested = b"(?:" + scalar + b")"
        for _ in range(DEPTH_MAX):
            nested = b"(?:" + scalar + rb"|\x32" + nested + rb"*\x00)"
        return nested
    return b"(?:" + {"str": _STR, "int": _INT, "bool": rb"[\x02\x03]", "bytes": _BYTES, "plain": _PLAIN}[kind] + b")"


@functools.cache
def key_pattern(fields: tuple[KeyField, ...] = ()) -> re.Pattern[bytes]:
    """Its `fullmatch` accepts exactly the encoded keys of these fields; of a map without key fields, every key.

    About 0.3 us for six elements. Compiled once; a field of type `any`, and a map without fields, take 70 ms to
    compile, a float 15 ms, the others hardly anything.
    """
    if not fields:
        return re.compile(_QUICK + b"|" + _element("any") + b"+", re.DOTALL)
    return re.compile(b"".join(_element(field.type) for field in fields), re.DOTALL)


@functools.cache
def plain_pattern() -> re.Pattern[bytes]:
    """Matches keys of None, bool, int, str and bytes alone: nearly all keys, for a quick first look."""
    return re.compile(_QUICK, re.DOTALL)


@functools.cache
def leading_pattern(count: int, *, plain: bool) -> re.Pattern[bytes]:
    """Its `match` ends behind the first `count` elements."""
    return re.compile(_element("plain" if plain else "any") + b"{%d}" % count, re.DOTALL)
