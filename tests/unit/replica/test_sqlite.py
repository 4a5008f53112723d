from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tidegrid.client import FeedBatch
from tidegrid.grid.model.errors import ConfigurationError, FormatError, InUseError, WrongGridError
from tidegrid.grid.model.keys import encode_key
from tidegrid.grid.model.maps import MapKind
from tidegrid.replica import Source, SqliteSink
from tidegrid.replica.sqlite import parse_url

from tests.unit.replica.feeds import DELETE, changes, piece, source


@asynccontextmanager
async def opened(path: Path, of: Source, **options: Any) -> AsyncIterator[SqliteSink]:
    sink = SqliteSink(str(path), **options)
    try:
        await sink.open(of)
        yield sink
    finally:
        await sink.close()


def rows(path: Path, sql: str = "SELECT * FROM m ORDER BY _key") -> list[dict[str, Any]]:
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    try:
        return [dict(row) for row in connection.execute(sql)]
    finally:
        connection.close()


def position(path: Path) -> tuple[int, str]:
    (row,) = rows(path, "SELECT * FROM tidegrid_position")
    return row["epoch"], row["state"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "replica.db"


async def test_rows_of_a_table(path: Path) -> None:
    of = source(key=("year:int", "carrier"))
    async with opened(path, of) as sink:
        await sink.apply(
            [
                changes(
                    3, [((2013, "UA"), {"year": 2013, "carrier": "UA", "delay": 2.5}), ((2014, "B6"), {"late": True})]
                )
            ]
        )
        await sink.apply([changes(4, [((2013, "UA"), {"late": False, "note": None})], version=2)])
    first, second = rows(path)
    assert first == {
        "_key": encode_key((2013, "UA")),
        "year": 2013,
        "carrier": "UA",
        "_version": 2,
        "_epoch": 4,
        "delay": None,
        "late": 0,
        "note": None,
    }
    assert second == {
        "_key": encode_key((2014, "B6")),
        "year": 2014,
        "carrier": "B6",
        "_version": 1,
        "_epoch": 3,
        "delay": None,
        "late": 1,
        "note": None,
    }
    assert position(path) == (4, "live")


async def test_values_keep_what_they_are(path: Path) -> None:
    values = {
        "nested": {"a": [1, b"\xff"]},
        "list": [],
        "big": 2**64 - 1,
        "least": -(2**63),
        "text": "007",
        "bytes": b"\0",
        "real": 1.5,
        "none": None,
    }
    async with opened(path, source()) as sink:
        await sink.apply([changes(1, [("a", {"text": 7}), ("b", values), ("c", [1, 2]), ("d", "plain"), ("e", {})])])
    a, b, c, d, e = rows(path)
    assert a["text"] == 7 and a["_key_json"] == '"a"'
    assert json.loads(b["nested"]) == {"a": [1, "ff"]} and b["list"] == "[]"
    assert (b["big"], b["least"], b["text"], b["bytes"], b["real"], b["none"]) == (
        "18446744073709551615",
        -(2**63),
        "007",
        b"\0",
        1.5,
        None,
    )
    assert json.loads(c["_value"]) == [1, 2] and d["_value"] == "plain" and e["_value"] is None


async def test_a_stream_has_a_row_per_event(path: Path) -> None:
    async with opened(path, source(kind=MapKind.STREAM, key=("carrier",))) as sink:
        await sink.apply(
            [changes(1, [("UA", {"n": 1}), ("UA", {"n": 2})]), changes(2, [("UA", {"n": 3})], partition=1)]
        )
        await sink.apply([changes(2, [("UA", {"n": 9})], partition=1)])  # applied already
    found = rows(path, "SELECT _partition, _position, _index, carrier, _epoch, n FROM m ORDER BY 1, 2, 3")
    assert [tuple(row.values()) for row in found] == [
        (0, 10, 0, "UA", 1, 1),
        (0, 10, 1, "UA", 1, 2),
        (1, 20, 0, "UA", 2, 3),
    ]


async def test_deletes_and_the_last_change_of_a_key(path: Path) -> None:
    async with opened(path, source()) as sink:
        await sink.apply([changes(1, [("a", {"x": 1}), ("a", {"y": 2}), ("b", {"x": 1}), ("c", {"x": 1})])])
        await sink.apply([changes(2, [("b", DELETE), ("c", DELETE), ("c", {"z": 3}), ("nobody", DELETE)])])
    assert [(row["_key_json"], row["x"], row["y"], row["z"]) for row in rows(path)] == [
        ('"a"', None, 2, None),
        ('"c"', None, None, 3),
    ]


async def test_the_raw_text_of_a_key_field_is_the_key(path: Path) -> None:
    async with opened(path, source(key=("year:int",))) as sink:
        await sink.apply([changes(1, [(2013, {"year": "2013", "n": 1})])])
        with pytest.raises(ConfigurationError, match=r"rename=\{'year': 'value_year'\}"):
            await sink.apply([changes(2, [(2013, {"year": "2014"})])])
    assert rows(path)[0]["year"] == 2013 and position(path) == (1, "live")
    async with opened(path.with_name("renamed.db"), source(key=("year:int",)), rename={"year": "value_year"}) as sink:
        await sink.apply([changes(2, [(2013, {"year": "2014"})])])
    assert rows(path.with_name("renamed.db"))[0]["value_year"] == "2014"


@pytest.mark.parametrize("value", [{"_key": 1}, {"_EPOCH": 1}, {"a": 1, "A": 2}, {"_value": 1}, {"": 1}])
async def test_clashes_say_how_to_rename(path: Path, value: dict[str, int]) -> None:
    async with opened(path, source()) as sink:
        await sink.apply([changes(1, [("ok", {"n": 1})])])
        with pytest.raises(ConfigurationError, match="rename="):
            await sink.apply([changes(2, [("plain", 1), ("a", value)])])
    assert len(rows(path)) == 1 and position(path) == (1, "live")


async def test_a_clash_with_a_column_of_an_earlier_run(path: Path) -> None:
    async with opened(path, source(), rename={"x": "y2"}) as sink:
        await sink.apply([changes(1, [("a", {"x": 1, "b": 1})])])
    async with opened(path, source(), rename={"x": "y2"}) as sink:
        with pytest.raises(ConfigurationError, match="'B'"):
            await sink.apply([changes(2, [("a", {"B": 1})])])
        await sink.apply([changes(2, [("a", {"x": 2, "b": 2})])])
        with pytest.raises(ConfigurationError, match="'B'"):
            await sink.apply([changes(3, [("a", {"B": 1})])])
    assert (rows(path)[0]["y2"], rows(path)[0]["b"]) == (2, 2)


async def test_the_advice_about_a_clash_can_be_followed(path: Path) -> None:
    """In the table where it was given: fields that no row has yet may be renamed."""
    async with opened(path, source(), rename={"x": "A"}) as sink:
        await sink.apply([changes(1, [("a", {"b": 1, "x": 3})])])
        with pytest.raises(ConfigurationError, match=r"--rename 'B=B_2'"):
            await sink.apply([changes(2, [("a", {"b": 1, "B": 2, "A": 4})])])
    renamed = {"x": "A", "B": "B_2", "A": "A_2"}
    for _ in range(2):
        async with opened(path, source(), rename=renamed) as sink:
            await sink.apply([changes(2, [("a", {"b": 1, "B": 2, "A": 4, "x": 5})])])
    (row,) = rows(path)
    assert [row[name] for name in ("b", "B_2", "A_2", "A")] == [1, 2, 4, 5] and position(path) == (2, "live")
    for other in ({}, {"B": "B_2"}, {**renamed, "x": "y"}, {**renamed, "b": "b_3"}, {**renamed, "c": "B_2"}):
        with pytest.raises(ConfigurationError, match="and has rows by them; use the same ones"):
            async with opened(path, source(), rename=other):
                pass
    with pytest.raises(ConfigurationError, match="and has rows by them"):
        async with opened(path, source(key=("b:int",)), rename=renamed):
            pass


async def test_a_first_copy_that_failed_begins_anew_by_other_options(path: Path) -> None:
    of = source(key=("year:int",))
    async with opened(path, of) as sink:
        await sink.apply([piece(4, [(2012, {"n": 1})], begins=True)])
        with pytest.raises(ConfigurationError, match=r"--rename 'year=value_year'"):
            await sink.apply([piece(4, [(2013, {"year": "2014"})])])
    assert position(path) == (4, "snapshot")
    sink = SqliteSink(str(path), rename={"year": "value_year"})
    try:
        assert await sink.open(of) is None and not rows(path)
        await sink.apply([piece(5, [(2013, {"year": "2014"})], begins=True, live=True)])
    finally:
        await sink.close()
    assert rows(path)[0]["value_year"] == "2014" and "n" not in rows(path)[0] and position(path) == (5, "live")


async def test_what_it_refuses(path: Path, tmp_path: Path) -> None:
    async with opened(path, source()) as sink:
        await sink.apply([changes(1, [("a", {"a": 1})])])
    with pytest.raises(WrongGridError):
        async with opened(path, source(grid_id=b"H" * 16)):
            pass
    with pytest.raises(ConfigurationError, match="replica of map 'm'"):
        async with opened(path, source("other"), table="m"):
            pass
    with pytest.raises(ConfigurationError, match="other options"):
        async with opened(path, source(), rename={"a": "b"}):
            pass
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE mine (a)")
    connection.close()
    with pytest.raises(ConfigurationError, match="no replica"):
        async with opened(path, source(), table="mine"):
            pass
    async with opened(path, source("second")):  # another map of the same grid
        pass
    (tmp_path / "text.db").write_bytes(b"this is no database, however long one looks at it" * 50)
    with pytest.raises(FormatError, match="no SQLite database"):
        async with opened(tmp_path / "text.db", source()):
            pass
    with pytest.raises(ConfigurationError, match="directory"):
        async with opened(tmp_path / "no" / "x.db", source()):
            pass
    for url in ("file.db", "sqlite:///", "postgres:///x"):
        with pytest.raises(ConfigurationError):
            parse_url(url)
    assert parse_url("sqlite:////tmp/x.db") == "/tmp/x.db"
    assert parse_url("sqlite:///~/x.db") == str(Path.home() / "x.db")


async def test_a_second_writer_takes_over(path: Path) -> None:
    async with opened(path, source()) as one:
        await one.apply([piece(1, [("a", 1)], begins=True)])
        async with opened(path, source()) as two:
            await two.apply([piece(1, [("b", 1)], begins=True)])
            with pytest.raises(InUseError):
                await one.apply([piece(1, [("c", 1)], live=True)])
            await two.apply([piece(1, [], live=True)])
    assert [row["_key_json"] for row in rows(path)] == ['"b"'] and position(path) == (1, "live")


async def test_a_snapshot_is_empty_until_it_is_complete(path: Path) -> None:
    async with opened(path, source()) as sink:
        await sink.apply([piece(5, [("old", 1)], begins=True)])
    sink = SqliteSink(str(path))
    assert await sink.open(source()) is None and position(path) == (5, "snapshot")
    await sink.apply([piece(7, [("lost", 1)], begins=True), piece(8, [("a", 1)], begins=True)])
    await sink.apply([piece(8, [("b", 2)], live=True), changes(9, [("b", DELETE), ("c", 3)])])
    await sink.close()
    assert [row["_key_json"] for row in rows(path)] == ['"a"', '"c"'] and position(path) == (9, "live")
    sink = SqliteSink(str(path))
    assert await sink.open(source()) == 9
    await sink.close()


class Crash(Exception):
    pass


class Crashing(sqlite3.Connection):
    """Dies before or after its n-th statement: from then on nothing of it reaches the file."""

    left = 10**9
    after = False

    def _step(self, run: Any, *arguments: Any) -> Any:
        if type(self).left < 0:
            raise Crash
        type(self).left -= 1
        if type(self).left < 0:
            if type(self).after:
                run(*arguments)
            raise Crash
        return run(*arguments)

    def execute(self, sql: str, *arguments: Any) -> Any:  # type: ignore[override]
        return self._step(super().execute, sql, *arguments)

    def executemany(self, sql: str, *arguments: Any) -> Any:  # type: ignore[override]
        return self._step(super().executemany, sql, *arguments)


def crashing(path: str) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=Crashing)


