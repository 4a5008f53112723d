"""A token: how much of a grid's time somebody has seen, as a value and as text to pass between processes.

    text := "tg1." base64url( grid id (16 bytes) | control position (LEB128) | epoch (LEB128) | CRC-32 of all that (4 bytes) )

Whoever takes it over reads at least what its giver has read or written. It grants nothing, and says nothing else.
Prior art: causality tokens of FaunaDB and of MongoDB's causally consistent sessions.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final, NamedTuple
from zlib import crc32

from tidegrid.grid.model.errors import InvalidTokenError
from tidegrid.grid.model.ids import Epoch, Position

_PREFIX: Final = "tg1."
_TEXT_MAX: Final = 80
_GRID_BYTES: Final = 16
_CRC_BYTES: Final = 4


class Token(NamedTuple):
    """`grid.token()` makes it; `connect(..., token=...)` and `grid.advance` take it, or its text."""

    grid_id: bytes
    control: Position
    epoch: Epoch

    def __str__(self) -> str:
        body = self.grid_id + _leb128(self.control) + _leb128(self.epoch)
        return _PREFIX + urlsafe_b64encode(body + _crc(body)).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Token:
        """The token that `str` made the text of. Raises InvalidTokenError."""
        text = text.strip()
        if not text.startswith(_PREFIX) or len(text) > _TEXT_MAX:
            raise InvalidTokenError(
                f"{text[:24]!r} is no token: one begins with {_PREFIX!r} and is what `str(grid.token())` gave"
            )
        encoded = text.removeprefix(_PREFIX)
        try:
            body = urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
            content, crc = body[:-_CRC_BYTES], body[-_CRC_BYTES:]
            if len(content) < _GRID_BYTES or crc != _crc(content):
                raise ValueError("its check does not hold")
            control, end = _number(content, _GRID_BYTES)
            epoch, end = _number(content, end)
            if end != len(content):
                raise ValueError("there is more behind it")
        except (ValueError, binascii.Error) as problem:
            raise InvalidTokenError(
                f"the token {text!r} is damaged ({problem}); copy all of it, or take a new one from `grid.token()`"
            ) from None
        return cls(content[:_GRID_BYTES], Position(control), Epoch(epoch))


def token_of(token: Token | str) -> Token:
    """Raises InvalidTokenError."""
    return Token.parse(token) if isinstance(token, str) else token


def _crc(body: bytes) -> bytes:
    return crc32(body).to_bytes(_CRC_BYTES, "big")


def _leb128(number: int) -> bytes:
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)


def _number(body: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where it ends."""
    number = shift = 0
    while True:
        if at >= len(body) or shift > 63:
            raise ValueError("a number in it does not end")
        byte = body[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            if number >= 1 << 64:
                raise ValueError("a number in it is too large")
            return number, at
