"""Merge every write into a table with a fold, if need be under another key.

    from tidegrid.triggers import shelf, table

    table("payments.raw", key=("account", "number:int"))
    table("payments", key=("message_id",), fold=shelf.first)
    shelf.merged(on="payments.raw", emits="payments", by="message_id")

A fold is how triggers do what depends on the state of their target: outputs of all partitions come to it in one order
that is the same for everybody. `shelf.first` and `shelf.newest(...)` are folds, and any pure function of
(state, operand) is one. A delete of a raw write is passed on under its own key; with `by`, where the old fields are
needed to know the key, under the key of what the raw write was before. A put that gives a field another value leaves
what there is under the old one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tidegrid.triggers.declare import factory, trigger
from tidegrid.triggers.outputs import Delete, Merge, Reject
from tidegrid.triggers.write import Write


@factory
def merged(*, on: str, emits: str, by: str | Sequence[str] = (), name: str | None = None) -> None:
    """Emits each put's value as an operand to `emits`, under the fields `by` as key, or under the write's own key."""
    fields = (by,) if isinstance(by, str) else tuple(by)

    def key_of(write: Write, value: Any) -> tuple[Any, ...]:
        if not fields:
            return write.key
        missing = [field for field in fields if field not in value]
        if missing:
            raise Reject(f"field {missing[0]!r}: missing")
        return tuple(value[field] for field in fields)

    @trigger(on=on, emits=emits, name=name or f"merged:{on}:{emits}")
    def merge(write: Write) -> Iterator[Any]:
        if write.op != "delete":
            yield Merge(emits, key_of(write, write.value), write.value)
        elif not fields:
            yield Delete(emits, write.key)
        elif write.previous is not None:
            yield Delete(emits, key_of(write, write.previous))
