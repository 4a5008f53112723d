"""One node on a stand: the engine over a log in memory, every step done by hand, so that a test says when.

`turn` computes and collects effects; a frame, or the FILL that settles its slot, waits in `frames` until the test lets
it `land` or `fail`; what a partition that is being opened asks for waits in `opening`, and `open_all` does it all.
Answers are in `answered`, in order. The control log is written by the test: `close` appends a CLOSE and lets the node
read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgpack
from tidegrid.grid.engine.checkpoint import Recovery
from tidegrid.grid.engine.effects import (
    Answered,
    Append,
    AppendControl,
    AppendGroup,
    CheckTails,
    LoadBase,
    LoadCheckpoint,
    Purpose,
    ReadControl,
    ReadLog,
    ReadOutputs,
    RunBatch,
    Suspended,
    Tell,
)
from tidegrid.grid.engine.intake import Carry
from tidegrid.grid.engine.node import Instant, Node
from tidegrid.grid.engine.parking import ParkedId
from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.engine.reads import CloseRequest, ReadRequest, ScanRequest
from tidegrid.grid.engine.retention import RetentionOptions
from tidegrid.grid.engine.write import WriteRequest
from tidegrid.grid.log.entry import Entry, LogRecord
from tidegrid.grid.log.memory_state import MemoryLogState
from tidegrid.grid.log.record import DELETE, PUT
from tidegrid.grid.model.errors import GridError, UnavailableError, WrongTailError
from tidegrid.grid.model.ids import (
    BEFORE_FIRST,
    CONTROL_LOG,
    Epoch,
    Incarnation,
    NodeId,
    PartitionId,
    Position,
    partition_log,
)
from tidegrid.grid.model.keys import encode_key
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.maps import KeyField, MapKind, MapSpec
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.declarations import spec_message
from tidegrid.grid.ring.local import RingOptions
from tidegrid.grid.ring.ownership import next_view
from tidegrid.grid.ring.view import Member
from tidegrid.triggers.loader import load_modules
from tidegrid.v1.control_pb2 import Close, ControlRecord, Deploy, GridCreated, Horizon, MapDeclared, Module, View

GRID_ID = b"stand-of-a-node!"
NOWHERE = Carry(b"", Position(0), Epoch(0))
TABLE = MapSpec("t", key=(KeyField("k"),))
STREAM = MapSpec("s", MapKind.STREAM)
REFERENCE = MapSpec("r", MapKind.REFERENCE)


def key(of: Any) -> bytes:
    return encode_key(of)


def pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


def client_session(number: int = 1, created: int = 1) -> bytes:
    return bytes((1,)) + bytes(7) + created.to_bytes(8, "big") + number.to_bytes(8, "big")


def named_session(number: int = 1) -> bytes:
    return bytes((2,)) + bytes(15) + number.to_bytes(8, "big")


class Stand:
    def __init__(
        self,
        *,
        maps: Sequence[MapSpec] = (TABLE, STREAM, REFERENCE),
        source: str | None = None,
        partitions: int = 1,
        nodes: Sequence[int] = (0,),
        limit: int = 16,
        session_epochs: int = 100,
        limits: Limits | None = None,
        retention: RetentionOptions | None = None,
        recent_bytes: int = 1 << 20,
        log: MemoryLogState | None = None,
        active: bool = True,
    ) -> None:
        self.limits = limits or Limits()
        self.log = log or MemoryLogState(record_bytes_max=self.limits.record_bytes_max)
        self.retention = retention or RetentionOptions()
        self.recent_bytes = recent_bytes
        self.nodes = [NodeId(node) for node in nodes]
        self.now = 0.0
        self.frames: list[Append] = []
        self.reads: list[ReadLog] = []  # of slots that were found taken
        self.opening: list[LoadCheckpoint | ReadLog | Append] = []
        self.building: list[LoadBase | ReadOutputs] = []
        self.bases: dict[tuple[str, int, str], list[bytes]] = {}  # (base, partition, map) -> chunks
        self.outputs_max = 1 << 30
        self.checkpoints: dict[PartitionId, tuple[Position, list[bytes]]] = {}
        self.answered: list[Any] = []
        self.told: list[Tell] = []
        self.control_appends: list[AppendControl] = []
        self.readings = 0
        self.tail_checks: list[CheckTails] = []
        self.group_appends: list[AppendGroup] = []
        self.batches: list[RunBatch] = []
        self.suspended: list[Suspended] = []
        self.sequences: dict[bytes, int] = {}
        self.control = ControlState()
        if log is None:
            created = GridCreated(
                grid_id=GRID_ID, partitions=partitions, limit=limit, session_epochs=session_epochs, format=1
            )
            self.declare(ControlRecord(created=created))
            for spec in maps:
                self.declare(ControlRecord(map=MapDeclared(spec=spec_message(spec))))
            if source is not None:
                self.deploy(source)
        self.node = self.start()
        if active and log is None and self.node.control.highest_activation:
            self.close(self.node.control.highest_activation - 1)
            self.open_all()

    # The control log -----------------------------------------------------------------------------------------------

    def declare(self, record: ControlRecord) -> Position:
        tail = self.log.tail(CONTROL_LOG)
        self.fold(self.control)
        return self.log.append([Entry(CONTROL_LOG, tail, self.control.closed, record.SerializeToString())])[0]

    def deploy(self, source: str) -> None:
        self.fold(self.control)
        loaded = load_modules([("module", source)], self.control.declared)
        maps = [spec_message(spec) for spec in loaded.maps]
        modules = [Module(name="module", source=source)]
        self.declare(ControlRecord(deploy=Deploy(hash=loaded.hash, modules=modules, maps=maps)))

    def fold(self, control: ControlState) -> None:
        for item in self.log.read(CONTROL_LOG, control.position, 1 << 30):
            control.apply(item.position, ControlRecord.FromString(item.payload))

    def read_control(self) -> None:
        self.node.control_records(self.instant, self.log.read(CONTROL_LOG, self.node.control.position, 1 << 30))
        self.collect()

    def close(self, epoch: int | None = None, reference_epoch: int | None = None) -> Epoch:
        """Closes `epoch`, or what the node stamps now (which the test knows to be safe), and lets the node know."""
        epoch = Epoch(self.node.epoch if epoch is None else epoch)
        changed = self.node.standing.reference_epoch() if reference_epoch is None else reference_epoch
        self.declare(ControlRecord(close=Close(epoch=epoch, time_ms=self.time_ms, reference_epoch=min(changed, epoch))))
        self.read_control()
        return epoch

    def horizon(self, epoch: int) -> None:
        self.declare(ControlRecord(horizon=Horizon(epoch=epoch)))
        self.read_control()

    # Life ----------------------------------------------------------------------------------------------------------

    def start(self, me: int = 0) -> Node:
        """A new life in a view that names it: all that is volatile is gone, no partition is open yet."""
        control = ControlState()
        self.fold(control)
        members = []
        for node in self.nodes:
            known = control.view.members.get(node)
            before = known.incarnation if known is not None else 0
            members.append(Member(node, Incarnation(before + 1 if node == me or not before else before)))
        self.declare(ControlRecord(view=next_view(control, members)))
        return self.begin(members[self.nodes.index(NodeId(me))])

    def begin(self, member: Member) -> Node:
        """A node over the control log as it is."""
        control = ControlState()
        self.fold(control)
        self.frames, self.reads, self.opening = [], [], []
        options = RingOptions(tick=None)
        self.node = Node(member, control, self.limits, options, self.retention, self.recent_bytes)
        self.node.start(self.instant)
        self.collect()
        return self.node

    def view(self, message: View) -> Position:
        """As any node may: appended, and not read by the node on the stand yet."""
        return self.declare(ControlRecord(view=message))

    def open_one(self) -> LoadCheckpoint | ReadLog | Append:
        """Does what the opening of a partition asked for first."""
        effect = self.opening.pop(0)
        if isinstance(effect, LoadCheckpoint):
            position, chunks = self.checkpoints.get(effect.partition, (BEFORE_FIRST, []))
            for _ in self.node.checkpoint_loaded(self.instant, effect, position, chunks):
                pass
        elif isinstance(effect, ReadLog):
            self.node.log_read(self.instant, effect, self.log_of(effect.partition, effect.after))
        else:
            self._append(effect)
        self.collect()
        return effect

    def build_one(self) -> None:
        """Does what a generation that is being built asked for first."""
        effect = self.building.pop(0)
        if isinstance(effect, LoadBase):
            chunks = self.bases.get((effect.base, effect.partition, effect.map))
            if chunks is None:
                error = UnavailableError(f"there is no base {effect.base!r}")
                self.node.tenure.builds.failed(self.instant.now, effect.build, error)
            else:
                for _ in self.node.tenure.builds.base_loaded(effect, chunks):
                    pass
        else:
            name = partition_log(effect.partition)
            after = self.log.position_before(name, effect.above) if effect.after is None else effect.after
            records = list(self.log.read(name, after, self.outputs_max))
            self.node.outputs_read(self.instant, effect, after, records)
        self.collect()

    def build_all(self) -> None:
        while self.building:
            self.build_one()

    def open_all(self) -> None:
        while self.opening:
            self.open_one()

    def restart(self) -> None:
        self.answered = []
        self.start()
        self.open_all()

    @property
    def instant(self) -> Instant:
        return Instant(self.now, self.time_ms)

    @property
    def time_ms(self) -> int:
        return 1_000_000 + int(self.now * 1000)

    def partition(self, number: int = 0) -> Partition:
        return self.node.partitions[PartitionId(number)]

    # Steps ---------------------------------------------------------------------------------------------------------

    def collect(self) -> None:
        for effect in self.node.take():
            if isinstance(effect, Append):
                (self.opening if effect.slot.purpose is Purpose.OPEN else self.frames).append(effect)
            elif isinstance(effect, ReadLog):
                (self.opening if effect.partition in self.node.openings else self.reads).append(effect)
            elif isinstance(effect, LoadCheckpoint):
                self.opening.append(effect)
            elif isinstance(effect, LoadBase | ReadOutputs):
                self.building.append(effect)
            elif isinstance(effect, Answered):
                self.answered.extend(effect.requests)
            elif isinstance(effect, RunBatch):
                self.batches.append(effect)
            elif isinstance(effect, Suspended):
                self.suspended.append(effect)
            elif isinstance(effect, Tell):
                self.told.append(effect)
            elif isinstance(effect, AppendControl):
                self.control_appends.append(effect)
            elif isinstance(effect, ReadControl):
                self.readings += 1
            elif isinstance(effect, CheckTails):
                self.tail_checks.append(effect)
            elif isinstance(effect, AppendGroup):
                self.group_appends.append(effect)

    def turn(self) -> None:
        self.collect()
        while self.node.compute(self.instant, 1_000_000):
            self.collect()

    def _append(self, effect: Append) -> None:
        """As the log does it: a slot that is taken is not overwritten."""
        try:
            (position,) = self.log.append([effect.entry])
        except WrongTailError as error:
            self.node.append_failed(self.instant, effect.slot, error)
        else:
            self.node.landed(self.instant, effect.slot, position)

    def land(self) -> None:
        """The oldest frame reaches the log."""
        self._append(self.frames.pop(0))
        self.turn()

    def write_log(self, payload: bytes, stamp: int, partition: int = 0) -> Position:
        """Somebody else's record, at the end of the log of a partition."""
        name = partition_log(PartitionId(partition))
        return self.log.append([Entry(name, self.log.tail(name), Epoch(stamp), payload)])[0]

    def log_of(self, partition: int = 0, after: int = 0) -> list[LogRecord]:
        return list(self.log.read(partition_log(PartitionId(partition)), Position(after), 1 << 30))

    def read_slot(self) -> None:
        """The node is told what has taken its slot."""
        read = self.reads.pop(0)
        self.node.log_read(self.instant, read, self.log_of(read.partition, read.after))
        self.turn()

    def land_all(self) -> None:
        self.turn()
        while self.frames:
            self.land()

    def fail(self, error: GridError) -> None:
        """The oldest frame is said not to have reached it."""
        self.node.append_failed(self.instant, self.frames.pop(0).slot, error)
        self.turn()

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.node.time_passed(self.instant)
        self.collect()

    def look(self) -> dict[PartitionId, Position]:
        """What the log says to the oldest check, now."""
        return {number: self.log.tail(partition_log(number)) for number in self.tail_checks[0].partitions}

    def check_tails(self, tails: Mapping[PartitionId, Position] | None = None, error: GridError | None = None) -> None:
        """The node hears of the oldest check: `tails`, or what the log says now."""
        found = self.look() if tails is None else tails
        check = self.tail_checks.pop(0)
        self.node.tails_checked(self.instant, check.number, found, self.log.tail(CONTROL_LOG), error)
        self.turn()

    # Requests --------------------------------------------------------------------------------------------------------

    def batch(
        self,
        rows: Mapping[Any, Any] | Sequence[tuple[Any, Any]],
        *,
        map_name: str = "t",
        session: bytes | None = None,
        first: int | None = None,
        lowest: int = 0,
        conditions: Mapping[int, int] | None = None,
        partition: int = 0,
        schema: int = 0,
    ) -> WriteRequest:
        """`rows`: (key, value) pairs; the value None deletes."""
        pairs = list(rows.items()) if isinstance(rows, Mapping) else list(rows)
        session = session or client_session()
        if first is None:
            first = self.sequences.get(session, 1)
        self.sequences[session] = max(self.sequences.get(session, 1), first + len(pairs))
        return WriteRequest(
            PartitionId(partition),
            session,
            first,
            lowest,
            map_name,
            [key(of) for of, _ in pairs],
            [b"" if value is None else pack(value) for _, value in pairs],
            bytes(DELETE if value is None else PUT for _, value in pairs),
            schema,
            conditions,
            "to the test",
        )

    def submit(self, request: Any, carry: Carry = NOWHERE, seconds: float = 10.0) -> Any:
        self.node.submit(self.instant, request, carry, self.now + seconds)
        self.turn()
        return request

    def put(self, rows: Mapping[Any, Any] | Sequence[tuple[Any, Any]], **more: Any) -> WriteRequest:
        request: WriteRequest = self.submit(self.batch(rows, **more))
        return request

    def put_now(self, rows: Mapping[Any, Any] | Sequence[tuple[Any, Any]], **more: Any) -> WriteRequest:
        """Put, landed and answered."""
        request = self.put(rows, **more)
        self.land_all()
        assert request in self.answered
        return request

    def get(
        self,
        of: Any,
        *,
        map_name: str = "t",
        as_of: int = 0,
        at_least: int = 0,
        carry: Carry = NOWHERE,
        seconds: float = 10.0,
        **freshness: Any,
    ) -> ReadRequest:
        request = ReadRequest(map_name, [key(of)], Epoch(as_of), Epoch(at_least), "to the test", **freshness)
        self.submit(request, carry, seconds)
        return request

    def value(self, of: Any, **more: Any) -> Any:
        request = self.get(of, **more)
        assert request in self.answered and request.error is None, request.error
        return msgpack.unpackb(request.values[0]) if request.versions[0] else None

    def scan(self, map_name: str = "t", partition: int = 0, rows_max: int = 1000, as_of: int = 0) -> ScanRequest:
        request = ScanRequest(
            map_name, PartitionId(partition), b"", None, rows_max, False, Epoch(as_of), Epoch(0), "to the test"
        )
        self.submit(request)
        return request

    def wait_closed(self, epoch: int, **more: Any) -> CloseRequest:
        request = CloseRequest(Epoch(epoch), "to the test")
        self.submit(request, **more)
        return request


def recover(log: MemoryLogState, partition: Partition, reference_maps: frozenset[str], chunks: Any = ()) -> Recovery:
    recovery = Recovery(partition, reference_maps)
    for chunk in chunks:
        recovery.chunk(chunk)
    recovery.records(log.read(partition_log(partition.id), recovery.position, 1 << 30))
    return recovery


def state_of(partition: Partition) -> dict[str, Any]:
    """Everything durable that a partition holds, to compare two of them."""
    return {
        "facts": (partition.term, partition.tail, partition.last_stamp, partition.references_changed, partition.opened),
        "tables": {
            name: {of: table.chain(of) for of in sorted(table.keys())} for name, table in partition.tables.items()
        },
        "parked": [
            (write.id, write.map, write.key, write.value, write.previous, write.message, write.tries, write)
            for write in partition.parking.page("", ParkedId(BEFORE_FIRST, 0), 1 << 30)[0]
        ],
        "memory": {
            session: [(first, last, epoch, versions) for first, last, epoch, versions in runs]
            for session, _, _, runs in partition.memory.rows()
            if runs
        },
    }
