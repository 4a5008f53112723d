"""Schema numbers end to end: given on the command line, by the client and to the JSON gateway, or taken from the map."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import grpc
import pytest
from tidegrid import embedded
from tidegrid.grid.model.errors import GroupRefusedError, UnknownSchemaError
from tidegrid.v1 import grid_pb2, grid_pb2_grpc

from tests.integration.cli.conftest import Served, call

TRIGGERS = """
from tidegrid.triggers import *

table("orders.raw", key=("shop", "number:int"), schema=2)
table("orders", like="orders.raw")

@trigger(on="orders.raw", emits="orders", schema=1)
def euros(write):
    if write.value is None:
        return Delete("orders", write.key)
    return Put("orders", write.key, {"cents": int(write.value["euros"]) * 100})

@trigger(on="orders.raw", emits="orders", schema=2)
def cents(write):
    if write.value is None:
        return Delete("orders", write.key)
    return Put("orders", write.key, {"cents": int(write.value["cents"])})
"""
KEY = ("north", 1)


@pytest.fixture
def versioned(fresh: Served) -> Served:
    (fresh.directory / "orders.py").write_text(TRIGGERS)
    return fresh.start("--triggers", "orders.py", "--data", "schemas", "--peer-port", "0")


def stored(server: Served, number: int = 1) -> object:
    found = call(server, "get", "orders", f"north,{number}", "--json").record
    return found["value"] if found["found"] else None


def test_on_the_command_line(versioned: Served, tmp_path: Path) -> None:
    assert call(versioned, "put", "orders.raw", "north,1", '{"cents": "250"}').code == 0
    assert stored(versioned) == {"cents": 250}
    assert call(versioned, "put", "orders.raw", "north,1", '{"euros": "3"}', "--schema", "1").code == 0
    assert stored(versioned) == {"cents": 300}
    refused = call(versioned, "put", "orders.raw", "north,1", "{}", "--schema", "3", "--json")
    assert refused.code != 0 and refused.error["code"] == "UNKNOWN_SCHEMA"
    assert call(versioned, "delete", "orders.raw", "north,1", "--schema", "3").code != 0
    assert call(versioned, "delete", "orders.raw", "north,1", "--schema", "1").code == 0
    assert call(versioned, "get", "orders", "north,1").code != 0
    file = tmp_path / "old.csv"
    file.write_text("shop,number,euros\nnorth,7,4\n")
    assert call(versioned, "load", "orders.raw", str(file), "--schema", "1").code == 0
    assert stored(versioned, 7) == {"cents": 400}
    assert "handles schema 9" in call(versioned, "load", "orders.raw", str(file), "--schema", "9").err


def test_of_the_json_gateway(versioned: Served, loop: asyncio.Runner) -> None:
    async def ask() -> list[grid_pb2.WriteReply]:
        key = json.dumps(KEY)
        async with grpc.aio.insecure_channel(versioned.address) as channel:
            grid = grid_pb2_grpc.GridStub(channel)
            of = {"map": "orders.raw", "key_json": key}
            return [
                await grid.Put(grid_pb2.PutRequest(**of, value_json='{"cents": "1"}')),
                await grid.Put(grid_pb2.PutRequest(**of, value_json='{"euros": "1"}', schema=1)),
                await grid.Put(grid_pb2.PutRequest(**of, value_json='{"euros": "1"}', schema=3)),
                await grid.Delete(grid_pb2.DeleteRequest(**of)),
                await grid.Delete(grid_pb2.DeleteRequest(**of, schema=3)),
            ]

    replies = loop.run(ask())
    assert [reply.version for reply in replies] == [1, 2, 0, 3, 0]
    assert [reply.error.code for reply in replies] == ["", "", "UNKNOWN_SCHEMA", "", "UNKNOWN_SCHEMA"]


async def test_through_the_client(tmp_path: Path) -> None:
    path = tmp_path / "orders.py"
    path.write_text(TRIGGERS)
    async with embedded.open(triggers=[path]) as grid:
        raw, orders = grid.map("orders.raw"), grid.map("orders")
        await raw.put(KEY, {"cents": 1})
        await raw.put(("north", 2), {"euros": 2}, schema=1)
        outcomes = await raw.put_many([(("north", 3), {"euros": 3}), (("north", 4), {"euros": 4})], schema=1)
        assert [outcome.version for outcome in outcomes] == [1, 1]
        async with grid.commit_group() as group:
            group.map("orders.raw").put(("north", 5), {"euros": 5}, schema=1)
        entries = [await orders.get(("north", number)) for number in range(1, 6)]
        assert [entry.value["cents"] for entry in entries] == [1, 200, 300, 400, 500]
        with pytest.raises(UnknownSchemaError, match="handles schema 3, only 1, 2"):
            await raw.put(KEY, {}, schema=3)
        refused = await raw.put_many([(KEY, {})], schema=4)
        assert isinstance(refused[0], UnknownSchemaError) and refused[0].schema == 4
        with pytest.raises(UnknownSchemaError):
            await raw.delete(KEY, schema=0)
        with pytest.raises(GroupRefusedError) as caught:
            async with grid.commit_group() as late:
                late.map("orders.raw").put(("north", 6), {"cents": 1})
                late.map("orders.raw").put(("north", 7), {"cents": 1}, schema=9)
        (reason,) = caught.value.reasons
        assert isinstance(reason.error, UnknownSchemaError) and reason.key == ("north", 7)
        assert await raw.get(("north", 6)) is None
        await raw.delete(KEY)
        assert await orders.get(KEY) is None
