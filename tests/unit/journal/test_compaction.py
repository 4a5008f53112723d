"""Compaction of a local log: all other logs read as before, the compacted one adds up to the same, and nobody waits."""

from __future__ import annotations

import asyncio
import errno
import random
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tidegrid.grid.journal.history import History
from tidegrid.grid.journal.local import LocalLog
from tidegrid.grid.journal.options import LocalLogOptions
from tidegrid.grid.journal.verify import verify
from tidegrid.grid.log.entry import Entry, LogRecord
from tidegrid.grid.log.segment import segment_base_of, segment_format_of
from tidegrid.grid.model.errors import ConfigurationError, CorruptionError, LogFailedError, StoppingError
from tidegrid.grid.model.ids import BEFORE_FIRST, CONTROL_LOG, Epoch, LogId, Position

from tests.faults.log.simulated_files import Image, Op, SimulatedFiles
from tests.faults.log.workload import FOLDED, fold

A, B = LogId(0), LogId(1)
OTHERS = (A, B)
OPTIONS = LocalLogOptions(segment_bytes=8192, compact_rest_seconds=0.0)
PLENTY = 1 << 30


async def opened(files: SimulatedFiles, **changes: float) -> LocalLog:
    return await LocalLog.open("", options=replace(OPTIONS, **changes), files=files)  # type: ignore[arg-type]


async def fill(log: LocalLog, count: int, *, seed: int = 1, other_every: int = 4, size: int = 90) -> None:
    """`count` control records; one of the others to each `other_every` of them."""
    chooser = random.Random(seed)
    for number in range(count):
        names = [CONTROL_LOG] if number % other_every else [CONTROL_LOG, chooser.choice(OTHERS)]
        entries = [
            Entry(name, await log.tail(name), Epoch(1000 * seed + number), number.to_bytes(4) + chooser.randbytes(size))
            for name in names
        ]
        await log.append(entries)


async def read_all(log: LocalLog, name: LogId, bytes_max: int = 1000) -> list[LogRecord]:
    found: list[LogRecord] = []
    while records := await log.read(name, found[-1].position if found else BEFORE_FIRST, bytes_max):
        found += records
    return found


async def contents(log: LocalLog) -> dict[LogId, list[LogRecord]]:
    return {name: await read_all(log, name) for name in OTHERS}


def formats(image: Image) -> dict[int, int]:
    """Of each segment, by base."""
    bases = sorted((base, name) for name in image if (base := segment_base_of(name)) is not None)
    return {base: segment_format_of(image[name]) for base, name in bases}


def log_bytes(image: Image) -> int:
    return sum(len(data) for name, data in image.items() if segment_base_of(name) is not None)


async def test_what_is_compacted_reads_as_before_and_adds_up_to_the_same() -> None:
    files = SimulatedFiles()
    log = await opened(files)
    await fill(log, 300)
    before, control = await contents(log), await read_all(log, CONTROL_LOG)
    size, tail = log_bytes(files.image()), await log.tail(CONTROL_LOG)
    saved = await log.compact(CONTROL_LOG, tail, fold)
    assert saved > 5000 and log_bytes(files.image()) == size - saved
    found = formats(files.image())
    assert len(found) > 4 and list(found.values()) == [2] * (len(found) - 1) + [1], "all that are sealed"

    async def check(opened_log: LocalLog) -> None:
        assert await contents(opened_log) == before
        now = await read_all(opened_log, CONTROL_LOG)
        assert fold(now) == fold(control) and len(now) < len(control) / 4
        kept = {record.position: record.epoch for record in control}
        assert all(kept[record.position] == record.epoch for record in now)
        assert await opened_log.tail(CONTROL_LOG) == tail

    await check(log)
    assert await log.compact(CONTROL_LOG, tail, fold) == 0, "each segment once"
    await log.close()
    report = verify("", files=files)
    assert report.whole and report.indexes_unusable == 0
    assert (report.compacted, report.segments) == (len(found) - 1, len(found))
    for image in (files.image(), {name: data for name, data in files.image().items() if not name.endswith(".idx")}):
        files = SimulatedFiles(image)
        log = await opened(files, index_cache_bytes_max=1, open_segments_max=1)
        await check(log)
        assert await log.compact(CONTROL_LOG, tail, fold) == 0
        await fill(log, 40, seed=2)
        await log.close()
        assert verify("", files=files).indexes_unusable == 0


