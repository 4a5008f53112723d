"""Values and rows as one line of JSON that a terminal and any JSON reader can take.

JSON has no bytes and no infinite numbers: bytes are {"bytes": "HEX"}, as in keys, and NaN, Infinity and -Infinity are
strings, as protobuf writes them. Characters that a terminal would act on are escaped.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final


def json_text(value: Any, indent: int | None = None) -> str:
    encode = _encode if indent is None else json.JSONEncoder(**_MANNER, indent=indent).encode
    try:
        text = encode(value)
    except ValueError:  # a float that JSON does not have
        text = encode(_finite(value))
    return printable(text)


def printable(text: str) -> str:
    """`text` without characters that a terminal would act on; line ends and tabs stay."""
    if text.isprintable() or text.replace("\t", "").replace("\n", "").isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in "\n\t" else _escape(character) for character in text
    )


def key_value(key: tuple[Any, ...]) -> Any:
    """A key as a JSON value: an array, or a scalar for a key of one scalar."""
    return key[0] if len(key) == 1 and not isinstance(key[0], tuple) else list(key)


def _escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def _bytes(value: object) -> dict[str, str]:
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(child) for name, child in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(child) for child in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


_MANNER: Final[dict[str, Any]] = {"ensure_ascii": False, "allow_nan": False, "default": _bytes}
_encode = json.JSONEncoder(**_MANNER).encode
