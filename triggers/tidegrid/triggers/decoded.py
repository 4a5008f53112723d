"""Values of reference maps, decoded once: a few thousand rows are looked up hundreds of thousands of times.

The cache is keyed by the encoded bytes (whose hash Python keeps with them), so it can never be stale, whatever epoch
the bytes are of. It is bounded by count and by the size of what it takes in.
"""

from __future__ import annotations

from typing import Any, Final

from tidegrid.grid.model.keys import encode_key
from tidegrid.grid.model.values import decode_value
from tidegrid.triggers.frozen import freeze

ENTRIES_MAX: Final = 16_384
ENTRY_BYTES_MAX: Final = 4096


class DecodedValues(dict[bytes, Any]):
    """Encoded value -> read-only value, filled by `__missing__`."""

    def __missing__(self, encoded: bytes) -> Any:
        value = freeze(decode_value(encoded))
        if len(encoded) <= ENTRY_BYTES_MAX:
            if len(self) >= ENTRIES_MAX:
                self.clear()
            self[encoded] = value
        return value


class EncodedNames(dict[str, bytes]):
    """Key of one str -> encoded key. Only for `type(key) is str`: 1, 1.0 and True are one key of a dict."""

    def __missing__(self, name: str) -> bytes:
        encoded = encode_key(name)
        if len(encoded) <= ENTRY_BYTES_MAX // 16:
            if len(self) >= ENTRIES_MAX:
                self.clear()
            self[name] = encoded
        return encoded
