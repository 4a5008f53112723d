"""Reads on their way to one owner: keys of one map at one time, one future per key.

Reads may be repeated at will, so a retry is just sent again. Reads that may wait for a close (`Moment.waiting`)
never share a request with anything that does not wait.
"""

from __future__ import annotations

import asyncio
from typing import Final

from tidegrid.client.batch import not_sent
from tidegrid.client.entry import Entry
from tidegrid.client.errors import RETRYABLE, error_of
from tidegrid.client.moment import LATEST, Moment
from tidegrid.grid.model.errors import DeadlineError, FormatError, GridError, TooLargeError
from tidegrid.grid.model.ids import Epoch, PartitionId
from tidegrid.v1 import grid_pb2

KEYS_MAX: Final = 1_000  # of one read batch: bounds its answer


class ReadBatch:
    __slots__ = (
        "expires",
        "futures",
        "keys",
        "map",
        "moment",
        "open",
        "partitions",
        "problem",
        "settled",
        "tries",
    )

    def __init__(self, map_name: str, moment: Moment, expires: float) -> None:
        self.map = map_name
        self.moment = moment
        self.expires = expires
        self.keys: list[bytes] = []
        self.partitions: list[PartitionId] = []
        self.futures: list[asyncio.Future[Entry | None]] = []
        self.open = True
        self.settled = False
        self.tries = 0
        self.problem: GridError | None = None

    @property
    def waiting(self) -> bool:
        return self.moment.waiting

    def add(self, key: bytes, partition: PartitionId, future: asyncio.Future[Entry | None]) -> None:
        self.keys.append(key)
        self.partitions.append(partition)
        self.futures.append(future)
        if len(self.keys) >= KEYS_MAX:
            self.open = False

    def add_to(self, message: grid_pb2.ExchangeRequest) -> None:
        read = message.reads.add(map=self.map, keys=self.keys)
        if self.moment is not LATEST:
            self.moment.stamp(read)

    def part(self, indexes: list[int]) -> ReadBatch:
        made = ReadBatch(self.map, self.moment, self.expires)
        made.open, made.tries, made.problem = False, self.tries, self.problem
        made.keys = [self.keys[index] for index in indexes]
        made.partitions = [self.partitions[index] for index in indexes]
        made.futures = [self.futures[index] for index in indexes]
        return made

    def settle(self, answer: grid_pb2.ReadAnswer) -> list[ReadBatch]:
        """Delivers the answer; returns what has to be asked again."""
        if self.settled:
            return []
        if answer.HasField("error"):
            return self.refused(error_of(answer.error))
        count = len(self.keys)
        if not len(answer.values) == len(answer.versions) == len(answer.epochs) == len(answer.times_ms) == count:
            self.fail(
                FormatError(
                    "the node answered another number of keys than were asked; are client and node of compatible versions?"
                )
            )
            return []
        self.settled = True
        rows = zip(self.futures, self.keys, answer.values, answer.versions, answer.epochs, answer.times_ms, strict=True)
        generation = answer.generation
        for future, key, value, version, epoch, time_ms in rows:
            if not future.done():
                future.set_result(Entry(key, value, version, Epoch(epoch), time_ms, generation) if version else None)
        return []

    def refused(self, error: GridError) -> list[ReadBatch]:
        """The whole batch got `error`: what to send again, after failing what cannot be helped."""
        count = len(self.keys)
        if isinstance(error, TooLargeError) and count > 1:
            self.settled = True
            return [self.part(list(range(count // 2))), self.part(list(range(count // 2, count)))]
        if isinstance(error, RETRYABLE):
            self.problem = error
            return [self]
        self.fail(error)
        return []

    def fail(self, error: GridError) -> None:
        if not self.settled:
            self.settled = True
            for future in self.futures:
                if not future.done():
                    future.set_exception(type(error)(error.message, **error.fields))

    def expire(self, in_flight: bool) -> None:
        if in_flight and self.waiting:
            epoch = self.moment.as_of or self.moment.at_least
            what = f"epoch {epoch} did not close" if epoch else "no new epoch was closed"
            self.fail(
                DeadlineError(f"{what} within the deadline; wait longer, or read an earlier one", epoch=epoch or None)
            )
        elif in_flight:
            self.fail(
                DeadlineError("the node did not answer the read within the deadline; try again, or allow more time")
            )
        else:
            self.fail(not_sent(self.problem, "nothing was read"))
