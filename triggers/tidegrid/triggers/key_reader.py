"""Decodes keys of one map fast, by its declared key fields.

One regular expression splits the bytes into elements, and a table remembers what short elements decode to: years,
carriers and airports repeat. Four times as fast as `decode_key` for six typed fields, and the same answer, as a
property test shows. Maps without key fields, and keys that do not match them, go through `decode_key`.

Elements are looked up by their bytes, so 1, 1.0 and True stay apart. The table is bounded and never evicts: what does
not repeat would only push out what does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from tidegrid.grid.model.keys import Key, decode_key, key_pattern
from tidegrid.grid.model.maps import KeyField

ELEMENTS_MAX: Final = 16_384
ELEMENT_BYTES_MAX: Final = 16
_SLOW_TYPES: Final = ("any", "float")

ReadKey = Callable[[bytes], Key]


class ElementTable(dict[bytes, Any]):
    """Encoded element -> value, filled by `__missing__`."""

    def __missing__(self, encoded: bytes) -> Any:
        value = decode_key(encoded)[0]
        if len(encoded) <= ELEMENT_BYTES_MAX and len(self) < ELEMENTS_MAX:
            self[encoded] = value
        return value


def key_reader(fields: tuple[KeyField, ...], elements: ElementTable) -> ReadKey:
    """`decode_key` for keys of these fields."""
    if not fields or any(field.type in _SLOW_TYPES for field in fields):
        return decode_key
    split = re.compile(b"".join(b"(" + key_pattern((field,)).pattern + b")" for field in fields), re.DOTALL).fullmatch
    look_up = elements.__getitem__

    def read_key(encoded: bytes) -> Key:
        match = split(encoded)
        if match is None:
            return decode_key(encoded)
        return tuple(map(look_up, match.groups()))

    return read_key
