"""The judge sees every log as it grows and knows what each client was told; it holds the invariants of the protocol.

Its model is lists in dictionaries, filled from the records alone, valid ones by the rule of terms. Nothing that a
node keeps in memory is in it. Letters as in the protocol: I1 stamps never decrease, I2 nothing valid at or below
`closed`, I3 effects not below their causes, I4 closed rises, I5 reads as of an epoch equal the model, I6 a group is in the log wholly, at one epoch, or not at all, I7 acknowledged
means valid exactly once, I11 recovered state equals the model, I12 refused means never valid, I14 maps and code are
those in force at the stamp, H holds are honoured, I15 the tails of a CLOSE cover the cut, I16 look-ups are as of the recorded epoch.
"""

from __future__ import annotations

from bisect import insort
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from tidegrid.grid.engine.requests import NAMED_SESSION
from tidegrid.grid.log.entry import Entry
from tidegrid.grid.log.record import (
    DATA,
    DELETE,
    MERGE,
    OPEN,
    ROUTED,
    Record,
    decode_record,
    decode_section,
    rows_in_turn,
)
from tidegrid.grid.model.errors import ConflictError, GridError, RejectedError
from tidegrid.grid.model.ids import CONTROL_LOG
from tidegrid.grid.ring.holds import HoldEnd
from tidegrid.v1.control_pb2 import ControlRecord, Horizon

from tests.simulation.content import ITEMS, STOPPED, STREAMS, Fails, Keys, Wanted, folded, stopped_rows, unpack
from tests.simulation.deliveries import Deliveries, Row
from tests.simulation.parked import Parked
from tests.simulation.violation import Violation

__all__ = ["Judge", "RequestId", "SentRow", "Version", "Violation"]

Outbox = dict[int, dict[str, list[tuple[Row, int]]]]
"""Per receiver and map, rows with their causes."""

RequestId = tuple[bytes, int, int]
"""(session, partition, sequence)"""

if TYPE_CHECKING:
    from tests.simulation.generations import Regenerations


class Version(NamedTuple):
    epoch: int
    position: int
    number: int
    value: bytes | None


class Operand(NamedTuple):
    epoch: int
    position: int
    number: int
    op: int
    value: bytes | None


class Emitted(NamedTuple):
    op: int
    key: bytes
    value: bytes | None
    version: int
    cause: int


@dataclass(frozen=True, slots=True)
class SentRow:
    """What a client sent under a request id, and the epoch that it carried."""

    map: str
    key: bytes
    value: bytes | None
    condition: int | None
    carried: int


