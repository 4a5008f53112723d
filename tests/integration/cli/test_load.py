"""load: what goes in, what is refused and told, and a load that is repeated, also over a crash."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cli.conftest import Served, call, running


def write_csv(path: Path, shop: str, amounts: list[object]) -> Path:
    rows = "".join(f"{shop},{number},{amount}\n" for number, amount in enumerate(amounts, 1))
    path.write_text("shop,number,amount\n" + rows)
    return path


def orders(served: Served, shop: str, *options: str) -> list[Any]:
    return call(served, "scan", "orders", "--prefix", json.dumps([shop]), "--json", *options).records


def test_a_repeated_load_changes_nothing(served: Served, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "orders.csv", "twice", list(range(50, 150)))
    first = call(served, "load", "orders.raw", str(file), "--json")
    assert first.code == 0
    assert [first.record[name] for name in ("accepted", "repeated", "refused")] == [100, 0, 0]
    assert first.record["epoch"] > 0
    renamed = file.rename(tmp_path / "copy.csv")
    second = call(served, "load", "orders.raw", str(renamed), "--json").record
    assert [second[name] for name in ("accepted", "repeated", "refused")] == [0, 100, 0]
    entries = orders(served, "twice")
    assert [entry["value"]["amount"] for entry in entries] == list(range(50, 150))
    assert {entry["version"] for entry in entries} == {1}
    people = call(served, "load", "orders.raw", str(renamed))
    assert "0 rows written, 100 left alone, as they were loaded before (--again writes them anew)" in people.out


def test_again_and_an_edited_file_write_again(served: Served, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "orders.csv", "again", [1, 2])
    assert call(served, "load", "orders.raw", str(file)).code == 0
    assert call(served, "load", "orders.raw", str(file), "--again", "--json").record["accepted"] == 2
    write_csv(file, "again", [1, 3])
    assert call(served, "load", "orders.raw", str(file), "--json").record["accepted"] == 2
    assert [(entry["version"], entry["value"]["amount"]) for entry in orders(served, "again")] == [(3, 1), (3, 3)]


def test_refused_rows_are_told_and_kept_and_the_others_go_in(served: Served, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "orders.csv", "bad", [1, "", "much", 4])
    file.write_text(file.read_text() + "bad,five,5\nbad,6\nbad,7,7\n")
    errors = tmp_path / "refused.jsonl"
    result = call(served, "load", "orders.raw", str(file), "--errors", str(errors), "--json")
    assert result.code == 1
    assert [result.record[name] for name in ("accepted", "repeated", "refused")] == [3, 0, 4]
    kept = sorted((json.loads(line) for line in errors.read_text().splitlines()), key=lambda row: row["line"])
    assert [(row["line"], row["code"]) for row in kept] == [
        (3, "REJECTED"), (4, "REJECTED"), (6, "INVALID_KEY"), (7, "INVALID_VALUE"),
    ]  # fmt: skip
    assert kept[0]["row"] == {"shop": "bad", "number": "2", "amount": ""} and kept[0]["message"]
    assert "line 3: REJECTED" in result.err and "no amount" in result.err
    assert [entry["value"]["amount"] for entry in orders(served, "bad")] == [1, 4, 7]
    again = call(served, "load", "orders.raw", str(file), "--json")
    assert [again.record[name] for name in ("accepted", "repeated", "refused")] == [0, 3, 4]


def test_other_columns_and_json_lines_and_several_files(served: Served, tmp_path: Path) -> None:
    columns = tmp_path / "columns.csv"
    columns.write_text("no,store,amount\n1,columns,5\n")
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"shop": "columns", "number": 2, "amount": 6}\n')
    assert call(served, "load", "orders.raw", str(columns), "--key", "store,no").code == 0
    assert call(served, "load", "orders.raw", str(lines), str(lines), "--json").records[1]["repeated"] == 1
    assert [entry["value"]["amount"] for entry in orders(served, "columns")] == [5, 6]


def test_stdin(served: Served) -> None:
    rows = "shop,number,amount\n" + "".join(f"stdin,{number},{number}\n" for number in range(5_000))
    result = call(served, "load", "orders.raw", "-", "--format", "csv", "--json", given=rows)
    assert (result.code, result.record["accepted"]) == (0, 5_000)
    assert len(orders(served, "stdin")) == 5_000


@pytest.mark.parametrize(
    ("name", "content", "options", "says"),
    [
        ("none.csv", None, [], "none.csv"),
        ("orders.txt", "x", [], "--format"),
        ("-", None, [], "--format"),
        ("orders.csv", "", [], "is empty"),
        ("orders.csv", "shop,amount\nx,1\n", [], "no column 'number'"),
        ("orders.csv", "shop,number\nx,1\n", ["--key", "shop"], "names 1 columns"),
        ("orders.csv", "shop,number\nx,1\n", ["--errors", "/nowhere/at/all"], "/nowhere/at/all"),
    ],
)
def test_what_cannot_be_loaded(
    served: Served, tmp_path: Path, name: str, content: str | None, options: list[str], says: str
) -> None:
    path = name if name == "-" else str(tmp_path / name)
    if content is not None:
        Path(path).write_text(content)
    result = call(served, "load", "orders.raw", path, *options)
    assert result.code == 2 and says in result.err and "Traceback" not in result.err
    assert "rows written" not in result.out + result.err


def test_a_file_that_breaks_off_is_loaded_so_far(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "orders.csv"
    rows = b"".join(b"breaks,%d,1\n" % number for number in range(5_000))  # it is read by the block
    file.write_bytes(b"shop,number,amount\n" + rows + b"breaks,5000,caf\xe9\n")
    result = call(served, "load", "orders.raw", str(file))
    assert (
        result.code == 2
        and "not UTF-8" in result.err
        and f" {len(orders(served, 'breaks')):,} rows written" in result.out
    )
    derived = call(served, "load", "orders", str(write_csv(tmp_path / "derived.csv", "x", [1])), "--json")
    assert derived.code == 1 and "DERIVED_MAP" in derived.err


def test_kill_9_in_the_middle_of_a_load(fresh: Served, tmp_path: Path) -> None:
    """The load goes on by itself once the grid is back; every row is there once, every event is there once."""
    amounts = [number % 200 for number in range(20_000)]
    file = write_csv(tmp_path / "orders.csv", "north", amounts)
    fresh.start("--triggers", "shop.py", "--data", "data")
    address = fresh.address
    with (
        running(fresh, "subscribe", "large", "--after", "0", "-n", "1") as watching,
        running(fresh, "load", "orders.raw", str(file), "--json") as loading,
    ):
        assert watching.communicate()[0]  # an event: the load is under way
        fresh.stop(signal.SIGKILL)
        fresh.start("--port", address.rpartition(":")[2], "--peer-port", "0", "--data", "data")
        out, err = loading.communicate()
        assert loading.returncode == 0, err
    count = json.loads(out)
    assert count["accepted"] + count["repeated"] == 20_000 and count["refused"] == 0
    again = call(fresh, "load", "orders.raw", str(file), "--json").record
    assert [again[name] for name in ("accepted", "repeated", "refused")] == [0, 20_000, 0]
    entries = orders(fresh, "north")
    assert [entry["value"]["amount"] for entry in entries] == amounts
    assert {entry["version"] for entry in entries} == {1}
    last = call(fresh, "put", "shops", "end", "1", "--json").record["epoch"]
    events = call(fresh, "subscribe", "large", "--after", "0", "--until-epoch", str(last), "--json").records
    keys = [event["key"][1] for event in events]
    assert sorted(keys) == [number for number, amount in enumerate(amounts, 1) if amount > 100]


def test_errors_never_empties_what_is_to_be_loaded_nor_what_an_earlier_load_has_told(
    served: Served, tmp_path: Path
) -> None:
    file = write_csv(tmp_path / "orders.csv", "self", [1, ""])
    before = file.read_text()
    link = tmp_path / "other.csv"
    link.symlink_to(file)
    for errors in (file, link):
        result = call(served, "load", "orders.raw", str(file), "--errors", str(errors), "--json")
        assert result.code == 2 and "is to be loaded, and --errors would empty it" in result.error["message"]
    assert file.read_text() == before and not orders(served, "self")
    told = tmp_path / "refused.jsonl"
    told.write_text("of before\n")
    away = call("localhost:1", "load", "orders.raw", str(file), "--errors", str(told), "--deadline", "0.2")
    assert away.code == 3 and told.read_text() == "of before\n"
