"""Stored bytes that change: before what is known durable the log refuses to start, and says where; nothing is touched."""

from __future__ import annotations

import logging
import random

import pytest
from tidegrid.grid.journal.local import LocalLog
from tidegrid.grid.journal.recovery import recover
from tidegrid.grid.journal.verify import verify
from tidegrid.grid.log.batch import BATCH_HEADER_BYTES, RECORD_HEADER_BYTES, encode_batch_header, salt_of
from tidegrid.grid.log.entry import Entry
from tidegrid.grid.log.segment import SEGMENT_HEADER_BYTES, segment_base_of
from tidegrid.grid.model.errors import CorruptionError, FormatError
from tidegrid.grid.model.ids import BEFORE_FIRST, Epoch, LogId

from tests.faults.log.simulated_files import Image, SimulatedFiles
from tests.faults.log.workload import LOGS, OPTIONS, Workload, check_contents, contents


async def closed_log(seed: int, *, checkpoint: bool = False) -> tuple[SimulatedFiles, Workload]:
    files = SimulatedFiles()
    work = Workload(files, seed)
    log = await LocalLog.open("", options=OPTIONS, files=files)
    for number in range(14):
        await work.one(log, [[100, 900], [30], [1500, 10, 10]][number % 3])
        if checkpoint and number == 9:
            for name in LOGS:
                await work.checkpoint(log, name, 500)
    await log.close()
    return files, work


def segments(image: Image) -> list[str]:
    return sorted(name for name in image if segment_base_of(name) is not None)


def flipped(image: Image, name: str, offset: int, bit: int = 1) -> Image:
    data = bytearray(image[name])
    data[offset] ^= bit
    return image | {name: bytes(data)}


def used(image: Image, name: str) -> int:
    """Where the batches of a segment end in its file."""
    return len(image[name].rstrip(b"\0"))


async def test_any_flipped_bit_before_the_known_durable_end_refuses_to_start() -> None:
    files, _ = await closed_log(1)
    image = files.image()
    chooser = random.Random(1)
    for name in segments(image):
        last = name == segments(image)[-1]
        end = used(image, name) - BATCH_HEADER_BYTES if last else len(image[name])  # the last batch is the closing mark
        for offset in [*range(60), *range(60, SEGMENT_HEADER_BYTES, 97), *range(SEGMENT_HEADER_BYTES, end, 5)]:
            damaged = SimulatedFiles(flipped(image, name, offset, 1 << chooser.randrange(8)))
            with pytest.raises((CorruptionError, FormatError)) as caught:
                recover(damaged, OPTIONS)
            error = caught.value
            assert name in error.message
            if isinstance(error, CorruptionError):
                assert error.file == f"disk/{name}"
                assert 0 <= error.offset <= offset
            assert damaged.trace == [], "a start that refuses changes nothing"


async def test_the_offset_named_is_that_of_the_damaged_record() -> None:
    files, work = await closed_log(2)
    image = files.image()
    name = segments(image)[1]
    base = segment_base_of(name) or 0
    inside = [
        (position - base + SEGMENT_HEADER_BYTES, len(append.payloads[log]))
        for append in work.appends
        for log, position in append.positions.items()
        if base <= position < base + len(image[name]) - SEGMENT_HEADER_BYTES
    ]
    assert len(inside) > 3
    for offset, length in inside:
        damaged = SimulatedFiles(flipped(image, name, offset + 28 + length - 1))
        with pytest.raises(CorruptionError) as caught:
            recover(damaged, OPTIONS)
        assert (caught.value.file, caught.value.offset) == (f"disk/{name}", offset)
        report = verify("", files=damaged)
        assert [(problem.file, problem.offset) for problem in report.problems] == [(f"disk/{name}", offset)]


async def test_zeros_over_what_was_durable_refuse_to_start() -> None:
    files, _ = await closed_log(3)
    image = files.image()
    for name in segments(image):
        for sector in range(SEGMENT_HEADER_BYTES, used(image, name), 512):
            if name == segments(image)[-1] and sector + 512 >= used(image, name):
                continue  # with the closing mark gone too, it looks like a write that never happened
            data = bytearray(image[name])
            data[sector : sector + 512] = bytes(len(data[sector : sector + 512]))
            with pytest.raises(CorruptionError):
                recover(SimulatedFiles(image | {name: bytes(data)}), OPTIONS)


