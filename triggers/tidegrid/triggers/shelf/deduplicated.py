"""Deduplicate: a message that came before is kept, as every raw write is, and nothing follows from it.

    from tidegrid.triggers import shelf, table

    table("payments.raw", key=("account", "message_id"), affinity=1)
    table("payments", like="payments.raw")
    shelf.deduplicated(on="payments.raw", emits="payments")

What makes two messages the same decides how they are told apart. Where it is the key, as above, only the first put of a
key counts, however long ago it was: this is the one to choose, if need be by making the identifier part of the key.

    shelf.deduplicated(on="readings.raw", emits="readings", by=("value", "unit"))

With `by`, a put is a repetition if these fields are as in the put before it *under the same key*. A, A is one; A, B, A
is three: a trigger knows the last value of a key and no others. To find A again, wherever and under whatever key it
came, merge by the field into a table that keeps the first (merged.py):

    table("payments", key=("message_id",), fold=shelf.first)
    shelf.merged(on="payments.raw", emits="payments", by="message_id")
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tidegrid.grid.model.errors import WrongKindError
from tidegrid.triggers.declare import factory, trigger
from tidegrid.triggers.outputs import Delete, Event, Output, Put
from tidegrid.triggers.write import Write


@factory
def deduplicated(
    *, on: str, emits: str, by: str | Sequence[str] = (), events: bool = False, name: str | None = None
) -> None:
    """Passes on what is no repetition. `on` is a table that clients write; after a delete, the next put is new."""
    fields = (by,) if isinstance(by, str) else tuple(by)

    @trigger(on=on, emits=emits, name=name or f"deduplicated:{on}:{emits}")
    def deduplicate(write: Write) -> Iterator[Output]:
        if write.op == "event":
            raise WrongKindError(
                f"map {write.map!r} is a stream and keeps no previous value; make it a table, or merge (merged.py)"
            )
        value, before = write.value, write.previous
        if write.op == "delete":
            if not events:
                yield Delete(emits, write.key)
        elif before is None or any(_field(value, field) != _field(before, field) for field in fields):
            yield (Event if events else Put)(emits, write.key, value)


def first(state: Any, operand: Any) -> Any:
    """A fold: what came first stays."""
    return operand if state is None else state


def _field(value: Any, field: str) -> Any:
    return value.get(field) if isinstance(value, dict) else value