async def test_a_folded_record_begins_the_next_fold() -> None:
    files = SimulatedFiles()
    log = await opened(files)
    everything: list[LogRecord] = []
    folded_from: list[list[LogRecord]] = []

    def noting(records: Iterable[LogRecord]) -> bytes:
        folded_from.append(list(records))
        return fold(folded_from[-1])

    for seed in range(1, 4):
        await fill(log, 120, seed=seed)
        new = await read_all(log, CONTROL_LOG)
        everything += [record for record in new if not everything or record.position > everything[-1].position]
        await log.compact(CONTROL_LOG, everything[-1].position, noting)
        assert fold(await read_all(log, CONTROL_LOG)) == fold(everything)
        await log.close()
        log = await opened(files)
    assert len(folded_from) > 3
    assert not folded_from[0][0].payload.startswith(FOLDED)
    assert all(records[0].payload.startswith(FOLDED) for records in folded_from[1:])
    assert all(not record.payload.startswith(FOLDED) for records in folded_from for record in records[1:])
    await log.close()


async def test_nothing_above_the_position_asked_for_is_folded() -> None:
    files = SimulatedFiles()
    log = await opened(files)
    await fill(log, 300)
    before = await read_all(log, CONTROL_LOG)
    bases = list(formats(files.image()))
    for through in (BEFORE_FIRST, before[5].position, before[150].position, before[-1].position):
        await log.compact(CONTROL_LOG, through, fold)
        now = await read_all(log, CONTROL_LOG)
        assert [record for record in before if record.position > through] == [
            record for record in now if record.position > through
        ]
        compacted = [base for base, version in formats(files.image()).items() if version == 2]
        whole = [base for base, end in pairwise(bases) if end <= through + 28]
        assert compacted == bases[: len(compacted)] and set(whole) <= set(compacted)
    await log.close()


async def test_position_before_leads_to_the_same_records() -> None:
    files = SimulatedFiles()
    log = await opened(files)
    await fill(log, 200)
    epochs = [Epoch(epoch) for epoch in range(990, 1210)]
    before = {(name, epoch): await log.position_before(name, epoch) for name in OTHERS for epoch in epochs}
    await log.compact(CONTROL_LOG, await log.tail(CONTROL_LOG), fold)
    assert {(name, epoch): await log.position_before(name, epoch) for name in OTHERS for epoch in epochs} == before
    control = await read_all(log, CONTROL_LOG)
    for epoch in epochs:
        found = await log.position_before(CONTROL_LOG, epoch)
        assert all(record.epoch > epoch for record in control if record.position > found)
        assert all(record.epoch <= epoch for record in control if record.position <= found)
    await log.close()


async def test_a_segment_that_would_hardly_get_shorter_stays_and_is_read_when_the_next_is_folded() -> None:
    files = SimulatedFiles()
    log = await opened(files)
    await fill(log, 60)
    for number in range(70):  # much else, and little of the control log
        entries = [Entry(A, await log.tail(A), Epoch(5000), bytes(600))]
        if number % 4 == 0:
            entries.append(Entry(CONTROL_LOG, await log.tail(CONTROL_LOG), Epoch(5000), b"in between %d" % number))
        await log.append(entries)
    await fill(log, 100, seed=6)
    before, others = await read_all(log, CONTROL_LOG), await contents(log)
    await log.compact(CONTROL_LOG, await log.tail(CONTROL_LOG), fold)
    found = list(formats(files.image()).values())
    assert found[0] == 2 and found[3:6] == [1, 1, 1] and found[-2] == 2
    now = await read_all(log, CONTROL_LOG)
    assert fold(now) == fold(before) and await contents(log) == others
    assert any(record.payload.startswith(b"in between") for record in now)
    await log.close()
    log = await opened(files, compact_share=1.0)
    await fill(log, 200, seed=7)

    def unasked(records: Iterable[LogRecord]) -> bytes:
        raise AssertionError("nothing is folded where too little would be saved whatever comes of it")

    assert await log.compact(CONTROL_LOG, await log.tail(CONTROL_LOG), unasked) == 0
    await log.close()


