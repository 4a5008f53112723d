"""Parked writes on the command line and over gRPC: told, listed, counted, redriven, also after a restart."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
import pytest
from tidegrid.v1 import grid_pb2, grid_pb2_grpc

from tests.integration.cli.conftest import Served, call

BROKEN = """
from tidegrid.triggers import *

table("orders.raw", key=("shop", "number:int"))
table("orders", like="orders.raw")

@trigger(on="orders.raw", emits="orders", on_error="park")
def translate(write):
    yield Put("orders", write.key, {"cents": int(write.value["euros"]) * 100})
"""
MENDED = BROKEN.replace("int(write", "float(write")


@pytest.fixture
def serving(fresh: Served) -> Served:
    (fresh.directory / "orders.py").write_text(BROKEN)
    return fresh.start("--triggers", "orders.py", "--data", "parked", "--peer-port", "0")


def put(server: Served, number: int, euros: str) -> None:
    done = call(server, "put", "orders.raw", f"north,{number}", json.dumps({"euros": euros}))
    assert done.code == 0 and "stored: version" in done.out
    assert ("parked, without outputs: trigger 'translate'" in done.err) is ("." in euros)


def test_from_the_put_to_the_redrive(serving: Served, tmp_path: Path) -> None:
    assert "nothing is parked" in call(serving, "parked").err
    put(serving, 1, "5")
    put(serving, 2, "2.5")
    told = call(serving, "put", "orders.raw", "north,3", '{"euros": "3.5"}', "--json").record
    assert told["version"] == 1 and "invalid literal for int()" in told["parked"]
    rows = tmp_path / "rows.csv"
    rows.write_text("shop,number,euros\nnorth,4,4\nnorth,5,5.5\n")
    loaded = call(serving, "load", "orders.raw", str(rows), "--json").records[-1]
    assert [loaded[name] for name in ("accepted", "refused", "parked")] == [2, 0, 1]

    serving.stop()
    (serving.directory / "orders.py").write_text(MENDED)
    serving.start("--triggers", "orders.py", "--data", "parked", "--peer-port", "0")

    found = {record["key"][1]: record for record in call(serving, "parked", "orders.raw", "--json").records}
    assert set(found) == {2, 3, 5}
    assert (found[2]["map"], found[2]["version"], found[2]["trigger"], found[2]["tries"]) == (
        "orders.raw", 1, "translate", 0,
    )  # fmt: skip
    shown = call(serving, "parked").out
    assert found[2]["id"] in shown and '["north", 2]' in shown and "base 10" in shown
    assert call(serving, "parked", "list", "orders", "--json").records == []
    assert call(serving, "status", "--json").record["parked"] == {"orders.raw": 3}
    assert "parked writes of" in call(serving, "status").out

    put(serving, 5, "6")  # a later version
    done = call(serving, "parked", "redrive", found[2]["id"], "--json")
    assert done.code == 0 and done.record["outcome"] == "redriven" and done.record["epoch"] > found[2]["epoch"]
    assert call(serving, "get", "orders", "north,2", "--json").record["value"] == {"cents": 250.0}
    done = call(serving, "parked", "redrive", found[2]["id"], "--json")
    assert done.code == 0 and done.record["outcome"] == "gone"
    done = call(serving, "parked", "redrive", "orders.raw")
    assert done.code == 1 and done.out == "1 redriven, 1 superseded\n"
    assert f"{found[5]['id']} superseded: a later version" in done.err
    assert "(superseded)" in call(serving, "parked").out
    assert call(serving, "get", "orders", "north,5", "--json").record["value"] == {"cents": 600.0}
    assert call(serving, "parked", "redrive", "--all", "--drop").out == "1 dropped\n"
    assert call(serving, "parked", "redrive", "--all").out == "nothing is parked\n"
    assert call(serving, "status", "--json").record["parked"] == {}


@pytest.mark.parametrize("words", [(), ("orders.raw", "1.2.3"), ("orders.raw", "--all"), ("one", "two")])
def test_what_to_redrive_has_to_be_said(words: tuple[str, ...]) -> None:
    done = call("localhost:1", "parked", "redrive", *words)
    assert done.code == 2 and "say what to redrive" in done.err


@pytest.mark.parametrize("words", [("redrive", "3.1"), ("redrive", "1.2.3", "3."), ("3.1",), ("list", "3.1.x")])
def test_half_an_id_is_told_the_form(words: tuple[str, ...]) -> None:
    done = call("localhost:1", "parked", *words)
    assert done.code == 2 and f"'{words[-1]}' is neither a map nor an id" in done.err
    assert "PARTITION.POSITION.ROW, such as 3.1042.0" in done.err


def test_an_id_cannot_be_listed() -> None:
    done = call("localhost:1", "parked", "3.1042.0")
    assert done.code == 2 and "3.1042.0 is an id; to list, give a map or nothing" in done.err


def test_a_map_that_does_not_exist_is_not_answered_with_nothing(serving: Served) -> None:
    for words in (("order.raw",), ("redrive", "order.raw"), ("list", "order.raw", "--json")):
        done = call(serving, "parked", *words)
        assert done.code != 0 and "nothing is parked" not in done.out + done.err
        assert "order.raw" in done.err and "orders.raw" in done.err
    assert "nothing is parked" in call(serving, "parked", "orders.raw").err


def test_why_there_is_no_row_of_a_parked_write(serving: Served) -> None:
    put(serving, 1, "5")
    put(serving, 2, "2.5")
    (parked,) = call(serving, "parked", "--json").records
    told = call(serving, "why", "orders", "north,2")
    assert (told.code, told.out) == (1, "") and "map 'orders' has no version of the key [\"north\", 2]" in told.err
    assert f"write {parked['id']} to 'orders.raw' with this key is parked" in told.err
    assert "see `tidegrid parked orders.raw`" in told.err
    other = call(serving, "why", "orders", "north,9").err
    assert "with this key" not in other and "1 write is parked, without outputs: see `tidegrid parked`" in other
    assert "parked" not in call(serving, "why", "orders", "north,2", "--as-of", "1").err
    assert "parked" not in call(serving, "why", "orders.raw", "north,9").err


async def test_the_json_gateway_tells(fresh: Served) -> None:
    (fresh.directory / "orders.py").write_text(BROKEN)
    fresh.start("--triggers", "orders.py", "--memory")
    async with grpc.aio.insecure_channel(fresh.address) as channel:
        grid = grid_pb2_grpc.GridStub(channel)  # type: ignore[no-untyped-call]
        request = grid_pb2.PutRequest(map="orders.raw", key_json='["north", 1]', value_json='{"euros": "1.5"}')
        reply = await grid.Put(request)
        assert reply.version == 1 and "invalid literal" in reply.parked
        reply = await grid.Redrive(grid_pb2.RedriveRequest(partition=0))
        assert reply.error.code == "TOO_LARGE"
