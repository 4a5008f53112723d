"""subscribe and replica: snapshots, changes, where they end, and a replica that goes on where it was."""

from __future__ import annotations

import signal
import sqlite3
from pathlib import Path

from tests.integration.cli.conftest import Served, call, running


def put(served: Served, map_name: str, key: str, value: str) -> int:
    """The epoch of the write."""
    return int(call(served, "put", map_name, key, value, "--json").record["epoch"])


def test_all_changes_of_any_age_in_epoch_order(served: Served) -> None:
    for number in range(3):
        put(served, "anything", f'["feed", {number}]', str(number))
    epoch = int(call(served, "delete", "anything", '["feed", 1]', "--json").record["epoch"])
    feed = call(served, "subscribe", "anything", "--after", "0", "--until-epoch", str(epoch), "--json")
    assert feed.code == 0
    mine = [change for change in feed.records if change["key"][0] == "feed"]
    assert [(change["op"], change["value"]) for change in mine] == [
        ("put", 0),
        ("put", 1),
        ("put", 2),
        ("delete", None),
    ]
    epochs = [change["epoch"] for change in feed.records]
    assert epochs == sorted(epochs) and max(epochs) == epoch
    assert len({(change["partition"], change["position"], change["index"]) for change in feed.records}) == len(epochs)
    later = call(served, "subscribe", "anything", "--after", str(mine[-1]["epoch"] - 1), "-n", "1", "--json").record
    assert (later["op"], later["epoch"]) == ("delete", epoch)
    assert call(served, "subscribe", "anything", "--after", str(epoch - 1), "-n", "1").out.split("\t")[1] == "delete"


def test_everything_until_now(served: Served) -> None:
    put(served, "anything", '["now"]', '"here"')
    for manner in ("--after=0", "--snapshot"):
        rows = call(served, "subscribe", "anything", manner, "--until-now", "--json").records
        assert [row["value"] for row in rows if row["key"] == "now"] == ["here"]
    assert call(served, "subscribe", "anything", "--until-now").out == ""
    assert call(served, "subscribe", "anything", "--until-now", "--until-epoch", "3").code == 2


def test_a_snapshot_first(served: Served) -> None:
    oslo = put(served, "shops", "snap", '{"town": "Oslo"}')
    assert call(served, "get", "shops", "snap", "--as-of", str(oslo)).code == 0  # closed
    epoch = put(served, "shops", "snap", '{"town": "Moss"}')
    feed = call(served, "subscribe", "shops", "--snapshot", "--until-epoch", str(epoch), "--marks", "--json")
    rows = [row for row in feed.records if "key" in row]
    # The snapshot is of an epoch that was closed; what came after it follows as changes.
    assert [row["value"] for row in rows if row["key"] == "snap"][-1] == {"town": "Moss"}
    first_change = next((index for index, row in enumerate(rows) if "snapshot" not in row), len(rows))
    assert all("snapshot" in row for row in rows[:first_change]) and first_change > 0
    assert all(row["epoch"] > rows[0]["epoch"] for row in rows[first_change:])
    assert feed.records[-1]["mark"] >= epoch


def test_events(served: Served) -> None:
    epoch = put(served, "orders.raw", "feeds,1", '{"amount": "500"}')
    feed = call(served, "subscribe", "large", "--after", str(epoch - 1), "-n", "1", "--json").record
    assert (feed["op"], feed["key"], feed["value"], feed["epoch"]) == ("event", ["feeds", 1], {"amount": 500}, epoch)


def rows(file: Path) -> list[tuple[object, ...]]:
    with sqlite3.connect(file) as connection:
        found = connection.execute("SELECT shop, town FROM places ORDER BY shop").fetchall()
    connection.close()
    return found


def test_a_replica_catches_up_and_goes_on(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "shops.db"
    call(served, "map", "create", "places", "--key", "shop")
    put(served, "places", "a", '{"town": "Oslo"}')
    options = ("replica", "places", "--to", f"sqlite:///{file}")
    first = call(served, *options, "--once", "--json")
    assert first.code == 0, first.err
    assert (first.record["map"], first.record["rows"]) == ("places", 1)
    assert rows(file) == [("a", "Oslo")]
    put(served, "places", "a", '{"town": "Moss"}')
    epoch = put(served, "places", "b", '{"town": "Oslo"}')
    second = call(served, *options, "--until-epoch", str(epoch), "--json").record
    assert second["rows"] == 2 and second["epoch"] >= epoch
    assert rows(file) == [("a", "Moss"), ("b", "Oslo")]
    assert call(served, *options, "--once", "--json").record["rows"] == 0


def test_a_replica_ends_with_sigterm(served: Served, tmp_path: Path) -> None:
    put(served, "shops", "term", '{"town": "Oslo"}')
    with running(served, "replica", "shops", "--to", f"sqlite:///{tmp_path / 's.db'}") as process:
        assert process.stderr is not None
        assert "following" in process.stderr.readline()
        status = call(served, "status", "--json").record
        assert "shops" in {follower["map"] for follower in status["followers"]}
        assert "127.0.0.1" in call(served, "status").out
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate()
        assert process.returncode == 0 and "rows written" in out


def test_what_a_replica_refuses(served: Served, tmp_path: Path) -> None:
    assert call(served, "replica", "shops", "--to", "postgres://x").code == 2
    assert call(served, "replica", "shops", "--to", f"sqlite:///{tmp_path}/x/y.db", "--once").code == 2
    assert call(served, "replica", "shops", "--to", "sqlite:///x.db", "--rename", "town").code == 2
    assert call(served, "replica", "shops", "--to", "sqlite:///x.db", "--once", "--until-epoch", "1").code == 2
    assert call(served, "replica", "shop", "--to", f"sqlite:///{tmp_path / 'z.db'}", "--once").code == 1
    assert call(served, "replica", "shops").code == 2
