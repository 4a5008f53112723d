"""Logs that cannot be read for a moment."""

from __future__ import annotations

import pytest
from tidegrid import embedded
from tidegrid.grid.journal.memory import MemoryLog
from tidegrid.grid.log.entry import LogRecord
from tidegrid.grid.model.errors import CorruptionError, GridError, UnavailableError
from tidegrid.grid.model.ids import CONTROL_LOG, LogId, Position
from tidegrid.grid.runtime import patience
from tidegrid.grid.runtime.patience import TRIES, patiently


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "AGAIN_SECONDS", 0.0)


class Reads:
    def __init__(self, failures: int, error: GridError) -> None:
        self.failures, self.error, self.tries = failures, error, 0

    async def __call__(self) -> str:
        self.tries += 1
        if self.tries <= self.failures:
            raise self.error
        return "read"


OPEN_FILES = UnavailableError("too many open files", address="")


async def test_what_fails_for_a_moment_is_read_again() -> None:
    reads = Reads(TRIES - 1, OPEN_FILES)
    assert await patiently(reads) == "read" and reads.tries == TRIES


async def test_what_fails_for_long_and_what_is_damaged_is_told() -> None:
    reads = Reads(TRIES, OPEN_FILES)
    with pytest.raises(UnavailableError, match="open files"):
        await patiently(reads)
    assert reads.tries == TRIES
    damaged = Reads(1, CorruptionError("a record does not verify"))
    with pytest.raises(CorruptionError):
        await patiently(damaged)
    assert damaged.tries == 1


class FlakyLog(MemoryLog):
    """The first reading from anywhere in a partition's log fails, and now and then one of the control log, once it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.on = False
        self.refused: set[tuple[LogId, Position]] = set()

    async def read(self, log: LogId, after: Position, bytes_max: int) -> list[LogRecord]:
        if (log, after) not in self.refused and (log != CONTROL_LOG or (self.on and after % 3 == 0)):
            self.refused.add((log, after))
            raise OPEN_FILES
        return await super().read(log, after, bytes_max)


class GarbledLog(MemoryLog):
    garbled = False

    async def read(self, log: LogId, after: Position, bytes_max: int) -> list[LogRecord]:
        if self.garbled:
            raise CorruptionError("a record does not verify")
        return await super().read(log, after, bytes_max)


async def test_nodes_open_and_follow_over_a_log_that_fails_now_and_then() -> None:
    log = FlakyLog()
    async with embedded.open(partitions=2, nodes=2, tick=0.005, log=log) as grid:
        await grid.create_map("m", key=("id:int",))
        log.on = True
        for number in range(5):
            ack = await grid.map("m").put(number, number)
            await grid.wait_closed(ack.epoch)
        assert [entry.value async for entry in grid.map("m").scan()] == list(range(5))
    assert {log for log, _ in log.refused} == {CONTROL_LOG, LogId(0), LogId(1)}


async def test_a_node_that_cannot_read_the_control_log_stops_and_says_so() -> None:
    log = GarbledLog()
    async with embedded.open(partitions=1, tick=None, log=log) as grid:
        log.garbled = True
        driver = grid.local.drivers[0]
        driver._control_log_grew()
        assert driver._control_reader is not None
        await driver._control_reader
        assert isinstance(driver.failure, CorruptionError)
