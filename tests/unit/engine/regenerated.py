"""A regeneration in memory: the passes of a replay over the logs of all partitions, one after the other."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from tidegrid.grid.engine.catalog import Catalog
from tidegrid.grid.engine.generation import Generation, in_order
from tidegrid.grid.engine.redelivery import Redelivery
from tidegrid.grid.engine.reference_history import LateReferences, ReferenceHistory
from tidegrid.grid.engine.replay import Replay
from tidegrid.grid.engine.replay_log import logged, valid_records
from tidegrid.grid.engine.replaying import ReplayCode, SentRows, SettledRows, Tally
from tidegrid.grid.log.entry import LogRecord
from tidegrid.grid.model.ids import Epoch, PartitionId
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.maps import MapKind
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.store.merged import Fold
from tidegrid.grid.store.table import Table

ReadLog = Callable[[int], Sequence[LogRecord]]


class Regenerated:
    """All derived tables (or `wanted`) by `catalog`'s code, from what was written before epoch `before`."""

    def __init__(
        self,
        read: ReadLog,
        control: ControlState,
        catalog: Catalog,
        limits: Limits,
        before: int,
        wanted: Iterable[str] = (),
        start: int = 0,
    ) -> None:
        assert catalog.runtime is not None
        specs = {name: entry.spec for name, entry in catalog.maps.items()}
        wanted = list(wanted) or [name for name, spec in specs.items() if spec.derived and spec.stateful]
        seed = int.from_bytes(control.grid_id[:8], "big")
        self.runtime, self.specs, self.before = catalog.runtime, specs, Epoch(before)
        self.code = ReplayCode(
            catalog.runtime, specs, wanted, self.before, control.limit_span, seed, limits, Epoch(start)
        )
        self.read, self.partitions = read, control.partitions
        self.tally = Tally()
        self.passes = 0
        self.rows: dict[int, list[list[SettledRows]]] = defaultdict(list)
        self._run()

    def _run(self) -> None:
        references = LateReferences(self._references)
        code, sent = self.code, defaultdict[int, list[list[SentRows]]](list)
        for number in range(self.partitions):
            replay = Replay(code, PartitionId(number), references)
            self._sort(number, list(replay.run(logged(self.read(number), code.limits))), sent)
            self.tally.add(replay.tally)
        while sent:
            self.passes += 1
            assert self.passes <= code.limits.chain_depth_max
            delivered, sent = sent, defaultdict(list)
            for number, streams in sorted(delivered.items()):
                again = Redelivery(code, PartitionId(number), references)
                coming = heapq.merge(*streams, key=lambda one: one.effective)
                self._sort(number, list(again.run(logged(self.read(number), code.limits), coming)), sent)
                self.tally.add(again.tally)

    def _sort(self, number: int, made: list[SettledRows | SentRows], sent: dict[int, list[list[SentRows]]]) -> None:
        rows = [one for one in made if isinstance(one, SettledRows)]
        assert [one[:2] for one in rows] == sorted(one[:2] for one in rows), "rows are in order"
        self.rows[number].append(rows)
        targets = defaultdict[int, list[SentRows]](list)
        for one in made:
            if isinstance(one, SentRows):
                assert one.target != number
                targets[one.target].append(one)
        for target, stream in targets.items():
            assert [one.effective for one in stream] == sorted(one.effective for one in stream)
            sent[target].append(stream)

    def _references(self) -> ReferenceHistory:
        history = ReferenceHistory(name for name, spec in self.specs.items() if spec.kind is MapKind.REFERENCE)
        for number in range(self.partitions):
            history.take(valid_records(self.read(number)))
        return history

    def table(
        self,
        name: str,
        number: int,
        through: int,
        fold_at: Callable[[Epoch], Fold] | None = None,
        seen: Table | None = None,
    ) -> Table:
        """With the outputs that are in the log from `before` on, and what is `seen` below `start`."""
        fold_at = (fold_at or (lambda _: self.runtime.folds[name])) if self.specs[name].merged else None
        generation = Generation(self.specs[name], fold_at, self.code.lag)
        if seen is not None:
            generation.kept(seen, self.code.start)
        streams = [[one for one in rows if one.map == name] for rows in self.rows[number]]
        generation.replayed(in_order(streams))
        for position, record in valid_records(self.read(number)):
            if self.before <= record.effective <= through:
                generation.logged(position, record)
        generation.end()
        generation.table._check()
        return generation.table
