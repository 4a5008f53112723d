"""Decodes the keys of one map, the short way where its key fields allow it.

Most keys are made of strs and small ints, and few distinct ones: days, carriers, airports. When a map declares nothing
else, and its keys were held against `key_pattern` when they were let in, a regular expression cuts their bytes into
elements, and a table that remembers what each element decodes to does the rest without a step of Python per element.
Large ints, negative ones and strs with a NUL take the long way. Bounded: a full table learns nothing new.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from tidegrid.grid.model.keys import Key, decode_key
from tidegrid.grid.model.maps import KeyField

_ELEMENT: Final = {
    "int": rb"(\x21[\x00-\xff]\x00|\x22[\x00-\xff]{2}\x00|\x20\x00)",  # the codes of key_grammar.py
    "str": rb"(\x30[^\x00]*\x00)(?!\xff)",
}
_REMEMBERED_MAX: Final = 65_536
_REMEMBERED_BYTES_MAX: Final = 32

ReadKey = Callable[[bytes], Key]


class _Elements(dict[bytes, Any]):
    """Encoded element -> what it is."""

    def __missing__(self, encoded: bytes) -> Any:
        (element,) = decode_key(encoded)
        if len(encoded) <= _REMEMBERED_BYTES_MAX and len(self) < _REMEMBERED_MAX:
            self[encoded] = element
        return element


def key_reader(fields: tuple[KeyField, ...]) -> ReadKey:
    """`decode_key` for keys that match these fields. About 1 us for six of them."""
    if not fields or any(field.type not in _ELEMENT for field in fields):
        return decode_key
    cut = re.compile(b"".join(_ELEMENT[field.type] for field in fields)).fullmatch
    element = _Elements().__getitem__

    def read(encoded: bytes) -> Key:
        found = cut(encoded)
        return tuple(map(element, found.groups())) if found is not None else decode_key(encoded)

    return read
