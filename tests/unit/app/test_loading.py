"""The names of loads, the columns of keys, and rows from a pipe."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import pytest
from tidegrid.grid.app.load_format import Format
from tidegrid.grid.app.load_pipe import from_pipe
from tidegrid.grid.app.loading import LoadCount, Refusals, key_fields, session_of
from tidegrid.grid.model.errors import ConfigurationError, InvalidKeyError
from tidegrid.grid.model.maps import KeyField, MapSpec

TYPED = MapSpec("orders", key=(KeyField("shop"), KeyField("number", "int")))
ANY = MapSpec("anything")


def test_key_columns_take_the_types_of_the_map() -> None:
    assert key_fields(None, TYPED) == TYPED.key
    assert key_fields("store, no", TYPED) == (KeyField("store"), KeyField("no", "int"))
    assert key_fields("store,no:int", TYPED) == (KeyField("store"), KeyField("no", "int"))
    assert key_fields("a,b:int", ANY) == (KeyField("a"), KeyField("b", "int"))


@pytest.mark.parametrize(
    ("text", "spec", "says"),
    [
        (None, ANY, "--key"),
        ("shop", TYPED, "names 1 columns"),
        ("shop,number:float", TYPED, "is of type int"),
        ("shop:city", ANY, "NAME:TYPE"),
    ],
)
def test_key_columns_that_do_not_fit(text: str | None, spec: MapSpec, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        key_fields(text, spec)


def test_a_load_is_named_by_what_it_does(tmp_path: Path) -> None:
    one, same, edited = tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "c.csv"
    one.write_text("shop,number\nnorth,1\n")
    same.write_text("shop,number\nnorth,1\n")
    edited.write_text("shop,number\nnorth,2\n")
    fields = TYPED.key

    def name(
        path: Path = one, to: str = "orders", key: tuple[KeyField, ...] = fields, schema: int | None = None
    ) -> bytes:
        return session_of(path, to, key, Format.CSV, schema).name

    assert name() == name(same)
    others = [name(edited), name(to="orders2"), name(key=fields[:1]), name(schema=1), name(schema=0)]
    assert len({name(), *others}) == 6
    with pytest.raises(ConfigurationError, match=r"none\.csv"):
        name(tmp_path / "none.csv")


def test_the_first_refusals_are_told_and_all_are_kept() -> None:
    told: list[str] = []
    kept = io.StringIO()
    refusals, count = Refusals(told.append, kept), LoadCount()
    for line in range(1, 10):
        refusals.add("orders.csv", count, line, InvalidKeyError("no number"), {"shop": "north"})
    assert count.refused == 9
    assert told[0] == "orders.csv line 1: INVALID_KEY: no number"
    assert len(told) == 6 and "--errors" in told[-1]
    assert kept.getvalue().count("\n") == 9


async def test_rows_of_a_pipe_come_as_they_are_written() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading) as reader, os.fdopen(writing, "w") as writer:
        writer.write("one\n")
        writer.flush()
        rows = from_pipe(reader)
        assert await anext(rows) == "one\n"  # though the pipe is still open
        writer.write("two\nthree\n")
        writer.close()
        assert [row async for row in rows] == ["two\n", "three\n"]


async def test_more_rows_than_are_read_ahead() -> None:
    assert [row async for row in from_pipe(range(25_000))] == list(range(25_000))


async def test_what_reading_raises_comes_after_the_rows() -> None:
    def broken() -> object:
        yield 1
        yield 2
        raise ValueError("unreadable")

    rows, seen = from_pipe(broken()), []  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unreadable"):
        async for row in rows:
            seen.append(row)  # noqa: PERF401
    assert seen == [1, 2]


async def test_who_stops_reading_stops_the_reader() -> None:
    taken = threading.Event()

    def endless() -> object:
        number = 0
        while True:
            number += 1
            yield number
            if number == 10_000:
                taken.set()

    rows = from_pipe(endless())  # type: ignore[arg-type]
    assert await anext(rows) == 1
    await rows.aclose()  # type: ignore[attr-defined]
    assert taken.wait(10)  # it reads ahead so far, and then waits for room that never comes
