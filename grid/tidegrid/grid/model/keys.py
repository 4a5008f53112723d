"""Keys: tuples of scalars, and the encoding in which byte order is key order.

A key is a non-empty tuple of None, bool, int, float, str, bytes and tuples of these; a scalar stands for the 1-tuple
of itself. Keys are compared element by element, by (type rank, value): None < bool < numbers < str < bytes < tuple.
Ints and floats are one rank, ordered by numeric value; of equal ones the int comes first. So 1, 1.0 and True are
three keys, while -0.0 is 0.0. NaN has no place in an order and is refused, as are lone surrogates, which have no
UTF-8, and ints that 64 bits do not hold.

The grammar of the bytes is in key_grammar.py, golden vectors for other languages in docs/formats.md. Invariants:
encode_key(a) < encode_key(b) exactly when a < b in that order; each key has one encoding; all keys that begin with
the elements of `prefix`, and go on, lie in `prefix_range(prefix)`. That range is not "starts with the same bytes":
the encoding of ("a\\0",) starts with that of ("a",).
"""

from __future__ import annotations

import struct
from typing import Any, Final

from tidegrid.grid.model.errors import FormatError, InvalidKeyError, TooLargeError
from tidegrid.grid.model.key_grammar import DEPTH_MAX, FRACTION_BYTES, ZERO, key_pattern, plain_pattern

__all__ = [
    "KEY_BYTES_MAX",
    "Key",
    "check_key",
    "decode_key",
    "decode_stored_key",
    "encode_key",
    "key_pattern",
    "prefix_range",
]

Key = tuple[Any, ...]
"""A decoded key. Elements: None, bool, int, float, str, bytes, or a tuple of such."""

KEY_BYTES_MAX: Final = 4096  # the default of Limits.key_bytes_max

_STR, _BYTES, _TUPLE = 0x30, 0x31, 0x32
_CONSTANTS: Final = {1: None, 2: False, 3: True}
_FLIP: Final = bytes(range(255, -1, -1))
_HINTS: Final = {"list": "use a tuple", "bytearray": "use bytes", "memoryview": "use bytes"}
_DOUBLE: Final = struct.Struct(">d")
_UNIT: Final = float(1 << 8 * FRACTION_BYTES)


def _int(value: int) -> bytes:
    if value >= 0:
        length = (value.bit_length() + 7) >> 3
        if length > 8:
            raise InvalidKeyError(f"the int {_shown(value)} does not fit 64 bits; use a str")
        return bytes((ZERO + length,)) + value.to_bytes(length, "big") + b"\0"
    if value < -(1 << 63):
        raise InvalidKeyError(f"the int {_shown(value)} does not fit 64 bits; use a str")
    length = ((-value).bit_length() + 7) >> 3
    return bytes((ZERO - 1 - length,)) + (-value).to_bytes(length, "big").translate(_FLIP) + b"\1"


_SMALL: Final = [_int(value) for value in range(4096)]
_two_bytes = struct.Struct(">BHB").pack


def encode_key(key: object, bytes_max: int = KEY_BYTES_MAX) -> bytes:
    """The order-preserving bytes of a key. About 0.7 us for three small ints and three strings.

    Raises InvalidKeyError for what cannot be in a key, and TooLargeError beyond `bytes_max` or too deep nesting.
    """
    elements: tuple[Any, ...] = key if isinstance(key, tuple) else (key,)
    parts: list[bytes] = []
    add = parts.append
    try:
        for element in elements:
            kind = type(element)
            if kind is str:
                if "\0" in element:
                    add(_other(element, 0))
                else:
                    add(f"0{element}\0".encode())
            elif kind is int:
                if 0 <= element < 4096:
                    add(_SMALL[element])
                elif 0 < element < 65536:
                    add(_two_bytes(0x22, element, 0))
                else:
                    add(_int(element))
            else:
                add(_other(element, 0))
    except InvalidKeyError as error:
        raise InvalidKeyError(f"key element {len(parts) + 1}: {error.message}") from None
    except UnicodeEncodeError as error:
        raise InvalidKeyError(f"key element {len(parts) + 1}: {_surrogate(error)}") from None
    encoded = b"".join(parts)
    if not 0 < len(encoded) <= bytes_max:
        if not parts:
            raise InvalidKeyError("a key has at least one element, this tuple is empty")
        raise TooLargeError.of("key", len(encoded), bytes_max)
    return encoded


def _other(element: object, depth: int) -> bytes:
    """Any element, subclasses of the key types included. Raises UnicodeEncodeError too."""
    if element is None:
        return b"\1"
    if element is True:
        return b"\3"
    if element is False:
        return b"\2"
    if isinstance(element, float):
        return _float(float(element))
    if isinstance(element, int):
        return _int(int(element))
    if isinstance(element, str):
        return b"0" + str.encode(element).replace(b"\0", b"\0\xff") + b"\0"
    if isinstance(element, bytes):
        return b"1" + bytes(element).replace(b"\0", b"\0\xff") + b"\0"
    if isinstance(element, tuple):
        if depth == DEPTH_MAX:
            raise TooLargeError.of("depth of the key", depth + 1, DEPTH_MAX, "levels")
        return b"2" + b"".join([_other(inner, depth + 1) for inner in element]) + b"\0"
    kind = type(element).__name__
    hint = _HINTS.get(kind, "convert it to a str or a number")
    raise InvalidKeyError(f"an object of type {kind} cannot be in a key; {hint}")


