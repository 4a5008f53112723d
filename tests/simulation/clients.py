"""Clients of the simulated grid: sessions, retries, carried time; and what each outcome allows them to believe.

A batch is sent again, same session and sequences, until every row of it has an outcome that is final. A connection
dies with the process at its other end: no message and no answer passes from one life of a node to the next. Within one
life both may be lost, and requests doubled and late. A client with a *named* session does as a bulk load does; one
that *gives up* takes a full storage for a final answer (and never has a second copy of a request on its way).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tidegrid.grid.engine.intake import Carry
from tidegrid.grid.engine.reads import CloseRequest, ReadRequest
from tidegrid.grid.engine.write import WriteRequest
from tidegrid.grid.log.record import DELETE, PUT
from tidegrid.grid.model.errors import (
    ConflictError,
    DerivedMapError,
    EpochTooNewError,
    EpochTooOldError,
    GridError,
    InvalidKeyError,
    InvalidValueError,
    OutcomeUnknownError,
    RejectedError,
    StorageFullError,
    TooLargeError,
    UnknownMapError,
)
from tidegrid.grid.model.ids import Epoch, NodeId, PartitionId, Position

from tests.simulation import auditor
from tests.simulation.content import GROUPS, ITEMS, TABLES, pack
from tests.simulation.judge import RequestId, SentRow, Violation

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

FINAL = (ConflictError, RejectedError, InvalidKeyError, InvalidValueError, TooLargeError)
SECONDS = 2.0  # a request's deadline at the node
WRITTEN = ("raw", "raw", "raw", "raw", "plain", "plain", "prices", "notes", "beside")
PATIENCE = 0.15  # until a client asks again


@dataclass(slots=True)
class Batch:
    partition: int
    session: bytes
    first: int
    map: str
    keys: list[bytes]
    values: list[bytes | None]
    conditions: dict[int, int]
    open_rows: set[int] = field(default_factory=set)
    attempts: int = 0
    sent_to: tuple[NodeId, int] | None = None  # the process, and its life, that the newest attempt went to

    def __repr__(self) -> str:
        return f"{self.map}[{len(self.keys)}] of {self.partition} from {self.first}, open {sorted(self.open_rows)}"

    def request_id(self, row: int) -> RequestId:
        return self.session, self.partition, self.first + row


class Client:
    def __init__(self, world: World, number: int) -> None:
        self.world, self.number = world, number
        self.named = number == 1
        self.gives_up = number == 2
        self.control, self.epoch = Position(0), Epoch(0)
        self.outstanding: dict[tuple[bytes, int, int], Batch] = {}
        self.acknowledged: dict[tuple[str, bytes], int] = {}  # position of the newest version it was told of
        self._sessions = 0
        self._session = b""
        self._next: dict[int, int] = {}
        self._renew()

    def _renew(self) -> None:
        self._sessions += 1
        kind = 2 if self.named else 1
        created = 0 if self.named else self.epoch
        self._session = struct.pack(">B7xQII", kind, created, self.number, self._sessions)
        self._created, self._next = created, {}

    def start(self) -> None:
        world = self.world
        world.every(1 / world.options.write_delay, self._act)

    def learn(self, control: Position, epoch: Epoch) -> None:
        self.control, self.epoch = max(self.control, control), max(self.epoch, epoch)

    def _carry(self) -> Carry:
        return Carry(b"", self.control, self.epoch)

    def _act(self) -> None:
        chance = self.world.chance
        dice = chance.random()
        if dice < 0.6:
            if len(self.outstanding) < 6:
                self._write()
        elif dice < 0.93:
            self._read()
        elif dice < 0.96:
            self._wrong()
        elif self.world.happens(self.world.options.forge_rate / 2):
            self._forge()

    # Writes -----------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        world, chance = self.world, self.world.chance
        if not self.named and self.epoch > self._created + world.options.session_epochs // 2:
            self._renew()
        name = chance.choice(WRITTEN + tuple(self._extra_maps()))
        keys, values, conditions = self._rows(name)
        partition = world.keys.partition(name, keys[0])
        first = self._next.get(partition, 1)
        self._next[partition] = first + len(keys)
        batch = Batch(partition, self._session, first, name, keys, values, conditions, set(range(len(keys))))
        for row, (key, value) in enumerate(zip(keys, values, strict=True)):
            sent = SentRow(name, key, value, conditions.get(row), self.epoch)
            world.judge.sent[batch.request_id(row)] = sent
        self.outstanding[batch.session, partition, first] = batch
        self._send(batch)

    def _extra_maps(self) -> list[str]:
        """The newest declared map, if this client knows that much of the control log."""
        return [name for name, position in self.world.extra_maps[-1:] if position <= self.control]

    def _rows(self, name: str) -> tuple[list[bytes], list[bytes | None], dict[int, int]]:
        world, chance = self.world, self.world.chance
        candidates = world.keys.all_of(name)
        seed = chance.choice(candidates)
        partition = world.keys.partition(name, world.keys.encode(seed))
        near = [key for key in candidates if world.keys.partition(name, world.keys.encode(key)) == partition]
        count = chance.choice((1, 1, 2, 4, 8))
        keys = [world.keys.encode(chance.choice(near)) for _ in range(count)]
        values: list[bytes | None] = []
        conditions: dict[int, int] = {}
        for row, key in enumerate(keys):
            if name not in ("notes", "events") and chance.random() < 0.15:
                values.append(None)
            elif name == "raw":
                cap = 0
                if not self.named and chance.random() < 0.3:
                    cap = chance.randint(1, 3000)
                padding = "x" * chance.choice((0, 0, 0, 300, 800))
                bad, number = chance.random() < 0.1, chance.randint(1, 1000)
                values.append(pack({"bad": bad, "cap": cap, "x": chance.random(), "n": number, "p": padding}))
            else:
                values.append(pack(chance.random()))
            if name in ("plain", "raw") and not self.named and chance.random() < 0.3:
                last = world.judge.latest(name, key)
                number = last.number if last is not None else 0
                conditions[row] = max(0, number + chance.choice((0, 0, 0, 0, -1, 1)))
        return keys, values, conditions

    def _send(self, batch: Batch) -> None:
        world = self.world
        process = world.owner(batch.partition)
        if batch.attempts and not world.storm and not batch.open_rows:
            return
        if process is None or process.node is None:
            world.soon(PATIENCE, lambda: self._again(batch))
            return
        batch.attempts += 1
        batch.sent_to = process.me, process.life
        life = process.life
        whole = batch.open_rows == set(range(len(batch.keys)))
        rows = range(len(batch.keys)) if whole else _first_stretch(batch.open_rows)
        lowest = min(
            other.first
            for other in self.outstanding.values()
            if (other.session, other.partition) == (batch.session, batch.partition)
        )
        if self.named or world.happens(0.1):
            lowest = 0
        carry = self._carry()
        copies = 1 if self.gives_up else 1 + world.happens(world.faults.client_double)
        for _ in range(copies):
            if not self.gives_up and world.happens(world.faults.client_loss):
                continue
            request = self._request(batch, rows, lowest, process, life)
            world.soon(world.options.client_delay, lambda request=request: arrive(process, life, request, carry))
        attempt = batch.attempts
        if self.gives_up:
            self._watch(batch, process, life)
        else:
            world.soon(PATIENCE, lambda: self._again(batch, attempt))

    def _watch(self, batch: Batch, process: Process, life: int) -> None:
        """Sends again only when the connection has died."""

        def look() -> None:
            if batch.open_rows and batch.sent_to == (process.me, life):
                if process.life != life:
                    self._send(batch)
                else:
                    self._watch(batch, process, life)

        self.world.soon(PATIENCE, look)

    def _again(self, batch: Batch, attempt: int | None = None) -> None:
        """Patience is over, or the owner was not there."""
        if batch.open_rows and (attempt is None or attempt == batch.attempts):
            self._send(batch)

    def _request(self, batch: Batch, rows: range, lowest: int, process: Process, life: int) -> WriteRequest:
        begin, end = rows.start, rows.stop
        conditions = {row - begin: version for row, version in batch.conditions.items() if begin <= row < end}
        return WriteRequest(
            PartitionId(batch.partition),
            batch.session,
            batch.first + begin,
            lowest,
            batch.map,
            batch.keys[begin:end],
            [value or b"" for value in batch.values[begin:end]],
            bytes(DELETE if value is None else PUT for value in batch.values[begin:end]),
            0,
            conditions,
            lambda request: self._answered(batch, begin, process, life, request),
        )

    def _answered(self, batch: Batch, begin: int, process: Process, life: int, request: WriteRequest) -> None:
        """At the node, at this instant: what is said now has to be durable."""
        world, judge = self.world, self.world.judge
        if request.unanswered:
            raise Violation(f"answered with {request.unanswered} rows to come: {batch}")
        for row in range(len(request.keys)):
            error = request.errors.get(row)
            if error is None:
                judge.acknowledged(batch.request_id(begin + row), request.versions[row], request.epochs[row])
            else:
                judge.plausible(batch.request_id(begin + row), error)
        assert process.node is not None
        control, epoch = process.node.control.position, process.node.epoch
        if not self.gives_up and world.happens(world.faults.client_loss):
            return

        def arrives() -> None:
            if process.life == life and batch.sent_to == (process.me, life):
                self.learn(control, epoch)
                self._settle(batch, begin, request)

        world.soon(world.options.client_delay, arrives)

    def _settle(self, batch: Batch, begin: int, request: WriteRequest) -> None:
        judge = self.world.judge
        for row in range(len(request.keys)):
            mine = begin + row
            error = request.errors.get(row)
            if mine not in batch.open_rows:
                continue
            if error is None:
                where = judge.positions_of[batch.request_id(mine)]
                known = self.acknowledged.get((batch.map, batch.keys[mine]), 0)
                self.acknowledged[batch.map, batch.keys[mine]] = max(known, where)
                batch.open_rows.discard(mine)
            elif self._is_final(batch, error):
                judge.told_refused(batch.request_id(mine), error)
                batch.open_rows.discard(mine)
            elif isinstance(error, OutcomeUnknownError):
                batch.open_rows.discard(mine)
            else:
                self._check_refusal(error)
        if not batch.open_rows:
            self.outstanding.pop((batch.session, batch.partition, batch.first), None)
        else:
            attempt = batch.attempts
            self.world.soon(0.02, lambda: self._again(batch, attempt))

    def _is_final(self, batch: Batch, error: GridError) -> bool:
        if isinstance(error, StorageFullError):
            return self.gives_up and batch.attempts == 1
        if self.named and "would be parked" in error.message:
            return False  # for want of room; refusals of a named session are not remembered
        return isinstance(error, FINAL)

    def _check_refusal(self, error: GridError) -> None:
        """What an honest client is never told."""
        if (
            isinstance(error, EpochTooOldError | EpochTooNewError | UnknownMapError | DerivedMapError)
            or error.code == "INTERNAL"
        ):
            raise Violation(f"an honest client was told: {error.code} {error}")

    # Reads ------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        world, chance = self.world, self.world.chance
        process = chance.choice(list(world.processes.values()))
        node = process.node
        if node is None:
            return
        name = chance.choice(TABLES + tuple(self._extra_maps()))
        mine = [
            encoded
            for key in world.keys.all_of(name)
            if world.owner(world.keys.partition(name, encoded := world.keys.encode(key))) is process
        ]
        if not mine:
            return
        keys = [chance.choice(mine) for _ in range(chance.randint(1, 3))]
        as_of = at_least = Epoch(0)
        dice = chance.random()
        if dice < 0.45:
            as_of = Epoch(max(1, self.epoch + chance.randint(-12, 2)))
        elif dice < 0.6:
            at_least = self.epoch
        linearizable = 0.6 <= dice < 0.75
        tellers = world.clients if linearizable else [self]  # who was told what this read has to show
        known = {key: max(client.acknowledged.get((name, key), 0) for client in tellers) for key in keys}
        life, asked_at = process.life, self.epoch

        def answered(request: ReadRequest) -> None:
            self._check_read(request, known, process, asked_at)
            if not world.happens(world.faults.client_loss) and process.life == life:
                assert process.node is not None
                control, epoch = process.node.control.position, process.node.epoch
                world.soon(world.options.client_delay, lambda: self.learn(control, epoch))

        request = ReadRequest(name, keys, as_of, at_least, answered, linearizable=linearizable)
        carry = self._carry()
        world.soon(world.options.client_delay, lambda: arrive(process, life, request, carry))

    def _check_read(self, request: ReadRequest, known: dict[bytes, int], process: Process, asked_at: Epoch) -> None:
        judge, node = self.world.judge, process.node
        assert node is not None
        error = request.error
        if error is not None:
            too_old = isinstance(error, EpochTooOldError) and request.as_of < judge.horizon
            too_new = isinstance(error, EpochTooNewError) and max(request.as_of, request.at_least) > asked_at
            if not too_old and not too_new:
                self._check_refusal(error)
            return
        if max(request.as_of, request.at_least) > node.control.closed:
            raise Violation("R1: answered before the epoch was closed")
        if request.as_of:
            auditor.check_read(judge, request, node.control.closed)
            return
        if request.map == "sums":  # what the latest is may still change, above the last close
            return
        for key, value, version, stamp in zip(
            request.keys, request.values, request.versions, request.epochs, strict=True
        ):
            chain = judge.generations.chain(request.map, key, request.generation)
            seen = [
                one.position
                for one in chain
                if ((one.value or b"", one.number, one.epoch) if one.value is not None else (b"", 0, 0))
                == (value, version, stamp)
            ]
            newest = max(seen, default=0 if not version else -1)
            if newest < known[key]:
                raise Violation(
                    f"{'R2' if request.linearizable else 'J'}: latest of {request.map} {key!r} is "
                    f"{(value, version, stamp)}, position {known[key]} was acknowledged: {chain[-3:]}"
                )

    # What should be refused, and what should be harmless ------------------------------------------------------------

    def _wrong(self) -> None:
        """Requests that are wrong in themselves; each is refused, and nothing of it is kept."""
        world, chance = self.world, self.world.chance
        key = world.keys.encode((chance.choice(GROUPS), chance.choice(ITEMS)))
        name, values = chance.choice((("latest", [pack(1)]), ("nowhere", [pack(1)]), ("plain", [b"\xc1"])))
        partition = world.keys.partition(name, key)
        process = world.owner(partition)
        if process is None or process.node is None:
            return
        session = struct.pack(">B7xQII", 1, self.epoch, 1000 + self.number, chance.getrandbits(32))

        def answered(request: WriteRequest) -> None:
            if not request.errors:
                raise Violation(f"a write to {name} was taken")

        request = WriteRequest(PartitionId(partition), session, 1, 0, name, [key], values, b"", 0, None, answered)
        carry, life = self._carry(), process.life
        world.soon(world.options.client_delay, lambda: arrive(process, life, request, carry))

    def _forge(self) -> None:
        """A pair that nobody has seen: it may raise the epoch, and never to the limit."""
        world, chance = self.world, self.world.chance
        process = chance.choice(list(world.processes.values()))
        if process.node is None:
            return
        epoch = Epoch(world.truth.limit + chance.choice((-3, -2, -1, 0, 1, 1000)))
        control = Position(world.truth.position + chance.choice((0, 0, 1, 1000)))
        true = epoch < world.truth.limit and control <= world.truth.position

        def answered(request: CloseRequest) -> None:
            beyond = epoch >= world.truth.limit or control > world.truth.position
            if beyond and request.error is None:
                raise Violation(f"E2: a forged ({control}, {epoch}) was taken")
            if true and isinstance(request.error, EpochTooNewError):
                raise Violation(f"E2: refused within the limit: {request.error}")

        request = CloseRequest(Epoch(0), answered)
        life = process.life
        world.soon(world.options.client_delay, lambda: arrive(process, life, request, Carry(b"", control, epoch)))


def arrive(process: Process, life: int, request: Any, carry: Carry) -> None:
    if process.life == life and process.node is not None:
        process.submit(request, carry, SECONDS)


def _first_stretch(rows: set[int]) -> range:
    begin = min(rows)
    end = begin
    while end in rows:
        end += 1
    return range(begin, end)
