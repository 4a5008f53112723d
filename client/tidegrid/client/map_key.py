"""The keys that a map can hold, as its reads take them: one that the map could never hold is refused before it is asked
for, as a write of it is by the node, and is not answered with "there is none".

The types of the elements are looked at, not their bytes: the pattern of the grammar costs a client tens of milliseconds
to compile. Invariant: what is refused here, the node refuses to write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tidegrid.grid.model.errors import InvalidKeyError
from tidegrid.grid.model.keys import encode_key
from tidegrid.grid.model.maps import KeyField, MapSpec

_TYPES: Final[dict[str, type]] = {"str": str, "int": int, "float": float, "bool": bool, "bytes": bytes, "any": object}


def key_encoder(spec: MapSpec, bytes_max: int) -> Callable[[object], bytes]:
    """`encode_key` for the keys of this map; about half as much again where it declares key fields.

    What it gives raises InvalidKeyError, which says what the map wants, and TooLargeError.
    """
    fields = spec.key
    exact = tuple(_TYPES[field.type] for field in fields)

    def encode(key: object) -> bytes:
        encoded = encode_key(key, bytes_max)
        if exact:
            elements: tuple[Any, ...] = key if isinstance(key, tuple) else (key,)
            if tuple(map(type, elements)) != exact and not _fits(elements, fields):
                wanted = ", ".join(f"{field.name}:{field.type}" for field in fields)
                raise InvalidKeyError(f"map {spec.name!r} wants a key of ({wanted}), not {key!r:.200}", map=spec.name)
        return encoded

    return encode


def _fits(elements: tuple[Any, ...], fields: tuple[KeyField, ...]) -> bool:
    """Subclasses are what they are encoded as: an IntEnum is an int; True is none."""
    return len(elements) == len(fields) and all(
        isinstance(element, _TYPES[field.type]) and (type(element) is not bool or field.type in ("bool", "any"))
        for element, field in zip(elements, fields, strict=True)
    )