def _float(value: float) -> bytes:
    if value != value:
        raise InvalidKeyError("NaN has no place in the order of keys; use None")
    magnitude = abs(value)
    if magnitude >= 2.0**64:
        code, rest, positive, negative = 9, _DOUBLE.pack(magnitude), b"", b""
    else:
        whole = int(magnitude)
        code = (whole.bit_length() + 7) >> 3
        fraction = magnitude - whole
        if not fraction:
            if not whole:
                return b"\x20\1"
            rest, positive, negative = whole.to_bytes(code, "big"), b"\1", b"\2"
        elif whole:
            units = int(fraction * _UNIT).to_bytes(FRACTION_BYTES, "big")
            head = whole.to_bytes(code, "big")
            if value > 0:
                return bytes((ZERO + code,)) + head + b"\2" + units
            return bytes((ZERO - 1 - code,)) + head.translate(_FLIP) + b"\0" + units.translate(_FLIP)
        elif value > 0:
            return b"\x20\2" + _DOUBLE.pack(fraction)
        else:
            return b"\x1f\0" + _DOUBLE.pack(fraction).translate(_FLIP)
    if value > 0:
        return bytes((ZERO + code,)) + rest + positive
    return bytes((ZERO - 1 - code,)) + rest.translate(_FLIP) + negative


def _shown(value: int) -> str:
    return str(value) if value.bit_length() < 128 else f"of {value.bit_length()} bits"


def _surrogate(error: UnicodeEncodeError) -> str:
    return f"the str has a lone surrogate at {error.start}, which UTF-8 cannot hold; decode its bytes properly, or use bytes"


def prefix_range(prefix: object) -> tuple[bytes, bytes]:
    """[begin, end) of the encoded keys that have the elements of `prefix` before others. () stands for all keys.

    The key that equals `prefix` is not among them. Raises as `encode_key`.
    """
    encoded = b"" if prefix == () else encode_key(prefix)
    return encoded + b"\0", encoded + b"\xff"


def is_key(encoded: bytes) -> bool:
    """Whether these bytes are the encoding of a key. About 0.4 us; total, linear in the length."""
    return plain_pattern().fullmatch(encoded) is not None or key_pattern().fullmatch(encoded) is not None


def check_key(encoded: bytes) -> None:
    """For bytes that a client sent: raises InvalidKeyError unless they are the encoding of a key."""
    if not is_key(encoded):
        raise InvalidKeyError(
            f"the bytes {encoded[:32].hex(' ')} are not an encoded key; encode it as docs/formats.md says"
        )


def decode_key(encoded: bytes) -> Key:
    """The key of these bytes: `encode_key(decode_key(b), len(b)) == b`. Raises FormatError on any others."""
    if not is_key(encoded):
        raise FormatError(f"the bytes {encoded[:32].hex(' ')} are not an encoded key")
    return _decode(encoded, 0)[0]


def decode_stored_key(encoded: bytes) -> Key:
    """As `decode_key`, for bytes that have passed `check_key` or a key pattern; saves looking at them again."""
    return _decode(encoded, 0)[0]


def _decode(data: bytes, at: int) -> tuple[Key, int]:
    """Elements from `at` to the 00 that ends their tuple, or to the end; and where they end. `data` is well-formed."""
    elements: list[Any] = []
    add = elements.append
    size = len(data)
    while at < size:
        code = data[at]
        at += 1
        if code == _STR:
            end = data.find(0, at)
            if end + 1 < size and data[end + 1] == 0xFF:
                end = _end_of_escaped(data, end)
                add(data[at:end].replace(b"\0\xff", b"\0").decode())
            else:
                add(data[at:end].decode())
            at = end + 1
        elif ZERO < code < ZERO + 9 and data[at + code - ZERO] == 0:  # a positive int
            end = at + code - ZERO
            add(int.from_bytes(data[at:end], "big"))
            at = end + 1
        elif code == 0:
            break
        elif code == _BYTES:
            end = _end_of_escaped(data, data.find(0, at))
            add(data[at:end].replace(b"\0\xff", b"\0"))
            at = end + 1
        elif code == _TUPLE:
            inner, at = _decode(data, at)
            add(inner)
        elif code < 4:
            add(_CONSTANTS[code])
        else:
            value, at = _number(data, code, at)
            add(value)
    return tuple(elements), at


def _end_of_escaped(data: bytes, end: int) -> int:
    """Where the 00 is that ends a string, given its first 00."""
    while end + 1 < len(data) and data[end + 1] == 0xFF:
        end = data.find(0, end + 2)
    return end


def _number(data: bytes, code: int, at: int) -> tuple[int | float, int]:
    negative = code < ZERO
    length = ZERO - 1 - code if negative else code - ZERO
    if length == 9:
        magnitude: float = _DOUBLE.unpack(_upright(data[at : at + 8], negative))[0]
        return (-magnitude if negative else magnitude), at + 8
    whole = int.from_bytes(_upright(data[at : at + length], negative), "big")
    at += length
    marker = data[at]
    at += 1
    if marker == negative:  # 00, below zero 01
        return (-whole if negative else whole), at
    if marker == negative + 1:
        return (-float(whole) if negative else float(whole)), at
    if whole:
        magnitude = whole + int.from_bytes(_upright(data[at : at + FRACTION_BYTES], negative), "big") / _UNIT
        return (-magnitude if negative else magnitude), at + FRACTION_BYTES
    magnitude = _DOUBLE.unpack(_upright(data[at : at + 8], negative))[0]
    return (-magnitude if negative else magnitude), at + 8


def _upright(data: bytes, negative: bool) -> bytes:
    return data.translate(_FLIP) if negative else data
