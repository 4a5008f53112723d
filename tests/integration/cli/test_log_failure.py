"""A log that fails under a serving grid: the process says so and ends, and what was acknowledged is there."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from tidegrid.client import connect
from tidegrid.grid.app.commands import serve as serve_command
from tidegrid.grid.app.config import ServeOptions
from tidegrid.grid.app.process import Stopping
from tidegrid.grid.app.serving import serve
from tidegrid.grid.journal.files import PosixFile
from tidegrid.grid.model.errors import GridError, LogFailedError


async def test_the_process_ends_with_what_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ServeOptions(data=tmp_path / "data", port=0)
    with pytest.raises(LogFailedError, match="Input/output error"):
        async with serve(options) as serving, connect(serving.nodes[0].address, deadline=2) as grid:
            numbers = await grid.create_map("numbers", key=("n:int",))
            acknowledged = await numbers.put(1, "one")

            def broken(*_: object) -> None:
                raise OSError(errno.EIO, "Input/output error")

            monkeypatch.setattr(PosixFile, "pwritev", broken)
            monkeypatch.setattr(PosixFile, "sync", broken)
            if hasattr(PosixFile, "pwritev_sync"):
                monkeypatch.setattr(PosixFile, "pwritev_sync", broken)
            with pytest.raises(GridError):
                await numbers.put(2, "two")
            await serve_command._until_stopped(Stopping(lambda _name: None), serving.grid)
    monkeypatch.undo()
    async with serve(options) as serving, connect(serving.nodes[0].address) as grid:
        entry = await grid.map("numbers").get(1)
        assert entry is not None and (entry.value, entry.version) == ("one", acknowledged.version)
