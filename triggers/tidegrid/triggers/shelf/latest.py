"""Keep the latest by business time, when messages overtake each other.

    from tidegrid.triggers import shelf, table

    table("positions.raw", key=("vessel",))
    table("positions", like="positions.raw")
    shelf.latest(on="positions.raw", emits="positions", at="seen_at")

A trigger may look at the last *raw* value of its key, and not at what it made of it. So that the last raw value is
always the latest one, a write that comes late is rejected: its writer is told, and nothing is stored. Where late ones
shall be kept, have the table folded instead: it takes them in any order, from any partition, and stays right.

    table("positions", like="positions.raw", fold=shelf.newest("seen_at"))
    shelf.merged(on="positions.raw", emits="positions")

Times are compared as they are: numbers, or ISO texts of one form and one zone. Of two at the same time the later
write counts, so that a correction may keep its time. A delete has no business time; it takes effect when it comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tidegrid.grid.model.errors import WrongKindError
from tidegrid.triggers.declare import factory, trigger
from tidegrid.triggers.outputs import Delete, Output, Put, Reject
from tidegrid.triggers.write import Write


@factory
def latest(*, on: str, emits: str, at: str, name: str | None = None) -> None:
    """Passes on a put that is not older than the one before it, and rejects one that is. `on` is written by clients."""

    @trigger(on=on, emits=emits, name=name or f"latest:{on}:{emits}")
    def keep_latest(write: Write) -> Iterator[Output]:
        if write.op == "event":
            raise WrongKindError(
                f"map {write.map!r} is a stream and keeps no previous value; make it a table, or merge (merged.py)"
            )
        if write.op == "delete":
            yield Delete(emits, write.key)
            return
        now, before = _time(write.value, at), _time(write.previous, at)
        if now is None:
            raise Reject(f"field {at!r}: missing")
        if before is not None and now < before:
            raise Reject(f"it is of {at}={now!r}, and there is one of {before!r} already")
        yield Put(emits, write.key, write.value)


def _time(value: Any, at: str) -> Any:
    return value.get(at) if isinstance(value, dict) else None


def newest(at: str) -> Callable[[Any, Any], Any]:
    """A fold: the value with the highest `at`; of equals the later one."""

    def fold(state: Any, operand: Any) -> Any:
        return operand if state is None or operand[at] >= state[at] else state

    return fold
