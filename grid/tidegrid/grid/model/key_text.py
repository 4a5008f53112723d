"""Keys as text: on the command line, in files, in messages for people.

    text := a JSON array, one member per element:   [2013, 1, 1, "UA", 1545, "EWR"]
          | for a map with key fields, a comma list converted by their types:   2013,1,1,UA,1545,EWR
          | for one without, a JSON scalar:   "UA"

In JSON a nested array is a tuple, and {"bytes": "00ff"} is a bytes element in hex. A comma list quotes as CSV does.
A field of type `any` takes the text as it is: write JSON where another type is meant.

Invariant: parse_key_text(format_key(key)) == key, types included.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tidegrid.grid.model.errors import GridError, InvalidKeyError
from tidegrid.grid.model.keys import Key, encode_key
from tidegrid.grid.model.maps import KeyField

_INT: Final = re.compile(r"[+-]?[0-9]{1,20}")
_BOOLS: Final = {"true": True, "false": False}
_TYPES: Final[dict[str, type]] = {"str": str, "int": int, "float": float, "bool": bool, "bytes": bytes}


def parse_key_text(text: str, fields: Sequence[KeyField] = (), *, prefix: bool = False) -> Key:
    """The key that `text` writes; with `prefix`, as many leading elements as it gives. Raises InvalidKeyError."""
    stripped = text.strip()
    if stripped.startswith("["):
        parsed = _json(stripped, text)
        assert isinstance(parsed, tuple)
        return conform_key(parsed, fields, prefix=prefix)
    if fields:
        parts = _comma_list(text)
        _check_count(len(parts), fields, prefix)
        return _checked(tuple(_from_text(part, field) for part, field in zip(parts, fields, strict=False)))
    return conform_key((_json(stripped, text),), prefix=prefix)


def key_from_fields(row: Mapping[str, object], fields: Sequence[KeyField]) -> Key:
    """The key of a row by the map's key fields: text is converted, other values must be of the field's type.

    Raises InvalidKeyError, which names the field.
    """
    elements = []
    for field in fields:
        element = row.get(field.name)
        if element is None:
            have = ", ".join(map(str, row)) or "nothing"
            raise InvalidKeyError(f"key field {field.name!r} is missing; the row has {have[:200]}", field=field.name)
        elements.append(_from_text(element, field) if isinstance(element, str) else _typed(element, field))
    return _checked(tuple(elements))


def conform_key(key: object, fields: Sequence[KeyField] = (), *, prefix: bool = False) -> Key:
    """`key` as a tuple that fits the map's key fields in count and types; an int for a float field is made a float.

    Raises InvalidKeyError, which names the field.
    """
    elements = tuple(key) if isinstance(key, tuple) else (key,)
    if fields:
        _check_count(len(elements), fields, prefix)
        elements = tuple(_typed(element, field) for element, field in zip(elements, fields, strict=False))
    return _checked(elements) if elements or not prefix else ()


def format_key(key: Key) -> str:
    """One line of JSON, a scalar for a key of one element; characters that a terminal would act on are escaped."""
    shown = key[0] if len(key) == 1 and not isinstance(key[0], tuple) else key
    text = json.dumps(_jsonable(shown), ensure_ascii=False)
    return text if text.isprintable() else "".join(map(_escape, text))


def _comma_list(text: str) -> list[str]:
    try:
        rows = list(csv.reader([text], strict=True, skipinitialspace=True))
    except csv.Error as error:
        raise InvalidKeyError(
            f"the key {text!r} is no comma list ({error}); quote as in CSV, or write a JSON array"
        ) from None
    return rows[0] if rows else []


def _json(text: str, shown: str) -> Any:
    try:
        return _from_json(json.loads(text))
    except (ValueError, RecursionError):
        raise InvalidKeyError(
            f"the key {shown[:80]!r} is no JSON; write a number, a quoted string such as {json.dumps(shown[:40])}, or an array"
        ) from None


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_from_json, value))
    if isinstance(value, dict):
        if value.keys() == {"bytes"} and isinstance(value["bytes"], str):
            return bytes.fromhex(value["bytes"])
        raise InvalidKeyError('a JSON object cannot be in a key, except {"bytes": "HEX"} for bytes')
    return value


def _jsonable(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_jsonable(element) for element in value]
    return {"bytes": value.hex()} if isinstance(value, bytes) else value


def _escape(character: str) -> str:
    if character.isprintable():
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def _check_count(count: int, fields: Sequence[KeyField], prefix: bool) -> None:
    if count > len(fields) or (count < len(fields) and not prefix):
        names = ",".join(f"{field.name}:{field.type}" for field in fields)
        want = f"at most {len(fields)}" if prefix else str(len(fields))
        raise InvalidKeyError(f"the key has {count} elements, this map wants {want}: {names}")


def _checked(key: Key) -> Key:
    encode_key(key, 1 << 30)  # the size is the grid's to judge
    return key


def _typed(element: object, field: KeyField) -> object:
    kind = _TYPES.get(field.type)
    if kind is None or type(element) is kind:
        return element
    if kind is float and type(element) is int and float(element) == element:
        return float(element)
    if isinstance(element, kind) and type(element) is not bool:
        return element  # a subclass: an IntEnum, say
    raise InvalidKeyError(
        f"key field {field.name!r} is of type {field.type}, not {type(element).__name__} ({element!r:.80})",
        field=field.name,
    )


def _from_text(text: str, field: KeyField) -> object:
    try:
        match field.type:
            case "int":
                if not _INT.fullmatch(text.strip()):
                    raise ValueError
                element: object = int(text)
            case "float":
                element = float(text)
            case "bool":
                element = _BOOLS[text.strip().lower()]
            case "bytes":
                element = bytes.fromhex(text)
            case _:
                element = text
        encode_key(element, 1 << 30)
    except (ValueError, KeyError):
        want = {"bool": "true or false", "bytes": "bytes in hex", "int": "an int"}.get(field.type, f"a {field.type}")
        raise InvalidKeyError(f"key field {field.name!r} wants {want}, not {text[:80]!r}", field=field.name) from None
    except GridError as error:
        raise InvalidKeyError(f"key field {field.name!r}: {error.message}", field=field.name) from None
    return element
