"""Dicts and lists that refuse to change.

A value of a reference map is decoded once and handed to every trigger that looks it up, so one that changed it would
change what others see. These are real dicts and lists to everything that reads or encodes them, at nearly the same
speed (a MappingProxyType costs eight times as much to unpack, and no encoder takes it). Copies are plain again.
"""

from __future__ import annotations

from typing import Any, Final, NoReturn

READ_ONLY: Final = "a looked-up value is read-only; change a copy of it, such as dict(value)"


def _refuse(self: Any, *arguments: Any, **options: Any) -> NoReturn:
    raise TypeError(READ_ONLY)


class FrozenDict(dict[str, Any]):
    __slots__ = ()

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __copy__(self) -> dict[str, Any]:
        return dict(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return {name: thaw(value) for name, value in self.items()}


class FrozenList(list[Any]):
    __slots__ = ()

    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = clear = extend = insert = pop = remove = reverse = sort = _refuse

    def __copy__(self) -> list[Any]:
        return list(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> list[Any]:
        return [thaw(value) for value in self]


def freeze(value: Any) -> Any:
    """A read-only copy of a decoded value, all the way down. Scalars are themselves."""
    kind = type(value)
    if kind is dict:
        return FrozenDict({name: freeze(inner) for name, inner in value.items()})
    if kind is list:
        return FrozenList([freeze(inner) for inner in value])
    return value


def thaw(value: Any) -> Any:
    """A plain copy of a read-only value, all the way down."""
    if isinstance(value, dict):
        return {name: thaw(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [thaw(inner) for inner in value]
    return value
