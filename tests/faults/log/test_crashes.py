"""After a crash at any moment, in every lawful way, what was acknowledged is there, whole, and the log goes on.

A workload is recorded; for each prefix of its trace the disk images that a crash may leave are built, and each is
recovered, compared with what was issued and acknowledged, appended to, and opened once more.
"""

from __future__ import annotations

import errno
import random
from itertools import pairwise

import pytest
from tidegrid.grid.journal.local import LocalLog
from tidegrid.grid.journal.verify import verify
from tidegrid.grid.log.entry import Entry
from tidegrid.grid.log.segment import SEGMENT_HEADER_BYTES, segment_base_of, segment_name
from tidegrid.grid.model.errors import LogFailedError
from tidegrid.grid.model.ids import Epoch, LogId, Position

from tests.faults.log.simulated_files import Disk, Image, Mark, Op, SimulatedFiles
from tests.faults.log.workload import LOGS, OPTIONS, Append, Workload, acknowledged, check_contents, contents


async def run_workload(seed: int) -> tuple[SimulatedFiles, Workload]:
    """Small and large batches, several logs, rolls, an oversized batch, checkpoints, a clean close and a second life."""
    files = SimulatedFiles()
    work = Workload(files, seed)
    chooser = random.Random(seed)
    log = await LocalLog.open("", options=OPTIONS, files=files)
    for _ in range(6):
        await work.one(log, [chooser.choice([0, 60, 300, 700]) for _ in range(chooser.randrange(1, 5))])
    await work.several(log, [200, 900, 30])
    await work.checkpoint(log, LogId(0), 700)
    await work.one(log, [2500, 900])
    await work.one(log, [5000])  # more than a segment holds: one of its own
    for _ in range(3):
        await work.one(log, [chooser.choice([20, 450, 1200]) for _ in range(chooser.randrange(1, 4))])
    await log.close()
    log = await LocalLog.open("", options=OPTIONS, files=files)
    await work.several(log, [100, 100, 100, 600])
    await work.checkpoint(log, LogId(0), 90)
    for _ in range(4):
        await work.one(log, [chooser.choice([10, 350, 1500]) for _ in range(chooser.randrange(1, 3))])
    return files, work


async def survive(image: Image, appends: list[Append], must: set[int]) -> SimulatedFiles:
    """Recovers an image, checks it, goes on, and checks again."""
    files = SimulatedFiles(image)
    log = await LocalLog.open("", options=OPTIONS, files=files)
    found = await contents(log, bytes_max=3000)
    check_contents(found, appends, must)
    for name in LOGS[:2]:
        (position,) = await log.append([_entry(await log.tail(name), name)])
        found[name].append((position, b"after the crash"))
    await log.close()
    reopened = await LocalLog.open("", options=OPTIONS, files=files)
    assert await contents(reopened) == found
    for name in LOGS:
        await reopened.load_checkpoint(name)
    await reopened.close()
    check_tidiness(files.image())
    return files


def check_tidiness(image: Image) -> None:
    """A start finishes what a crash left half done."""
    assert not [name for name in image if name.endswith(".tmp")]
    bases = sorted(base for name in image if (base := segment_base_of(name)) is not None)
    for base, end in pairwise(bases):
        assert len(image[segment_name(base)]) == end - base + SEGMENT_HEADER_BYTES, "spare space was not given back"


def _entry(tail: Position, name: LogId) -> Entry:

    return Entry(name, tail, Epoch(1_000_000), b"after the crash")


def crash_images(trace: list[Op | Mark], base: Image, seed: int) -> list[tuple[Image, set[int]]]:
    """Every distinct image of every moment, with what had been acknowledged then."""
    seen: set[tuple[int, int]] = set()
    found: list[tuple[Image, set[int]]] = []
    disk = Disk.of(base)
    for at in range(len(trace) + 1):
        must = acknowledged(trace[:at])
        last = trace[at - 1] if at else None
        for image in disk.images(seed * 100_003 + at, last.inode if isinstance(last, Op) else -1):
            key = (hash(tuple(sorted(image.items()))), len(must))
            if key not in seen:
                seen.add(key)
                found.append((image, must))
        if at < len(trace):
            disk.take(trace[at])
    return found


