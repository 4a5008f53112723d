"""Where a change is in the grid's history, and the change itself, waiting for its effect.

(partition, position, row) names a change of a map for ever, the epoch says when everybody sees it; so a place is the
same each time the change is read, by any runner, from memory or from the log. `row` is the change's index in its
record. Places sort as a feed hands changes out.
"""

from __future__ import annotations

from typing import NamedTuple

from tidegrid.client.change import Change
from tidegrid.grid.model.keys import decode_key
from tidegrid.grid.model.values import decode_value
from tidegrid.triggers.effect import EffectEvent

GRID_DIGITS = 16  # of the grid's id, within the id of an event


class Place(NamedTuple):
    epoch: int
    partition: int
    position: int
    row: int


class Waiting(NamedTuple):
    """A change that its effect has not been done for. `tried` counts earlier tries; `number`: as what it was parked."""

    place: Place
    op: str
    raw_key: bytes
    raw_value: bytes
    version: int
    time_ms: int
    tried: int = 0
    number: int | None = None


def waiting_of(change: Change) -> Waiting:
    place = Place(change.epoch, change.partition, change.position, change.index)
    return Waiting(place, change.op, change.raw_key, change.raw_value, change.version, change.time_ms)


def event_of(waiting: Waiting, grid_id: bytes, effect: str, map_name: str, attempt: int) -> EffectEvent:
    epoch, partition, position, row = waiting.place
    return EffectEvent(
        id=event_id(grid_id, effect, map_name, waiting.place),
        map=map_name,
        op=waiting.op,
        key=decode_key(waiting.raw_key),
        value=decode_value(waiting.raw_value) if waiting.raw_value else None,
        version=waiting.version,
        epoch=epoch,
        time_ms=waiting.time_ms,
        partition=partition,
        position=position,
        index=row,
        attempt=attempt,
    )


def event_id(grid_id: bytes, effect: str, map_name: str, place: Place) -> str:
    """Of this change, for this effect, in this grid: a grid that was made anew counts its positions from the start."""
    return f"{grid_id.hex()[:GRID_DIGITS]}/{effect}/{map_name}/{place.partition}-{place.position}-{place.row}"