FIELDS = st.one_of(st.integers(-(2**63), 2**64 - 1), st.lists(st.integers(0, 9), max_size=1))
VALUES = st.one_of(st.just(DELETE), st.dictionaries(st.sampled_from("xyz"), FIELDS, max_size=2), st.integers(0, 9))
EPOCHS = st.lists(st.lists(st.tuples(st.sampled_from("abcd"), VALUES), max_size=5), min_size=1, max_size=5)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(EPOCHS, st.lists(st.tuples(st.integers(0, 25), st.booleans()), max_size=5), st.integers(1, 3), st.booleans())
def test_a_crash_between_any_two_steps(
    tmp_path_factory: pytest.TempPathFactory,
    epochs: list[Any],
    crashes: list[tuple[int, bool]],
    group: int,
    stream: bool,
) -> None:
    """Whatever was committed when it died, the next one ends with the rows of the model, and every reader sees a cut."""
    path = tmp_path_factory.mktemp("crash") / "r.db"
    if stream:
        epochs = [[(key, value) for key, value in epoch if value is not DELETE] for epoch in epochs]
    of = source(kind=MapKind.STREAM if stream else MapKind.TABLE)

    async def follow(first_half: int) -> None:
        sink = SqliteSink(str(path), connect=crashing)
        try:
            at = await sink.open(of)
            batches: list[FeedBatch] = []
            if at is None and not stream:
                table = model(epochs[:first_half])
                batches += [
                    piece(first_half, list(table.items())[:2], begins=True),
                    piece(first_half, list(table.items())[2:], live=True),
                ]
                at = first_half
            batches += [
                changes(number, rows, version=number)
                for number, rows in enumerate(epochs, start=1)
                if number > (at or 0)
            ]
            for begin in range(0, len(batches), group):
                await sink.apply(batches[begin : begin + group])
        finally:
            await hard_close(sink)

    for left, after in crashes:
        Crashing.left, Crashing.after = left, after
        with suppress(Crash):
            asyncio.run(follow(1))
        check(path, epochs, stream)
    Crashing.left = 10**9
    asyncio.run(follow(len(epochs)))
    at = check(path, epochs, stream)
    assert at == len(epochs)


