"""What a trigger can answer: put, delete, event, merge, or a rejection of the write.

Outputs are plain data, cheap to make: the runtime encodes and checks them as they are yielded. They are not collected
by the garbage collector's cycle search (`gc=False`): an output lives for the length of one write.
"""

from __future__ import annotations

from typing import Any

import msgspec


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


class Merge(msgspec.Struct, frozen=True, gc=False, eq=True):
    """Fold `operand` into the state of `key` in the table `map`, by the fold that the table is declared with.

    For what depends on the state of its target: counts, sums, the latest by business time. Outputs of many writes, from
    any partition, are folded in (effective epoch, position) order, so none is lost and all copies come to the same.
    """

    map: str
    key: Any
    operand: Any


class Reject(Exception):
    """Raise it to refuse the write: the writer gets `reason`, and nothing is stored."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


Output = Put | Delete | Event | Merge
