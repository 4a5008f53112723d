"""Errors as they come over the wire, back into the tree of `tidegrid.grid.model.errors`; and which of them to retry."""

from __future__ import annotations

from typing import Final

from tidegrid.grid.model.errors import (
    BusyError,
    ClosingLagError,
    FieldValue,
    GridError,
    StoppingError,
    StorageFullError,
    UnavailableError,
    WrongOwnerError,
    error_from,
)
from tidegrid.v1 import errors_pb2

NOT_STORED: Final = (BusyError, ClosingLagError, StorageFullError)
"""A limit of the moment: nothing was stored, and the same node may take it soon."""

ELSEWHERE: Final = (UnavailableError, WrongOwnerError, StoppingError)
"""The node cannot do it: ask for the owner again."""

RETRYABLE: Final = NOT_STORED + ELSEWHERE


def error_of(message: errors_pb2.Error) -> GridError:
    fields: dict[str, FieldValue] = {}
    for name, value in message.fields.items():
        kind = value.WhichOneof("value")
        fields[name] = getattr(value, kind) if kind else None
    return error_from(message.code, message.message, fields)
