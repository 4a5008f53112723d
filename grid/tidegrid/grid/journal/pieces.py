"""Piece files in a directory of their own (log/piece.py): written beside, durable, then named; damaged ones do not count.

A process that is killed leaves a file without its name, which the next one writes over. So what has its name is whole,
unless the disk has changed it since, which a checksum shows.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any, Final

from tidegrid.grid.journal.files import Files
from tidegrid.grid.log.piece import Label, PieceEncoder, PieceIndex, check, chunks, read_index
from tidegrid.grid.model.errors import FormatError

SYNC_BYTES: Final = 512 * 1024  # in slices, so that a sync of the log beside it never waits for all of a piece


class PieceWriter:
    """Lifecycle: made, `write` as often as wanted, then `commit` or `discard`. Errors are OSErrors."""

    def __init__(self, files: Files, name: str, identity: bytes) -> None:
        self._files = files
        self._name = name
        self._temporary = f"{name}.{os.getpid()}.tmp"
        self._encoder = PieceEncoder(identity)
        self._offset = self._synced = 0
        self._file = files.create(self._temporary)
        self._put(self._encoder.header())

    def write(self, label: Label, data: bytes) -> None:
        self._put(self._encoder.chunk(label, data))

    def commit(self, summary: Any) -> None:
        self._put(self._encoder.end(summary))
        self._file.sync()
        self._file.close()
        self._files.rename(self._temporary, self._name)
        self._files.sync_directory()

    def discard(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
            self._files.remove(self._temporary)

    def _put(self, data: bytes) -> None:
        self._file.pwritev([data], self._offset)
        self._offset += len(data)
        if self._offset - self._synced >= SYNC_BYTES:
            self._file.sync()
            self._synced = self._offset


class Piece:
    """A piece that is there. Raises FormatError from every method when it is damaged, OSError when it cannot be read."""

    def __init__(self, files: Files, name: str, identity: bytes) -> None:
        self._file = files.open(name)
        try:
            self._index: PieceIndex = read_index(self._file.pread, self._file.size(), identity)
        except BaseException:
            self._file.close()
            raise

    @property
    def summary(self) -> Any:
        return self._index.summary

    @property
    def labels(self) -> list[Label]:
        return list(self._index.places)

    def chunks(self, label: Label) -> Iterator[bytes]:
        return chunks(self._file.pread, self._index, label)

    def check(self) -> None:
        check(self._file.pread, self._index)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Piece:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def whole(files: Files, name: str, identity: bytes) -> Any | None:
    """The summary and labels of a piece, every byte of it checked; None: it is not there, or does not count."""
    try:
        with Piece(files, name, identity) as piece:
            piece.check()
            return piece.summary, piece.labels
    except (FormatError, OSError):
        return None
