"""The root of all errors and its four branches; the concrete ones are in errors.py, which says what each branch is for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

FieldValue = str | int | float | bool | None


class GridError(Exception):
    """Root of all errors raised on purpose. `fields` holds the facts, str() a sentence for people."""

    code: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, **fields: FieldValue) -> None:
        super().__init__(message)
        self.message = message
        self.fields: dict[str, FieldValue] = fields

    def __getattr__(self, name: str) -> Any:
        fields = self.__dict__.get("fields", {})
        if name in fields:
            return fields[name]
        raise AttributeError(f"{type(self).__name__} has no field {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.code, self.message, self.fields)


class CallerError(GridError):
    code = "BAD_REQUEST"


class PeerError(GridError):
    code = "PEER"


class DataError(GridError):
    code = "DATA"


class OverloadError(GridError):
    code = "OVERLOAD"


def _concrete(root: type[GridError]) -> Iterable[type[GridError]]:
    yield root
    for branch in root.__subclasses__():
        yield from _concrete(branch)


def error_from(code: str, message: str, fields: dict[str, FieldValue]) -> GridError:
    """The error that `code` names; a code from a newer version becomes a plain GridError with the same message."""
    return next((kind for kind in _concrete(GridError) if kind.code == code), GridError)(message, **fields)


def _rebuild(code: str, message: str, fields: dict[str, FieldValue]) -> GridError:
    return error_from(code, message, fields)
