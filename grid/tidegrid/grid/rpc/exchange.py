"""One request of an exchange stream: its batches go to the engine, and when the last is answered, so is the request."""

from __future__ import annotations

from collections.abc import Callable

from tidegrid.grid.engine.intake import Request
from tidegrid.grid.engine.reads import ReadRequest
from tidegrid.grid.engine.write import WriteRequest, write_request
from tidegrid.grid.rpc.wire import (
    carry_message,
    carry_of,
    read_answer,
    read_request,
    write_answer,
)
from tidegrid.grid.runtime.driver import Driver
from tidegrid.v1 import grid_pb2

DEFAULT_TIMEOUT = 30.0  # seconds, where the client names no deadline
Respond = Callable[[grid_pb2.ExchangeReply], None]


class ExchangeCall:
    __slots__ = ("_driver", "_id", "_open", "_reads", "_respond", "_writes")

    def __init__(self, driver: Driver, message: grid_pb2.ExchangeRequest, respond: Respond) -> None:
        self._driver = driver
        self._id = message.id
        self._respond = respond
        self._writes = [write_request(batch, self._answered) for batch in message.writes]
        self._reads = [read_request(batch.map, list(batch.keys), batch, self._answered) for batch in message.reads]
        self._open = len(self._writes) + len(self._reads)
        carry = carry_of(message.carry)
        timeout = message.deadline_ms / 1000 if message.deadline_ms else DEFAULT_TIMEOUT
        requests: list[WriteRequest | ReadRequest] = [*self._writes, *self._reads]
        for request in requests:
            driver.submit(request, carry, timeout)
        driver.flush()
        if not requests:
            self._finish()

    def _answered(self, _request: Request) -> None:
        self._open -= 1
        if not self._open:
            self._finish()

    def _finish(self) -> None:
        self._respond(
            grid_pb2.ExchangeReply(
                carry=carry_message(self._driver.node),
                id=self._id,
                writes=[write_answer(request) for request in self._writes],
                reads=[read_answer(request) for request in self._reads],
            )
        )
        self._writes, self._reads = [], []  # which know this call: a circle that nobody would break for hours
