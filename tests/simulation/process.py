"""One node as a process that can die: the real engine, and in place of its asyncio shell the same steps as events.

    down --start--> up (control log folded; joins, opens and gives up by itself) --crash, or its log handle fails--> down
                    up --pause--> paused --after a while--> up

All that is volatile goes with a crash; what was handed to the log before may still get there. Events of an earlier
life of the process find that `life` has moved on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tidegrid.grid.engine.checkpoint import Recovery, checkpoint_chunks
from tidegrid.grid.engine.effects import (
    Answered,
    Append,
    AppendControl,
    AppendGroup,
    CheckTails,
    ClosedTo,
    Effect,
    LoadBase,
    LoadCheckpoint,
    ReadControl,
    ReadLog,
    ReadOutputs,
    RunBatch,
    Tell,
)
from tidegrid.grid.engine.intake import Carry, Request
from tidegrid.grid.engine.making import BatchDone
from tidegrid.grid.engine.node import Instant, Node
from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.engine.reads import ScanRequest
from tidegrid.grid.engine.retention import RetentionOptions
from tidegrid.grid.log.entry import Entry
from tidegrid.grid.log.memory_state import MemoryLogState
from tidegrid.grid.model.errors import (
    GridError,
    LogFailedError,
    LogTimeoutError,
    StorageFullError,
    UnavailableError,
    WrongTailError,
)
from tidegrid.grid.model.ids import BEFORE_FIRST, CONTROL_LOG, Epoch, Incarnation, NodeId, Position, partition_log
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.local import RingOptions
from tidegrid.grid.ring.messages import Envelope
from tidegrid.grid.ring.view import Member
from tidegrid.v1.control_pb2 import ControlRecord

from tests.simulation import auditor
from tests.simulation.content import TABLES
from tests.simulation.judge import Violation
from tests.simulation.options import LIMITS
from tests.simulation.pool import Pool

if TYPE_CHECKING:
    from tests.simulation.world import World

CONTROL_READ_BYTES = 200
RECLAIM_BUDGET = 3
TURN_WRITES = 4


def fold_control(log: MemoryLogState, saved: bytes | None = None) -> ControlState:
    """The control log to its end, from a checkpoint or from its beginning."""
    control = ControlState.from_bytes(saved) if saved is not None else ControlState()
    for item in log.read(CONTROL_LOG, control.position, 1 << 30):
        control.apply(item.position, ControlRecord.FromString(item.payload))
    return control


class Process:
    def __init__(self, world: World, me: NodeId) -> None:
        self.world, self.me = world, me
        self.life = 0
        self.incarnation = Incarnation(0)
        self._pool = Pool(self)
        self.listeners: list[Callable[[], None]] = []  # told of closes, of starts and of deaths
        self._forget()

    def _forget(self) -> None:
        self.node: Node | None = None
        self.paused_until = 0.0
        self._log_dead = False
        self._turn_due = self._reading = self._control_grew = self._at_tail_wanted = self._reclaiming = False
        self._timer = 0

    # Life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Rule S: a new incarnation over the control log as it is. It becomes a member by itself, or is one already."""
        world = self.world
        self.life += 1
        self._forget()
        saved = world.log.load_checkpoint(CONTROL_LOG) if world.happens(0.7) else None
        control = fold_control(world.log, b"".join(saved[1]) if saved is not None else None)
        self.incarnation = Incarnation(self.incarnation + 1)
        world.note("node %s starts as incarnation %s", self.me, self.incarnation)
        options = world.options
        ring_options = RingOptions(tick=options.tick, heartbeat=options.heartbeat, evict_after=options.evict_after)
        retention = RetentionOptions(options.history_seconds, options.history_bytes, proposal_seconds=0.2)
        self.node = Node(self.member, control, LIMITS, ring_options, retention, options.recent_bytes)
        self.node.start(self.instant())
        self.control_grew()
        self._tell_listeners()
        self._soon_turn()

    @property
    def member(self) -> Member:
        return Member(self.me, self.incarnation)

    @property
    def open(self) -> bool:
        """A member, and all that the view gives to it is open."""
        return self.node is not None and self.node.standing.ready()

    def crash(self) -> None:
        world = self.world
        if self.node is None:
            return
        world.note("node %s crashes", self.me)
        self.life += 1
        self._forget()
        self._tell_listeners()
        world.soon(world.options.downtime, self.start)

    def pause(self) -> None:
        """Nothing happens here for a while; what it sent before goes on, what comes to it waits."""
        world = self.world
        self.paused_until = world.now + world.chance.expovariate(1 / world.options.pause)
        world.note("node %s is paused until %.3f", self.me, self.paused_until)

    def soon(self, mean: float, action: Callable[[], None]) -> None:
        """In this life only, and not while paused."""
        self.world.soon(mean, self._when_awake(action))

    def _when_awake(self, action: Callable[[], None]) -> Callable[[], None]:
        life = self.life

        def run() -> None:
            if self.life != life:
                return
            if self.world.now < self.paused_until:
                self.world.later(self.paused_until - self.world.now, run)
            else:
                action()

        return run

    # Opening, as runtime/driver.py does it ------------------------------------------------------------------------

    def _load_checkpoint(self, effect: LoadCheckpoint) -> None:
        assert self.node is not None
        saved = self.world.log.load_checkpoint(partition_log(effect.partition)) if self.world.happens(0.7) else None
        position, chunks = saved if saved is not None else (BEFORE_FIRST, [])
        for _ in self.node.checkpoint_loaded(self.instant(), effect, position, chunks):
            pass
        self._soon_turn()

    def _read_log(self, effect: ReadLog) -> None:
        node, world = self.node, self.world
        assert node is not None
        records = world.log.read(partition_log(effect.partition), effect.after, 500)
        opening = node.openings.get(effect.partition)
        if opening is not None and not records:
            auditor.check_partition(world.judge, opening.partition, reclaimed_to=node.control.horizon)
        node.log_read(self.instant(), effect, records)
        self._soon_turn()

    def _load_base(self, effect: LoadBase) -> None:
        node, world = self.node, self.world
        assert node is not None
        if world.storm and world.happens(0.1):
            node.tenure.builds.failed(self.instant().now, effect.build, UnavailableError("the base cannot be read now"))
        else:
            chunks = world.regenerator.bases[effect.base, effect.partition, effect.map]
            for _ in node.tenure.builds.base_loaded(effect, chunks):
                pass
        self._soon_turn()

    def _read_outputs(self, effect: ReadOutputs) -> None:
        node, log = self.node, self.world.log
        assert node is not None
        name = partition_log(effect.partition)
        after = log.position_before(name, effect.above) if effect.after is None else effect.after
        node.outputs_read(self.instant(), effect, after, log.read(name, after, 500))
        self._soon_turn()

    # The shell, as runtime/driver.py does it ----------------------------------------------------------------------

    def instant(self) -> Instant:
        return Instant(self.world.now, self.world.time_ms)

    def submit(self, request: Request, carry: Carry, seconds: float) -> None:
        assert self.node is not None
        self.node.submit(self.instant(), request, carry, self.world.now + seconds)
        self._soon_turn()

    def receive(self, envelope: Envelope) -> None:
        self._when_awake(lambda: self._received(envelope))()

    def _received(self, envelope: Envelope) -> None:
        if self.node is not None:
            self.node.message(self.instant(), envelope)
            self._soon_turn()

    def _soon_turn(self) -> None:
        if not self._turn_due:
            self._turn_due = True
            self.soon(0.0003, self._turn)

    def _turn(self) -> None:
        self._turn_due = False
        node = self.node
        if node is None:
            return
        self._perform()
        if node.compute(self.instant(), TURN_WRITES):
            self._perform()
            self._soon_turn()
        if not node.control.closed < node.epoch < node.control.limit:
            raise Violation(f"E: epoch {node.epoch} outside ({node.control.closed}, {node.control.limit})")
        self._set_timer()

    def _perform(self) -> None:
        assert self.node is not None
        for effect in self.node.take():
            self._do(effect)

    def _do(self, effect: Effect) -> None:
        match effect:
            case Append():
                self._append(effect)
            case AppendGroup():
                self._append_group(effect)
            case LoadCheckpoint():
                self.soon(0.01, lambda: self._load_checkpoint(effect))
            case LoadBase():
                self.soon(0.02, lambda: self._load_base(effect))
            case ReadOutputs():
                self.soon(0.004, lambda: self._read_outputs(effect))
            case ReadLog():
                self.soon(0.004, lambda: self._read_log(effect))
            case Answered(requests):
                for request in requests:
                    request.reply_to(request)
            case RunBatch():
                self._pool.run(effect)
            case Tell(to, envelope):
                self.world.deliver(self.me, to, envelope)
            case ClosedTo():
                self._tell_listeners()
                self._reclaim_soon()
            case AppendControl():
                self._append_control(effect)
            case ReadControl():
                self._at_tail_wanted = True
                self.control_grew()
            case CheckTails():
                self._check_tails(effect)

    def batch_done(self, done: BatchDone) -> None:
        if self.node is not None:
            self.node.batch_done(self.instant(), done)
            self._soon_turn()

    def _set_timer(self) -> None:
        assert self.node is not None
        self._timer += 1
        timer, due = self._timer, self.node.deadline()
        if due is None:
            return

        def passed() -> None:
            if self._timer == timer and self.node is not None:
                self.node.time_passed(self.instant())
                self._soon_turn()

        self.world.later(max(0.0, due - self.world.now), self._when_awake(passed))

    def _tell_listeners(self) -> None:
        for listener in self.listeners:
            listener()

    # The log ----------------------------------------------------------------------------------------------------

    def _reach(
        self, mean: float, entries: Sequence[Entry], hear: Callable[[Sequence[Position] | GridError], None]
    ) -> None:
        """Hands entries to the log. It gets there later, perhaps after this process died; what came of it is heard
        later still."""
        world, life = self.world, self.life

        def reach() -> None:
            if self.life != life and not world.happens(world.options.late_append):
                return
            outcome: Sequence[Position] | GridError
            try:
                if self.life == life and self._log_dead:
                    raise LogFailedError("the log has failed")
                if world.happens(world.faults.storage_full):
                    raise StorageFullError("no space")
                if world.happens(world.faults.no_answer):
                    self._land_unheard(entries)
                    raise LogTimeoutError("no answer")
                if self.life == life and world.happens(world.faults.log_failure):
                    self._log_dead = True
                    if world.happens(0.5):
                        world.append_all(entries)
                    raise LogFailedError("a sync failed")
                outcome = world.append_all(entries)
            except GridError as error:
                logs = [entry.log for entry in entries]
                world.note("node %s: append to %s fails: %s", self.me, logs, type(error).__name__)
                outcome = error
            if self.life == life:
                self.soon(0.001, lambda: hear(outcome))

        world.soon(mean, reach)

    def _land_unheard(self, entries: Sequence[Entry]) -> None:
        """It gets into the log now, or later, or never."""
        world = self.world
        dice = world.chance.random()
        if dice < 0.3:
            return

        def land() -> None:
            with contextlib.suppress(WrongTailError):
                world.append_all(entries)

        if dice < 0.6:
            land()
        else:
            world.soon(0.02, land)

    def _append(self, effect: Append) -> None:
        def hear(outcome: Sequence[Position] | GridError) -> None:
            node = self.node
            assert node is not None
            if isinstance(outcome, GridError):
                node.append_failed(self.instant(), effect.slot, outcome)
                if isinstance(outcome, LogFailedError):
                    self._fail(outcome)
                    return
            else:
                node.landed(self.instant(), effect.slot, outcome[0])
            self._turn()

        self._reach(self.world.options.append_delay, (effect.entry,), hear)

    def _append_group(self, effect: AppendGroup) -> None:
        def hear(outcome: Sequence[Position] | GridError) -> None:
            node = self.node
            assert node is not None
            if isinstance(outcome, GridError):
                node.group_failed(self.instant(), effect.group, outcome)
                if isinstance(outcome, LogFailedError):
                    self._fail(outcome)
                    return
            else:
                node.group_landed(self.instant(), effect.group, outcome)
            self._turn()

        self._reach(self.world.options.append_delay, effect.entries, hear)

    def _append_control(self, effect: AppendControl) -> None:
        assert self.node is not None
        closed = self.node.control.closed
        entry = Entry(CONTROL_LOG, effect.expected, closed, effect.record.SerializeToString())

        def hear(outcome: Sequence[Position] | GridError) -> None:
            if isinstance(outcome, GridError):
                assert self.node is not None
                self.node.control_failed(self.instant(), effect, outcome)
                if isinstance(outcome, LogFailedError):
                    self._fail(outcome)
                    return
                self._soon_turn()

        self._reach(self.world.options.control_delay, (entry,), hear)

    def _check_tails(self, effect: CheckTails) -> None:
        def look() -> None:
            assert self.node is not None
            tails = {partition: self.world.log.tail(partition_log(partition)) for partition in effect.partitions}
            control = self.world.log.tail(CONTROL_LOG)

            def hear() -> None:
                assert self.node is not None
                self.node.tails_checked(self.instant(), effect.number, tails, control)
                self._soon_turn()

            self.soon(0.001, hear)

        self.soon(0.001, look)

    def _fail(self, error: GridError) -> None:
        """The log handle is dead: what is in flight is answered, then somebody starts the process again."""
        assert self.node is not None
        self.node.fail(error)
        self._perform()
        if any(partition.serving for partition in self.node.partitions.values()):
            raise Violation("F3: a partition is open on a dead log")
        self.soon(0.05, self.crash)

    def control_grew(self) -> None:
        self._control_grew = True
        if not self._reading and self.node is not None:
            self._reading = True
            self.soon(0.001, self._read_pass)

    def _read_pass(self) -> None:
        self._control_grew = False
        self._read_some()

    def _read_some(self) -> None:
        assert self.node is not None
        records = self.world.log.read(CONTROL_LOG, self.node.control.position, CONTROL_READ_BYTES)
        self.soon(self.world.options.control_delay, lambda: self._read_came(records))

    def _read_came(self, records: list) -> None:  # type: ignore[type-arg]
        node = self.node
        assert node is not None
        if records:
            node.control_records(self.instant(), records)
            self._soon_turn()
            self._read_some()
            return
        if self._at_tail_wanted:
            self._at_tail_wanted = False
            node.control_at_tail(self.instant())
        self._soon_turn()
        if self._control_grew:
            self._read_pass()
        else:
            self._reading = False

    def _reclaim_soon(self) -> None:
        if self.node is not None and self.node.retention.pending and not self._reclaiming:
            self._reclaiming = True
            self.soon(0.001, self._reclaim)

    def _reclaim(self) -> None:
        assert self.node is not None
        if self.node.reclaim(RECLAIM_BUDGET):
            self.soon(0.001, self._reclaim)
        else:
            self._reclaiming = False

    # Checkpoints and audits ---------------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        world, node = self.world, self.node
        if node is None or not node.partitions:
            return
        if world.happens(0.3):
            world.log.save_checkpoint(CONTROL_LOG, node.control.position, [node.control.to_bytes()])
            return
        partition = world.chance.choice(list(node.partitions.values()))
        if not partition.serving:
            return
        chunks = checkpoint_chunks(partition)
        taken = [next(chunks)]
        position = partition.tail

        def go_on() -> None:
            chunk = next(chunks, None)
            if chunk is not None:
                taken.append(chunk)
                self.soon(0.01, go_on)
                return
            before = world.log.load_checkpoint(partition_log(partition.id))
            if before is None or before[0] <= position:
                world.log.save_checkpoint(partition_log(partition.id), position, taken)

        self.soon(0.01, go_on)

    def audit(self) -> None:
        """A scan as of some epoch that is closed here, at once and without the network."""
        node, world = self.node, self.world
        if node is None or not node.partitions or not node.control.closed or world.now < self.paused_until:
            return
        partition = world.chance.choice(list(node.partitions.values()))
        if not partition.serving:
            return
        name = world.chance.choice(TABLES)
        closed = node.control.closed
        epoch = Epoch(world.chance.randint(max(1, node.control.horizon), closed))
        if name in node.catalog.maps:

            def reply(request: ScanRequest) -> None:
                if request.error is not None:
                    raise Violation(f"I5: a scan as of {epoch} (closed {closed}) was refused: {request.error}")
                auditor.check_read(world.judge, request, node.control.closed)

            self.submit(auditor.full_scan(name, partition, epoch, reply), Carry(b"", Position(0), Epoch(0)), 1.0)
            self._perform()

    def check_all(self) -> None:
        """Everything this node holds, at rest."""
        node, judge = self.node, self.world.judge
        assert node is not None
        for partition in node.partitions.values():
            auditor.check_partition(judge, partition, reclaimed_to=node.control.horizon)
            for _, table in partition.tables.every():
                table._check()
            fresh = Partition(partition.id, partition.limits, judge.session_epochs, 0, fold_of=node._catalogs.fold)
            fresh.tables.horizon = node.control.horizon
            fresh.tables.declare(node.control.declared.values())
            recovery = Recovery(fresh, node.writes.reference_maps)
            recovery.records(self.world.log.read(partition_log(partition.id), Position(0), 1 << 30))
            auditor.check_partition(judge, fresh, reclaimed_to=node.control.horizon)
            auditor.check_numbering(partition, fresh)
            facts = ("term", "tail", "last_stamp", "references_changed", "opened")
            live, recovered = ([getattr(one, fact) for fact in facts] for one in (partition, fresh))
            if live != recovered:
                raise Violation(f"I11: partition {partition.id} is {live}, recovered {recovered}")
            if partition.making is not None or not node.drained or node.writes._queued_bytes or partition.queued_bytes:
                raise Violation(f"partition {partition.id} of node {self.me} is not at rest")
