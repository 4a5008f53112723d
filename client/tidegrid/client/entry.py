"""What comes back: the acknowledgement of a write, and the version of a key that a read found."""

from __future__ import annotations

from typing import Any, NamedTuple

from tidegrid.grid.model.errors import GridError
from tidegrid.grid.model.ids import Epoch
from tidegrid.grid.model.keys import Key, decode_key
from tidegrid.grid.model.values import decode_value


class Ack(NamedTuple):
    """The write is durable. `epoch` is when every reader, event and replica sees it.

    `repeated`: an earlier request had already done it; `version` is 0 if that one's details are forgotten. `parked`: the
    write is stored, but a trigger failed on it, with this message, so nothing of what follows from it is there
    (`Grid.parked`); not known of a repeated one.
    """

    version: int
    epoch: Epoch
    repeated: bool = False
    parked: str | None = None


Outcome = Ack | GridError
"""Of one write among many: what `put` would have returned or raised."""

_UNREAD: Any = object()


class Entry:
    """One version of one key. `key` (a tuple) and `value` are decoded when first looked at.

    `generation`: of the map that it was read in; a map that clients write to has but the first (docs/regeneration.md).
    """

    __slots__ = ("_key", "_value", "epoch", "generation", "raw_key", "raw_value", "time_ms", "version")

    def __init__(
        self, raw_key: bytes, raw_value: bytes, version: int, epoch: Epoch, time_ms: int, generation: int
    ) -> None:
        self.generation = generation
        self.raw_key = raw_key
        self.raw_value = raw_value
        self.version = version
        self.epoch = epoch
        self.time_ms = time_ms
        self._key = self._value = _UNREAD

    @property
    def key(self) -> Key:
        if self._key is _UNREAD:
            self._key = decode_key(self.raw_key)
        return self._key  # type: ignore[no-any-return]

    @property
    def value(self) -> Any:
        if self._value is _UNREAD:
            self._value = decode_value(self.raw_value)
        return self._value

    def __repr__(self) -> str:
        return f"Entry(key={self.key!r}, value={self.value!r}, version={self.version}, epoch={self.epoch}, time_ms={self.time_ms}, generation={self.generation})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Entry):
            return NotImplemented
        return (self.raw_key, self.raw_value, self.version, self.epoch) == (
            other.raw_key,
            other.raw_value,
            other.version,
            other.epoch,
        )

    def __hash__(self) -> int:
        return hash((self.raw_key, self.version, self.epoch))
