"""Rows as people are shown them when two codes, or two generations of a map, are compared."""

from __future__ import annotations

from typing import Any, Final

TEXT_MAX: Final = 240


def canonical(value: Any) -> Any:
    """Equal for equal values alone: 1, 1.0 and True differ, NaN equals itself, the order of a dict says nothing."""
    if isinstance(value, dict):
        return tuple(sorted((repr(name), canonical(inner)) for name, inner in value.items()))
    if isinstance(value, list | tuple):
        return ("list", *map(canonical, value))
    return repr(value)


def changed_columns(one: dict[Any, Any], other: dict[Any, Any]) -> list[Any]:
    return [
        name
        for name in dict.fromkeys([*one, *other])
        if name not in one or name not in other or canonical(one[name]) != canonical(other[name])
    ]


def shortened(text: str) -> str:
    return text if len(text) <= TEXT_MAX else text[: TEXT_MAX - 3] + "..."
