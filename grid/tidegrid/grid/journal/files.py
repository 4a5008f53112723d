"""Files: the few operations on one directory that a log needs, passed in so that tests can record, fail and reorder them.

What each promises: `File.sync` makes contents and length durable; `Files.sync_directory` makes creations, renames and
removals durable; `rename` replaces atomically; anything else may or may not have reached the disk after a crash, in
any order, in pieces of 512-byte sectors. A lock goes away with its process.

Prior art: LevelDB's Env.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol

from tidegrid.grid.model.errors import InUseError

try:
    import fcntl
except ImportError:  # Windows: no advisory locks there, and no claim to run there either
    fcntl = None  # type: ignore[assignment]

_VECTORS_MAX = 1024  # IOV_MAX
_JOIN_BYTES_MAX = 64 * 1024  # below, copying into one buffer is cheaper than a vector
_ZEROS = bytes(1 << 20)
_DSYNC: int | None = getattr(os, "RWF_DSYNC", None)  # Linux
_UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})
NO_MORE_FILES = frozenset({errno.EMFILE, errno.ENFILE})  # only what is to be opened fails so: nothing is written then
FULL_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, *NO_MORE_FILES})


class File(Protocol):
    def pread(self, length: int, offset: int) -> bytes:
        """Fewer bytes only at the end of the file."""
        ...

    def pwritev(self, buffers: Sequence[bytes], offset: int) -> None:
        """Writes all buffers, one after the other, from `offset` on."""
        ...

    def pwritev_sync(self, buffers: Sequence[bytes], offset: int) -> None:
        """`pwritev`, and what it wrote is durable at the end; nothing is said of other writes."""
        ...

    def sync(self) -> None: ...

    def allocate(self, length: int) -> None:
        """The file is `length` bytes long, reads as zeros where nothing was written, and has its space reserved."""
        ...

    def truncate(self, length: int) -> None: ...

    def size(self) -> int: ...

    def close(self) -> None: ...


class Lock(Protocol):
    def release(self) -> None: ...


class Files(Protocol):
    """One directory. Names are plain file names in it. Errors are OSErrors, but for `lock`."""

    def path(self, name: str) -> str:
        """For people: how to find the file."""
        ...

    def prepare(self) -> None:
        """Creates the directory, durably, if it is missing."""
        ...

    def list(self) -> list[str]: ...

    def create(self, name: str) -> File:
        """A new, empty file, in place of an old one of that name."""
        ...

    def open(self, name: str, *, write: bool = False) -> File: ...

    def rename(self, old: str, new: str) -> None: ...

    def remove(self, name: str) -> None: ...

    def sync_directory(self) -> None: ...

    def lock(self, name: str, *, shared: bool = False) -> Lock:
        """Raises InUseError when another holder is in the way, in this process or another."""
        ...


class PosixFile:
    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def pread(self, length: int, offset: int) -> bytes:
        data = os.pread(self._descriptor, length, offset)
        if len(data) == length or not data:
            return data
        parts = [data]
        got = len(data)
        while got < length:
            data = os.pread(self._descriptor, length - got, offset + got)
            if not data:
                break
            parts.append(data)
            got += len(data)
        return b"".join(parts)

    def pwritev(self, buffers: Sequence[bytes], offset: int) -> None:
        if sum(map(len, buffers)) <= _JOIN_BYTES_MAX or not hasattr(os, "pwritev"):
            self._pwrite(b"".join(buffers), offset)
            return
        for first in range(0, len(buffers), _VECTORS_MAX):
            group = buffers[first : first + _VECTORS_MAX]
            length = sum(map(len, group))
            written = os.pwritev(self._descriptor, group, offset)
            if written < length:
                self._pwrite(memoryview(b"".join(group))[written:], offset + written)
            offset += length

    def pwritev_sync(self, buffers: Sequence[bytes], offset: int) -> None:
        # One system call, where there is one for both: each return from a call that let go of the interpreter's lock
        # has to win it back, which takes up to the switch interval (5 ms) while the event loop is busy.
        if _DSYNC is None or len(buffers) > _VECTORS_MAX:
            self.pwritev(buffers, offset)
            self.sync()
            return
        length = sum(map(len, buffers))
        if length <= _JOIN_BYTES_MAX:
            buffers = [b"".join(buffers)]
        try:
            written = os.pwritev(self._descriptor, buffers, offset, _DSYNC)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            written = 0
        if written < length:
            self._pwrite(memoryview(b"".join(buffers))[written:], offset + written)
            self.sync()

    def _pwrite(self, data: bytes | memoryview, offset: int) -> None:
        while True:
            written = os.pwrite(self._descriptor, data, offset)
            if written == len(data):
                return
            if written == 0:
                raise OSError(errno.EIO, "a write wrote nothing")
            data = memoryview(data)[written:]
            offset += written

    def sync(self) -> None:
        if sys.platform == "darwin" and fcntl is not None:
            fcntl.fcntl(self._descriptor, fcntl.F_FULLFSYNC)  # fsync alone stops at the drive's cache there
        elif hasattr(os, "fdatasync"):
            os.fdatasync(self._descriptor)  # includes the length
        else:
            os.fsync(self._descriptor)

    def allocate(self, length: int) -> None:
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(self._descriptor, 0, length)
                return
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
        for offset in range(
            0, length, len(_ZEROS)
        ):  # the file system cannot reserve: write, so that a full disk shows now
            self._pwrite(memoryview(_ZEROS)[: length - offset], offset)

    def truncate(self, length: int) -> None:
        os.ftruncate(self._descriptor, length)

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class PosixLock:
    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> PosixLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class PosixFiles:
    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = Path(directory)

    def path(self, name: str) -> str:
        return str(self._directory / name)

    def prepare(self) -> None:
        missing = [path for path in (self._directory, *self._directory.parents) if not path.exists()]
        self._directory.mkdir(parents=True, exist_ok=True)
        for path in missing:
            _sync_directory(path.parent)

    def list(self) -> list[str]:
        return os.listdir(self._directory)

    def create(self, name: str) -> PosixFile:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0)
        return PosixFile(os.open(self._directory / name, flags, 0o644))

    def open(self, name: str, *, write: bool = False) -> PosixFile:
        flags = (os.O_RDWR if write else os.O_RDONLY) | getattr(os, "O_CLOEXEC", 0)
        return PosixFile(os.open(self._directory / name, flags))

    def rename(self, old: str, new: str) -> None:
        os.replace(self._directory / old, self._directory / new)

    def remove(self, name: str) -> None:
        os.unlink(self._directory / name)

    def sync_directory(self) -> None:
        _sync_directory(self._directory)

    def lock(self, name: str, *, shared: bool = False) -> PosixLock:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        descriptor = os.open(self._directory / name, flags, 0o644)
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            if not shared:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            os.close(descriptor)
            who = f" (process {holder})" if holder else ""
            raise InUseError(
                f"{self._directory} is in use by another process{who}; stop that one first, or choose another directory",
                what=str(self._directory),
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        return PosixLock(descriptor)


def write_file(files: Files, name: str, parts: Iterable[bytes]) -> None:
    """Writes a small file whole under its name, or not at all, without making it durable: for what can be rebuilt."""
    temporary = name + ".tmp"
    file = files.create(temporary)
    try:
        file.pwritev(list(parts), 0)
    finally:
        file.close()
    files.rename(temporary, name)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