async def test_the_index_of_a_segment_that_is_not_worth_it_is_not_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    files = SimulatedFiles()
    log = await opened(files)
    await fill(log, 400, other_every=1)
    await log.close()
    log = await opened(files, compact_share=0.9)
    tail = await log.tail(CONTROL_LOG)
    with monkeypatch.context() as patch:
        patch.setattr(History, "index_of", None)
        assert await log.compact(CONTROL_LOG, tail, fold) == 0
    await log.close()
    without = SimulatedFiles({name: data for name, data in files.image().items() if not name.endswith(".idx")})
    log = await opened(without)
    assert await log.compact(CONTROL_LOG, tail, fold) > 0, "where there is none, the segment tells"
    await log.close()


async def test_a_fold_that_is_larger_than_what_it_stands_for_is_not_written() -> None:
    files = SimulatedFiles()
    log = await opened(files)
    await fill(log, 100)
    image = files.image()
    folds = 0

    def large(records: Iterable[LogRecord]) -> bytes:
        nonlocal folds
        folds += 1
        return bytes(9000)

    for _ in range(2):
        assert await log.compact(CONTROL_LOG, await log.tail(CONTROL_LOG), large) == 0
    assert files.image() == image and folds == len(formats(image)) - 1, "each segment is looked at once"
    await log.close()


async def test_a_log_that_has_no_record_there_changes_nothing() -> None:
    files = SimulatedFiles()
    log = await opened(files)
    await fill(log, 100)
    assert await log.compact(LogId(9), Position(PLENTY), fold) == 0
    await log.close()
    with pytest.raises(StoppingError):
        await log.compact(CONTROL_LOG, Position(PLENTY), fold)
    with pytest.raises(ConfigurationError, match="compact_share"):
        LocalLogOptions(compact_share=0).validate()


async def test_an_index_that_outlived_the_compaction_of_its_segment_is_not_believed() -> None:
    files = SimulatedFiles()
    log = await opened(files)
    await fill(log, 200)
    old = {name: data for name, data in files.image().items() if name.endswith(".idx")}
    before = await contents(log)
    await log.compact(CONTROL_LOG, await log.tail(CONTROL_LOG), fold)
    await log.close()
    new = {name: data for name, data in files.image().items() if name.endswith(".idx")}
    assert all(old[name] != new[name] for name in old)
    stale = SimulatedFiles(files.image() | old)
    assert verify("", files=stale).indexes_unusable == len(old)
    log = await opened(stale)
    assert await contents(log) == before
    await log.close()
    assert {name: stale.image()[name] for name in new} == new


async def test_damage_is_not_copied() -> None:
    files = SimulatedFiles()
    log = await opened(files)
    await fill(log, 200)
    tail = await log.tail(CONTROL_LOG)
    await log.close()
    name = min(name for name in files.image() if name.endswith(".wal"))
    data = bytearray(files.image()[name])
    data[5000] ^= 1
    log = await opened(files)
    await log.read(A, BEFORE_FIRST, 10)
    files.contents[files.names[name]][:] = data
    with pytest.raises(CorruptionError, match=name):
        await log.compact(CONTROL_LOG, tail, fold)
    assert files.image()[name] == bytes(data) and not any(other.endswith(".tmp") for other in files.image())
    assert not log.failed
    await log.close()


async def test_without_space_it_is_tried_again_later(caplog: pytest.LogCaptureFixture) -> None:
    files = SimulatedFiles()
    log = await opened(files)
    await fill(log, 200)
    before, tail = await contents(log), await log.tail(CONTROL_LOG)
    files.fail = lambda op: OSError(errno.ENOSPC, "no space left") if op.kind == "allocate" else None
    assert await log.compact(CONTROL_LOG, tail, fold) == 0
    assert "no space to compact" in caplog.text and set(formats(files.image()).values()) == {1}
    assert not any(name.endswith(".tmp") for name in files.image())
    files.fail = lambda op: None
    assert not log.failed and await log.compact(CONTROL_LOG, tail, fold) > 0
    assert await contents(log) == before
    await log.close()