async def hard_close(sink: SqliteSink) -> None:
    """As the system does it: no statement, no roll-back; SQLite forgets what was not committed."""
    Crashing.left = 10**9 if Crashing.left >= 0 else Crashing.left
    await sink.close()


def model(epochs: Sequence[list[tuple[Any, Any]]]) -> dict[Any, Any]:
    table: dict[Any, Any] = {}
    for rows_ in epochs:
        for key, value in rows_:
            table.pop(key, None)
            if value is not DELETE:
                table[key] = value
    return table


def check(path: Path, epochs: list[Any], stream: bool) -> int | None:
    if not path.exists() or not rows(path, "SELECT * FROM sqlite_master WHERE name = 'tidegrid_position'"):
        return None
    found = rows(path, "SELECT * FROM tidegrid_position")
    if not found or found[0]["state"] != "live":
        return None
    at = int(found[0]["epoch"])
    if stream:
        expected = [(json.dumps(key), shown(value)) for epoch in epochs[:at] for key, value in epoch]
        got = [
            (row["_key_json"], stored(row)) for row in rows(path, "SELECT * FROM m ORDER BY _epoch, _position, _index")
        ]
        assert got == expected
    else:
        table = {json.dumps(key): shown(value) for key, value in model(epochs[:at]).items()}
        assert {row["_key_json"]: stored(row) for row in rows(path)} == table
    return at


def shown(value: Any) -> dict[str, Any]:
    fields = value if isinstance(value, dict) else {"_value": value}
    return {
        name: json.dumps(item) if isinstance(item, list) else item if item < 2**63 else str(item)
        for name, item in fields.items()
    }


def stored(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in (*"xyz", "_value") if row.get(name) is not None}
