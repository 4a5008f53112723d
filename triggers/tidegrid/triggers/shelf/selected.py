"""Select, rename and cast columns: from rows as they came to rows as they are meant.

    from tidegrid.triggers import shelf, table

    table("flights.raw", key=("year:int", "month:int", "day:int", "carrier", "flight:int", "origin"))
    table("flights", like="flights.raw")
    shelf.selected(
        on="flights.raw",
        emits="flights",
        columns={"carrier": "carrier", "plane": "tailnum", "minutes_late": ("dep_delay", int)},
        nulls=("", "NA"),
    )

`columns` says for each new column which old one it is, and with what function to cast it: int, float, str, or a pure
one of your own. A list of names selects without renaming. Columns that are not named are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tidegrid.triggers.declare import factory, trigger
from tidegrid.triggers.outputs import Delete, Event, Output, Put, Reject
from tidegrid.triggers.write import Write

Cast = Callable[[Any], Any]


@factory
def selected(
    *,
    on: str,
    emits: str,
    columns: Mapping[str, str | tuple[str, Cast]] | Sequence[str],
    nulls: Sequence[str] = (),
    events: bool = False,
    name: str | None = None,
) -> None:
    """A column that is missing or cannot be cast rejects the write; None, and every text of `nulls`, becomes None."""
    asked = columns if isinstance(columns, Mapping) else {column: column for column in columns}
    plan = [(new, old, None) if isinstance(old, str) else (new, *old) for new, old in asked.items()]
    unknown = frozenset(nulls)

    @trigger(on=on, emits=emits, name=name or f"selected:{on}:{emits}")
    def select(write: Write) -> Iterator[Output]:
        if write.op != "delete":
            row = {new: _cell(write.value, old, cast, unknown) for new, old, cast in plan}
            yield (Event if events else Put)(emits, write.key, row)
        elif not events:
            yield Delete(emits, write.key)


def _cell(row: Any, column: str, cast: Cast | None, nulls: frozenset[str]) -> Any:
    if not isinstance(row, dict) or column not in row:
        raise Reject(f"field {column!r}: missing")
    value = row[column]
    if value is None or (isinstance(value, str) and value in nulls):
        return None
    if cast is None:
        return value
    try:
        return cast(value)
    except (TypeError, ValueError):
        raise Reject(f"field {column!r}: {value!r} cannot be read as {getattr(cast, '__name__', cast)}") from None
