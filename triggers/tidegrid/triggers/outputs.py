"""What a trigger can answer: put, delete, event, or a rejection of the write.

Outputs are plain data, cheap to make: the runtime encodes and checks them as they are yielded. They are not collected
by the garbage collector's cycle search (`gc=False`): an output lives for the length of one write.
"""

from __future__ import annotations

from typing import Any, NoReturn

import msgspec
from tidegrid.grid.model.errors import NotSupportedError


class Put(msgspec.Struct, frozen=True, gc=False, eq=True):
    """Set `key` of the table `map` to `value`."""

    map: str
    key: Any
    value: Any


class Delete(msgspec.Struct, frozen=True, gc=False, eq=True):
    """Remove `key` from the table `map`."""

    map: str
    key: Any


class Event(msgspec.Struct, frozen=True, gc=False, eq=True):
    """Append one event to the stream `map`."""

    map: str
    key: Any
    value: Any


class Merge:
    """Reserved: an operand that the store folds into the state of its target. Making one raises NotSupportedError."""

    def __init__(self, map: str, key: Any, operand: Any) -> None:
        _refuse(map)


def _refuse(name: str) -> NoReturn:
    raise NotSupportedError(
        f"Merge is not offered yet by this version (map {name!r}); emit a Put computed from the write itself, "
        "or read the old value with grid.get and put the new one",
        map=name,
    )


class Reject(Exception):
    """Raise it to refuse the write: the writer gets `reason`, and nothing is stored."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


Output = Put | Delete | Event
