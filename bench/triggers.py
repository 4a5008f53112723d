"""Claim: what becomes of a write, in its own partition, in another one, merged there, or setting off more there.

Each case is a trigger on raw flights that translates as the flights example does. All write the delay event beside the
raw flight; they differ in where the rest goes:

  inline   the typed flight beside the raw one: the example itself, as in write_path
  process  the same, in worker processes (isolation="process")
  routed   the typed flight into a map that begins with the tail number, in another partition
  merged   what an aircraft's flights add up to, into a row of another partition with a fold
  chained  routed, and a trigger there emits one more

The client sends the same rows to each with `put_stream`, on one node, in two processes, and the time ends when all is
closed: an epoch is closed only when all that follows from its writes is in the log. Rows whose output would come to lie
in their own partition (one of sixteen) are left out, for all cases. The tight loop, which only translates and encodes,
runs around them; the best of each one's rounds counts.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import uvloop
from tidegrid.grid.model.errors import GridError
from tidegrid.grid.model.keys import encode_key
from tidegrid.grid.model.partitioner import Partitioner

from bench import tight_loop
from bench.child import data_directory
from bench.flights_rows import flight_rows, key_of
from bench.process import FLIGHTS_TRIGGERS, GridServer, grid_server, opened
from bench.report import Figure, Progress
from examples.flights.data import Row

ROWS: Final = 100_000
ROUNDS: Final = 2
Key = tuple[str | int, ...]

HEAD: Final = """
from tidegrid.triggers import Event, Merge, Put, reference, stream, table, trigger

table("flights.raw", key=("year:int", "month:int", "day:int", "carrier", "flight:int", "origin"))
stream("delays", like="flights.raw")
reference("planes", key=("tailnum",))

TEXT = {"carrier", "tailnum", "origin", "dest", "time_hour"}


def number(said):
    return None if said == "NA" else int(said)


def text(said):
    return None if said == "NA" else said


def add_flight(state, flight):
    flights, minutes, at, airport = state or (0, 0, "", "")
    last_at, last = max((at, airport), (flight["at"], flight["airport"]))
    return [flights + 1, minutes + flight["late_minutes"], last_at, last]


table("aircraft", key=("tailnum",), fold=add_flight)
table("flights.by_aircraft", key=("tailnum", "year:int", "month:int", "day:int", "carrier", "flight:int", "origin"))


@trigger(on="flights.raw", emits=("flights.by_aircraft", "aircraft", "delays"))
def translate(write, grid):
    row = write.value
    plane = grid.get("planes", row["tailnum"])
    flight = {name: text(said) if name in TEXT else number(said) for name, said in row.items()}
    flight["seats"] = plane and number(plane["seats"])
    delay = flight["dep_delay"]
    if delay is not None and delay > 60:
        yield Event("delays", write.key, {"minutes": delay})
"""
ROUTED: Final = '    yield Put("flights.by_aircraft", (row["tailnum"], *write.key), flight)\n'
MERGED: Final = """
    operand = {"late_minutes": max(delay or 0, 0), "airport": flight["dest"], "at": flight["time_hour"]}
    yield Merge("aircraft", row["tailnum"], operand)
"""
CHAINED: Final = """
table("seats", like="flights.by_aircraft")


@trigger(on="flights.by_aircraft", emits="seats")
def go_on(write):
    yield Put("seats", write.key, {"seats": write.value["seats"]})
"""


@dataclass(frozen=True, slots=True)
class Case:
    """`target`: where its outputs go. `source`: of its trigger module, where it is not the flights example."""

    name: str
    what: str
    target: str
    source: str = ""
    at_least: float | None = None


APART: Final = FLIGHTS_TRIGGERS.read_text().replace("@trigger(", '@trigger(isolation="process", ')

CASES: Final = (
    Case("inline", "the typed flight beside the raw one", "flights", at_least=0.5),
    Case("process", "the typed flight beside the raw one, made in a worker process", "flights", APART),
    Case("routed", "the typed flight in another partition", "flights.by_aircraft", HEAD + ROUTED, at_least=0.35),
    Case("merged", "one Merge into a row of another partition", "aircraft", HEAD + MERGED),
    Case(
        "chained", "the typed flight in another partition, and one more output there", "seats", HEAD + ROUTED + CHAINED
    ),
)


def run(progress: Progress) -> list[Figure]:
    loops = [tight_loop.rate(progress)]
    rates: dict[str, list[float]] = {case.name: [] for case in CASES}
    for number in range(ROUNDS):
        for case in CASES:
            progress(f"{ROWS:,} flights, {case.name}, round {number + 1} of {ROUNDS}")
            rates[case.name].append(_rate(case))
        loops.append(tight_loop.rate(progress))
    note = f"{ROWS:,} flights until all is closed, best of {ROUNDS} rounds; one node, the client in another process"
    return [
        Figure(
            f"triggers_{case.name}",
            max(rates[case.name]),
            "writes/s",
            tight_loop.NAME,
            max(loops),
            at_least=case.at_least,
            note=f"{case.what}; {note}",
        )
        for case in CASES
    ]


def _rate(case: Case) -> float:
    with data_directory("triggers") as directory, grid_server(triggers=_module(case, directory)) as server:
        return uvloop.run(_load(server, case.target))


def _module(case: Case, directory: Path) -> Path:
    if not case.source:
        return FLIGHTS_TRIGGERS
    written = directory / f"{case.name}.py"
    written.write_text(case.source)
    return written


async def _load(server: GridServer, target: str) -> float:
    async with opened(server, planes=True) as grid:
        rows = _rows(Partitioner(grid.partitions))
        accepted, last = 0, 0
        started = time.perf_counter()
        async for outcomes in grid.map("flights.raw").put_stream(rows):
            accepted += outcomes.accepted
            last = max(last, outcomes.epoch)
            for error in outcomes.errors.values():
                raise error
        await grid.wait_closed(last)
        took = time.perf_counter() - started
        if accepted != len(rows):
            raise GridError(f"{accepted:,} of {len(rows):,} writes were accepted")
        if not [entry async for entry in grid.map(target).scan(as_of=last, limit=1)]:
            raise GridError(f"nothing has come to {target!r}")
        return accepted / took


def _rows(partitioner: Partitioner) -> list[tuple[Key, Row]]:
    """Those whose outputs go elsewhere in all cases."""

    def of(key: Key) -> int:
        return partitioner.of(encode_key(key))

    pairs = ((key_of(row), row) for row in flight_rows(ROWS * 2))
    far = ((key, row) for key, row in pairs if of(key) not in (of((row["tailnum"], *key)), of((row["tailnum"],))))
    return list(islice(far, ROWS))
