"""What the local log does beyond the contract: shared syncs, bounded caches, and the same answers as a log in memory."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from tidegrid.grid.journal import writer
from tidegrid.grid.journal.local import LocalLog
from tidegrid.grid.journal.options import LocalLogOptions
from tidegrid.grid.journal.verify import verify
from tidegrid.grid.log.entry import Entry
from tidegrid.grid.log.memory_state import MemoryLogState
from tidegrid.grid.model.errors import ConfigurationError, StoppingError
from tidegrid.grid.model.ids import BEFORE_FIRST, Epoch, LogId, Position

from tests.faults.log.simulated_files import Op, SimulatedFiles

A = LogId(0)
PLENTY = 1 << 30


def entry(log: int, expected: Position = BEFORE_FIRST, payload: bytes = b"x", epoch: int = 1) -> Entry:
    return Entry(LogId(log), expected, Epoch(epoch), payload)


def count(files: SimulatedFiles, kind: str) -> int:
    return sum(isinstance(op, Op) and op.kind == kind for op in files.trace)


async def test_concurrent_appends_share_one_write_and_one_sync() -> None:
    files = SimulatedFiles()
    log = await LocalLog.open("", files=files)
    writes, syncs = count(files, "write"), count(files, "sync")
    await asyncio.gather(*(log.append([entry(number)]) for number in range(50)))
    assert (count(files, "write") - writes, count(files, "sync") - syncs) == (1, 1)
    await log.close()


class HeldFiles(SimulatedFiles):
    """Syncs wait for `gate`, in the thread that makes them."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = threading.Event()

    def do(self, op: Op) -> None:
        if op.kind == "sync" and not self.gate.is_set():
            self.waiting.set()
            self.gate.wait()
        super().do(op)


async def test_what_arrives_during_a_sync_forms_the_next_batch() -> None:
    files = HeldFiles()
    log = await LocalLog.open("", files=files, options=LocalLogOptions(inline_sync_bytes_max=0))
    files.gate.clear()
    first = asyncio.ensure_future(log.append([entry(0)]))
    await asyncio.get_running_loop().run_in_executor(None, files.waiting.wait)
    others = [asyncio.ensure_future(log.append([entry(number)])) for number in range(1, 30)]
    late = asyncio.ensure_future(log.append([entry(0)]))
    await asyncio.sleep(0)
    assert not first.done() and await log.read(A, BEFORE_FIRST, PLENTY) == [], "not durable, not visible"
    syncs = count(files, "sync")
    files.gate.set()
    await asyncio.gather(first, *others)
    assert count(files, "sync") - syncs == 2
    with pytest.raises(Exception, match="someone else appended"):
        await late
    await log.close()


async def test_a_small_batch_is_synced_on_the_loop_and_others_in_the_thread() -> None:
    files = SimulatedFiles()
    threads: list[str] = []

    def note(op: Op) -> None:
        if op.kind == "sync":
            threads.append(threading.current_thread().name)

    options = LocalLogOptions(inline_sync_bytes_max=1000, inline_sync_seconds_max=60)
    log = await LocalLog.open("", files=files, options=options)
    files.fail = note
    await log.append([entry(0)])
    await asyncio.gather(log.append([entry(2)]), log.append([entry(3)]))
    assert threads == [threading.main_thread().name] * 2
    await log.append([entry(1, payload=bytes(2000))])
    assert threads[2:] == ["tidegrid-log-commit"]
    files.fail = lambda op: None
    await log.close()


