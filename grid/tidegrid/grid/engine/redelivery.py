"""The further passes of a replay: what the pass before has sent to one partition comes to lie there, and sets off more.

Triggers on what is delivered see the direct maps of the partition as of the end of its epoch (rule X6), and of
reference maps what the record sees in which it was delivered at the time; if it was not, what its source saw.

What was delivered at the time keeps that place (`Arrival`); what was not has that of its source, or comes right after what
that source's partition has sent here before in the same epoch (rule X9). A delivered row that was parked then is parked now, until a
record redrives it, in the same way as a raw write; if today's code sends no such row, nothing is redriven.

The log is read ahead by `lag` epochs: a ROUTED record may be that much later than its effective epoch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from tidegrid.grid.engine.delivery import origin_of
from tidegrid.grid.engine.parking import ParkedId, ParkedWrite
from tidegrid.grid.engine.replay import absorb, take_writes
from tidegrid.grid.engine.replay_log import Arrival, LoggedRecord, RowName, arrivals
from tidegrid.grid.engine.replaying import (
    HistoricReferences,
    Made,
    ReplayCode,
    ReplayState,
    SentRows,
    SentSection,
    SettledRows,
    Tally,
    redrive,
    too_heavy,
)
from tidegrid.grid.log.record import DATA, DELETE, ROUTED, Record, SourceId
from tidegrid.grid.model.ids import Epoch, PartitionId, Position
from tidegrid.triggers.runtime import BoundMap, Rejection, Session
from tidegrid.triggers.seeded import WriteName, named_by_key

_NTH_SPAN: Final = 1 << 20  # more than entries in a record
_PRUNED_MIN: Final = 4_096

_Order = tuple[Epoch, Position, int, SourceId]
_Place = tuple[Epoch, Position, int, int]
"""(epoch, position, time, nth), as of SettledRows"""


class _Pending(NamedTuple):
    order: _Order
    rows: list[SettledRows]
    sent: list[SentRows]


class _Row(NamedTuple):
    """A delivered row as today's code sends it."""

    map: str
    schema: int
    op: int
    key: bytes
    value: bytes


