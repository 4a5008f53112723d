"""The write that a trigger sees. Key, value and previous value are decoded when first asked for.

A `Write` is made per trigger and write, so that a trigger that changes the decoded value cannot change what the next
trigger sees. It is valid until the trigger returns.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec
from msgspec import UNSET
from tidegrid.grid.model.values import decode_value
from tidegrid.triggers.bound import BoundMap


class Frame(Protocol):
    """The frame that a write belongs to, and the state before it."""

    @property
    def epoch(self) -> int: ...

    @property
    def time_ms(self) -> int: ...

    def stored(self, source: BoundMap, key: bytes) -> bytes | None: ...


class Write(msgspec.Struct, gc=False, eq=False):
    """One put, delete or event on the map that the trigger is declared on.

    `op` is "put", "delete" or "event" (on a stream). `version` is the number this write gets, 0 for an output of
    another trigger. `schema` is the schema number that its writer named.
    """

    _frame: Frame
    _source: BoundMap
    op: str
    _key_bytes: bytes
    _value_bytes: bytes | None
    version: int
    schema: int
    _key: Any = UNSET
    _value: Any = UNSET
    _previous: Any = UNSET

    @property
    def map(self) -> str:
        return self._source.name

    @property
    def key(self) -> tuple[Any, ...]:
        """The key as a tuple, also when it has one element."""
        key = self._key
        if key is UNSET:
            key = self._key = self._source.read_key(self._key_bytes)
        return key  # type: ignore[no-any-return]

    @property
    def value(self) -> Any:
        """The value; None for a delete. Copy it before you change it."""
        value = self._value
        if value is UNSET:
            raw = self._value_bytes
            value = self._value = decode_value(raw) if raw is not None else None
        return value

    @property
    def previous(self) -> Any:
        """The value before this write; None when there was none, and for an event.

        Raises TriggerModuleError on a map that receives outputs, of which one may still be on its way.
        """
        previous = self._previous
        if previous is UNSET:
            raw = self._frame.stored(self._source, self._key_bytes) if self.op != "event" else None
            previous = self._previous = decode_value(raw) if raw is not None else None
        return previous

    @property
    def epoch(self) -> int:
        """The epoch this write is stamped with."""
        return self._frame.epoch

    @property
    def time_ms(self) -> int:
        """Wall time of the frame, in ms since 1970."""
        return self._frame.time_ms

    def __repr__(self) -> str:
        return (
            f"Write(map={self.map!r}, op={self.op!r}, key={self.key!r}, value={self.value!r}, version={self.version})"
        )
