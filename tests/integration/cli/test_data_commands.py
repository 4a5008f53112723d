"""put, get, delete, scan, map: answers for people and for scripts, refusals, exit codes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from tests.integration.cli.conftest import Served, call, running


def test_a_write_is_read_back(served: Served) -> None:
    put = call(served, "put", "shops", "north", '{"town": "Bergen"}', "--json")
    assert put.code == 0
    assert put.record["key"] == "north" and put.record["version"] >= 1
    got = call(served, "get", "shops", "north", "--at-least", str(put.record["epoch"]), "--json")
    assert got.record == {
        "key": "north",
        "value": {"town": "Bergen"},
        "version": put.record["version"],
        "epoch": put.record["epoch"],
        "time_ms": got.record["time_ms"],
        "found": True,
    }
    assert got.err == ""
    people = call(served, "get", "shops", "north")
    assert people.out == '{"town": "Bergen"}\n'
    assert f"version {put.record['version']}" in people.err


def test_the_past_is_read_as_of_an_epoch(served: Served) -> None:
    first = call(served, "put", "anything", "[1, 2]", '"one"', "--json").record
    second = call(served, "put", "anything", "[1, 2]", '"two"', "--json").record
    assert second["version"] == first["version"] + 1
    if second["epoch"] > first["epoch"]:
        old = call(served, "get", "anything", "[1, 2]", "--as-of", str(first["epoch"]), "--json").record
        assert old["value"] == "one"
    new = call(served, "get", "anything", "[1, 2]", "--as-of", str(second["epoch"]), "--json").record
    assert new["value"] == "two"


def test_the_past_is_read_as_of_a_time(served: Served) -> None:
    first = call(served, "put", "anything", '["time", 1]', '"one"', "--closed", "--json").record
    assert call(served, "get", "anything", '["time", 1]', "--at-least", str(first["epoch"]), "--no-wait").code == 0
    now = datetime.now(UTC)
    while datetime.now(UTC) < now + timedelta(milliseconds=2):
        pass
    second = call(served, "put", "anything", '["time", 1]', '"two"', "--closed", "--json").record
    assert second["epoch"] > first["epoch"]
    for zone in (UTC, timezone(timedelta(hours=-3))):
        then = now.astimezone(zone).isoformat()
        assert call(served, "get", "anything", '["time", 1]', "--as-of", then, "--json").record["value"] == "one"
        (row,) = call(served, "scan", "anything", "--prefix", '["time"]', "--as-of", then, "--json").records
        assert row["value"] == "one"
    later = (now + timedelta(days=1)).isoformat()
    assert call(served, "get", "anything", '["time", 1]', "--as-of", later, "--json").record["value"] == "two"


def test_how_new_the_latest_is(served: Served) -> None:
    epoch = call(served, "put", "anything", '["new", 1]', "1", "--json").record["epoch"]
    for options in (["--linearizable"], ["--max-staleness", "60"], ["--at-least", str(epoch), "--linearizable"]):
        assert call(served, "get", "anything", '["new", 1]', *options).out == "1\n"
        assert call(served, "scan", "anything", "--prefix", '["new"]', *options).out == '["new", 1]\t1\n'
    limit = call(served, "ring", "--once", "--json").record["limit"]
    refused = call(served, "get", "anything", '["new", 1]', "--at-least", str(limit - 1), "--no-wait", "--json")
    assert refused.code == 5 and refused.error["code"] == "NOT_CLOSED"
    assert refused.error["fields"]["requested"] == limit - 1 > refused.error["fields"]["closed"]


def test_history(served: Served) -> None:
    wanted = [call(served, "put", "anything", '["history"]', value, "--json").record for value in ("1", "2")]
    wanted.append(call(served, "delete", "anything", '["history"]', "--json").record)
    told = call(served, "history", "anything", '["history"]', "--json")
    assert [(row["version"], row["epoch"]) for row in told.records] == [
        (row["version"], row["epoch"]) for row in wanted
    ]
    assert [(row["value"], row["deleted"]) for row in told.records] == [(1, False), (2, False), (None, True)]
    lines = call(served, "history", "anything", '["history"]').out.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["1", "2", "3"] and lines[2].endswith("(deleted)")
    after = call(served, "history", "anything", '["history"]', "--after", str(wanted[2]["epoch"]), "--json")
    assert (after.code, after.out) == (1, "")


def test_ring(served: Served) -> None:
    record = call(served, "ring", "--once", "--json").record
    assert record["closed"] < record["epoch"] < record["limit"] and record["held_back_by"] == []
    assert [node["node"] for node in record["nodes"]] == [0, 1, 2]
    assert sorted(part for node in record["nodes"] for part in node["partitions"]) == list(range(16))
    people = call(served, "ring", "--once").out
    assert "node 2" in people and "╭" in people and "nothing holds time back" in people
    with running(served, "ring", "--every", "0.02", "--json") as watching:
        assert watching.stdout is not None
        told = [json.loads(watching.stdout.readline()) for _ in range(3)]
    assert all(one["closed"] >= record["closed"] for one in told)


def test_a_key_without_a_value_is_exit_code_1(served: Served) -> None:
    assert call(served, "get", "shops", "nowhere", "--json").record == {"key": "nowhere", "found": False}
    missing = call(served, "get", "shops", "nowhere")
    assert (missing.code, missing.out) == (1, "")


def test_conditions(served: Served) -> None:
    made = call(served, "put", "shops", "conditions", "1", "--if-absent", "--json").record
    again = call(served, "put", "shops", "conditions", "2", "--if-absent", "--json")
    assert again.code == 1 and again.error["code"] == "CONFLICT"
    assert again.error["fields"] == {"expected": 0, "current": made["version"]}
    assert again.out == ""
    wrong = call(served, "put", "shops", "conditions", "2", "--if-version", str(made["version"] + 1))
    assert wrong.code == 1 and "read it again" in wrong.err
    assert call(served, "put", "shops", "conditions", "2", "--if-version", str(made["version"])).code == 0
    assert call(served, "delete", "shops", "conditions", "--if-version", str(made["version"])).code == 1
    gone = call(served, "delete", "shops", "conditions", "--json")
    assert gone.record["version"] == made["version"] + 2
    assert call(served, "get", "shops", "conditions").code == 1
    both = call(served, "put", "shops", "conditions", "2", "--if-absent", "--if-version", "3")
    assert both.code == 2


def test_values_come_from_stdin_too(served: Served) -> None:
    assert call(served, "put", "anything", '"piped"', "-", given='{"from": "a pipe"}').code == 0
    assert call(served, "get", "anything", '"piped"').out == '{"from": "a pipe"}\n'


def test_triggers_translate_and_refuse(served: Served) -> None:
    assert call(served, "put", "orders.raw", "north,1", '{"amount": "7"}').code == 0
    assert call(served, "get", "orders", "north,1", "--json").record["value"]["amount"] == 7
    veto = call(served, "put", "orders.raw", "north,2", '{"amount": ""}', "--json")
    assert veto.code == 1 and veto.error["code"] == "REJECTED" and "no amount" in veto.error["message"]
    failed = call(served, "put", "orders.raw", "north,2", '{"amount": "much"}')
    assert failed.code == 1 and failed.err.count("\n") <= 2
    assert "translate" in failed.err and "line" in failed.err and "Traceback" not in failed.err
    assert call(served, "get", "orders.raw", "north,2").code == 1
    derived = call(served, "put", "orders", "north,1", "1")
    assert derived.code == 1 and "triggers write it" in derived.err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["get", "ordres", "x"], 1, "did you mean orders"),
        (["get", "orders", "north"], 2, "wants 2: shop:str,number:int"),
        (["get", "orders", "north,one"], 2, "number"),
        (["get", "anything", "unquoted"], 2, "quoted"),
        (["get", "anything", '{"a": 1}'], 2, "JSON object"),
        (["put", "shops", "x", "plain"], 2, "quotes"),
        (["put", "shops", "x", "[" * 100 + "]" * 100], 1, "nested"),
        (["put", "shops", "x" * 5000, "1"], 1, "limit"),
        (["put", "shops", "x", f'"{"x" * 600_000}"'], 1, "limit"),
        (["put", "shops", "x", "123456789012345678901234567890"], 2, "64 bits"),
        (["get", "shops", "x", "--as-of", "1000000000"], 1, "limit"),
        (["get", "large", "north,1"], 1, "stream"),
        (["history", "large", "north,1"], 1, "stream"),
        (["get", "shops", "x", "--as-of", "yesterday"], 2, "neither an epoch nor a time"),
        (["get", "shops", "x", "--as-of", "2026-01-31T12:00:00"], 2, "time zone"),
        (["get", "shops", "x", "--as-of", "1999-01-31T12:00:00Z"], 1, "remembers epoch"),
        (["get", "shops", "x", "--as-of", "1", "--linearizable"], 1, "everywhere"),
        (["scan", "shops", "--as-of", "1", "--at-least", "1"], 1, "everywhere"),
        (["get", "shops"], 2, "KEY"),
        (["get", "shops", "x", "--wrong"], 2, "--wrong"),
        (["nonsense"], 2, "nonsense"),
        (["scan", "ordres"], 1, "did you mean"),
        (["subscribe", "ordres", "--after", "0"], 1, "did you mean"),
        (["subscribe", "orders", "--after", "0", "--snapshot"], 2, "either"),
        (["get", "shops", "x", "--tls-cert", "nowhere.pem"], 2, "key"),
        (["get", "shops", "x", "--tls-ca", "nowhere.pem"], 2, "nowhere.pem"),
    ],
)
def test_bad_input_is_a_sentence_and_a_code(served: Served, arguments: list[str], code: int, says: str) -> None:
    result = call(served, *arguments)
    assert (result.code, result.out) == (code, "")
    assert says in result.err and "Traceback" not in result.err


def test_scan_in_key_order(served: Served) -> None:
    for number in (10, 9, 2):
        assert call(served, "put", "anything", f'["scan", {number}]', str(number)).code == 0
    assert call(served, "put", "anything", '["scanner", 1]', "0").code == 0
    assert call(served, "scan", "anything", "--prefix", '["scan"]').out.splitlines() == [
        '["scan", 2]\t2',
        '["scan", 9]\t9',
        '["scan", 10]\t10',
    ]
    rows = call(served, "scan", "anything", "--prefix", '["scan"]', "--reverse", "-n", "2", "--json").records
    assert [row["key"] for row in rows] == [["scan", 10], ["scan", 9]]
    assert rows[0].keys() == {"key", "value", "version", "epoch", "time_ms"}
    empty = call(served, "scan", "anything", "--prefix", '["nothing"]')
    assert (empty.code, empty.out) == (0, "")


def test_maps_are_declared_once(served: Served) -> None:
    made = call(served, "map", "create", "prices", "--key", "symbol,day:int", "--affinity", "1", "--json")
    assert made.record == {
        "map": "prices", "kind": "table", "key": ["symbol:str", "day:int"], "affinity": 1, "derived": False, "schema": 0,
    }  # fmt: skip
    assert call(served, "put", "prices", "ACME,1", "9.5").code == 0
    assert call(served, "map", "create", "prices", "--key", "symbol,day:int", "--affinity", "1").code == 0
    other = call(served, "map", "create", "prices", "--key", "symbol", "--json")
    assert other.code == 1 and other.error["code"] == "MAP_EXISTS"
    assert call(served, "map", "create", "a b").code == 2
    assert call(served, "map", "create", "prices2", "--key", "day:date").code == 2
    assert call(served, "map", "create", "prices2", "--kind", "cube").code == 2
    listed = {spec["map"]: spec for spec in call(served, "map", "list", "--json").records}
    assert listed["prices"]["key"] == ["symbol:str", "day:int"]
    assert listed["orders"]["derived"] and listed["large"]["kind"] == "stream"
    assert "prices" in call(served, "map", "list").out


def test_status(served: Served) -> None:
    status = call(served, "status", "--json")
    assert status.code == 0
    record = status.record
    assert [node["node"] for node in record["nodes"]] == [0, 1, 2]
    assert sum(len(node["partitions"]) for node in record["nodes"]) == record["partitions"] == 16
    assert record["closed"] <= record["epoch"]
    people = call(served, "status").out
    assert "node 2" in people and "╭" in people and "closed up to" in people and "no followers" in people


def test_nothing_answers(served: Served) -> None:
    result = call("localhost:1", "get", "shops", "x", "--deadline", "0.2", "--json")
    assert result.code == 3
    assert result.error["code"] == "UNAVAILABLE" and "tidegrid serve" in result.error["message"]
    assert call(f"localhost:1,{served.address}", "map", "list").code == 0
