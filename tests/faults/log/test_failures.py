"""What a disk refuses while the log runs: syncs that fail, space that runs out, a directory that is taken."""

from __future__ import annotations

import asyncio
import errno
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tidegrid.grid.journal.local import LocalLog
from tidegrid.grid.journal.options import LocalLogOptions
from tidegrid.grid.journal.verify import verify
from tidegrid.grid.log.entry import Entry
from tidegrid.grid.model.errors import (
    ConfigurationError,
    InUseError,
    LogFailedError,
    StorageFullError,
    UnavailableError,
    WrongTailError,
)
from tidegrid.grid.model.ids import BEFORE_FIRST, Epoch, LogId, Position

from tests.faults.log.simulated_files import Op, SimulatedFile, SimulatedFiles
from tests.faults.log.workload import OPTIONS, Workload, check_contents, contents

THREAD_ONLY = LocalLogOptions(segment_bytes=8192, inline_sync_bytes_max=0)
A = LogId(0)


@pytest.mark.parametrize("options", [OPTIONS, THREAD_ONLY], ids=["inline", "thread"])
@pytest.mark.parametrize("kind", ["sync", "write"])
async def test_a_failed_write_or_sync_stops_the_log_for_good(kind: str, options: LocalLogOptions) -> None:
    files = SimulatedFiles()
    work = Workload(files, 1)
    log = await LocalLog.open("", options=options, files=files)
    await work.one(log, [100, 100])
    failures = 0

    def fail_once(op: Op) -> OSError | None:
        nonlocal failures
        failures += op.kind == kind
        return OSError(errno.EIO, "input/output error") if op.kind == kind and failures == 1 else None

    files.fail = fail_once
    with pytest.raises(LogFailedError, match="input/output error"):
        await work.one(log, [50])
    done = len(files.trace)
    for _ in range(3):
        with pytest.raises(LogFailedError):
            await work.one(log, [10])
        with pytest.raises(LogFailedError):
            await work.checkpoint(log, A, 10)
    assert log.failed
    assert check_contents(await contents(log), work.appends[:1], {0}) == 1, "reads go on"
    await log.close()
    assert len(files.trace) == done, "nothing is written after the failure, not at the close either"


async def test_a_failure_reaches_all_that_waited() -> None:
    files = SimulatedFiles()
    log = await LocalLog.open("", options=THREAD_ONLY, files=files)
    files.fail = lambda op: OSError(errno.EIO, "input/output error") if op.kind == "sync" else None
    waiting = [
        asyncio.ensure_future(log.append([Entry(LogId(number), BEFORE_FIRST, Epoch(1), b"x")])) for number in range(6)
    ]
    await asyncio.sleep(0)
    waiting.append(asyncio.ensure_future(log.append([Entry(LogId(9), BEFORE_FIRST, Epoch(1), b"x")])))
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(outcome, LogFailedError) for outcome in outcomes)
    assert len({id(outcome) for outcome in outcomes}) == len(outcomes)
    await log.close()


async def test_no_space_for_a_segment_refuses_writes_and_recovers() -> None:
    files = SimulatedFiles()
    work = Workload(files, 1)
    log = await LocalLog.open("", options=OPTIONS, files=files)
    await work.one(log, [3000], [A])
    files.fail = lambda op: OSError(errno.ENOSPC, "no space left") if op.kind == "allocate" else None
    before = files.image()
    for _ in range(3):
        with pytest.raises(StorageFullError):
            await log.append(
                [Entry(A, await log.tail(A), Epoch(50), bytes(2000)), Entry(LogId(1), BEFORE_FIRST, Epoch(50), b"x")]
            )
        assert files.image() == before, "nothing is left behind"
        assert check_contents(await contents(log), work.appends, {0}) == 1, "reads go on"
        assert await log.tail(LogId(1)) == BEFORE_FIRST
    await work.one(log, [500], [A])  # this one still has room
    files.fail = lambda op: None
    await work.one(log, [2000, 30], [A, LogId(1)])
    await work.several(log, [100, 100, 100])
    await log.close()
    log = await LocalLog.open("", options=OPTIONS, files=files)
    assert check_contents(await contents(log), work.appends, set(range(len(work.appends)))) == len(work.appends)
    await log.close()


