"""A log read by somebody else while its owner goes on writing."""

from __future__ import annotations

from pathlib import Path

import pytest
from tidegrid.grid.journal.files import PosixFiles
from tidegrid.grid.journal.local import LocalLog
from tidegrid.grid.journal.options import LocalLogOptions
from tidegrid.grid.journal.reading import LogReader
from tidegrid.grid.log.entry import Entry
from tidegrid.grid.model.errors import CorruptionError
from tidegrid.grid.model.ids import BEFORE_FIRST, CONTROL_LOG, Epoch, LogId, Position

OPTIONS = LocalLogOptions(segment_bytes=8192, sync=False, compact_rest_seconds=0.0)
LOGS = (CONTROL_LOG, LogId(0), LogId(1))


async def write(log: LocalLog, count: int, first: int = 0) -> dict[LogId, list[Position]]:
    placed: dict[LogId, list[Position]] = {name: [] for name in LOGS}
    for number in range(first, first + count):
        for name in LOGS:
            tail = await log.tail(name)
            (position,) = await log.append([Entry(name, tail, Epoch(number), b"%d of %d " % (number, name) * 9)])
            placed[name].append(position)
    return placed


async def test_it_sees_what_was_durable_while_more_is_written(tmp_path: Path) -> None:
    log = await LocalLog.open(tmp_path, options=OPTIONS)
    placed = await write(log, 200)
    before = PosixFiles(tmp_path).list()
    reader = LogReader(PosixFiles(tmp_path), OPTIONS)
    await write(log, 50, 200)
    for name in LOGS:
        through = placed[name][-1]
        found = list(reader.read(name, BEFORE_FIRST, through))
        assert [one.position for one in found] == placed[name]
        assert [one.payload for one in found] == [b"%d of %d " % (at, name) * 9 for at in range(200)]
        assert [one.position for one in reader.read(name, placed[name][99], through)] == placed[name][100:]
        assert reader.bytes_of(name, through) == sum(len(one.payload) for one in found)
        assert reader.bytes_of(name, placed[name][4]) == sum(len(one.payload) for one in found[:5])
    assert len(before) > 10
    reader.close()
    await log.close()


async def test_segments_that_are_compacted_meanwhile_say_the_same(tmp_path: Path) -> None:
    log = await LocalLog.open(tmp_path, options=OPTIONS)
    placed = await write(log, 300)
    reader = LogReader(PosixFiles(tmp_path), OPTIONS)
    reading = reader.read(LogId(0), BEFORE_FIRST, placed[LogId(0)][-1])
    found = [next(reading).position]
    assert await log.compact(CONTROL_LOG, placed[CONTROL_LOG][-2], lambda records: b"all of it" * 2)
    found += [one.position for one in reading]
    assert found == placed[LogId(0)]
    found = [one.position for one in reader.read(LogId(1), BEFORE_FIRST, placed[LogId(1)][-1])]
    assert found == placed[LogId(1)]
    reader.close()
    await log.close()


async def test_what_should_be_there_and_is_not_is_said(tmp_path: Path) -> None:
    log = await LocalLog.open(tmp_path, options=OPTIONS)
    placed = await write(log, 3)
    reader = LogReader(PosixFiles(tmp_path), OPTIONS)
    with pytest.raises(CorruptionError, match="ends at position"):
        list(reader.read(LogId(0), BEFORE_FIRST, Position(placed[LogId(0)][-1] + 1)))
    reader.close()
    await log.close()
