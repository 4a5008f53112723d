"""What triggers look up in reference maps, decoded once: a few thousand rows, hundreds of thousands of times.

Two caches, both bounded. `DecodedValues` goes by the encoded bytes, so it is right at any epoch. `LookedUp` answers
for one map without asking the engine, by a key of one str, and only as of one epoch: frames of another epoch begin
with an empty one. Reference maps change seldom, so that epoch should be the last one at which any of them did.
"""

from __future__ import annotations

from typing import Any, Final

from tidegrid.grid.model.values import decode_value
from tidegrid.triggers.frozen import freeze

ENTRIES_MAX: Final = 16_384
ENTRY_BYTES_MAX: Final = 4096


class DecodedValues(dict[bytes, Any]):
    """Encoded value -> read-only value, filled by `__missing__`."""

    __slots__ = ()

    def __missing__(self, encoded: bytes) -> Any:
        value = freeze(decode_value(encoded))
        if len(encoded) <= ENTRY_BYTES_MAX:
            if len(self) >= ENTRIES_MAX:
                self.clear()
            self[encoded] = value
        return value


class LookedUp(dict[str, Any]):
    """Key of one str -> read-only value, or None where there is none. 1, 1.0 and True are one key of a dict: no numbers."""

    __slots__ = ()

    def keep(self, name: str, value: Any) -> None:
        if len(self) >= ENTRIES_MAX:
            self.clear()
        self[name] = value
