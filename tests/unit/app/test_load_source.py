"""Reading files: keys and values of good rows, refusals of bad ones, and files that are not what they should be."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tidegrid.grid.app.load_format import Format, format_of
from tidegrid.grid.app.load_source import Source
from tidegrid.grid.model.errors import ConfigurationError, GridError, InvalidKeyError
from tidegrid.grid.model.key_text import key_from_fields
from tidegrid.grid.model.maps import KeyField

FIELDS = (KeyField("shop"), KeyField("number", "int"))
Refused = list[tuple[int, str, Any]]


def read(
    data: bytes, kind: Format = Format.CSV, fields: tuple[KeyField, ...] = FIELDS
) -> tuple[list[tuple[Any, Any]], Refused, Source]:
    refused: Refused = []

    def refuse(line: int, error: GridError, row: Any) -> None:
        refused.append((line, type(error).code, row))

    source = Source("orders", io.BytesIO(data), kind, fields, refuse)
    return list(source), refused, source


def test_csv_rows_are_their_raw_strings() -> None:
    data = b'\xef\xbb\xbfnumber,shop,amount\r\n1,north,NA\r\n-2,"so,""uth",\r\n'
    rows, refused, source = read(data)
    assert rows == [
        (("north", 1), {"number": "1", "shop": "north", "amount": "NA"}),
        (('so,"uth', -2), {"number": "-2", "shop": 'so,"uth', "amount": ""}),
    ]
    assert (refused, source.problem) == ([], None)
    assert list(source.taken) == [(2, rows[0][1]), (3, rows[1][1])]
    assert source.position() == len(data)


def test_bad_csv_rows_are_refused_with_their_line() -> None:
    data = b'shop,number\nnorth,1\n\nnorth\nnorth,one\n"two\nlines",2\nsouth,3,4\nsouth,5\n'
    rows, refused, source = read(data)
    assert [key for key, _ in rows] == [("north", 1), ("two\nlines", 2), ("south", 5)]
    assert refused == [
        (4, "INVALID_VALUE", ["north"]),
        (5, "INVALID_KEY", {"shop": "north", "number": "one"}),
        (8, "INVALID_VALUE", ["south", "3", "4"]),
    ]
    assert source.problem is None


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"shop,amount\n", "no column 'number'"),
        (b"shop,number,shop\n", "'shop' twice"),
        (b"shop,number\nnorth,1\ncaf\xe9,2\n", "not UTF-8"),
        (b'shop,number\nnorth,1\n"never closed,2\n' + b"x" * (17 << 20), "not CSV"),
    ],
)
def test_a_file_that_is_not_csv_ends_there(data: bytes, says: str) -> None:
    rows, _, source = read(data)
    assert isinstance(source.problem, ConfigurationError)
    assert says in str(source.problem)
    assert len(rows) <= 1


def test_json_lines() -> None:
    data = b'{"shop": "north", "number": 1, "more": [1, {}]}\n\n{"shop": "north", "number": "2"}\nnonsense\n[1]\n{"shop": 3, "number": 4}\n{"shop": "x"}\n{"shop": "\xff"}\n'
    rows, refused, source = read(data, Format.JSONL)
    assert rows == [
        (("north", 1), {"shop": "north", "number": 1, "more": [1, {}]}),
        (("north", 2), {"shop": "north", "number": "2"}),
    ]
    assert [(line, code) for line, code, _ in refused] == [
        (4, "INVALID_VALUE"), (5, "INVALID_VALUE"), (6, "INVALID_KEY"), (7, "INVALID_KEY"), (8, "INVALID_VALUE"),
    ]  # fmt: skip
    assert source.problem is None
    assert [line for line, _ in source.taken] == [1, 3]


CELLS = st.one_of(
    st.integers(-(1 << 70), 1 << 70).map(str), st.sampled_from(["", " 7", "007", "+7", "1_0", "٣", "true", "1.5", "ab"]),
)  # fmt: skip


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=5))
def test_the_quick_way_makes_the_keys_of_the_long_one(cells: list[tuple[str, str, str]]) -> None:
    fields = (KeyField("a", "int"), KeyField("b"), KeyField("c", "any"))
    data = "a,b,c\n" + "".join(",".join(row) + "\n" for row in cells)
    rows, refused, _ = read(data.encode(), fields=fields)
    wanted, bad = [], 0
    for row in cells:
        try:
            wanted.append(key_from_fields(dict(zip("abc", row, strict=True)), fields))
        except InvalidKeyError:
            bad += 1
    assert [key for key, _ in rows] == wanted
    assert len(refused) == bad


def test_formats() -> None:
    from pathlib import Path

    assert format_of(Path("a/flights.CSV")) is Format.CSV
    assert format_of(Path("x.ndjson")) is format_of(Path("x.jsonl")) is Format.JSONL
    with pytest.raises(ConfigurationError, match="--format"):
        format_of(Path("x.json"))
