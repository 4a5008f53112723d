"""The second version of the flights triggers, without a grid: what it adds, and a fold that the order does not matter to."""

import random
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from tidegrid.triggers.outputs import Merge, Put
from tidegrid.triggers.testing import TriggerTest

from examples.flights import data
from examples.flights.demo import key_of
from examples.flights.version2.flights import add_flight

HERE = Path(data.__file__).parent
VERSION_1, VERSION_2 = TriggerTest(HERE / "flights.py"), TriggerTest(HERE / "version2" / "flights.py")
PLANES = {"planes": {"N14228": {"seats": "149"}}}
ROW = {**next(data.flights()), "dep_delay": "-3"}


def put(row: data.Row, triggers: TriggerTest = VERSION_2) -> list[Any]:
    return triggers.put("flights.raw", key_of(row), row, references=PLANES).outputs


def flight(row: data.Row) -> Any:
    return next(output.value for output in put(row) if isinstance(output, Put))


def merges(row: data.Row) -> list[Merge]:
    return [output for output in put(row) if isinstance(output, Merge)]


def test_a_flight_is_that_of_version_1_with_its_speed() -> None:
    (before,) = put(ROW, VERSION_1)
    assert flight(ROW) == {**before.value, "speed_mph": 1400 / 227 * 60}
    assert before.value["seats"] == 149


def test_a_speed_that_is_not_known_is_none() -> None:
    for unknown in ({"air_time": "NA"}, {"distance": "NA"}, {"air_time": "0"}):
        assert flight({**ROW, **unknown})["speed_mph"] is None


def test_an_early_or_cancelled_flight_counts_without_late_minutes() -> None:
    for delay, minutes in (("-3", 0), ("NA", 0), ("61", 61)):
        operand = {"late_minutes": minutes, "airport": "IAH", "at": "2013-01-01T10:00:00Z"}
        assert merges({**ROW, "dep_delay": delay}) == [Merge("aircraft", ("N14228",), operand)]


def test_a_flight_without_tail_number_counts_for_no_aircraft() -> None:
    assert merges({**ROW, "tailnum": "NA"}) == []


def test_the_fold_comes_to_what_the_csv_adds_up_to_in_any_order() -> None:
    rows = [row for row in islice(data.flights(), 1_000) if row["tailnum"] != "NA"]
    rows += [{**ROW, "dest": airport, "time_hour": "2014-01-01T05:00:00Z"} for airport in ("BOS", "ORD", "ATL")]
    operands = [merge for row in rows for merge in merges(row)]
    wanted = {tail: asdict(sums) for tail, sums in data.aircraft(rows).items()}
    assert wanted["N14228"]["last_airport"] == "ORD"
    for seed in range(20):
        random.Random(seed).shuffle(operands)
        states: dict[str, Any] = {}
        for merge in operands:
            states[merge.key[0]] = add_flight(states.get(merge.key[0]), merge.operand)
        assert states == wanted
