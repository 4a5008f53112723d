"""A crash, or a dead process, at any operation of a compaction: the old segment or the new one, never less than either."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from tidegrid.grid.journal.local import LocalLog
from tidegrid.grid.journal.verify import verify
from tidegrid.grid.log.entry import Entry
from tidegrid.grid.log.segment import segment_base_of, segment_format_of
from tidegrid.grid.model.errors import CorruptionError, LogFailedError
from tidegrid.grid.model.ids import BEFORE_FIRST, CONTROL_LOG, Epoch, LogId, Position

from tests.faults.log.simulated_files import Disk, Image, SimulatedFiles
from tests.faults.log.workload import LOGS, OPTIONS, Workload, contents, fold

QUICK = replace(OPTIONS, compact_rest_seconds=0.0)
Found = dict[LogId, list[tuple[Position, bytes]]]


async def ticking_log(seed: int, segments: int = 3) -> tuple[SimulatedFiles, Found]:
    """Mostly control records; closed, so that everything is durable."""
    files = SimulatedFiles()
    work = Workload(files, seed)
    chooser = random.Random(seed)
    log = await LocalLog.open("", options=QUICK, files=files)
    while len(segments_of(files.image())) <= segments:
        await work.one(log, [chooser.choice([40, 150, 400])], [CONTROL_LOG])
        if chooser.random() < 0.3:
            await work.one(log, [chooser.choice([10, 500])] * 2, chooser.sample(LOGS, 2))
    found = await contents(log)
    await log.close()
    return files, found


def segments_of(image: Image) -> list[str]:
    return sorted(name for name in image if segment_base_of(name) is not None)


def compacted(image: Image) -> int:
    return sum(segment_format_of(image[name]) == 2 for name in segments_of(image))


async def folded_sum(log: LocalLog) -> bytes:
    return fold(await log.read(CONTROL_LOG, BEFORE_FIRST, 1 << 30))


def same_but_for_control(found: Found, before: Found) -> bool:
    return all(found[name] == before[name] for name in LOGS if name != CONTROL_LOG)


async def survive(image: Image, before: Found, total: bytes) -> int:
    """Recovers, checks, appends, compacts to the end, and checks again. Returns how many segments were compacted."""
    files = SimulatedFiles(image)
    assert verify("", files=files).problems == []
    log = await LocalLog.open("", options=QUICK, files=files)
    done = compacted(files.image())
    assert same_but_for_control(await contents(log), before) and await folded_sum(log) == total
    assert not [name for name in files.image() if name.endswith(".tmp")]
    tail = await log.tail(CONTROL_LOG)
    assert tail == before[CONTROL_LOG][-1][0]
    await log.append([Entry(LogId(0), await log.tail(LogId(0)), Epoch(1_000_000), b"after the crash")])
    await log.compact(CONTROL_LOG, tail, fold)
    await log.close()
    assert compacted(files.image()) == len(segments_of(files.image())) - 1
    report = verify("", files=files)
    assert report.problems == [] and report.indexes_unusable == 0
    reopened = await LocalLog.open("", options=QUICK, files=files)
    found = await contents(reopened)
    assert found[LogId(0)].pop()[1] == b"after the crash"
    assert same_but_for_control(found, before) and await folded_sum(reopened) == total
    await reopened.close()
    return done


@pytest.mark.parametrize("seed", [1, 2])
async def test_every_crash_during_a_compaction_is_survived(seed: int) -> None:
    files, before = await ticking_log(seed)
    start = files.image()
    again = SimulatedFiles(start)
    log = await LocalLog.open("", options=QUICK, files=again)
    total = await folded_sum(log)
    await log.compact(CONTROL_LOG, await log.tail(CONTROL_LOG), fold)
    disk, seen, counts = Disk.of(start), set(), set()
    for at, op in enumerate(again.trace):
        disk.take(op)
        for image in disk.images(seed * 1009 + at, samples=3, exhaustive_sectors=2):
            key = hash(tuple(sorted(image.items())))
            if key not in seen:
                seen.add(key)
                counts.add(await survive(image, before, total))
    assert counts == {0, 1, 2, 3} and len(seen) > 40
    await log.close()


async def test_a_process_that_dies_at_any_operation_leaves_it_sound() -> None:
    files, before = await ticking_log(3)
    start = files.image()
    counts: list[int] = []
    for dies_at in range(200):
        again = SimulatedFiles(start)
        log = await LocalLog.open("", options=QUICK, files=again)
        total = await folded_sum(log)
        again.dies_at = dies_at
        try:
            await log.compact(CONTROL_LOG, await log.tail(CONTROL_LOG), fold)
            ended = True
        except LogFailedError:
            ended = False
            assert same_but_for_control(await contents(log), before), "reads go on"
            assert await folded_sum(log) == total
        await log.close()
        counts.append(await survive(again.image(), before, total))
        if ended and again.dies_at > 0:
            break
    assert counts == sorted(counts) and set(counts) == {0, 1, 2, 3} and len(counts) > 20


async def test_damage_in_a_compacted_segment_is_found_at_its_place() -> None:
    files, _ = await ticking_log(4)
    log = await LocalLog.open("", options=QUICK, files=files)
    await log.compact(CONTROL_LOG, await log.tail(CONTROL_LOG), fold)
    await log.close()
    image = files.image()
    chooser = random.Random(4)
    for name in segments_of(image)[:-1]:
        size = len(image[name])
        for offset in [*range(0, 90, 7), 4095, *chooser.sample(range(4096, size), 30), size - 1]:
            data = bytearray(image[name])
            data[offset] ^= 1 << chooser.randrange(8)
            if data[8:12] not in (b"\1\0\0\0", b"\2\0\0\0"):
                continue  # another format, not damage
            damaged = SimulatedFiles(image | {name: bytes(data)})
            report = verify("", files=damaged)
            assert [problem.file for problem in report.problems][:1] == [f"disk/{name}"]
            with pytest.raises(CorruptionError) as caught:
                await _read_everything(damaged)
            assert caught.value.file == f"disk/{name}" and caught.value.offset <= offset
        for length in (0, 100, 4096, size - 1):
            cut = SimulatedFiles(image | {name: image[name][:length]})
            assert verify("", files=cut).problems
            with pytest.raises(CorruptionError, match=name):
                await LocalLog.open("", options=QUICK, files=cut)
            assert cut.trace == [], "a start that refuses changes nothing"
        longer = SimulatedFiles(image | {name: image[name] + b"\0"})
        assert verify("", files=longer).problems
        with pytest.raises(CorruptionError, match=name):
            await LocalLog.open("", options=QUICK, files=longer)


async def _read_everything(files: SimulatedFiles) -> None:
    log = await LocalLog.open("", options=QUICK, files=files)
    try:
        await contents(log)
    finally:
        await log.close()


async def test_a_missing_segment_shows_beside_compacted_ones() -> None:
    files, _ = await ticking_log(5)
    log = await LocalLog.open("", options=QUICK, files=files)
    await log.compact(CONTROL_LOG, await log.tail(CONTROL_LOG), fold)
    await log.close()
    image = files.image()
    names = segments_of(image)
    for gone in names:
        damaged = SimulatedFiles({name: data for name, data in image.items() if name != gone})
        assert verify("", files=damaged).problems
        with pytest.raises(CorruptionError, match="missing"):
            await LocalLog.open("", options=QUICK, files=damaged)
    without_indexes = {name: data for name, data in image.items() if not name.endswith(".idx") and name != names[-1]}
    assert verify("", files=SimulatedFiles(without_indexes)).problems
    with pytest.raises(CorruptionError, match="missing"):
        await LocalLog.open("", options=QUICK, files=SimulatedFiles(without_indexes))


async def test_a_compacted_segment_of_another_log_refuses_to_start() -> None:
    one, _ = await ticking_log(6)
    other, _ = await ticking_log(6)
    for files in (one, other):
        log = await LocalLog.open("", options=QUICK, files=files)
        await log.compact(CONTROL_LOG, await log.tail(CONTROL_LOG), fold)
        await log.close()
    name = segments_of(one.image())[1]
    damaged = SimulatedFiles(one.image() | {name: other.image()[name]})
    assert not verify("", files=damaged).whole
    with pytest.raises(CorruptionError, match="another log"):
        await _read_everything(damaged)