class Redelivery:
    """Of one partition, in one pass. `tally` is whole when `run` has ended."""

    def __init__(self, code: ReplayCode, partition: PartitionId, references: HistoricReferences) -> None:
        self.tally = Tally()
        self._code = code
        self._partition = partition
        self._state = ReplayState(code, references)
        self._chains = any(code.maps[name].derived for name in code.programs)
        self._arrivals: dict[tuple[PartitionId, Position], Arrival] = {}
        self._prune_at = _PRUNED_MIN
        self._parked: dict[ParkedId, _Row] = {}
        self._waiting: deque[SentRows] = deque()
        self._lines: dict[PartitionId, _Place] = {}  # by source, the last of what it has sent
        self._pending: list[_Pending] = []

    def run(self, records: Iterable[LoggedRecord], sent: Iterable[SentRows]) -> Iterator[SettledRows | SentRows]:
        """`records` as in Replay; `sent`: to this partition, with epochs that never decrease. Raises FormatError."""
        coming = iter(sent)
        for item in self._ahead(records):
            yield from self._deliver(coming, Epoch(item.record.stamp))
            if self._chains and item.record.effective < self._code.before:
                self._pass(item)
        yield from self._deliver(coming, None)

    def _ahead(self, records: Iterable[LoggedRecord]) -> Iterator[LoggedRecord]:
        """The records, each when all that was delivered below its stamp has been seen."""
        lag, queue = self._code.lag, deque[LoggedRecord]()
        for item in records:
            record = item.record
            if record.kind == ROUTED and record.effective < self._code.before:
                for arrival in arrivals(item):
                    self._arrivals[arrival.source.partition, arrival.source.position] = arrival
            if not self._chains:  # nothing is looked up, so its stamp is all that matters
                item = item._replace(record=Record(stamp=record.stamp, effective=record.effective))
            queue.append(item)
            while queue[0].record.stamp + lag <= record.stamp:
                yield queue.popleft()
        yield from queue

    # The log of this partition -----------------------------------------------------------------------------------

    def _pass(self, item: LoggedRecord) -> None:
        """A record becomes part of the state, and redrives what it did."""
        record = item.record
        if record.kind == DATA:
            for nth, write in enumerate(item.redriven):
                if write.routed and write.id in self._parked:
                    self._redrive(item, nth, write)
            take_writes(self._state, record)
        absorb(self._state, record)

    def _redrive(self, item: LoggedRecord, nth: int, write: ParkedWrite) -> None:
        """`nth`: of those that the record redrives."""
        record, made = item.record, Made(self._code)
        effective, ref_epoch = Epoch(record.effective), Epoch(record.ref_epoch)
        row = self._parked.pop(write.id)
        value = None if row.op == DELETE else row.value
        today = replace(write, map=row.map, schema=row.schema, op=row.op, key=row.key, value=value)
        redrive(self._code, self._state, self._partition, today, effective, ref_epoch, made, self.tally)
        self._pending.append(
            _Pending(
                (effective, item.position, nth, SourceId(self._partition, item.position, nth)),
                made.settled(effective, item.position, record.time_ms, nth),
                made.sent(self._partition, effective, item.position, record.time_ms, ref_epoch, nth=nth),
            )
        )

    # Deliveries --------------------------------------------------------------------------------------------------

    def _deliver(self, coming: Iterator[SentRows], below: Epoch | None) -> Iterator[SettledRows | SentRows]:
        """All of epochs below that: nothing more is written at them. None: all there is."""
        waiting = self._waiting
        while True:
            if not waiting:
                waiting.extend(_next_of(coming))
            if not waiting or (below is not None and waiting[0].effective >= below):
                break
            self._take(waiting.popleft())
        done = [one for one in self._pending if below is None or one.order[0] < below]
        if not done:
            return
        self._pending = [one for one in self._pending if below is not None and one.order[0] >= below]
        for one in sorted(done, key=_order):
            yield from one.rows
            yield from one.sent
        self._forget(done[-1].order[0])

    def _forget(self, through: Epoch) -> None:
        if len(self._arrivals) >= self._prune_at:
            self._arrivals = {key: one for key, one in self._arrivals.items() if one.effective > through}
            self._prune_at = max(_PRUNED_MIN, 2 * len(self._arrivals))

    def _take(self, sent: SentRows) -> None:
        """Its rows come to lie here, and set off what they do, section by section as in a frame."""
        arrival = self._arrivals.get((sent.source, sent.position)) if sent.logged else None
        if arrival is not None and arrival.effective != sent.effective:
            arrival = None  # of another record: positions are those of one log
        source = SourceId(sent.source, sent.position, sent.entry)
        position, time_ms, ref_epoch, nth = sent.position, sent.time_ms, sent.ref_epoch, 0
        held: dict[RowName, ParkedId] = {}
        if arrival is not None:
            source, position, time_ms, ref_epoch = arrival.source, arrival.position, arrival.time_ms, arrival.ref_epoch
            nth, held = arrival.nth, arrival.parked
        nth = nth * _NTH_SPAN + sent.entry  # what one record redrives may come here in several passes
        place, last = (sent.effective, position, time_ms, nth), self._lines.get(sent.source)
        if last is not None and arrival is None and place <= last:  # rule X9: nothing is overtaken
            place = (last[0], last[1], last[2], last[3] + 1)
            _, position, time_ms, nth = place
        self._lines[sent.source] = place if last is None else max(place, last)
        made = Made(self._code)
        session: Session | None = None
        for section in sent.sections:
            made.settle(section.map, section.ops, section.keys, section.values)
            program = self._code.programs.get(section.map)
            if program is None:
                continue
            if session is None:
                session = self._state.bind(self._code, self._partition, sent.effective, sent.time_ms, ref_epoch)
            names = named_by_key(origin_of(source), section.keys)
            self._set_off(session, program, section, names, sent.depth, held, made)
        if session is not None:
            session.end()
        logged = arrival is not None
        self._pending.append(
            _Pending(
                (sent.effective, position, nth, source),
                made.settled(sent.effective, position, time_ms, nth),
                made.sent(self._partition, sent.effective, position, time_ms, ref_epoch, logged=logged),
            )
        )

    def _set_off(
        self,
        session: Session,
        program: BoundMap,
        section: SentSection,
        names: Sequence[WriteName],
        depth: int,
        held: dict[RowName, ParkedId],
        made: Made,
    ) -> None:
        tally, name = self.tally, section.map
        for op, key, value, named in zip(section.ops, section.keys, section.values, names, strict=True):
            tally.writes += 1
            if held:
                parked = held.get((name, key, named[1]))
                if parked is not None:
                    self._parked[parked] = _Row(name, section.schema, op, key, value)
                    tally.parked += 1
                    continue
            body = None if op == DELETE else value
            result = session.activate(program, op, key, body, 0, named, section.schema, depth=depth)
            if isinstance(result, Rejection):
                tally.refuse(result, name)
                continue
            heavy = too_heavy(self._code, result, session.routed)
            if heavy is not None:
                tally.fail(name, program.read_key(key), heavy)
                continue
            tally.outputs += len(result) + len(session.routed)
            made.add(result)
            made.send(session.routed)


def _order(one: _Pending) -> _Order:
    return one.order


def _next_of(coming: Iterator[SentRows]) -> Iterator[SentRows]:
    found = next(coming, None)
    if found is not None:
        yield found
