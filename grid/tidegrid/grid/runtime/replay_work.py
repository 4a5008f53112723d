"""One task of a regeneration, done where it is called: in a worker process, or in a thread of the node.

    replay partition p, pass d      reads the log of p (and what pass d - 1 has sent to it), writes a piece
    compare partition p             builds both generations of each map in p, and tells what differs
    base of partition p             writes what the new generation of each map in p is below the activation of the code
    measure                         how many bytes the logs have, for the progress

A task is a function of the plan, the logs and the pieces of the pass before, so it can be done again, by anybody.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Final, NamedTuple, Protocol

from tidegrid.grid.engine.catalogs import Catalogs
from tidegrid.grid.engine.generation import ALL_POSITIONS, Difference, Generation, difference, in_order
from tidegrid.grid.engine.pieces import ChunkWriter, base_label, rows_label, sent_label, sent_rows, settled_rows
from tidegrid.grid.engine.redelivery import Redelivery
from tidegrid.grid.engine.reference_history import LateReferences, ReferenceHistory
from tidegrid.grid.engine.replay import Replay
from tidegrid.grid.engine.replay_log import logged, valid_records
from tidegrid.grid.engine.replaying import SentRows, Tally
from tidegrid.grid.engine.table_chunks import reclaimed_chunk, table_chunks
from tidegrid.grid.journal.files import Files
from tidegrid.grid.journal.pieces import Piece, PieceWriter
from tidegrid.grid.log.entry import LogRecord
from tidegrid.grid.model.ids import BEFORE_FIRST, Epoch, LogId, PartitionId, Position, partition_log
from tidegrid.grid.model.maps import MapKind, MapSpec
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.runtime.replay_plan import ReplayPlan, base_name, code_of
from tidegrid.grid.store.merged import FoldAt
from tidegrid.grid.store.table import Table

COMPARE: Final = -1
BASE: Final = -2
MEASURE: Final = -3
_ROWS_PER_CHUNK: Final = 4_000


class Task(NamedTuple):
    """`depth`: the pass, COMPARE, BASE or MEASURE. `needs`: the pieces that it reads. Of a pass they are those of the partitions that
    have sent something to this one in the pass before; of the others, those of the passes over this partition."""

    partition: PartitionId
    depth: int
    needs: tuple[int, ...] = ()


class Made(NamedTuple):
    """What came of a pass over a partition. `targets`: who was sent something."""

    tally: Tally
    targets: tuple[PartitionId, ...]


class LogSource(Protocol):
    def read(self, log: LogId, after: Position, through: Position) -> Iterator[LogRecord]:
        """The records in (after, through], all of which are durable."""
        ...

    def bytes_of(self, log: LogId, through: Position) -> int:
        """What its records up to there weigh; 0: it is not known."""
        ...


class BaseSource(Protocol):
    def chunks(self, base: str, number: PartitionId, map_name: str) -> Iterator[bytes]:
        """Raises CorruptionError: it is damaged, or not there."""
        ...


Pace = Callable[[int, int], None]
"""Told after each record of a log what it weighed, and how many writes triggers have run on in this task so far; may take its
time, and ends the work by raising."""


class ReplayWork:
    """Not for two threads at a time."""

    def __init__(self, plan: ReplayPlan, source: LogSource, bases: BaseSource, files: Files, pace: Pace) -> None:
        """Raises TriggerModuleError when the code does not load here."""
        self.plan = plan
        self._source = source
        self._bases = bases
        self._files = files
        self._pace = pace
        control = ControlState.from_bytes(plan.control)
        self._control = control
        self._catalogs = Catalogs(control, plan.limits)
        self._code = code_of(plan, control, self._catalogs)
        self._references = LateReferences(self._reference_history)

    def replay(self, task: Task) -> Made:
        """Raises CorruptionError, FormatError, OSError."""
        plan, number = self.plan, task.partition
        writer = PieceWriter(self._files, plan.piece_name(number, task.depth), plan.identity(number, task.depth))
        try:
            chunks = ChunkWriter(writer.write)
            targets: set[PartitionId] = set()
            with ExitStack() as opened:
                again: Replay | Redelivery
                if task.depth:
                    again = Redelivery(self._code, number, self._references)
                    records = logged(self._paced(number, again.tally), plan.limits)
                    made = again.run(records, self._sent(task, opened))
                else:
                    again = Replay(self._code, number, self._references)
                    made = again.run(logged(self._paced(number, again.tally), plan.limits))
                for one in made:
                    if isinstance(one, SentRows):
                        targets.add(one.target)
                    chunks.add(one)
            chunks.end()
            writer.commit(again.tally.plain())
        except BaseException:
            writer.discard()
            raise
        return Made(again.tally, tuple(sorted(targets)))

    def measure(self) -> dict[PartitionId, int]:
        source, tails = self._source, self.plan.tails
        return {number: source.bytes_of(partition_log(number), tail) for number, tail in tails.items()}

    def compare(self, task: Task) -> dict[str, Difference]:
        """By map. Raises as `replay`, and TriggerModuleError when a fold of some day does not load here."""
        plan, number = self.plan, task.partition
        seen = self._seen(number)
        made = {name: self.replayed(spec, task, seen[name].table) for name, spec in self._specs()}
        for position, record in valid_records(self._paced(number, Tally())):
            if plan.before <= record.effective <= plan.through:
                for name in plan.maps:
                    made[name].logged(position, record)
        for name in plan.maps:
            made[name].end()
        return {name: difference(seen[name].table, made[name].table, plan.through) for name in plan.maps}

    def base(self, task: Task) -> None:
        """Without what no reader at or above the horizon of the plan sees. Raises as `compare`."""
        plan, number, horizon = self.plan, task.partition, self._control.horizon
        writer = PieceWriter(self._files, base_name(number), plan.identity(number, BASE))
        try:
            seen = self._seen(number) if plan.start else {}
            for name, spec in self._specs():
                made = self.replayed(spec, task, seen[name].table if plan.start else None)
                made.end()
                made.table.reclaim(horizon, 1 << 62)
                for rows in made.table.slices(ALL_POSITIONS, _ROWS_PER_CHUNK):
                    for chunk in table_chunks(name, rows):
                        writer.write(base_label(name), chunk)
                writer.write(base_label(name), reclaimed_chunk(horizon))
            writer.commit(None)
        except BaseException:
            writer.discard()
            raise

    def _seen(self, number: PartitionId) -> dict[str, Generation]:
        """What readers see of each map in a partition, when `plan.through` is closed."""
        plan, known = self.plan, self._control.generations
        found: dict[str, Generation] = {}
        since: dict[str, Epoch] = {}
        for name, spec in self._specs():
            declared = known.generation(name, known.at(name, plan.through))
            since[name] = declared.since if declared is not None else Epoch(0)
            found[name] = Generation(spec, self._fold_of(spec, since[name]), self._code.lag)
            if declared is not None:
                found[name].based(declared.base, self._bases.chunks(declared.base, number, name))
        for position, record in valid_records(self._paced(number, Tally())):
            if record.effective <= plan.through:
                for name, generation in found.items():
                    if record.effective >= since[name]:
                        generation.logged(position, record)
        for generation in found.values():
            generation.end()
        return found

    def replayed(self, spec: MapSpec, task: Task, seen: Table | None) -> Generation:
        """The new one of a map in a partition, from the pieces and, below `plan.start`, from what readers see; what is in
        the log from `plan.before` on is to follow."""
        number, plan = task.partition, self.plan
        made = Generation(spec, self._fold_of(spec, plan.before), self._code.lag)
        if plan.start:
            assert seen is not None
            made.kept(seen, plan.start)
        with ExitStack() as opened:
            pieces = [opened.enter_context(self._piece(number, depth)) for depth in task.needs]
            label = rows_label(spec.name)
            made.replayed(in_order([settled_rows(spec.name, piece.chunks(label)) for piece in pieces]))
        return made

    def _specs(self) -> list[tuple[str, MapSpec]]:
        return [(name, self._code.maps[name]) for name in self.plan.maps]

    def _fold_of(self, spec: MapSpec, first: Epoch) -> FoldAt | None:
        """That of each epoch, and of `first` for those below it. None: the map has none."""
        if not spec.merged:
            return None
        return lambda epoch: self._catalogs.fold(spec.name, max(epoch, first))

    def _piece(self, number: PartitionId, depth: int) -> Piece:
        return Piece(self._files, self.plan.piece_name(number, depth), self.plan.identity(number, depth))

    def _sent(self, task: Task, opened: ExitStack) -> Iterator[SentRows]:
        label = sent_label(task.partition)
        pieces = [opened.enter_context(self._piece(PartitionId(one), task.depth - 1)) for one in task.needs]
        streams = [sent_rows(task.partition, piece.chunks(label)) for piece in pieces]
        return heapq.merge(*streams, key=lambda one: one.effective)

    def _records(self, number: PartitionId) -> Iterator[LogRecord]:
        tail = self.plan.tails.get(number, BEFORE_FIRST)
        return self._source.read(partition_log(number), BEFORE_FIRST, tail)

    def _paced(self, number: PartitionId, tally: Tally) -> Iterator[LogRecord]:
        for record in self._records(number):
            yield record
            self._pace(len(record.payload), tally.writes)

    def _reference_history(self) -> ReferenceHistory:
        history = ReferenceHistory(name for name, spec in self._code.maps.items() if spec.kind is MapKind.REFERENCE)
        for number in range(self._control.partitions):
            history.take(valid_records(self._records(PartitionId(number))))
        return history
