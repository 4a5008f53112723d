"""Expire after a time, as far as that can be had without a clock.

    from tidegrid.triggers import shelf, table

    table("sessions.raw", key=("user",))
    table("sessions", like="sessions.raw")
    shelf.expiring(on="sessions.raw", emits="sessions", after_ms=30 * 60 * 1000)

A trigger runs when a write comes, and only then. So nothing vanishes by itself at the stroke of the hour. What this does:

- each value gets a field `expires_ms`, in ms since 1970: `after_ms` past the field `at`, or past the time of the write;
- a put that has expired when it comes, because its `at` is long ago, deletes what is under its key instead;
- readers ask `shelf.expired(value, now_ms)`, or compare in their query: that is exact, to their own clock;
- whoever wants the memory back deletes the raw key, from a job of its own: the delete is passed on.

The time of a write is that of the node that stored it, which may be wrong and may go back when another node takes
over: `after_ms` should be well above that. A replay gives the same answers, since it goes by the recorded time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from tidegrid.grid.model.errors import ConfigurationError
from tidegrid.triggers.declare import factory, trigger
from tidegrid.triggers.outputs import Delete, Output, Put, Reject
from tidegrid.triggers.write import Write

EXPIRES: Final = "expires_ms"


@factory
def expiring(
    *, on: str, emits: str, after_ms: int, at: str | None = None, field: str = EXPIRES, name: str | None = None
) -> None:
    """Values are dicts; `at` names the one of their fields that has the business time, in ms since 1970."""
    if after_ms <= 0:
        raise ConfigurationError(f"shelf.expiring: after_ms is {after_ms}; give a number of milliseconds above 0")

    @trigger(on=on, emits=emits, name=name or f"expiring:{on}:{emits}")
    def expire(write: Write) -> Iterator[Output]:
        row = write.value
        if write.op == "delete":
            yield Delete(emits, write.key)
            return
        if not isinstance(row, dict):
            raise Reject(
                f"its value is of type {type(row).__name__}; one that expires is a dict, for the field {field!r}"
            )
        begin = write.time_ms if at is None else row.get(at)
        if isinstance(begin, bool) or not isinstance(begin, int | float):
            raise Reject(f"field {at!r}: expected ms since 1970, got {begin!r}")
        expires = int(begin) + after_ms
        yield Delete(emits, write.key) if expires <= write.time_ms else Put(emits, write.key, {**row, field: expires})


def expired(value: Any, now_ms: int, field: str = EXPIRES) -> bool:
    """For readers: whether a value that `expiring` made has had its time."""
    return bool(value[field] <= now_ms)
