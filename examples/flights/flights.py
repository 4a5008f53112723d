"""Raw flight messages in; typed flights, and an event for every late departure, out.

The raw rows are the strings of a CSV file, "NA" and all, and are kept as they came. `planes` has to be loaded first:
it tells how many seats the plane of a flight has.

    tidegrid serve --triggers flights.py
"""

from tidegrid.triggers import Context, Delete, Event, Put, Reject, Write, reference, stream, table, trigger

table("flights.raw", key=("year:int", "month:int", "day:int", "carrier", "flight:int", "origin"))
table("flights", like="flights.raw")
stream("delays")
reference("planes", key=("tailnum",))

TEXT = {"carrier", "tailnum", "origin", "dest", "time_hour"}
LATE_MINUTES = 60


@trigger(on="flights.raw", emits=("flights", "delays"))
def translate(write: Write, grid: Context):
    row = write.value
    if row is None:
        yield Delete("flights", write.key)
        return
    if not row["carrier"]:
        raise Reject("no carrier")  # the writer is told, and nothing is stored
    plane = grid.get("planes", row["tailnum"])
    flight = typed(row)
    flight["seats"] = plane and number(plane["seats"])
    yield Put("flights", write.key, flight)
    delay = number(row["dep_delay"])
    if delay is not None and delay > LATE_MINUTES:
        yield Event("delays", write.key, {"minutes": delay})


def typed(row: dict[str, str]) -> dict[str, int | str | None]:
    return {name: text(said) if name in TEXT else number(said) for name, said in row.items()}


def number(said: str) -> int | None:
    return None if said == "NA" else int(said)


def text(said: str) -> str | None:
    return None if said == "NA" else said
