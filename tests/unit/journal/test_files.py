"""The real files: long writes, writes in part, file systems that cannot reserve, locks."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from tidegrid.grid.journal.files import PosixFiles
from tidegrid.grid.model.errors import InUseError


@pytest.fixture
def files(tmp_path: Path) -> PosixFiles:
    found = PosixFiles(tmp_path / "a" / "b")
    found.prepare()
    found.prepare()
    return found


@pytest.mark.parametrize("count", [1, 3, 1024, 2500])
@pytest.mark.parametrize("size", [0, 1, 700])
def test_buffers_are_written_end_to_end(files: PosixFiles, count: int, size: int) -> None:
    file = files.create("x")
    buffers = [bytes([number % 251]) * size for number in range(count)]
    file.pwritev(buffers, 5)
    file.sync()
    assert file.pread(1 << 22, 5) == b"".join(buffers)
    buffers.reverse()
    file.pwritev_sync(buffers, 7)
    assert file.pread(1 << 22, 7) == b"".join(buffers)
    file.close()
    file.close()


def test_writes_in_part_are_gone_on_with(files: PosixFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    vector, single, pread = os.pwritev, os.pwrite, os.pread
    monkeypatch.setattr(
        os, "pwritev", lambda fd, buffers, offset, *flags: vector(fd, [b"".join(buffers)[:70_001]], offset, *flags)
    )
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: single(fd, bytes(data[:999]), offset))
    monkeypatch.setattr(os, "pread", lambda fd, length, offset: pread(fd, min(length, 1234), offset))
    file = files.create("x")
    buffers = [os.urandom(30_000) for _ in range(5)]
    file.pwritev(buffers, 100)
    assert file.pread(150_000, 100) == b"".join(buffers)
    assert file.pread(150_001, 100) == b"".join(buffers)
    buffers.reverse()
    file.pwritev_sync(buffers, 3)
    assert file.pread(150_000, 3) == b"".join(buffers)
    file.close()


@pytest.mark.parametrize("size", [50, 100_000])
def test_writing_and_syncing_where_there_is_no_call_for_both(
    files: PosixFiles, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    synced: list[int] = []
    sync, vector = os.fdatasync, os.pwritev

    def refuse(descriptor: int, buffers: list[bytes], offset: int, *flags: int) -> int:
        if flags:
            raise OSError(errno.EOPNOTSUPP, "not supported")
        return vector(descriptor, buffers, offset)

    monkeypatch.setattr(os, "pwritev", refuse)
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: (synced.append(descriptor), sync(descriptor)))
    file = files.create("x")
    data = os.urandom(size)
    file.pwritev_sync([b"head", data], 1)
    monkeypatch.setattr("tidegrid.grid.journal.files._DSYNC", None)
    file.pwritev_sync([b"head", data], size + 5)
    assert file.pread(1 << 20, 0) == b"\0" + (b"head" + data) * 2
    assert len(synced) == 2
    file.close()


def test_a_write_that_writes_nothing_is_an_error(files: PosixFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: 0)
    file = files.create("x")
    with pytest.raises(OSError, match="wrote nothing"):
        file.pwritev([b"x"], 0)
    file.close()


def test_space_is_reserved_also_where_the_file_system_cannot(
    files: PosixFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(code: int) -> None:
        def fallocate(descriptor: int, offset: int, length: int) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "posix_fallocate", fallocate)

    size = (1 << 20) + 17
    for code in (None, errno.EOPNOTSUPP):
        if code is not None:
            refuse(code)
        file = files.create("x")
        file.allocate(size)
        assert file.size() == size and file.pread(size, 0) == bytes(size)
        file.truncate(10)
        assert file.size() == 10
        file.close()
    refuse(errno.ENOSPC)
    file = files.create("x")
    with pytest.raises(OSError, match="space"):
        file.allocate(size)
    file.close()


def test_names(files: PosixFiles) -> None:
    files.create("x").close()
    files.rename("x", "y")
    files.sync_directory()
    assert files.list() == ["y"]
    with pytest.raises(FileNotFoundError):
        files.open("x")
    file = files.open("y")
    with pytest.raises(OSError, match="descriptor"):
        file.pwritev([b"no"], 0)
    file.close()
    files.remove("y")
    assert files.list() == []


def test_locks(files: PosixFiles) -> None:
    first, second = files.lock("L", shared=True), files.lock("L", shared=True)
    with pytest.raises(InUseError):
        files.lock("L")
    first.release()
    second.release()
    with files.lock("L"), pytest.raises(InUseError, match=str(os.getpid())):
        files.lock("L", shared=True)
    files.lock("L").release()
