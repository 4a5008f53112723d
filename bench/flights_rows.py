"""The rows that all benches write: real flights as raw strings, and the translation that every contestant does.

`translated` is the body of the trigger in examples/flights/flights.py without the grid around it, on the same two
functions, so that the tight loop, the Redis worker and the grid do the same work.
"""

from __future__ import annotations

import itertools
from typing import Any

from examples.flights.data import KEY, Row, flights, planes
from examples.flights.flights import LATE_MINUTES, TEXT, number, text

Flight = dict[str, Any]
Planes = dict[str, Row]

KEY_NUMBERS = ("year", "month", "day", "flight")


def flight_rows(count: int) -> list[Row]:
    """The first `count` flights, from the start again when there are no more."""
    rows = list(itertools.islice(flights(), count))
    return list(itertools.islice(itertools.cycle(rows), count))


def planes_by_tail() -> Planes:
    return {row["tailnum"]: row for row in planes()}


def key_of(row: Row) -> tuple[str | int, ...]:
    return tuple([int(row[name]) if name in KEY_NUMBERS else row[name] for name in KEY])


def translated(row: Row, planes_known: Planes) -> tuple[Flight, int | None]:
    """The typed flight, and its delay in minutes when that is an event."""
    plane = planes_known.get(row["tailnum"])
    flight: Flight = {name: text(said) if name in TEXT else number(said) for name, said in row.items()}
    flight["seats"] = plane and number(plane["seats"])
    delay = flight["dep_delay"]
    return flight, delay if delay is not None and delay > LATE_MINUTES else None
