"""Errors as protobuf messages, and back: code, sentence and fields, the same on every wire."""

from __future__ import annotations

from tidegrid.grid.model.errors import FieldValue, GridError, error_from
from tidegrid.grid.model.texts import sayable
from tidegrid.v1 import errors_pb2


def error_message(error: GridError) -> errors_pb2.Error:
    message = errors_pb2.Error(code=error.code, message=sayable(error.message))
    for name, value in error.fields.items():
        target = message.fields[name]
        if isinstance(value, bool):
            target.flag = value
        elif isinstance(value, int):
            target.integer = value
        elif isinstance(value, float):
            target.real = value
        elif value is not None:
            target.text = sayable(value)
        else:
            target.SetInParent()
    return message


def error_of(message: errors_pb2.Error) -> GridError:
    fields: dict[str, FieldValue] = {}
    for name, value in message.fields.items():
        kind = value.WhichOneof("value")
        fields[name] = getattr(value, kind) if kind else None
    return error_from(message.code, message.message, fields)