@pytest.mark.parametrize("kind", ["write", "sync", "rename", "sync_directory"])
async def test_any_other_failure_stops_the_log_and_leaves_it_sound(kind: str) -> None:
    files = SimulatedFiles()
    log = await opened(files)
    await fill(log, 200)
    before, control = await contents(log), await read_all(log, CONTROL_LOG)
    files.fail = lambda op: OSError(errno.EIO, "input/output error") if op.kind == kind else None
    with pytest.raises(LogFailedError, match="input/output error"):
        await log.compact(CONTROL_LOG, control[-1].position, fold)
    files.fail = lambda op: None
    assert log.failed and await contents(log) == before, "reads go on"
    assert fold(await read_all(log, CONTROL_LOG)) == fold(control)
    await log.close()
    log = await opened(files)
    assert await contents(log) == before and fold(await read_all(log, CONTROL_LOG)) == fold(control)
    await log.compact(CONTROL_LOG, control[-1].position, fold)
    await log.close()
    assert verify("", files=files).whole


class HeldAt(SimulatedFiles):
    """Ops of one kind by the compacting thread wait for `gate`."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.gate = threading.Event()
        self.waiting = threading.Event()

    def do(self, op: Op) -> None:
        if op.kind == self.kind and "compact" in threading.current_thread().name and not self.gate.is_set():
            self.waiting.set()
            self.gate.wait()
        super().do(op)


async def _held(log: LocalLog, files: HeldAt) -> asyncio.Task[int]:
    tail = await log.tail(CONTROL_LOG)
    work = asyncio.create_task(log.compact(CONTROL_LOG, tail, fold))
    await asyncio.get_running_loop().run_in_executor(None, files.waiting.wait)
    return work


@pytest.mark.parametrize("kind", ["write", "sync", "sync_directory"])
async def test_reads_appends_and_checkpoints_go_on_meanwhile(kind: str) -> None:
    files = HeldAt(kind)
    log = await opened(files)
    await fill(log, 200)
    before, control = await contents(log), await read_all(log, CONTROL_LOG)
    work = await _held(log, files)
    assert await contents(log) == before
    assert fold(await read_all(log, CONTROL_LOG)) == fold(control)
    await fill(log, 30, seed=2)
    assert await log.load_checkpoint(A) is None
    assert not work.done()
    files.gate.set()
    assert await work > 0
    assert {name: records[: len(before[name])] for name, records in (await contents(log)).items()} == before
    await log.close()
    assert verify("", files=files).whole


@pytest.mark.parametrize("end", ["close", "cancel"])
@pytest.mark.parametrize("kind", ["write", "sync_directory"])
async def test_an_end_half_way_leaves_it_sound(kind: str, end: str) -> None:
    files = HeldAt(kind)
    log = await opened(files)
    await fill(log, 300)
    before, control = await contents(log), await read_all(log, CONTROL_LOG)
    work = await _held(log, files)
    if end == "cancel":
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        files.gate.set()
        await asyncio.get_running_loop().run_in_executor(log._compactor._thread, int)  # after what is under way
        assert 1 in list(formats(files.image()).values())[:-1], "nobody waits for it any more"
        await log.close()
    else:
        closing = asyncio.create_task(log.close())
        await asyncio.get_running_loop().run_in_executor(None, log._compactor._stopping.wait)
        files.gate.set()
        await closing
        await work
    assert 1 in list(formats(files.image()).values())[:-1], "it does not go on to the end"
    assert not any(name.endswith(".tmp") for name in files.image())
    assert verify("", files=files).whole
    log = await opened(files)
    assert await contents(log) == before and fold(await read_all(log, CONTROL_LOG)) == fold(control)
    await log.close()


async def test_it_is_given_up_when_the_log_fails() -> None:
    files = HeldAt("write")
    log = await opened(files)
    await fill(log, 300)
    work = await _held(log, files)
    files.fail = lambda op: OSError(errno.EIO, "input/output error") if op.kind == "sync" else None
    with pytest.raises(LogFailedError):
        await fill(log, 1, seed=2)
    files.fail = lambda op: None
    files.gate.set()
    assert await work == 0 and set(formats(files.image()).values()) == {1}
    with pytest.raises(LogFailedError):
        await log.compact(CONTROL_LOG, Position(PLENTY), fold)
    await log.close()


async def test_who_reads_slowly_while_it_runs_misses_nothing_and_meets_nothing_twice() -> None:
    files = SimulatedFiles()
    log = await opened(files, open_segments_max=1, index_cache_bytes_max=1)
    await fill(log, 600)
    before, control = await contents(log), await read_all(log, CONTROL_LOG)

    async def follow(name: LogId) -> list[LogRecord]:
        return await read_all(log, name, bytes_max=150)

    readers = [asyncio.create_task(follow(name)) for name in (A, B, CONTROL_LOG)]
    await log.compact(CONTROL_LOG, control[-1].position, fold)
    seen = [await reader for reader in readers]
    assert dict(zip(OTHERS, seen, strict=False)) == before
    assert fold(seen[2]) == fold(control)
    await log.close()


async def test_it_rests_between_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    files = SimulatedFiles()
    log = await opened(files, compact_rest_seconds=0.000_01)
    await fill(log, 200)
    rests: list[float] = []
    wait = threading.Event.wait
    monkeypatch.setattr("tidegrid.grid.journal.compaction._SLICE_SECONDS", 0.0)
    monkeypatch.setattr(
        threading.Event,
        "wait",
        lambda self, timeout=None: (rests.append(timeout) if timeout == 0.000_01 else None, wait(self, timeout))[1],
    )
    await log.compact(CONTROL_LOG, await log.tail(CONTROL_LOG), fold)
    assert len(rests) > 400, "after each record that is read, written or verified"
    await log.close()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.sets(st.integers(-1, 2), min_size=1), st.integers(0, 700)),
        st.tuples(st.just("ticks"), st.integers(1, 30), st.integers(0, 60)),
        st.tuples(st.just("compact"), st.integers(0, 100), st.just(0)),
        st.tuples(st.just("reopen"), st.just(0), st.just(0)),
    ),
    min_size=4,
    max_size=25,
)


@given(STEPS)
@settings(max_examples=60)
def test_it_agrees_with_a_twin_that_is_never_compacted(steps: Sequence[tuple[str, object, int]]) -> None:
    asyncio.run(_compare(steps))


async def _compare(steps: Sequence[tuple[str, object, int]]) -> None:
    files, twin_files = SimulatedFiles(), SimulatedFiles()
    log, twin = await opened(files), await opened(twin_files)
    epoch, through = 0, BEFORE_FIRST
    for kind, what, size in steps:
        epoch += size % 3
        if kind == "append":
            assert isinstance(what, set)
            names = [LogId(name) for name in sorted(what)]
            entries = [Entry(name, await twin.tail(name), Epoch(epoch), b"a" * size) for name in names]
            assert await log.append(entries) == await twin.append(entries)
        elif kind == "ticks":
            assert isinstance(what, int)
            for _ in range(what):
                entry = Entry(CONTROL_LOG, await twin.tail(CONTROL_LOG), Epoch(epoch), b"t" * size)
                assert await log.append([entry]) == await twin.append([entry])
        elif kind == "compact":
            assert isinstance(what, int)
            through = max(through, Position(await twin.tail(CONTROL_LOG) * what // 100))
            await log.compact(CONTROL_LOG, through, fold)
            newer = [record for record in await read_all(twin, CONTROL_LOG) if record.position > through]
            assert newer == [record for record in await read_all(log, CONTROL_LOG) if record.position > through]
        else:
            for one in (log, twin):
                await one.close()
            log, twin = await opened(files), await opened(twin_files)
    for name in (A, B, LogId(2)):
        assert await read_all(log, name) == await read_all(twin, name)
        for asked in range(epoch + 2):
            assert await log.position_before(name, Epoch(asked)) == await twin.position_before(name, Epoch(asked))
    assert fold(await read_all(log, CONTROL_LOG)) == fold(await read_all(twin, CONTROL_LOG))
    assert await log.tail(CONTROL_LOG) == await twin.tail(CONTROL_LOG)
    await log.close()
    await twin.close()
    assert verify("", files=files).whole