@pytest.mark.parametrize("seed", [1, 2])
async def test_every_crash_of_a_workload_is_survived(seed: int) -> None:
    files, work = await run_workload(seed)
    images = crash_images(files.trace, {}, seed)
    assert len(images) > 500
    for image, must in images:
        await survive(image, work.appends, must)


async def test_a_crash_during_recovery_is_survived() -> None:
    files, work = await run_workload(3)
    images = crash_images(files.trace, {}, 3)
    chooser = random.Random(3)
    for image, must in chooser.sample(images, 15):
        again = SimulatedFiles(image)
        log = await LocalLog.open("", options=OPTIONS, files=again)
        seen = {number for number, append in enumerate(work.appends) if await _is_there(log, append)}
        again.mark(("opened", -1))
        await log.close()
        seconds = crash_images(again.trace, image, 4)
        for second, _ in chooser.sample(seconds, min(20, len(seconds))):
            await survive(second, work.appends, must)
        # once a start has shown something to its owner, it is there for good
        disk = Disk.of(image)
        for op in again.trace[: again.trace.index(Mark(("opened", -1)))]:
            disk.take(op)
        for second in chooser.choices(list(disk.images(5)), k=5):
            await survive(second, work.appends, seen)


async def _is_there(log: LocalLog, append: Append) -> bool:
    found = await contents(log)
    return all(payload in [seen for _, seen in found[name]] for name, payload in append.payloads.items())


async def test_what_a_start_shows_after_a_killed_process_is_durable() -> None:
    """The process dies at any operation, the machine does not: its bytes are in memory, and look like any others."""
    shown = 0
    for dies_at in range(4, 70):
        files = SimulatedFiles()
        work = Workload(files, dies_at)
        log = await LocalLog.open("", options=OPTIONS, files=files)
        files.dies_at = dies_at
        with pytest.raises(LogFailedError):
            while True:
                await work.one(log, [900, 30])
        await log.close()
        files.dies_at = -1
        log = await LocalLog.open("", options=OPTIONS, files=files)
        seen = check_contents(await contents(log), work.appends, acknowledged(files.trace))
        shown += seen == len(work.appends)
        disk = Disk.of({})
        for op in files.trace:
            disk.take(op)
        await log.close()
        for image in list(disk.images(dies_at))[:8]:
            await survive(image, work.appends, set(range(seen)))
    assert shown > 5


async def test_what_a_failed_sync_left_in_memory_is_written_again_before_it_is_believed() -> None:
    """A process whose sync failed ends; the next one finds its bytes in memory, where they look written."""
    files = SimulatedFiles()
    work = Workload(files, 1)
    log = await LocalLog.open("", options=OPTIONS, files=files)
    await work.one(log, [100, 100])
    files.fail = lambda op: OSError(errno.EIO, "input/output error") if op.kind == "sync" else None
    with pytest.raises(LogFailedError):
        await work.one(log, [1200, 300])
    await log.close()
    files.fail = lambda op: None
    log = await LocalLog.open("", options=OPTIONS, files=files)
    assert check_contents(await contents(log), work.appends, {0, 1}) == 2
    await work.one(log, [50])
    disk = Disk.of({})
    for op in files.trace:
        disk.take(op)
    for image in disk.images(1):
        await survive(image, work.appends, {0, 1, 2})


async def test_verify_finds_nothing_wrong_after_any_crash() -> None:
    files, work = await run_workload(4)
    torn = 0
    for image, _ in random.Random(4).sample(crash_images(files.trace, {}, 4), 150):
        if not any(name.endswith(".wal") for name in image):
            continue
        on_disk = SimulatedFiles(image)
        report = verify("", files=on_disk)
        assert report.problems == []
        assert on_disk.image() == image
        torn += report.torn_bytes
    assert torn > 0
    assert len(work.appends) > 15