async def test_a_wait_for_the_interpreter_in_the_thread_is_not_taken_for_a_slow_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else one busy moment would keep a quick disk in the thread for as long as the loop is busy."""
    log = await LocalLog.open("", files=SimulatedFiles(), options=LocalLogOptions(inline_sync_bytes_max=0))
    moments = iter([moment for start in range(12) for moment in (start, start + (0.0001 if start % 3 == 0 else 0.01))])
    monkeypatch.setattr(writer, "time", SimpleNamespace(perf_counter=lambda: next(moments)))
    tail = Position(0)
    for _ in range(12):
        (tail,) = await log.append([entry(1, tail)])
    assert log._writer.sync_seconds == pytest.approx(0.0001)
    monkeypatch.undo()
    await log.close()


@pytest.mark.parametrize("seed", range(6))
async def test_it_answers_as_a_log_in_memory_does(seed: int) -> None:
    chooser = random.Random(seed)
    files = SimulatedFiles()
    options = LocalLogOptions(
        segment_bytes=chooser.choice([8192, 20_000]),
        inline_sync_bytes_max=chooser.choice([0, 500]),
        index_cache_bytes_max=chooser.choice([1, 2000, 1 << 20]),
        open_segments_max=chooser.choice([1, 3]),
    )
    log = await LocalLog.open("", files=files, options=options)
    model = MemoryLogState(0)
    ours: dict[Position, Position] = {BEFORE_FIRST: BEFORE_FIRST}  # of the model -> of the log
    epoch = 1
    for _ in range(120):
        epoch += chooser.randrange(2)
        names = chooser.sample(range(-1, 4), chooser.choice([1, 1, 1, 2, 5])) if chooser.random() < 0.5 else [0]
        payloads = [chooser.randbytes(chooser.choice([0, 5, 90, 400, 1300])) for _ in names]
        expected = [model.tail(LogId(name)) for name in names]
        entries = list(zip(names, expected, payloads, strict=True))
        positions = model.append([entry(name, tail, payload, epoch) for name, tail, payload in entries])
        landed = await log.append([entry(name, ours[tail], payload, epoch) for name, tail, payload in entries])
        ours.update(zip(positions, landed, strict=True))
        if chooser.random() < 0.05:
            await log.close()
            log = await LocalLog.open("", files=files, options=options)
        name = LogId(chooser.randrange(-1, 4))
        assert await log.tail(name) == ours[model.tail(name)]
        after = chooser.choice([BEFORE_FIRST, *(record.position for record in model.read(name, BEFORE_FIRST, PLENTY))])
        expected_records = [(ours[at], of, payload) for at, of, payload in model.read(name, after, PLENTY)]
        bytes_max = chooser.choice([1, 100, 500, 3000, PLENTY])
        found: list[tuple[Position, Epoch, bytes]] = []
        cursor = ours[after]
        while some := await log.read(name, cursor, bytes_max):
            found += some
            cursor = some[-1].position
        assert found == expected_records
        asked = Epoch(chooser.randrange(epoch + 2))
        assert await log.position_before(name, asked) == ours[model.position_before(name, asked)]
    await log.close()
    assert verify("", files=files).whole


async def test_reads_go_on_while_segments_roll() -> None:
    files = SimulatedFiles()
    log = await LocalLog.open("", files=files, options=LocalLogOptions(segment_bytes=8192))
    done = False

    async def read() -> int:
        rounds = 0
        while not done:
            after, seen = BEFORE_FIRST, 0
            while some := await log.read(A, after, 2000):
                seen, after = seen + len(some), some[-1].position
            assert seen <= 150
            rounds += 1
            await asyncio.sleep(0)  # a read of what is in memory does not wait, so give the others a turn
        return rounds

    readers = [asyncio.ensure_future(read()) for _ in range(3)]
    tail = BEFORE_FIRST
    for number in range(150):
        (tail,) = await log.append([entry(0, tail, bytes(700), number)])
    done = True
    assert all(rounds > 0 for rounds in await asyncio.gather(*readers))
    await log.close()


async def test_caches_stay_within_their_bounds() -> None:
    files = SimulatedFiles()
    options = LocalLogOptions(segment_bytes=8192, index_cache_bytes_max=3000, open_segments_max=2)
    log = await LocalLog.open("", files=files, options=options)
    tail = BEFORE_FIRST
    for number in range(100):
        (tail,) = await log.append([entry(0, tail, bytes(700), number)])
    after = BEFORE_FIRST
    while some := await log.read(A, after, 1):
        after = some[-1].position
    history = log._history
    assert len(history.bases) > 15
    assert len(history._open) <= 2
    assert sum(index.size_bytes for index in history._indexes.values()) == history._indexes_bytes <= 3000
    await log.close()


async def test_a_start_that_is_given_up_leaves_the_directory_free(tmp_path: Path) -> None:
    opening = asyncio.ensure_future(LocalLog.open(tmp_path / "log", options=LocalLogOptions(segment_bytes=8192)))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    while True:  # the start goes on in its thread, and lets go
        try:
            log = await LocalLog.open(tmp_path / "log")
            break
        except Exception as error:
            assert "in use" in str(error)
            await asyncio.sleep(0)
    await log.close()


async def test_opening_and_closing_writes_nothing_new() -> None:
    files = SimulatedFiles()
    log = await LocalLog.open("", files=files)
    await log.append([entry(0)])
    await log.close()
    image = files.image()
    for _ in range(3):
        log = await LocalLog.open("", files=files)
        await log.close()
    assert files.image() == image


async def test_no_append_after_close() -> None:
    log = await LocalLog.open("", files=SimulatedFiles())
    await log.close()
    with pytest.raises(StoppingError):
        await log.position_before(A, Epoch(1))


@pytest.mark.parametrize(
    "options",
    [
        LocalLogOptions(segment_bytes=4096),
        LocalLogOptions(batch_bytes_max=0),
        LocalLogOptions(open_segments_max=0),
        LocalLogOptions(record_bytes_max=1 << 31),
    ],
)
async def test_options_that_make_no_sense_are_refused(options: LocalLogOptions) -> None:
    with pytest.raises(ConfigurationError):
        await LocalLog.open("", options=options, files=SimulatedFiles())


async def test_verify_tells_what_is_there(tmp_path: Path) -> None:
    log = await LocalLog.open(tmp_path, options=LocalLogOptions(segment_bytes=8192))
    tail = BEFORE_FIRST
    for number in range(20):
        (tail, _) = await log.append([entry(0, tail, bytes(700), number), entry(number + 1, BEFORE_FIRST, b"", number)])

    async def chunks():  # type: ignore[no-untyped-def]
        yield b"state"

    await log.save_checkpoint(A, tail, chunks())
    await log.close()
    seen: list[tuple[int, int]] = []
    report = verify(tmp_path, lambda done, total: seen.append((done, total)))
    assert report.whole and (report.records, report.checkpoints, report.torn_bytes) == (40, 1, 0)
    assert report.batches == 21  # the last says that all before it is durable
    assert report.segments == sum(name.endswith(".wal") for name in os.listdir(tmp_path)) > 3
    assert (report.logs[A].records, report.logs[A].payload_bytes, report.logs[A].tail) == (20, 14_000, (tail, 19))
    assert seen[-1][0] == seen[-1][1] == report.bytes_read
    assert seen == sorted(seen)
