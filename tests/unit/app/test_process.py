"""Signals: the first asks for an orderly end, the second ends at once. And what the process says while it reads its log."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from tidegrid.grid.app import process, recovery_progress
from tidegrid.grid.app.output import Output
from tidegrid.grid.app.process import Stopping
from tidegrid.grid.app.recovery_progress import RecoveryProgress
from tidegrid.grid.model.ids import PartitionId


async def test_the_first_signal_asks_and_the_second_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(process.os, "_exit", ended)
    said: list[str] = []
    stopping = Stopping(said.append)
    stopping.install()
    try:
        assert not stopping.requested.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        await stopping.requested.wait()
        assert said == ["SIGTERM"]
        with pytest.raises(SystemExit) as end:
            stopping._received(signal.SIGINT)
        assert end.value.code == 130
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().remove_signal_handler(number)


async def test_a_signal_ends_a_start_that_has_nothing_to_finish() -> None:
    stopping = Stopping(lambda _name: None)
    started = asyncio.Event()

    async def start() -> None:
        with stopping.cancels_this_task():
            started.set()
            await asyncio.Event().wait()

    starting = asyncio.create_task(start())
    await started.wait()
    stopping._received(signal.SIGTERM)
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert stopping.requested.is_set()

    async def serve() -> str:
        with stopping.cancels_this_task():
            pass
        return "drained"

    assert await serve() == "drained"


def test_a_long_recovery_is_told_and_a_short_one_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [100.0]
    monkeypatch.setattr(recovery_progress.time, "monotonic", lambda: clock[0])
    progress = RecoveryProgress(Output(as_json=False))
    progress(PartitionId(0), 1_000)
    progress.end()
    assert capsys.readouterr().err == ""

    progress = RecoveryProgress(Output(as_json=False))
    for now, partition, entries in ((101.0, 0, 500_000), (103.0, 0, 900_000), (104.0, 1, 100_000), (108.5, 1, 200_000)):
        clock[0] = now
        progress(PartitionId(partition), entries)
    progress.end()
    assert capsys.readouterr().err.splitlines() == [
        "reading the log: 900,000 entries, partition 0 ...",
        "reading the log: 1,100,000 entries, partition 1 ...",
        "read 1,100,000 entries in 8.5 s (129,412/s)",
    ]
