"""Put, Delete and Get one at a time with JSON keys and values, for grpcurl and for languages without a client.

Any node takes them: the owner of the key is asked. A caller that gives a session and a sequence of its own has its
retries applied once; without them the gateway writes under a session of its own, and a repeated call is another write.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable
from typing import Any

from tidegrid.grid.engine.intake import Request
from tidegrid.grid.engine.reads import ReadRequest
from tidegrid.grid.engine.requests import CLIENT_SESSION
from tidegrid.grid.engine.write import WriteRequest
from tidegrid.grid.log.record import DELETE, PUT
from tidegrid.grid.model.errors import GridError, InvalidKeyError, InvalidValueError, UnavailableError
from tidegrid.grid.model.ids import Epoch, PartitionId
from tidegrid.grid.model.key_text import conform_key
from tidegrid.grid.model.keys import encode_key
from tidegrid.grid.model.values import decode_value, encode_value
from tidegrid.grid.rpc.exchange import DEFAULT_TIMEOUT
from tidegrid.grid.rpc.wire import carry_message, carry_of, error_message, read_request
from tidegrid.grid.runtime.driver import Driver
from tidegrid.grid.runtime.local_grid import LocalGrid
from tidegrid.v1 import grid_pb2


class JsonGateway:
    def __init__(self, grid: LocalGrid, driver: Driver) -> None:
        self._grid = grid
        self._driver = driver
        self._session = b""
        self._session_ends = Epoch(0)
        self._sequences: dict[PartitionId, int] = {}

    async def put(self, request: grid_pb2.PutRequest) -> grid_pb2.WriteReply:
        condition = 0 if request.if_absent else request.if_version if request.HasField("if_version") else None
        try:
            value = encode_value(_parsed("value", request.value_json, InvalidValueError), self._driver.node.limits)
            return await self._write(request, PUT, value, condition)
        except GridError as error:
            return grid_pb2.WriteReply(carry=self._carry(), error=error_message(error))

    async def delete(self, request: grid_pb2.DeleteRequest) -> grid_pb2.WriteReply:
        try:
            return await self._write(
                request, DELETE, b"", request.if_version if request.HasField("if_version") else None
            )
        except GridError as error:
            return grid_pb2.WriteReply(carry=self._carry(), error=error_message(error))

    async def get(self, request: grid_pb2.GetRequest) -> grid_pb2.GetReply:
        try:
            key, partition = self._key(request.map, request.key_json)
            read: ReadRequest = await self._submit(
                partition,
                lambda answered: read_request(request.map, [key], request, answered),
                request.carry,
            )
            if read.error is not None:
                raise read.error
        except GridError as error:
            return grid_pb2.GetReply(carry=self._carry(), error=error_message(error))
        if not read.versions[0]:
            return grid_pb2.GetReply(carry=self._carry())
        text = json.dumps(decode_value(read.values[0]), ensure_ascii=False, default=_bytes_as_hex)
        return grid_pb2.GetReply(
            carry=self._carry(),
            found=True,
            value_json=text,
            version=read.versions[0],
            epoch=read.epochs[0],
            time_ms=read.times_ms[0],
        )

    async def _write(
        self,
        request: grid_pb2.PutRequest | grid_pb2.DeleteRequest,
        op: int,
        value: bytes,
        condition: int | None,
    ) -> grid_pb2.WriteReply:
        key, partition = self._key(request.map, request.key_json)
        schema = request.schema or self._driver.node.catalog.map(request.map).spec.schema
        session, sequence, lowest = self._request_id(request, partition)

        def make(answered: Callable[[Request], None]) -> WriteRequest:
            conditions = None if condition is None else {0: condition}
            return WriteRequest(
                partition,
                session,
                sequence,
                lowest,
                request.map,
                [key],
                [value],
                bytes((op,)),
                schema,
                conditions,
                answered,
            )

        written: WriteRequest = await self._submit(partition, make, request.carry)
        if written.errors:
            raise written.errors[0]
        return grid_pb2.WriteReply(
            carry=self._carry(), version=written.versions[0], epoch=written.epochs[0],
            parked=(written.parked or {}).get(0, ""),
        )  # fmt: skip

    def _request_id(
        self, request: grid_pb2.PutRequest | grid_pb2.DeleteRequest, partition: PartitionId
    ) -> tuple[bytes, int, int]:
        if request.session:
            return request.session, request.sequence, 0
        node = self._driver.node
        if node.epoch >= self._session_ends:
            self._session_ends = Epoch(node.epoch + node.control.session_epochs // 2)
            self._session = (
                bytes((CLIENT_SESSION,))
                + secrets.token_bytes(7)
                + int(node.epoch).to_bytes(8, "big")
                + secrets.token_bytes(8)
            )
            self._sequences = {}
        sequence = self._sequences[partition] = self._sequences.get(partition, 0) + 1
        return self._session, sequence, sequence  # nobody repeats these, so nothing below has to be remembered

    def _key(self, map_name: str, key_json: str) -> tuple[bytes, PartitionId]:
        entry = self._driver.node.catalog.map(map_name)
        parsed = _parsed("key", key_json, InvalidKeyError)
        key = encode_key(conform_key(_tuples(parsed), entry.spec.key))
        return key, entry.partitioner.of(key)

    async def _submit(
        self, partition: PartitionId, make: Callable[[Callable[[Request], None]], Request], carry: grid_pb2.Carry
    ) -> Any:
        driver = self._owner(partition)
        done: asyncio.Future[Request] = asyncio.get_running_loop().create_future()

        def answered(request: Request) -> None:
            if not done.done():
                done.set_result(request)

        driver.submit(make(answered), carry_of(carry), DEFAULT_TIMEOUT)
        return await done

    def _owner(self, partition: PartitionId) -> Driver:
        owner = self._driver.node.control.view.owner(partition)
        for driver in self._grid.drivers:
            if owner is not None and driver.node.me == owner.node:
                return driver
        raise UnavailableError(
            f"the owner of partition {partition} is not there at the moment; try again", partition=partition
        )

    def _carry(self) -> grid_pb2.Carry:
        return carry_message(self._driver.node)


def _parsed(what: str, text: str, error: type[InvalidKeyError] | type[InvalidValueError]) -> Any:
    try:
        return json.loads(text)
    except ValueError as problem:
        raise error(f"{what}_json is not JSON ({problem}); a text needs quotes of its own: '\"UA\"'") from None


def _tuples(value: Any) -> Any:
    return tuple(_tuples(element) for element in value) if isinstance(value, list) else value


def _bytes_as_hex(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"{type(value).__name__} has no JSON form")
