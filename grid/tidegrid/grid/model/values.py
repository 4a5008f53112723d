"""Values: what a key maps to, as msgpack bytes that nobody looks into before someone has to.

A value is None, a bool, an int of 64 bits, a float, a str, bytes, a list of values, or a dict of values with str keys
(so that every value is also a row, a JSON document and an object in any language). Extension types, msgpack's
timestamp among them, are refused: dates go in as ISO text or as a number of the unit that the name of the field tells.

Invariant: bytes that pass `check_value` decode, everywhere and with any msgpack library that reads UTF-8.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NoReturn, TypeAlias

import msgspec
from tidegrid.grid.model.errors import FormatError, InvalidValueError, TooLargeError
from tidegrid.grid.model.limits import Limits

Value: TypeAlias = Any
"""None, bool, int, float, str, bytes, list of values, or dict of str to value."""

_SCALARS: Final = frozenset((type(None), bool, int, float, str, bytes))
_HINT: Final = "convert it to a dict, list, str or number"
_HINTS: Final = {
    "datetime": "use .isoformat(), or a number named by its unit",
    "date": "use .isoformat()",
    "time": "use .isoformat()",
    "timedelta": "use .total_seconds()",
    "Decimal": "use str(), or a float",
    "UUID": "use str()",
    "set": "use a list",
    "frozenset": "use a list",
}


def encode_value(value: object, limits: Limits) -> bytes:
    """msgpack. About 1 us for a flat dict of 19 fields. A tuple becomes a list.

    Raises InvalidValueError with the place of what cannot be stored and what to use instead; TooLargeError.
    """
    if type(value) is not dict or not _SCALARS.issuperset(map(type, value.values())) or not _has_str_keys(value):
        _check_tree(value, limits.value_depth_max, "value")
    try:
        encoded = _encode(value)
    except OverflowError:
        raise InvalidValueError("an int in the value does not fit 64 bits; use a str, or a float") from None
    except UnicodeEncodeError:
        raise InvalidValueError("a str in the value has a lone surrogate, which UTF-8 cannot hold; use bytes") from None
    if len(encoded) > limits.value_bytes_max:
        raise TooLargeError.of("value", len(encoded), limits.value_bytes_max)
    return encoded


def decode_value(encoded: bytes) -> Value:
    """The value of bytes that were let in. About 1 us for a flat dict of 19 fields. Raises FormatError."""
    try:
        return _decode(encoded)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InvalidValueError) as error:
        raise FormatError(f"the bytes of a value do not decode: {error}") from error


def check_value(encoded: bytes, limits: Limits) -> Value:
    """For bytes that a client sent: the value, decoded, as a full look at the bytes is the same work.

    About 1 us for a flat dict of 19 fields. Raises TooLargeError (bytes, depth) and InvalidValueError.
    """
    if len(encoded) > limits.value_bytes_max:
        raise TooLargeError.of("value", len(encoded), limits.value_bytes_max)
    if limits.value_depth_max >= _SHALLOW:
        try:
            return _decode_shallow(encoded)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass  # deep, with bytes inside, or bad: the long look tells
    try:
        value = _decode(encoded)
    except RecursionError:
        raise _too_deep("value") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidValueError(f"the value is no msgpack that can be stored: {error}") from None
    _check_tree(value, limits.value_depth_max, "value")
    return value


def are_values(column: Sequence[bytes], limits: Limits) -> bool:
    """Whether each of them passes `check_value`, at a quick look; False may also mean: ask for each."""
    if limits.value_depth_max < _SHALLOW or max(map(len, column), default=0) > limits.value_bytes_max:
        return False
    try:
        for encoded in column:
            _decode_shallow(encoded)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _has_str_keys(value: dict[Any, Any]) -> bool:
    try:
        "".join(value)  # the quickest loop over types there is
    except TypeError:
        return False
    return True


def _check_tree(value: object, depth_left: int, place: str) -> None:
    """Raises InvalidValueError or TooLargeError unless `value` can be stored with at most so many levels of nesting."""
    children: Iterable[tuple[object, object]]
    if type(value) in _SCALARS:
        return
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise InvalidValueError(
                    f"{place} has the {type(key).__name__} {key!r} as a key; keys of a value are str"
                )
        children = value.items()
    elif isinstance(value, list | tuple):
        children = enumerate(value)
    elif isinstance(value, bool | int | float | str | bytes | bytearray | memoryview):
        return
    else:
        kind = type(value).__name__
        raise InvalidValueError(f"{place} is of type {kind}, which cannot be stored; {_HINTS.get(kind, _HINT)}")
    if depth_left == 0:
        raise _too_deep(place)
    for name, child in children:
        if type(child) not in _SCALARS:
            _check_tree(child, depth_left - 1, f"{place}[{name!r}]")


def _plain(value: object) -> object:
    """Subclasses of the scalar types, an IntEnum say, as what they are a kind of."""
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes):
        return bytes(value)
    raise InvalidValueError(f"an object of type {type(value).__name__} cannot be stored; {_HINT}")


def _too_deep(place: str) -> TooLargeError:
    return TooLargeError(
        f"{place[:80]} is nested too deep to be stored; flatten it, or make it a str of JSON", what="depth"
    )


def _refuse_extension(code: int, _data: memoryview) -> NoReturn:
    raise InvalidValueError(f"the value holds msgpack extension type {code}; use a str, a number or bytes")


def _nested(levels: int) -> Any:
    scalars = None | bool | int | float | str
    kind: Any = scalars
    for _ in range(levels):
        kind = scalars | list[kind] | dict[str, kind]
    return kind


_SHALLOW: Final = 3
"""Levels that the decoder itself checks, types and all: the work doubles with each."""

_encode = msgspec.msgpack.Encoder(enc_hook=_plain).encode
_decode = msgspec.msgpack.Decoder(ext_hook=_refuse_extension).decode
_decode_shallow = msgspec.msgpack.Decoder(_nested(_SHALLOW)).decode