async def test_the_last_acknowledged_batch_is_protected_by_a_checkpoint() -> None:
    files = SimulatedFiles()
    work = Workload(files, 1)
    log = await LocalLog.open("", options=OPTIONS, files=files)
    await work.one(log, [100], [LogId(0)])
    await work.checkpoint(log, LogId(0), 10)
    image = files.image()
    await log.close()
    name = segments(image)[0]
    with pytest.raises(CorruptionError):
        recover(SimulatedFiles(flipped(image, name, used(image, name) - 1)), OPTIONS)


async def test_a_payload_that_imitates_a_batch_is_not_taken_for_one() -> None:
    """A batch header of another log, at its right place, in a torn write: it claims that all before it was durable."""
    files = SimulatedFiles()
    work = Workload(files, 5)
    log = await LocalLog.open("", options=OPTIONS, files=files)
    await work.one(log, [10])
    name = segments(files.image())[0]
    end = used(files.image(), name)
    place = end - SEGMENT_HEADER_BYTES + BATCH_HEADER_BYTES + RECORD_HEADER_BYTES
    payload = encode_batch_header(salt_of(b"identity of mine"), place, 0, 0, place)
    await log.append([Entry(LogId(5), BEFORE_FIRST, Epoch(9), payload)])
    image = files.image()
    await log.close()
    assert image[name].index(payload) == place + SEGMENT_HEADER_BYTES
    torn = SimulatedFiles(flipped(image, name, end + 3))
    log = await LocalLog.open("", options=OPTIONS, files=torn)
    assert check_contents(await contents(log), work.appends, {0}) == 1
    assert await log.tail(LogId(5)) == BEFORE_FIRST
    await log.close()
    assert used(torn.image(), name) == end, "zeros are put over what was cut"


@pytest.mark.parametrize("which", ["first", "middle", "last"])
async def test_a_missing_segment_refuses_to_start(which: str) -> None:
    files, _ = await closed_log(6)
    image = files.image()
    names = segments(image)
    assert len(names) > 3
    gone = {"first": names[0], "middle": names[2], "last": names[-1]}[which]
    damaged = SimulatedFiles({name: data for name, data in image.items() if name != gone})
    with pytest.raises(CorruptionError, match="missing"):
        recover(damaged, OPTIONS)
    assert damaged.trace == []
    assert verify("", files=damaged).problems


async def test_a_segment_of_another_log_refuses_to_start() -> None:
    one, _ = await closed_log(7)
    other, _ = await closed_log(7)
    names = segments(one.image())
    assert names == segments(other.image())
    for name in names:
        damaged = SimulatedFiles(one.image() | {name: other.image()[name]})
        with pytest.raises(CorruptionError, match="another log"):
            recover(damaged, OPTIONS)
        assert not verify("", files=damaged).whole


async def test_a_segment_of_another_format_is_told_from_damage() -> None:
    files, _ = await closed_log(8)
    image = files.image()
    for name in segments(image):
        damaged = SimulatedFiles(image | {name: image[name][:8] + b"\x03\0\0\0" + image[name][12:]})
        with pytest.raises(FormatError, match=r"format 3.*reads 1 and 2"):
            recover(damaged, OPTIONS)


async def test_a_segment_that_was_cut_short_refuses_to_start() -> None:
    files, _ = await closed_log(9)
    image = files.image()
    for name in segments(image):
        for length in (0, 30, SEGMENT_HEADER_BYTES, len(image[name]) - 1):
            with pytest.raises(CorruptionError):
                recover(SimulatedFiles(image | {name: image[name][:length]}), OPTIONS)


async def test_a_segment_with_spare_space_has_to_end_where_the_next_begins() -> None:
    """A crash can leave it longer than it uses; where it ends is then told by its index, or by its bytes."""
    files, work = await closed_log(16, checkpoint=True)
    image = files.image()
    name = segments(image)[1]
    without = {other: data for other, data in image.items() if other != name.replace(".wal", ".idx")}
    longer = without | {name: image[name].ljust(OPTIONS.segment_bytes, b"\0")}
    log = await LocalLog.open("", options=OPTIONS, files=SimulatedFiles(longer))
    assert check_contents(await contents(log), work.appends, set(range(len(work.appends))))
    await log.close()
    damaged = SimulatedFiles(flipped(longer, name, SEGMENT_HEADER_BYTES + 40))
    with pytest.raises(CorruptionError):
        recover(damaged, OPTIONS)
    assert damaged.trace == []
    with pytest.raises(CorruptionError, match="does not end"):
        recover(SimulatedFiles(longer | {name: longer[name] + b"x"}), OPTIONS)