class Judge:
    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.limit_span = self.session_epochs = 0
        self.closed = self.horizon = self.reference_epoch = 0
        self.holds: dict[str, tuple[int, int, int]] = {}  # (taken, epoch, expires_ms)
        self.too_large: set[int] = set()  # holds that ended so, by `taken`
        self.tails: dict[int, int] = {}
        self.maps_act_at: dict[str, int] = {}
        self.codes: list[tuple[int, int]] = []  # (acts at, code)
        self.terms: dict[int, int] = defaultdict(int)
        self.stamps: dict[int, int] = defaultdict(int)
        self.positions: dict[int, list[tuple[int, int]]] = defaultdict(list)  # (effective, position) of valid records
        self.chains: dict[str, dict[bytes, list[Version]]] = defaultdict(lambda: defaultdict(list))
        self.feeds: dict[tuple[str, int], list[tuple[int, int, int, bytes]]] = defaultdict(list)
        self.sent: dict[RequestId, SentRow] = {}
        self.valid: dict[RequestId, tuple[int, int]] = {}  # (version, epoch)
        self.positions_of: dict[RequestId, int] = {}
        self.refused: dict[RequestId, GridError] = {}
        # Refusals are not remembered for named sessions, so a late copy, with which a worker is stopped, is parked.
        self.parked_late: set[RequestId] = set()
        self.groups: dict[bytes, list[RequestId]] = {}  # what belongs together
        self._touched: set[bytes] = set()  # groups of which something came with the last append
        self.group_of: dict[RequestId, bytes] = {}
        self.reference_changes: list[int] = []
        self.deliveries = Deliveries(self)
        self.parked = Parked(self)
        self.generations: Regenerations  # the world gives it
        self.operands: dict[bytes, list[Operand]] = defaultdict(list)  # of sums, in order
        self.records = self.views = self.closes = 0

    @property
    def limit(self) -> int:
        return self.closed + self.limit_span

    @property
    def highest_stamp(self) -> int:
        return max(self.stamps.values(), default=0)

    # The logs ---------------------------------------------------------------------------------------------------

    def appended(self, entry: Entry, position: int) -> None:
        self.records += 1
        if entry.log == CONTROL_LOG:
            self._control(position, ControlRecord.FromString(entry.payload))
        else:
            self._record(int(entry.log), position, decode_record(entry.payload))

    def check_groups(self) -> None:
        """I6: of a group, an append holds all or nothing, at one epoch."""
        for group in self._touched:
            outcomes = {self.valid[request][1] if request in self.valid else 0 for request in self.groups[group]}
            if len(outcomes) > 1 or outcomes == {0}:
                raise Violation(f"I6: group {group.hex()} is in the log at epochs {sorted(outcomes)} (0: not at all)")
        self._touched.clear()

    def _control(self, position: int, record: ControlRecord) -> None:
        kind = record.WhichOneof("record")
        self.views += kind == "view"
        self.closes += kind == "close"
        if kind == "created":
            self.limit_span, self.session_epochs = record.created.limit, record.created.session_epochs
        elif kind == "close":
            self._close(record)
        elif kind == "horizon":
            self._horizon(record.horizon)
            if self.horizon > self.closed:
                raise Violation(f"horizon {self.horizon} above closed {self.closed}")
        elif kind == "hold":
            taken, known = record.hold.taken, self.holds.get(record.hold.name)
            if record.hold.epoch < self.horizon:
                raise Violation(f"H: a hold of {record.hold.epoch} below the horizon {self.horizon}")
            if not taken or (known is not None and known[0] == taken):
                self.holds[record.hold.name] = (taken or position, record.hold.epoch, record.hold.expires_ms)
        elif kind == "hold_released":
            known = self.holds.get(record.hold_released.name)
            if known is not None and record.hold_released.taken in (0, known[0]):
                del self.holds[record.hold_released.name]
        elif kind == "map":
            self.maps_act_at.setdefault(record.map.spec.name, self.limit)
        elif kind == "deploy":
            for spec in record.deploy.maps:
                self.maps_act_at.setdefault(spec.name, self.limit)
            first_line = record.deploy.modules[0].source.splitlines()[0]
            self.codes.append((self.limit, int(first_line.removeprefix("CODE = "))))

    def _horizon(self, record: Horizon) -> None:
        """H: a hold ends when it has expired, and the horizon does not pass one that stands."""
        for dropped in record.dropped:
            known = self.holds.pop(dropped.name, None)
            if known is not None and dropped.cause == HoldEnd.TOO_LARGE:
                self.too_large.add(known[0])
            elif known is not None and known[2] > record.time_ms:
                raise Violation(f"H: hold {dropped.name} was dropped at {record.time_ms}, it expires at {known[2]}")
        lowest = min((epoch for _, epoch, _ in self.holds.values()), default=record.epoch)
        self.horizon = max(self.horizon, min(record.epoch, lowest))

    def _close(self, record: ControlRecord) -> None:
        epoch = record.close.epoch
        if epoch <= self.closed:
            raise Violation(f"I4: CLOSE {epoch} after {self.closed}")
        self.closed = epoch
        self.tails.update((tail.partition, tail.position) for tail in record.close.tails)
        for partition, positions in self.positions.items():
            for effective, position in reversed(positions):
                if position <= self.tails.get(partition, 0):
                    break
                if effective <= epoch:
                    raise Violation(f"I15: CLOSE {epoch} misses position {position} of partition {partition}")
        self.deliveries.closed(epoch)
        self.reference_epoch = record.close.reference_epoch
        if any(self.reference_epoch < change <= epoch for change in self.reference_changes[-50:]):
            raise Violation(f"Q: CLOSE {epoch} names {self.reference_epoch}, a reference map has changed since")

    def _record(self, partition: int, position: int, record: Record) -> None:
        if record.kind == OPEN:
            if record.term <= self.terms[partition]:
                return
            self.terms[partition] = record.term
        elif record.term != self.terms[partition]:
            return
        if record.stamp < self.stamps[partition]:
            raise Violation(f"I1: stamp {record.stamp} after {self.stamps[partition]} in partition {partition}")
        if record.effective <= self.closed:
            raise Violation(f"I2: effective epoch {record.effective} after CLOSE {self.closed} in {partition}")
        if record.stamp >= self.limit:
            raise Violation(f"E: stamp {record.stamp} at or above the limit {self.limit} in {partition}")
        self.stamps[partition] = record.stamp
        self.positions[partition].append((record.effective, position))
        if record.effective > record.stamp:
            raise Violation(f"X: effective epoch {record.effective} above its stamp {record.stamp} in {partition}")
        if record.kind == DATA:
            self.deliveries.written(partition, record.stamp)
            self._data(partition, position, record)
        elif record.kind == ROUTED:
            self._routed(partition, position, record)

    def code_at(self, epoch: int) -> int:
        return next((code for acts_at, code in reversed(self.codes) if acts_at <= epoch), 0)

    def _data(self, partition: int, position: int, record: Record) -> None:
        self._check_frame(record)
        for name, payload in zip(record.maps, record.sections, strict=True):
            self.feeds[name, partition].append((record.effective, partition, position, payload))
        code = self.code_at(record.effective)
        ids = iter(
            (session, partition, first + at)
            for session, first, count in zip(record.sessions, record.first_sequences, record.counts, strict=True)
            for at in range(count)
        )
        split = record.write_sections
        emitted = self._all_emitted(partition, position, record)
        outbox: Outbox = {}
        if record.redriven:
            for at, again in self.parked.redriven_by(code, partition, position, record):
                self._check_outputs(iter(again), at, partition, position, record, emitted, outbox)
        failed = {failure.row for failure in record.failures} if not record.redriven else set()
        stopped = stopped_rows(record)
        written = 0
        sections = [decode_section(payload) for payload in record.sections[:split]]
        starts = list(accumulate((len(section.keys) for section in sections), initial=0))
        requests = list(ids)
        if len(requests) != starts[-1]:
            raise Violation(f"{len(requests)} request ids for {starts[-1]} writes")
        for at, row in rows_in_turn(record):
            section, name = sections[at], record.maps[at]
            key, value, op, version = section.keys[row], section.values[row], section.ops[row], section.versions[row]
            request = requests[starts[at] + row]
            if starts[at] + row in stopped and request[0][0] == NAMED_SESSION:
                self.parked_late.add(request)
            self._write(request, name, key, None if op == DELETE else value, version, position, record)
            if name == "raw":
                content = None if op == DELETE else unpack(value)
                number = starts[at] + row
                made: list[Wanted] | Fails = STOPPED
                if number not in stopped:
                    made = self.deliveries.outputs_of_write(code, key, content, partition, record)
                if isinstance(made, str):
                    self.parked.park(partition, (position, number), name, key, content, version, record, failed)
                else:
                    self._check_outputs(iter(made), number, partition, position, record, emitted, outbox)
            written += 1
        if written != starts[-1]:
            raise Violation(f"the turns of {position} in {partition} are of {written} writes, not {starts[-1]}")
        if failed:
            raise Violation(f"parked: rows {sorted(failed)} of {position} in {partition} have nothing that fails")
        self._check_rest(partition, position, record, emitted, outbox)

    def _routed(self, partition: int, position: int, record: Record) -> None:
        self._check_frame(record)
        for name, payload in zip(record.maps, record.sections, strict=True):
            self.feeds[name, partition].append((record.effective, partition, position, payload))
        code = self.code_at(record.effective)
        emitted = self._all_emitted(partition, position, record)
        outbox: Outbox = {}
        failed = {failure.row: failure.veto for failure in record.failures}
        stopped = stopped_rows(record)
        numbers: list[int] = []
        split = record.write_sections
        for name, payload in zip(record.maps[:split], record.sections[:split], strict=True):
            section = decode_section(payload)
            for key, value, op, version in zip(
                section.keys, section.values, section.ops, section.versions, strict=True
            ):
                self._apply(Row(op, name, key, None if op == DELETE else value), version, position, record)
                numbers.append(version)
        for at, row in enumerate(self.deliveries.taken(partition, record)):
            made = self.deliveries.outputs_of_delivery(code, row, partition, record) if row.map == "spread" else []
            made = STOPPED if at in stopped else made
            if isinstance(made, str) is not (at in failed):
                raise Violation(f"X8: {row} in {partition}: {made}; failures noted: {sorted(failed)}")
            if isinstance(made, str):
                self.deliveries.failures += 1
                if failed[at] is isinstance(made, Fails):
                    raise Violation(f"X8: {row} in {partition}: {made!r} is noted as a veto: {failed[at]}")
                if isinstance(made, Fails):
                    content = None if row.value is None else unpack(row.value)
                    self.parked.park(partition, (position, at), row.map, row.key, content, numbers[at], record, {at})
            else:
                self._check_outputs(iter(made), at, partition, position, record, emitted, outbox)
        self._check_rest(partition, position, record, emitted, outbox)

    def _check_frame(self, record: Record) -> None:
        if not record.ref_epoch <= self.closed or record.ref_epoch >= record.effective:
            raise Violation(f"I3: look-ups as of {record.ref_epoch}, epoch {record.effective}, closed {self.closed}")
        for name in record.maps:
            if self.maps_act_at.get(name, record.effective + 1) > record.effective:
                raise Violation(f"I14: map {name} in a record of epoch {record.effective}, before it acts")

    def _check_rest(
        self, partition: int, position: int, record: Record, emitted: dict[str, Iterator[Emitted]], outbox: Outbox
    ) -> None:
        left = {name: rows for name, columns in emitted.items() if (rows := list(columns))}
        if left:
            raise Violation(f"outputs that no write made: {left}")
        self.deliveries.sent(partition, position, record, outbox)

    def _all_emitted(self, partition: int, position: int, record: Record) -> dict[str, Iterator[Emitted]]:
        split = record.write_sections
        return {
            name: self._emitted(name, partition, position, record, payload)
            for name, payload in zip(record.maps[split:], record.sections[split:], strict=True)
        }

    def _emitted(self, name: str, partition: int, position: int, record: Record, payload: bytes) -> Iterator[Emitted]:
        section = decode_section(payload)
        return iter(
            [
                Emitted(op, key, None if op == DELETE else value, version, cause)
                for op, key, value, version, cause in zip(
                    section.ops, section.keys, section.values, section.versions, section.causes, strict=True
                )
            ]
        )

    def _write(
        self,
        request: RequestId,
        name: str,
        key: bytes,
        value: bytes | None,
        version: int,
        position: int,
        record: Record,
    ) -> None:
        if request in self.valid:
            raise Violation(f"I7: {_shown(request)} is in the log twice")
        if request in self.refused and self._for_good(request, self.refused[request]):
            raise Violation(f"I12: {_shown(request)} is in the log, its client was told: {self.refused[request]}")
        sent = self.sent.get(request)
        if sent is None or (sent.map, sent.key, sent.value) != (name, key, value):
            raise Violation(f"{_shown(request)} is in the log as {name} {key!r} = {value!r}; sent: {sent}")
        if record.effective < sent.carried:
            raise Violation(f"I3: {_shown(request)} carried {sent.carried}, it is effective at {record.effective}")
        if sent.condition is not None:
            last = self.latest(name, key)
            number = last.number if last is not None else 0
            current = number if last is not None and last.value is not None else 0
            if sent.condition not in (current, number):
                raise Violation(f"{_shown(request)} wants version {sent.condition}, which is {current}")
        if name in STREAMS:
            if version != 1:
                raise Violation("an event has no versions")
        else:
            self._push(name, key, Version(record.effective, position, version, value))
        if name == "prices":
            self.reference_changes.append(record.effective)
        self.valid[request] = (version, record.stamp)
        if request in self.group_of:
            self._touched.add(self.group_of[request])
        self.positions_of[request] = position

    def _push(self, name: str, key: bytes, version: Version) -> None:
        chain = self.chains[name][key]
        last = chain[-1] if chain else None
        allowed = {last.number + 1 if last is not None else 1}
        if last is not None and last.value is None and last.epoch <= self.horizon - self.session_epochs:
            allowed.add(1)  # the tombstone may be gone
        if version.number not in allowed:
            raise Violation(f"version {version.number} of {name} {key!r} after {last}")
        chain.append(version)

    def _check_outputs(
        self,
        made: Iterator[Wanted],
        row: int,
        partition: int,
        position: int,
        record: Record,
        emitted: dict[str, Iterator[Emitted]],
        outbox: Outbox,
    ) -> None:
        for wanted in made:
            output = self.deliveries.row_of(wanted)
            target = self.keys.partition(output.map, output.key)
            if target != partition:
                outbox.setdefault(target, {}).setdefault(output.map, []).append((output, row))
                continue
            found = next(emitted.get(wanted.map, iter(())), None)
            if found is None or found != (output.op, output.key, output.value, found.version, row):
                text = None if found is None or found.value is None else unpack(found.value)
                raise Violation(
                    f"I14/I16: {wanted} expected of epoch {record.effective}, stamp {record.stamp}, look-ups as of "
                    f"{record.ref_epoch}; in the log: {text} ({found})"
                )
            self._apply(output, found.version, position, record)

    def _apply(self, output: Row, number: int, position: int, record: Record) -> None:
        """A change to a derived map: where it belongs by (effective epoch, position), however late it comes."""
        if output.map in STREAMS:
            return
        if output.map == "sums":
            operand = Operand(record.effective, position, number, output.op, output.value)
            insort(self.operands[output.key], operand, key=_place)
            self.chains["sums"][output.key] = self.sums(output.key, 1 << 62)
            return
        chain = self.chains[output.map][output.key]
        known = any(one.number == number and one.epoch > self.horizon for one in chain)
        if known and len(self.generations.numbers(output.map)) == 1:
            raise Violation(f"version {number} of {output.map} {output.key!r} is there already: {chain}")
        insort(chain, Version(record.effective, position, number, output.value), key=_place)

    def sums(self, key: bytes, tail: int) -> list[Version]:
        """I17: the chain of a key of the merged map, of what is in the log up to `tail`."""
        chain: list[Version] = []
        state: bytes | None = None
        for epoch, position, number, op, value in self.operands[key]:
            if position <= tail:
                assert value is not None and op == MERGE
                state = folded(self.code_at(epoch), state, value)
                chain.append(Version(epoch, position, number, state))
        return chain

    # What was answered ------------------------------------------------------------------------------------------

    def acknowledged(self, request: RequestId, version: int, epoch: int) -> None:
        found = self.valid.get(request)
        if found is None:
            raise Violation(f"I7: {_shown(request)} was acknowledged and is not in the log")
        forgotten = version == 0 and request[0][0] == 2
        if not forgotten and found != (version, epoch):
            raise Violation(f"I7: {_shown(request)} was acknowledged as {(version, epoch)}, the log says {found}")

    def told_refused(self, request: RequestId, error: GridError) -> None:
        """The client has got a refusal that is final."""
        if request in self.valid and self._for_good(request, error):
            raise Violation(f"I12: {_shown(request)} was refused ({error}) and is in the log")
        self.refused[request] = error

    def _for_good(self, request: RequestId, error: GridError) -> bool:
        """A late copy of what a trigger rejected under a named session may meet another owner, who stands at an epoch at which
        other code is in force, or none."""
        judged_anew = request[0][0] == NAMED_SESSION and isinstance(error, RejectedError)
        return not judged_anew and request not in self.parked_late

    def plausible(self, request: RequestId, error: GridError) -> None:
        """A node answers this now: it may rest on nothing that is not in the log."""
        sent = self.sent[request]
        if isinstance(error, ConflictError):
            numbers = {version.number for version in self.chains[sent.map][sent.key]} | {0}
            if error.current not in numbers:
                raise Violation(f"undurable: {_shown(request)} was told of version {error.current}, which is not there")
        elif isinstance(error, RejectedError) and error.failed:
            if "would be parked" in error.message:
                self.parked.is_full(request[1])
            elif STOPPED in error.message and request in self.group_of:
                pass  # the rest of it was not run
            else:
                raise Violation(f"{_shown(request)}: the trigger failed: {error}")
        elif isinstance(error, RejectedError) and "total " in error.message:
            told = int(error.message.rsplit("total ", 1)[1])
            if told not in self._totals(sent):
                raise Violation(f"undurable: {_shown(request)} was told of total {told}, which no durable rows make")

    def _totals(self, sent: SentRow) -> set[int]:
        group, item = self.keys.name(sent.key)
        assert sent.value is not None
        totals = {unpack(sent.value)["n"]}
        for other in ITEMS:
            if other != item:
                chain = self.chains["raw"][self.keys.encode((group, other))]
                numbers = {unpack(version.value)["n"] for version in chain if version.value is not None} | {0}
                totals = {total + number for total in totals for number in numbers}
        return totals

    # Reads ------------------------------------------------------------------------------------------------------

    def latest(self, name: str, key: bytes) -> Version | None:
        chain = self.chains[name].get(key)
        return chain[-1] if chain else None

    def as_of(self, name: str, key: bytes, epoch: int) -> Version | None:
        found = None
        for version in self.chains[name].get(key, ()):
            if version.epoch <= epoch:
                found = version
        return found


def _place(version: Version | Operand) -> tuple[int, int, int]:
    return version[:3]


def _shown(request: RequestId) -> str:
    session, partition, sequence = request
    return f"write {session[0]}.{session[-8:].hex()}/{partition}/{sequence}"
