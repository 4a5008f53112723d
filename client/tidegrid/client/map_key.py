"""The keys that a map can hold, as its reads take them: one that the map could never hold is refused before it is asked
for, as a write of it is by the node, and is not answered with "there is none".

The types of the elements are looked at, not their bytes: the pattern of the grammar costs a client tens of milliseconds
to compile. Invariant: what is refused here, the node refuses to write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tidegrid.grid.model.errors import CallerError, InvalidKeyError
from tidegrid.grid.model.keys import encode_key, prefix_range
from tidegrid.grid.model.maps import KeyField, MapSpec

_TYPES: Final[dict[str, type]] = {"str": str, "int": int, "float": float, "bool": bool, "bytes": bytes, "any": object}
_NUMBERS: Final = {int, float}


def key_encoder(spec: MapSpec, bytes_max: int) -> Callable[[object], bytes]:
    """`encode_key` for the keys of this map; about half as much again where it declares key fields.

    What it gives raises InvalidKeyError, which says what the map wants, and TooLargeError.
    """
    fields = spec.key
    exact = tuple(_TYPES[field.type] for field in fields)

    def encode(key: object) -> bytes:
        encoded = encode_key(key, bytes_max)
        if exact:
            elements = _elements(key)
            if tuple(map(type, elements)) != exact and not (len(elements) == len(fields) and _fits(elements, fields)):
                raise InvalidKeyError(
                    f"map {spec.name!r} wants a key of {_shown(fields)}, not {key!r:.200}", map=spec.name
                )
        return encoded

    return encode


def scan_range(spec: MapSpec, prefix: object, begin: object, end: object, bytes_max: int) -> tuple[bytes, bytes]:
    """[low, high) of the encoded keys that a scan goes over; high b"": to the end. None: not given.

    Raises CallerError for a prefix and a bound together; InvalidKeyError for what no key of the map begins with, or can be held
    against, which would find nothing, or all; TooLargeError.
    """
    if prefix is None:
        low, high = (b"" if bound is None else _bound(spec, bound, bytes_max) for bound in (begin, end))
        return low, high
    if begin is not None or end is not None:
        raise CallerError("give either a prefix, or begin and end")
    fields, elements = spec.key, _elements(prefix)
    if fields and len(elements) == len(fields) and _fits(elements, fields):
        raise InvalidKeyError(
            f"{prefix!r:.200} is a whole key of map {spec.name!r}, and a prefix has fewer elements; `get` reads one key",
            map=spec.name,
        )
    if fields and not (len(elements) < len(fields) and _fits(elements, fields)):
        raise InvalidKeyError(
            f"keys of map {spec.name!r} are {_shown(fields)}, so none begins with {prefix!r:.200}", map=spec.name
        )
    return prefix_range(prefix)


def _bound(spec: MapSpec, bound: object, bytes_max: int) -> bytes:
    """A bound need not be a key, but ordered among them: numbers are, whatever their type."""
    fields, elements = spec.key, _elements(bound)
    if fields and not (
        len(elements) <= len(fields)
        and all(
            _fits((element,), (field,)) or {type(element), _TYPES[field.type]} <= _NUMBERS
            for element, field in zip(elements, fields, strict=False)
        )
    ):
        raise InvalidKeyError(
            f"keys of map {spec.name!r} are {_shown(fields)}, so {bound!r:.200} lies before or after all of them",
            map=spec.name,
        )
    return encode_key(bound, bytes_max)


def _elements(key: object) -> tuple[Any, ...]:
    return key if isinstance(key, tuple) else (key,)


def _shown(fields: tuple[KeyField, ...]) -> str:
    return "(" + ", ".join(f"{field.name}:{field.type}" for field in fields) + ")"


def _fits(elements: tuple[Any, ...], fields: tuple[KeyField, ...]) -> bool:
    """Of the first fields. Subclasses are what they are encoded as: an IntEnum is an int; True is none."""
    return all(
        isinstance(element, _TYPES[field.type]) and (type(element) is not bool or field.type in ("bool", "any"))
        for element, field in zip(elements, fields, strict=False)
    )
