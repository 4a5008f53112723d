"""Where the bases of generations are (ring/generations.py): beside the pieces of the regeneration that made them.

A grid in memory keeps them in memory. A base goes when no generation rests on it any more: at the next regeneration.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from pathlib import Path

from tidegrid.grid.engine.pieces import base_label
from tidegrid.grid.journal.files import PosixFiles
from tidegrid.grid.journal.local import LocalLog
from tidegrid.grid.journal.pieces import Piece
from tidegrid.grid.journal.seam import Log
from tidegrid.grid.model.errors import CorruptionError, FormatError
from tidegrid.grid.model.ids import PartitionId
from tidegrid.grid.runtime.replay_plan import DIRECTORY, ReplayPlan, base_name, piece_identity
from tidegrid.grid.runtime.replay_work import BASE


class Bases:
    """A `BaseSource`."""

    def __init__(self, directory: Path | None) -> None:
        """`directory`: of the log; None: it is in memory."""
        self._directory = directory
        self._in_memory: dict[tuple[str, PartitionId, str], list[bytes]] = {}

    @classmethod
    def of(cls, log: Log) -> Bases:
        return cls(Path(log.directory).absolute() if isinstance(log, LocalLog) else None)

    def keep(self, plan: ReplayPlan, folder: Path) -> None:
        """What has been written to a folder that will not stay. May take its time. Raises CorruptionError."""
        if self._directory is not None:
            return
        for number in plan.tails:
            for name in plan.maps:
                found = self._read(PosixFiles(folder), plan.name, number, name)
                self._in_memory[plan.name, number, name] = list(found)

    def forget(self, kept: Container[str]) -> None:
        """Those in memory, but for these."""
        self._in_memory = {key: chunks for key, chunks in self._in_memory.items() if key[0] in kept}

    def chunks(self, base: str, number: PartitionId, map_name: str) -> Iterator[bytes]:
        """Raises CorruptionError: it is damaged, or not there."""
        if self._directory is None:
            known = self._in_memory.get((base, number, map_name))
            if known is None:
                raise CorruptionError(f"the base {base!r} is not there", partition=number)
            return iter(known)
        return self._read(PosixFiles(self._directory / DIRECTORY / base), base, number, map_name)

    def _read(self, files: PosixFiles, base: str, number: PartitionId, map_name: str) -> Iterator[bytes]:
        try:
            with Piece(files, base_name(number), piece_identity(base, number, BASE)) as piece:
                yield from piece.chunks(base_label(map_name))
        except (FormatError, OSError) as error:
            raise CorruptionError(
                f"the base {base!r} of map {map_name!r} in partition {number} cannot be read: {error}",
                partition=number,
            ) from error
