"""Version 2 of `flights.py`, to be deployed in place of the first: typed flights know their speed, and every aircraft has a row.

The map `aircraft` is keyed by tail number, so what a flight adds to it goes to another partition than the flight, and
depends on what is there: it is a `Merge`, which the fold `add_flight` adds up. Flights of one aircraft come from many
partitions, in any order; the fold comes to the same whatever the order. A flight that is sent again counts again.

    tidegrid deploy version2/flights.py
"""

from typing import Any

from tidegrid.triggers import Context, Delete, Event, Merge, Put, Reject, Write, reference, stream, table, trigger


def add_flight(state: dict[str, Any] | None, flight: dict[str, Any]) -> dict[str, Any]:
    """`last_at` is the scheduled hour of the flight to `last_airport`; of two at one hour, the later airport by name."""
    if state is None:
        state = {"flights": 0, "late_minutes": 0, "last_airport": "", "last_at": ""}
    last_at, last_airport = max((state["last_at"], state["last_airport"]), (flight["at"], flight["airport"]))
    return {
        "flights": state["flights"] + 1,
        "late_minutes": state["late_minutes"] + flight["late_minutes"],
        "last_airport": last_airport,
        "last_at": last_at,
    }


table("flights.raw", key=("year:int", "month:int", "day:int", "carrier", "flight:int", "origin"))
table("flights", like="flights.raw")
table("aircraft", key=("tailnum",), fold=add_flight)
stream("delays")
reference("planes", key=("tailnum",))

TEXT = {"carrier", "tailnum", "origin", "dest", "time_hour"}
LATE_MINUTES = 60


@trigger(on="flights.raw", emits=("flights", "delays", "aircraft"))
def translate(write: Write, grid: Context):
    row = write.value
    if row is None:
        yield Delete("flights", write.key)
        return
    if not row["carrier"]:
        raise Reject("no carrier")  # the writer is told, and nothing is stored
    plane = grid.get("planes", row["tailnum"])
    flight = typed(row)
    delay, tail = flight["dep_delay"], flight["tailnum"]
    flight["seats"] = plane and number(plane["seats"])
    flight["speed_mph"] = speed_mph(flight["distance"], flight["air_time"])
    yield Put("flights", write.key, flight)
    if delay is not None and delay > LATE_MINUTES:
        yield Event("delays", write.key, {"minutes": delay})
    if tail is not None:
        late_minutes = max(delay or 0, 0)
        yield Merge("aircraft", tail, {"late_minutes": late_minutes, "airport": row["dest"], "at": row["time_hour"]})


def speed_mph(miles: int | None, minutes: int | None) -> float | None:
    return miles / minutes * 60 if miles is not None and minutes else None


def typed(row: dict[str, str]) -> dict[str, Any]:
    return {name: text(said) if name in TEXT else number(said) for name, said in row.items()}


def number(said: str) -> int | None:
    return None if said == "NA" else int(said)


def text(said: str) -> str | None:
    return None if said == "NA" else said
