"""Checkpoint files of a log directory: written in slices beside the appends, loaded whole or not at all.

A new one is durable under its final name before the older one of that log is removed, so there is always one. A
damaged one costs time, not data: the raw history is kept, and the owner replays the log instead.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from tidegrid.grid.journal.files import File, Files
from tidegrid.grid.log.checkpoint import (
    CHECKPOINT_HEADER_BYTES,
    CheckpointEncoder,
    CheckpointHeader,
    decode_checkpoint_header,
    decode_chunks,
)
from tidegrid.grid.log.segment import TEMPORARY_SUFFIX, checkpoint_name, checkpoint_of
from tidegrid.grid.model.errors import CorruptionError, FormatError
from tidegrid.grid.model.ids import LogId, Position

logger = logging.getLogger(__name__)


class CheckpointWriter:
    """Lifecycle: made, `write` as often as wanted, then `commit` or `discard`. Errors are OSErrors."""

    def __init__(self, files: Files, salt: int, log: LogId, position: Position, sync_bytes: int, *, sync: bool) -> None:
        self._files = files
        self._name = checkpoint_name(log, position)
        self._log = log
        self._encoder = CheckpointEncoder(salt, CheckpointHeader(log, position))
        self._sync = sync
        self._sync_bytes = sync_bytes
        self._synced = 0
        self._offset = 0
        self._file = files.create(self._name + TEMPORARY_SUFFIX)
        self._put(self._encoder.header())

    def write(self, data: bytes) -> None:
        self._put(self._encoder.chunk(data), data)
        if self._sync and self._offset - self._synced >= self._sync_bytes:
            self._file.sync()
            self._synced = self._offset

    def commit(self) -> None:
        self._put(self._encoder.footer())
        if self._sync:
            self._file.sync()
        self._file.close()
        self._files.rename(self._name + TEMPORARY_SUFFIX, self._name)
        if self._sync:
            self._files.sync_directory()
        for name in names_of(self._files, self._log):
            if name != self._name:
                with contextlib.suppress(OSError):  # an old one left over does no harm
                    self._files.remove(name)

    def discard(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
            self._files.remove(self._name + TEMPORARY_SUFFIX)

    def _put(self, *parts: bytes) -> None:
        self._file.pwritev(parts, self._offset)
        self._offset += sum(map(len, parts))


def names_of(files: Files, log: LogId) -> list[str]:
    """The checkpoints of a log, newest first."""
    found = [(of[1], name) for name in files.list() if (of := checkpoint_of(name)) is not None and of[0] == log]
    return [name for _, name in sorted(found, reverse=True)]


def load(files: Files, salt: int, log: LogId) -> tuple[Position, Iterator[bytes]] | None:
    """The newest whole checkpoint of `log`; its chunks are read, and checked again, as they are asked for."""
    for name in names_of(files, log):
        try:
            header = _check(files, salt, name)
        except FormatError as error:
            logger.warning(
                "checkpoint %s is damaged at offset %s (%s); the log is replayed from before it",
                files.path(name),
                error.fields.get("offset", 0),
                error.message,
            )
            continue
        return header.position, _chunks(files, salt, name)
    return None


def positions(files: Files, salt: int) -> dict[LogId, Position]:
    """Of each log, the newest position that a checkpoint with a valid header claims."""
    newest: dict[LogId, Position] = {}
    for name in files.list():
        if checkpoint_of(name) is None:
            continue
        with contextlib.suppress(FormatError, OSError):
            header = _header(files, salt, name)
            newest[header.log] = max(newest.get(header.log, header.position), header.position)
    return newest


def check(files: Files, salt: int, name: str) -> CheckpointHeader:
    """Reads all of a checkpoint. Raises CorruptionError."""
    try:
        return _check(files, salt, name)
    except FormatError as error:
        raise _corrupt(files, name, error) from None


def _check(files: Files, salt: int, name: str) -> CheckpointHeader:
    header = _header(files, salt, name)
    file = files.open(name)
    try:
        for _ in decode_chunks(file.pread, salt):
            pass
    finally:
        file.close()
    return header


def _header(files: Files, salt: int, name: str) -> CheckpointHeader:
    file: File = files.open(name)
    try:
        header = decode_checkpoint_header(file.pread(CHECKPOINT_HEADER_BYTES, 0), salt)
    finally:
        file.close()
    if checkpoint_of(name) != header:
        raise FormatError("the checkpoint is of another log or position than its name says", offset=0)
    return header


def _chunks(files: Files, salt: int, name: str) -> Iterator[bytes]:
    try:
        file = files.open(name)
    except FileNotFoundError as error:
        raise CorruptionError(
            f"checkpoint {files.path(name)} was replaced while it was read; load again", file=files.path(name), offset=0
        ) from error
    try:
        yield from decode_chunks(file.pread, salt)
    except FormatError as error:
        raise _corrupt(files, name, error) from None
    finally:
        file.close()


def _corrupt(files: Files, name: str, error: FormatError) -> CorruptionError:
    offset = error.fields.get("offset", 0)
    path = files.path(name)
    return CorruptionError(
        f"{path} is damaged at offset {offset}: {error.message}. Remove the file; the log is replayed instead",
        file=path,
        offset=offset,
    )
