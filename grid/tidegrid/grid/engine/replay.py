"""The first pass of a replay: today's triggers over the raw writes of one partition, in the order of its log.

What comes of a raw write is a function of (code, the write, the direct maps of its partition just before it, reference
maps as of the epoch that its record names): triggers look up nothing else. Direct maps are kept as they were, row by
row; rows of a record are run in the order in which they were computed (`turns`), under the names by which clients wrote
them, so that random numbers are drawn as they were.

What today's code rejects, or fails on, has no outputs and is counted. A write that was parked has none either, until a
record redrives it: it is run there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tidegrid.grid.engine.replay_log import LoggedRecord
from tidegrid.grid.engine.replaying import (
    HistoricReferences,
    Made,
    ReplayCode,
    ReplayState,
    SentRows,
    SettledRows,
    Tally,
    redrive,
    too_heavy,
)
from tidegrid.grid.log.record import DATA, DELETE, MERGE, PUT, Record, Section, decode_section, write_names
from tidegrid.grid.model.ids import Epoch, PartitionId
from tidegrid.triggers import schemas
from tidegrid.triggers.runtime import BoundMap, Rejection, Session
from tidegrid.triggers.seeded import WriteName


class Replay:
    """Of one partition. `tally` is whole when `run` has ended."""

    def __init__(self, code: ReplayCode, partition: PartitionId, references: HistoricReferences) -> None:
        self.tally = Tally()
        self._code = code
        self._partition = partition
        self._state = ReplayState(code, references)
        self._unhandled: dict[tuple[str, int], str | None] = {}

    def run(self, records: Iterable[LoggedRecord]) -> Iterator[SettledRows | SentRows]:
        """`records`: all that the log has, at least up to the last with an epoch below `code.before`. In the order of
        the log. Raises FormatError."""
        before, start = self._code.before, self._code.start
        for item in records:
            record = item.record
            if record.effective >= before:
                continue
            if record.effective < start:
                if record.kind == DATA:
                    take_writes(self._state, record)
            elif record.kind == DATA and (record.write_sections or item.redriven):
                yield from self._data(item)
            if record.write_sections < len(record.sections) or record.kind != DATA:
                absorb(self._state, record)

    def _data(self, item: LoggedRecord) -> Iterator[SettledRows | SentRows]:
        record, position, made = item.record, item.position, Made(self._code)
        effective, ref_epoch = Epoch(record.effective), Epoch(record.ref_epoch)
        for nth, write in enumerate(item.redriven):
            # What was delivered is for a later pass, if that sees it delivered. Each is told apart, so that they come
            # together in order.
            if not write.routed or write.effective < self._code.start:
                again = Made(self._code)
                redrive(self._code, self._state, self._partition, write, effective, ref_epoch, again, self.tally)
                yield from again.settled(effective, position, record.time_ms, nth)
                yield from again.sent(self._partition, effective, position, record.time_ms, ref_epoch, nth=nth)
        if record.write_sections:
            self._writes(item, made)
        yield from made.settled(effective, position, record.time_ms)
        yield from made.sent(self._partition, effective, position, record.time_ms, ref_epoch)

    def _writes(self, item: LoggedRecord, made: Made) -> None:
        code, record = self._code, item.record
        sections = [decode_section(payload) for payload in record.sections[: record.write_sections]]
        session: Session | None = None
        names: Sequence[WriteName] = ()
        firsts = [0]
        for section in sections:
            firsts.append(firsts[-1] + len(section.keys))
        taken = [0] * len(sections)
        turns = list(record.turns) or [0, len(sections[0].keys)]
        for index, count in zip(turns[::2], turns[1::2], strict=True):
            section, first = sections[index], taken[index]
            taken[index] += count
            program = code.programs.get(section.map)
            if program is None:
                self._store(section, first, first + count)
                continue
            if session is None:
                names = write_names(record)
                session = self._state.bind(
                    code, self._partition, Epoch(record.effective), record.time_ms, Epoch(record.ref_epoch)
                )
            parked = [number - firsts[index] for number in item.parked] if item.parked else ()
            self._activate(
                session,
                program,
                section,
                names[firsts[index] + first : firsts[index] + first + count],
                first,
                parked,
                made,
            )
        if session is not None:
            session.end()

    def _store(self, section: Section, first: int, stop: int) -> None:
        """Rows on which no trigger runs that matters."""
        keys, values, ops = section.keys[first:stop], section.values[first:stop], section.ops[first:stop]
        table = self._state.tables.get(section.map)
        if table is None:
            return
        if DELETE not in ops:
            table.update(zip(keys, values, strict=True))
            return
        for key, value, op in zip(keys, values, ops, strict=True):
            _apply(table, op, key, value)

    def _activate(
        self,
        session: Session,
        program: BoundMap,
        section: Section,
        names: Sequence[WriteName],
        first: int,
        parked: Iterable[int],
        made: Made,
    ) -> None:
        code, tally, name, schema = self._code, self.tally, section.map, section.schema
        table = self._state.tables.get(name)
        unhandled = self._unhandled_words(program, schema)
        stop = first + len(names)
        keys, values = section.keys[first:stop], section.values[first:stop]
        ops, versions = section.ops[first:stop], section.versions[first:stop]
        tally.writes += len(ops)
        activate, add, outputs = session.activate, made.add, 0
        for at, (key, value, op, version, named) in enumerate(
            zip(keys, values, ops, versions, names, strict=True), first
        ):
            if parked and at in parked:
                tally.parked += 1
            elif unhandled is not None:
                tally.fail(name, program.read_key(key), unhandled)
            else:
                result = activate(program, op, key, None if op == DELETE else value, version, named, schema)
                if type(result) is Rejection:
                    tally.refuse(result, name)
                else:
                    assert type(result) is list
                    routed = session.routed
                    count = len(result) + len(routed)
                    heavy = too_heavy(code, result, routed) if count > 1 else None  # one is bounded on its own
                    if heavy is not None:
                        tally.fail(name, program.read_key(key), heavy)
                    else:
                        outputs += count
                        add(result)
                        if routed:
                            made.send(routed)
            if table is not None:
                if op == DELETE:
                    table.pop(key, None)
                else:
                    table[key] = value
        tally.outputs += outputs

    def _unhandled_words(self, program: BoundMap, schema: int) -> str | None:
        name = (program.name, schema)
        if name not in self._unhandled:
            error = schemas.unhandled_schema(program, schema)
            self._unhandled[name] = error.message if error is not None else None
        return self._unhandled[name]


def absorb(state: ReplayState, record: Record) -> None:
    """Outputs of that time to maps that are written by clients today: they are part of what those hold."""
    first = record.write_sections if record.kind == DATA else 0
    for name, payload in zip(record.maps[first:], record.sections[first:], strict=True):
        table = state.tables.get(name)
        if table is None:
            continue
        section = decode_section(payload)
        for key, value, op in zip(section.keys, section.values, section.ops, strict=True):
            _apply(table, op, key, value)


def take_writes(state: ReplayState, record: Record) -> None:
    """The writes of a DATA record, as state alone."""
    for name, payload in zip(
        record.maps[: record.write_sections], record.sections[: record.write_sections], strict=True
    ):
        table = state.tables.get(name)
        if table is not None:
            section = decode_section(payload)
            for key, value, op in zip(section.keys, section.values, section.ops, strict=True):
                _apply(table, op, key, value)


def _apply(table: dict[bytes, bytes], op: int, key: bytes, value: bytes) -> None:
    if op == DELETE:
        table.pop(key, None)
    elif op == PUT:
        table[key] = value
    else:
        assert op == MERGE  # its map has a fold, and nothing but triggers may write to that