async def test_no_space_is_answered_to_all_that_were_sequenced_after_it() -> None:
    files = SimulatedFiles()
    log = await LocalLog.open("", options=LocalLogOptions(segment_bytes=8192, batch_bytes_max=1), files=files)
    (tail,) = await log.append([Entry(A, BEFORE_FIRST, Epoch(1), bytes(3000))])
    files.fail = lambda op: OSError(errno.EDQUOT, "quota exceeded") if op.kind == "allocate" else None
    outcomes = await asyncio.gather(
        log.append([Entry(A, tail, Epoch(2), bytes(2000))]),
        log.append([Entry(LogId(1), BEFORE_FIRST, Epoch(2), b"small")]),
        log.append([Entry(A, tail, Epoch(2), b"undecided until the first is, and then it fits")]),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [StorageFullError, StorageFullError, tuple]
    assert await log.tail(A) == outcomes[2][0]  # type: ignore[index]
    with pytest.raises(WrongTailError) as caught:
        await log.append([Entry(A, tail, Epoch(2), b"late")])
    assert caught.value.actual == await log.tail(A)
    await log.close()


async def test_no_space_for_a_checkpoint_keeps_the_old_one() -> None:
    files = SimulatedFiles()
    work = Workload(files, 1)
    log = await LocalLog.open("", options=OPTIONS, files=files)
    await work.one(log, [100], [A])
    await work.checkpoint(log, A, 10)
    names = set(files.names)
    files.fail = lambda op: (
        OSError(errno.ENOSPC, "no space left") if op.kind == "write" and len(op.data) > 5000 else None
    )
    await work.one(log, [100], [A])
    with pytest.raises(StorageFullError):
        await work.checkpoint(log, A, 10_000)
    found = await log.load_checkpoint(A)
    assert found is not None and list(found.chunks) == [bytes(10), b"end"]
    await work.one(log, [100], [A])
    await log.close()
    assert set(files.names) == names


async def test_no_space_at_the_first_start_is_said_and_leaves_nothing() -> None:
    files = SimulatedFiles()
    files.fail = lambda op: OSError(errno.ENOSPC, "no space left") if op.kind == "allocate" else None
    with pytest.raises(StorageFullError):
        await LocalLog.open("", options=OPTIONS, files=files)
    assert files.names == {} and not files.locked


async def test_an_index_that_cannot_be_written_does_no_harm() -> None:
    files = SimulatedFiles()
    work = Workload(files, 1)
    log = await LocalLog.open("", options=OPTIONS, files=files)
    files.fail = lambda op: OSError(errno.ENOSPC, "no space left") if op.name.endswith(".idx.tmp") else None
    for _ in range(8):
        await work.one(log, [900, 900])
    assert check_contents(await contents(log), work.appends, set(range(8))) == 8
    await log.close()
    log = await LocalLog.open("", options=OPTIONS, files=files)
    assert check_contents(await contents(log), work.appends, set(range(8))) == 8
    await log.close()


HOLD = """
import asyncio, sys
from tidegrid.grid.journal.local import LocalLog

async def main():
    log = await LocalLog.open(sys.argv[1])
    print("open", flush=True)
    sys.stdin.readline()
    await log.close()

asyncio.run(main())
"""


async def test_a_second_process_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    holder = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", HOLD, str(tmp_path / "log")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin is not None and holder.stdout is not None
    try:
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(InUseError, match=str(holder.pid)) as caught:
            await LocalLog.open(tmp_path / "log")
        assert caught.value.what == str(tmp_path / "log")
        with pytest.raises(InUseError):
            verify(tmp_path / "log")
    finally:
        holder.kill()
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()
    log = await LocalLog.open(tmp_path / "log")
    with pytest.raises(InUseError):
        await LocalLog.open(tmp_path / "log")
    await log.close()
    assert verify(tmp_path / "log").whole


async def test_a_directory_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(ConfigurationError, match="choose another"):
        await LocalLog.open(tmp_path / "file")
    with pytest.raises(ConfigurationError, match="no log"):
        verify(tmp_path / "nothing")
    with pytest.raises(ConfigurationError, match="no log"):
        verify(tmp_path)


class FewFiles(SimulatedFiles):
    exhausted = False

    def create(self, name: str) -> SimulatedFile:
        if self.exhausted:
            raise OSError(errno.EMFILE, "too many open files")
        return super().create(name)

    def open(self, name: str, *, write: bool = False) -> SimulatedFile:
        if self.exhausted:
            raise OSError(errno.EMFILE, "too many open files")
        return super().open(name, write=write)


async def test_a_log_that_cannot_be_read_for_a_while_says_so_and_takes_appends() -> None:
    files = FewFiles()
    log = await LocalLog.open("", options=replace(OPTIONS, open_segments_max=1), files=files)
    positions = [BEFORE_FIRST]
    while len([name for name in files.names if name.endswith(".wal")]) < 4:
        positions += await log.append([Entry(A, positions[-1], Epoch(len(positions)), b"x" * 500)])
    files.exhausted = True
    with pytest.raises(UnavailableError, match=r"could not be read .*too many open files"):
        await log.read(A, BEFORE_FIRST, 1 << 20)
    positions += await log.append([Entry(A, positions[-1], Epoch(len(positions)), b"last")])
    files.exhausted = False
    found: list[Position] = []
    while records := await log.read(A, found[-1] if found else BEFORE_FIRST, 1 << 20):
        found += [record.position for record in records]
    assert found == positions[1:] and not log.failed
    await log.close()


async def test_for_want_of_open_files_a_checkpoint_and_a_new_segment_wait_and_the_log_lives_on() -> None:
    files = FewFiles()
    work = Workload(files, 1)
    log = await LocalLog.open("", options=OPTIONS, files=files)
    await work.one(log, [100])
    files.exhausted = True
    with pytest.raises(StorageFullError, match=r"no more files can be opened .*ulimit"):
        await work.checkpoint(log, A, 10)
    assert not log.failed
    with pytest.raises(StorageFullError, match="no more files can be opened"):
        for _ in range(100):
            await work.one(log, [500])
    assert not log.failed
    files.exhausted = False
    await work.one(log, [500])
    await work.checkpoint(log, A, 10)
    await log.close()