async def test_checkpoints_without_segments_refuse_to_start() -> None:
    files, _ = await closed_log(10, checkpoint=True)
    left = {name: data for name, data in files.image().items() if name.endswith(".checkpoint")}
    with pytest.raises(CorruptionError):
        recover(SimulatedFiles(left), OPTIONS)


async def test_damage_before_every_checkpoint_shows_when_it_is_read() -> None:
    files, _ = await closed_log(11, checkpoint=True)
    image = files.image()
    damaged = SimulatedFiles(flipped(image, segments(image)[0], SEGMENT_HEADER_BYTES + 100))
    log = await LocalLog.open("", options=OPTIONS, files=damaged)
    with pytest.raises(CorruptionError) as caught:
        await contents(log)
    assert caught.value.file == f"disk/{segments(image)[0]}"
    for name in LOGS:
        found = await log.load_checkpoint(name)
        assert found is not None
        await log.read(name, found.position, 1000)
    await log.close()


async def test_a_damaged_index_is_built_again() -> None:
    files, work = await closed_log(12, checkpoint=True)
    image = files.image()
    indexes = sorted(name for name in image if name.endswith(".idx"))
    assert len(indexes) > 2
    everything = set(range(len(work.appends)))
    for name in indexes:
        for offset in range(0, len(image[name]), 11):
            damaged = SimulatedFiles(flipped(image, name, offset))
            assert verify("", files=damaged).indexes_unusable == 1
            log = await LocalLog.open("", options=OPTIONS, files=damaged)
            assert check_contents(await contents(log), work.appends, everything)
            await log.close()
            assert damaged.image()[name] == image[name]
    without = SimulatedFiles({name: data for name, data in image.items() if name not in indexes})
    log = await LocalLog.open("", options=OPTIONS, files=without)
    assert check_contents(await contents(log), work.appends, everything)
    await log.close()
    assert {name: without.image()[name] for name in indexes} == {name: image[name] for name in indexes}


async def test_a_damaged_checkpoint_is_passed_over_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    files, work = await closed_log(13, checkpoint=True)
    image = files.image()
    name = next(name for name in image if name.startswith("partition-0."))
    for offset in range(0, len(image[name]), 23):
        damaged = SimulatedFiles(flipped(image, name, offset))
        log = await LocalLog.open("", options=OPTIONS, files=damaged)
        with caplog.at_level(logging.WARNING):
            assert await log.load_checkpoint(LogId(0)) is None
        assert name in caplog.text
        caplog.clear()
        assert await log.load_checkpoint(LogId(1)) is not None
        assert check_contents(await contents(log), work.appends, set(range(len(work.appends))))
        await log.close()
        assert any(name in problem.file for problem in verify("", files=damaged).problems)


async def test_an_older_checkpoint_serves_when_the_newest_is_damaged() -> None:
    files, work = await closed_log(14, checkpoint=True)
    older = {name: data for name, data in files.image().items() if name.startswith("partition-0.")}
    log = await LocalLog.open("", options=OPTIONS, files=files)
    await work.one(log, [10], [LogId(0)])
    await work.checkpoint(log, LogId(0), 100)
    await log.close()
    image = files.image()
    (newest,) = (name for name in image if name.startswith("partition-0."))
    assert newest not in older
    both = SimulatedFiles(flipped(image, newest, len(image[newest]) - 1) | older)
    log = await LocalLog.open("", options=OPTIONS, files=both)
    found = await log.load_checkpoint(LogId(0))
    assert found is not None and list(found.chunks) == [bytes(500), b"end"]
    await log.close()


async def test_verify_reports_every_damaged_place_and_goes_on() -> None:
    files, work = await closed_log(15)
    image = files.image()
    names = segments(image)
    damaged = flipped(image, names[0], SEGMENT_HEADER_BYTES + 60)
    damaged = flipped(damaged, names[2], SEGMENT_HEADER_BYTES + 5)
    before = SimulatedFiles(damaged)
    report = verify("", files=before)
    assert {problem.file for problem in report.problems} == {f"disk/{names[0]}", f"disk/{names[2]}"}
    whole = verify("", files=SimulatedFiles(image))
    assert whole.whole and whole.segments == report.segments == len(names)
    assert 0 < report.records < whole.records == sum(len(append.payloads) for append in work.appends)
    assert before.image() == damaged
