"""What a bench prints is read by scripts: the keys, the bounds, the last line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.report import Figure, as_line

KEYS = {"bench", "value", "unit", "yardstick", "yardstick_value", "ratio", "target", "holds", "note"}


@pytest.mark.parametrize(
    ("value", "bound", "holds"),
    [
        (50.0, {"at_least": 0.5}, True),
        (49.9, {"at_least": 0.5}, False),
        (150.0, {"at_most": 1.5}, True),
        (150.1, {"at_most": 1.5}, False),
    ],
)
def test_a_target_bounds_the_ratio_from_its_side(value: float, bound: dict[str, float], holds: bool) -> None:
    assert Figure("b", value, "x/s", "y", 100.0, **bound).holds is holds


def test_a_figure_without_a_target_neither_holds_nor_fails() -> None:
    figure = Figure("b", 2.0, "x/s", "y", 1.0).as_json()
    assert (figure["target"], figure["holds"]) == ("none", None)


def test_one_figure_is_one_object_and_several_are_a_list() -> None:
    figure = Figure("b", 2.0, "x/s", "y", 1.0, at_least=1)
    assert set(json.loads(as_line([figure]))) == KEYS
    assert [set(one) for one in json.loads(as_line([figure, figure]))["results"]] == [KEYS, KEYS]


def test_an_unknown_bench_names_the_known_ones() -> None:
    command = [sys.executable, "-m", "bench", "write_psth"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.returncode == 2 and "write_path" in done.stderr and not done.stdout
