"""The shell of one node: takes inputs, steps the engine, performs its effects in order. It decides nothing about data.

One turn (`_turn`): perform what the engine asks, compute some frames, and come again if there is more; between two turns
the event loop looks after sockets and files. All inputs of one turn of the event loop share one turn here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from functools import partial

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
    Suspended,
    Tell,
)
from tidegrid.grid.engine.intake import Carry, Request
from tidegrid.grid.engine.node import Instant, Node
from tidegrid.grid.journal.seam import Log
from tidegrid.grid.log.entry import Entry, LogRecord
from tidegrid.grid.model.errors import CorruptionError, GridError, LogFailedError
from tidegrid.grid.model.ids import BEFORE_FIRST, CONTROL_LOG, Epoch, NodeId, PartitionId, Position, partition_log
from tidegrid.grid.ring.messages import Envelope, TokenMessage
from tidegrid.grid.runtime.bases import Bases
from tidegrid.grid.runtime.clock import Clock
from tidegrid.grid.runtime.patience import patiently
from tidegrid.grid.runtime.peers import Peers
from tidegrid.grid.runtime.pool import Pool, WorkerOptions
from tidegrid.triggers.budget import Watch
from tidegrid.v1.ring_pb2 import RehearseReply, RehearseRequest

CONTROL_READ_BYTES = 1024 * 1024
LOG_READ_BYTES = 1024 * 1024  # replayed in one go by a partition that is being opened: others wait so long
TURN_WRITES = 500  # computed in one turn: more amortise better, but sockets and the token wait for them
RECLAIM_BUDGET = 2_000  # steps in one turn of the event loop
_log = logging.getLogger(__name__)


class Driver:
    def __init__(
        self, node: Node, log: Log, peers: Peers, clock: Clock, on_failure: Callable[[GridError], None] | None = None
    ) -> None:
        self.node = node
        self.log = log
        self.bases = Bases.of(log)  # a grid gives its own, which all nodes share
        self._peers = peers
        self._clock = clock
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        self._turn_due = False
        self._in_turn = False
        self._more_in_turn = False
        self._telling = False
        self._appending = 0
        self._timer_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._control_reader: asyncio.Task[None] | None = None
        self._control_grew = False
        self._at_tail_wanted = False
        self._closed_changed = asyncio.Event()
        self._turned: asyncio.Event | None = None  # there while somebody waits for the next turn
        self._reclaiming = False
        self._stopped = False
        self.failure: GridError | None = None
        self.pool: Pool | None = None  # of worker processes; that of the whole process, if it is given one
        self._own_pool: Pool | None = None
        self.rehearsed = Watch()  # of what is run for a plan, on the thread of the node
        self._unfollow: Callable[[], None] = lambda: None

    # Inputs ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Follows the control log and runs; what the view gives to the node is opened from here on."""
        self.node.start(self._clock.instant())
        self._unfollow = self.log.follow(CONTROL_LOG, self._control_log_grew)
        self._control_log_grew()
        self._soon()

    def submit(self, request: Request, carry: Carry, timeout: float) -> None:
        """Its answer reaches `request.reply_to(request)`."""
        instant = self._clock.instant()
        self.node.submit(instant, request, carry, instant.now + timeout)
        self._soon()

    def receive(self, envelope: Envelope) -> None:
        """Everybody waits for a token: it goes on at once, and not after what else this pass of the event loop has to do."""
        if not self._stopped:
            self.node.message(self._clock.instant(), envelope)
            self._go_on(at_once=isinstance(envelope.body, TokenMessage), writes_max=0)

    async def ask(self, to: NodeId, request: RehearseRequest, timeout: float) -> RehearseReply:
        """Another node. Raises UnavailableError, DeadlineError."""
        return await self._peers.ask(to, request, timeout)

    def instant(self) -> Instant:
        return self._clock.instant()

    def start_round(self) -> None:
        """Steps time by hand, for tests: begins a round now."""
        self.node.ring.start_round(self._clock.instant().now)
        self._soon()

    async def opened(self, progress: Callable[[PartitionId, int], None] | None = None) -> None:
        """Returns when everything that the view gives to the node is open. Raises what it fails with."""
        while self.node.openings:
            if progress is not None:
                for number, opening in self.node.openings.items():
                    progress(number, opening.entries)
            if (error := self.node.tenure.builds.stuck()) is not None:
                raise CorruptionError(
                    f"{error.message}. Readers see it, so the grid does not open without it: restore that file from a copy of the data",
                    **error.fields,
                )
            await self.turned()
        if self.failure is not None:
            raise self.failure

    async def turned(self) -> None:
        """Returns after the next turn."""
        if self._turned is None:
            self._turned = asyncio.Event()
        await self._turned.wait()

    @property
    def stopped(self) -> bool:
        return self._stopped

    async def closed_above(self, epoch: Epoch) -> None:
        """Returns when `closed` is above `epoch`, or the driver has stopped. Cancel it to give up."""
        while self.node.control.closed <= epoch and not self._stopped:
            await self._closed_changed.wait()

    # The turn ----------------------------------------------------------------------------------------------------

    def _soon(self) -> None:
        if not self._turn_due and not self._stopped:
            self._turn_due = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Takes the turn that is due at once: all of a message has been submitted."""
        if self._turn_due:
            self._turn()

    def _turn(self, writes_max: int = TURN_WRITES) -> None:
        self._turn_due = False
        if self._stopped:
            return
        self._in_turn, self._more_in_turn = True, False
        try:
            self._perform()
            if writes_max and not self._telling and self.node.compute(self._clock.instant(), writes_max):
                self._perform()
            self.log.flush()
            if self._more_in_turn:
                self._perform()  # what has landed at once is answered in the same turn
            if not self.node.writes.idle:
                self._soon()
        except GridError as error:
            self._fail(error)
        except Exception as error:
            self._fail(
                GridError(
                    f"node {self.node.me} met a defect of its own ({error!r}); its traceback is in the log of the process"
                )
            )
            _log.exception("node %d", self.node.me)  # not raised: the log may be in the middle of telling others
        finally:
            self._in_turn = False
        self._set_timer()
        if self._turned is not None:
            self._turned.set()
            self._turned = None

    def _perform(self) -> None:
        for effect in self.node.take():
            self._do(effect)

    def _do(self, effect: Effect) -> None:
        match effect:
            case Append():
                self._appending += 1
                self.log.start([effect.entry], partial(self._appended, effect))
            case Answered(requests):
                for request in requests:
                    request.reply_to(request)
            case RunBatch():
                self._spawn(self._run_batch(effect))
            case Suspended(trigger, words):
                _log.error("node %d: trigger %r: %s", self.node.me, trigger, words)
            case Tell(to, envelope):
                self._peers.send(to, envelope)
            case ClosedTo():
                self._closed_changed.set()
                self._closed_changed = asyncio.Event()
                self._reclaim_soon()
                self._followers_first()
            case AppendControl(expected, record):
                entry = Entry(CONTROL_LOG, expected, self.node.control.closed, record.SerializeToString())
                self.log.start([entry], partial(self._control_appended, effect, entry))
            case ReadControl():
                self._at_tail_wanted = True
                self._control_log_grew()
            case ReadLog():
                self._spawn(self._read_log(effect))
            case AppendGroup():
                self._appending += 1
                self.log.start(effect.entries, partial(self._group_appended, effect))
            case CheckTails():
                self._spawn(self._check_tails(effect))
            case LoadCheckpoint():
                self._spawn(self._load_checkpoint(effect))
            case LoadBase():
                self._spawn(self._load_base(effect))
            case ReadOutputs():
                self._spawn(self._read_outputs(effect))

    def _followers_first(self) -> None:
        """Who waits for a close takes it before more is computed: their tasks are in line before `_told`."""
        if not self._telling:
            self._telling = True
            self._loop.call_soon(self._told)

    def _told(self) -> None:
        self._telling = False
        self._soon()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _set_timer(self) -> None:
        """A timer that is early is harmless, and cheaper to leave than to set anew in every turn."""
        deadline = self.node.deadline()
        if deadline is None or (self._timer is not None and self._timer_at <= deadline):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_later(max(0.0, deadline - self._clock.instant().now), self._time_passed)

    def _time_passed(self) -> None:
        self._timer = None
        self.node.time_passed(self._clock.instant())
        self._soon()

    def _fail(self, error: GridError) -> None:
        """This node cannot go on: what it has in flight is answered, and its owner is told."""
        _log.error("node %d stops: %s", self.node.me, error)
        self.failure = self.failure or error
        self.node.fail(error)
        self._perform()
        if self._on_failure is not None:
            self._on_failure(error)

    # The log -----------------------------------------------------------------------------------------------------

    def _appended(self, effect: Append, positions: tuple[Position, ...], error: GridError | None) -> None:
        self._appending -= 1
        if self._stopped:
            return
        if error is None:
            self.node.landed(self._clock.instant(), effect.slot, positions[0])
        else:
            self.node.append_failed(self._clock.instant(), effect.slot, error)
            if isinstance(error, LogFailedError):
                self._fail(error)
        # Whoever waits for this answer waits no turn more, but the others of its batch land in this same turn of the loop.
        self._go_on(at_once=not self._appending)

    def _go_on(self, *, at_once: bool, writes_max: int = TURN_WRITES) -> None:
        """The node has learned something, perhaps of what a turn itself has begun."""
        if self._in_turn:
            self._more_in_turn = True
        elif at_once:
            self._turn(writes_max)
        else:
            self._soon()

    def _group_appended(self, effect: AppendGroup, positions: tuple[Position, ...], error: GridError | None) -> None:
        self._appending -= 1
        if self._stopped:
            return
        if error is None:
            self.node.group_landed(self._clock.instant(), effect.group, positions)
        else:
            self.node.group_failed(self._clock.instant(), effect.group, error)
            if isinstance(error, LogFailedError):
                self._fail(error)
        self._go_on(at_once=False)

    def _control_appended(
        self, effect: AppendControl, entry: Entry, positions: tuple[Position, ...], error: GridError | None
    ) -> None:
        if self._stopped:
            return
        if error is not None:
            self.node.control_failed(self._clock.instant(), effect, error)
            if isinstance(error, LogFailedError):
                self._fail(error)
        elif self.node.control.position == entry.expected:  # it is the next record: no need to read it back
            record = LogRecord(positions[0], entry.epoch, entry.payload)
            self.node.control_records(self._clock.instant(), [record])
        self._go_on(at_once=True, writes_max=0)

    async def _read_log(self, effect: ReadLog) -> None:
        try:
            name = partition_log(effect.partition)
            records = await patiently(partial(self.log.read, name, effect.after, LOG_READ_BYTES))
            self.node.log_read(self._clock.instant(), effect, records)
        except GridError as error:
            self._fail(error)
        self._soon()

    async def _load_base(self, effect: LoadBase) -> None:
        try:
            chunks = self.bases.chunks(effect.base, effect.partition, effect.map)
            for _ in self.node.tenure.builds.base_loaded(effect, chunks):
                await asyncio.sleep(0)
        except GridError as error:
            self._not_built(effect, error)
        self._soon()

    async def _read_outputs(self, effect: ReadOutputs) -> None:
        try:
            name, after = partition_log(effect.partition), effect.after
            if after is None:
                after = await self.log.position_before(name, effect.above)
            records = await self.log.read(name, after, LOG_READ_BYTES)
            self.node.outputs_read(self._clock.instant(), effect, after, records)
        except GridError as error:
            self._not_built(effect, error)
        self._soon()

    def _not_built(self, effect: LoadBase | ReadOutputs, error: GridError) -> None:
        _log.warning("generation %d of map %r in partition %d: %s", effect.number, effect.map, effect.partition, error)
        self.node.tenure.builds.failed(self._clock.instant().now, effect.build, error)

    async def _run_batch(self, effect: RunBatch) -> None:
        if self.pool is None:
            self.pool = self._own_pool = Pool(WorkerOptions())
        done = await self.pool.run(effect, partial(self.node.writes.isolation.look_up, effect.number))
        if not self._stopped:
            self.node.batch_done(self._clock.instant(), done)
            self._soon()

    async def _load_checkpoint(self, effect: LoadCheckpoint) -> None:
        try:
            saved = await patiently(partial(self.log.load_checkpoint, partition_log(effect.partition)))
            position, chunks = (saved.position, saved.chunks) if saved is not None else (BEFORE_FIRST, ())
            for _ in self.node.checkpoint_loaded(self._clock.instant(), effect, position, chunks):
                await asyncio.sleep(0)
        except GridError as error:
            self._fail(error)
        except OSError as error:  # in the midst of it
            self._fail(GridError(f"the checkpoint of partition {effect.partition} could not be read: {error}"))
        self._soon()

    async def _check_tails(self, effect: CheckTails) -> None:
        tails: dict[PartitionId, Position] = {}
        control, problem = Position(0), None
        try:
            for partition in effect.partitions:
                tails[partition] = await self.log.tail(partition_log(partition))
            control = await self.log.tail(CONTROL_LOG)
        except GridError as error:
            problem = error
        self.node.tails_checked(self._clock.instant(), effect.number, tails, control, problem)
        self._soon()

    def _control_log_grew(self) -> None:
        self._control_grew = True
        if (self._control_reader is None or self._control_reader.done()) and not self._stopped:
            self._control_reader = self._loop.create_task(self._read_control())

    async def _read_control(self) -> None:
        while self._control_grew and not self._stopped:
            self._control_grew = False
            position = Position(-1)
            while position != self.node.control.position:
                position = self.node.control.position
                try:
                    records = await patiently(partial(self.log.read, CONTROL_LOG, position, CONTROL_READ_BYTES))
                except GridError as error:
                    self._fail(error)
                    return
                if records:
                    self.node.control_records(self._clock.instant(), records)
            if self._at_tail_wanted:
                self._at_tail_wanted = False
                self.node.control_at_tail(self._clock.instant())
            self._turn(writes_max=0)

    # History -----------------------------------------------------------------------------------------------------

    def _reclaim_soon(self) -> None:
        if self.node.retention.pending and not self._reclaiming:
            self._reclaiming = True
            self._loop.call_soon(self._reclaim)

    def _reclaim(self) -> None:
        if not self._stopped and self.node.reclaim(RECLAIM_BUDGET):
            self._loop.call_soon(self._reclaim)
        else:
            self._reclaiming = False

    # The end -----------------------------------------------------------------------------------------------------

    async def drain(self, timeout: float) -> None:
        """Takes nothing new, and waits until what is on its way is answered."""
        self.node.stop()
        self._soon()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not self.node.drained or self._turn_due:
                    await self.turned()

    async def stop(self) -> None:
        self._stopped = True
        self._unfollow()
        self._closed_changed.set()
        if self._timer is not None:
            self._timer.cancel()
        tasks = [*self._tasks]
        if self._control_reader is not None:
            tasks.append(self._control_reader)
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                _log.error("node %d: %r", self.node.me, result)
        if self._own_pool is not None:
            self._own_pool.close()
