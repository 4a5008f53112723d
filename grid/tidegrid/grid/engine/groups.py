"""The coordinator's side of commit groups (rule G): whichever node a client sent the group to.

    borrowing, in partition order --all lent--> appending, one atomic append --landed--> done
        ^  |                                        |  |--refused for sure--> released, tried again
        |  '--declined--> released, answered        '--no answer--> unknown: a slot is read until it is taken
        '--an epoch too high for a slot, or for what a trigger was told--> released, tried again at that epoch

One try is one `attempt`; its append is issued once. "Failed" is said only when nothing was issued or a slot is taken by
another record (G4). There is no two-phase commit to recover: a coordinator that dies leaves slots for which their
owners contend, and the slot decides for the whole group, since the append is all or nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from tidegrid.grid.engine.effects import Answered, AppendGroup, Effect, ReadLog, Try
from tidegrid.grid.engine.group import GroupRequest
from tidegrid.grid.engine.lending import WHOLE_PART, Letters
from tidegrid.grid.log.entry import Entry, LogRecord
from tidegrid.grid.log.record import decode_record, stamped
from tidegrid.grid.model.error_message import error_of
from tidegrid.grid.model.errors import (
    BusyError,
    DeadlineError,
    GridError,
    InvalidValueError,
    LogFailedError,
    LogTimeoutError,
    PeerError,
    StoppingError,
    TooLargeError,
    WrongTailError,
)
from tidegrid.grid.model.ids import Epoch, NodeId, PartitionId, Position, Term, partition_log
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.ring.control import ControlState
from tidegrid.v1 import ring_pb2

REPEAT_SECONDS: Final = 0.1  # what is not answered is said again
PAUSE_SECONDS: Final = 0.01  # before another try
TRIALS_MAX: Final = 4096  # groups under way by this node: each holds its request
ID_BYTES_MAX: Final = 64
TELLINGS_MAX: Final = 50  # of an outcome; an owner that never hears finds it in its log


Named = TypeVar("Named", ring_pb2.Borrow, ring_pb2.Settle)


class Phase(enum.Enum):
    BORROWING = "borrowing"
    PAUSING = "pausing"
    APPENDING = "appending"
    UNKNOWN = "unknown"


@dataclass(slots=True)
class Trial:
    """A group under way. `lent` and `known` are of this attempt, `asked` names the owners that heard of it."""

    request: GroupRequest
    parts: tuple[PartitionId, ...]
    deadline: float
    attempt: int
    due: float
    phase: Phase = Phase.BORROWING
    lent: dict[PartitionId, ring_pb2.Lent] = field(default_factory=dict)
    known: dict[PartitionId, ring_pb2.Declined] = field(default_factory=dict)
    asked: dict[PartitionId, NodeId] = field(default_factory=dict)
    epoch: Epoch = Epoch(0)  # noqa: RUF009  of the append

    @property
    def name(self) -> Try:
        return self.request.id, self.attempt

    @property
    def next_part(self) -> PartitionId | None:
        return next((part for part in self.parts if part not in self.lent and part not in self.known), None)


@dataclass(slots=True)
class Telling:
    """An outcome that an owner has not acknowledged yet."""

    to: NodeId
    message: ring_pb2.Settled
    due: float
    times: int = 1


class Groups:
    """`first_attempt`: attempts are numbered from it on; a life of the node must not use those of another."""

    def __init__(
        self, control: ControlState, limits: Limits, emit: Callable[[Effect], None], first_attempt: int
    ) -> None:
        self.committed = 0
        self._control = control
        self._limits = limits
        self._emit = emit
        self._attempts = first_attempt
        self._trials: dict[bytes, Trial] = {}
        self._joined: dict[bytes, list[GroupRequest]] = {}
        self._telling: dict[tuple[Try, PartitionId], Telling] = {}

    @property
    def idle(self) -> bool:
        return not self._trials

    # In -----------------------------------------------------------------------------------------------------------

    def submit(self, now: float, request: GroupRequest, deadline: float) -> Letters:
        """Raises a GridError when the group is refused as a whole."""
        self._check(request)
        if request.id in self._trials:
            self._joined.setdefault(request.id, []).append(request)
            return []
        if len(self._trials) >= TRIALS_MAX:
            raise BusyError.of("the node's queue of commit groups", TRIALS_MAX)
        parts = tuple(sorted({PartitionId(batch.partition) for batch in request.writes}))
        self._attempts += 1
        trial = self._trials[request.id] = Trial(request, parts, deadline, self._attempts, now)
        return self._borrow(now, trial)

    def _check(self, request: GroupRequest) -> None:
        count = sum(len(batch.keys) for batch in request.writes)
        if not count or not 0 < len(request.id) <= ID_BYTES_MAX:
            raise InvalidValueError(f"a commit group has a name of at most {ID_BYTES_MAX} bytes and at least one write")
        if count > self._limits.group_writes_max:
            raise TooLargeError.of("commit group", count, self._limits.group_writes_max, "writes")
        sizes: dict[int, int] = {}
        for batch in request.writes:
            if batch.partition >= self._control.partitions:
                raise InvalidValueError(f"the grid has partitions 0 to {self._control.partitions - 1}")
            size = sum(map(len, batch.keys)) + sum(map(len, batch.values))
            sizes[batch.partition] = sizes.get(batch.partition, 0) + size
        if (largest := max(sizes.values())) > self._limits.record_bytes_max:  # before anybody lends a slot for it
            raise TooLargeError.of(WHOLE_PART, largest, self._limits.record_bytes_max)

    def lent(self, now: float, sender: NodeId, message: ring_pb2.Lent, epoch: Epoch) -> Letters:
        """`epoch` is this node's, raised to that of the owner."""
        trial = self._current(message.group, message.attempt)
        part = PartitionId(message.partition)
        if trial is None:  # of a try that is over, or of another life of this node: the slot decides
            if ((message.group, message.attempt), part) in self._telling:
                return []
            return [(sender, ring_pb2.Settle(group=message.group, attempt=message.attempt, partition=part))]
        if trial.phase is not Phase.BORROWING or part in trial.lent:
            return []
        trial.lent[part] = message
        return self._go_on(now, trial, epoch)

    def declined(self, now: float, message: ring_pb2.Declined, epoch: Epoch) -> Letters:
        trial = self._current(message.group, message.attempt)
        part = PartitionId(message.partition)
        if trial is None or trial.phase is not Phase.BORROWING or part in trial.lent:
            return []
        if message.epoch:
            trial.known[part] = message
            return self._go_on(now, trial, epoch)
        if message.HasField("error"):
            error = error_of(message.error)
            if isinstance(error, PeerError):  # the owner is changing: it is asked for again
                trial.due = now + PAUSE_SECONDS
                return []
            return self._refuse(now, trial, error)
        batches = trial.request.of(part)
        rows = [(at, row) for at in batches for row in range(len(trial.request.writes[at].keys))]
        trial.request.errors = {rows[item.index]: error_of(item.error) for item in message.errors}
        return self._release(now, trial) + self._done(trial)

    def received(self, message: ring_pb2.SettledReceived) -> None:
        self._telling.pop(((message.group, message.attempt), PartitionId(message.partition)), None)

    # The append ----------------------------------------------------------------------------------------------------

    def landed(self, now: float, name: Try, positions: Sequence[Position]) -> Letters:
        trial = self._current(*name)
        if trial is None:
            return []
        letters: Letters = []
        for part, position in zip(trial.parts, positions, strict=True):
            letters += self._tell(now, name, part, trial.asked[part], trial.epoch, position)
        return letters + self._committed(trial, trial.epoch)

    def failed(self, now: float, name: Try, error: GridError) -> Letters:
        trial = self._current(*name)
        if trial is None:
            return []
        if isinstance(error, LogFailedError):  # nobody knows: the owners contend for their slots
            trial.request.error = error
            return self._done(trial)
        if isinstance(error, WrongTailError | LogTimeoutError):
            trial.phase = Phase.UNKNOWN
            return self._find_out(now, trial)
        return self._refuse(now, trial, error)

    def slot_read(self, now: float, read: ReadLog, records: Sequence[LogRecord]) -> Letters:
        """What is in the first slot of a try whose append was not answered, or found a slot taken."""
        assert read.group is not None
        trial = self._current(*read.group)
        if trial is None or trial.phase is not Phase.UNKNOWN or not records:
            return []  # nothing there yet: it is read again
        lent, payload = trial.lent[trial.parts[0]], records[0].payload
        epoch = Epoch(decode_record(payload).stamp)
        if payload != stamped(lent.record, epoch):
            return self._again(now, trial)
        letters: Letters = [(trial.asked[part], self._named(trial, part, ring_pb2.Settle())) for part in trial.parts]
        return letters + self._committed(trial, epoch)

    # Time ---------------------------------------------------------------------------------------------------------

    def time_passed(self, now: float) -> Letters:
        letters: Letters = []
        for trial in list(self._trials.values()):
            waiting = trial.phase in (Phase.BORROWING, Phase.PAUSING)
            if waiting and now >= trial.deadline:
                letters += self._refuse(now, trial, _late())
            elif now < trial.due:
                continue
            elif waiting:
                trial.phase = Phase.BORROWING
                letters += self._borrow(now, trial, again=True)
            elif trial.phase is Phase.UNKNOWN:
                letters += self._find_out(now, trial)
        for key, telling in list(self._telling.items()):
            if now >= telling.due:
                telling.times += 1
                telling.due = now + REPEAT_SECONDS
                letters.append((telling.to, telling.message))
                if telling.times > TELLINGS_MAX:
                    del self._telling[key]
        return letters

    def deadline(self) -> float | None:
        if not self._trials and not self._telling:
            return None
        due = [min(trial.due, trial.deadline) for trial in self._trials.values() if trial.phase is Phase.BORROWING]
        due += [trial.due for trial in self._trials.values() if trial.phase in (Phase.UNKNOWN, Phase.PAUSING)]
        due += [telling.due for telling in self._telling.values()]
        return min(due, default=None)

    def stop(self, now: float) -> Letters:
        """Refuses what has not issued its append."""
        letters: Letters = []
        for trial in list(self._trials.values()):
            if trial.phase in (Phase.BORROWING, Phase.PAUSING):
                letters += self._refuse(now, trial, StoppingError.of())
        return letters

    def fail(self, error: GridError) -> None:
        for trial in list(self._trials.values()):
            trial.request.error = error
            self._done(trial)

    # Inside -------------------------------------------------------------------------------------------------------

    def _current(self, group: bytes, attempt: int) -> Trial | None:
        trial = self._trials.get(group)
        return trial if trial is not None and trial.attempt == attempt else None

    def _borrow(self, now: float, trial: Trial, *, again: bool = False) -> Letters:
        """G1: in partition order, one at a time. Asked again, those lent already hear that we are still here."""
        trial.due = now + REPEAT_SECONDS
        part = trial.next_part
        letters: Letters = []
        for number in (*(trial.lent if again else ()), *(() if part is None else (part,))):
            owner = self._control.view.owner(number)
            if number == part and owner is not None:
                if trial.asked.get(number, owner.node) != owner.node:  # it may have lent before it moved
                    letters += self._tell(now, trial.name, number, trial.asked[number], Epoch(0), Position(0))
                trial.asked[number] = owner.node
            if number in trial.asked:
                writes = [trial.request.writes[at] for at in trial.request.of(number)]
                letters.append((trial.asked[number], self._named(trial, number, ring_pb2.Borrow(writes=writes))))
        return letters

    def _go_on(self, now: float, trial: Trial, epoch: Epoch) -> Letters:
        if trial.next_part is not None:
            return self._borrow(now, trial) if trial.next_part not in trial.asked else []
        if trial.known:
            if trial.lent:  # it landed by another coordinator while we asked
                return self._again(now, trial)
            return self._committed(trial, Epoch(next(iter(trial.known.values())).epoch))
        if now >= trial.deadline:
            return self._refuse(now, trial, _late())
        for lent in trial.lent.values():  # G3
            if epoch >= lent.until or (lent.bound and lent.stamp != epoch):
                return self._again(now, trial)
        if epoch >= self._control.limit:
            return self._again(now, trial)
        trial.epoch, trial.phase = epoch, Phase.APPENDING
        entries = [
            Entry(partition_log(part), Position(lent.tail), epoch, stamped(lent.record, epoch))
            for part, lent in sorted(trial.lent.items())
        ]
        self._emit(AppendGroup(trial.name, entries))
        return []

    def _find_out(self, now: float, trial: Trial) -> Letters:
        trial.due = now + REPEAT_SECONDS
        part = trial.parts[0]
        lent = trial.lent[part]
        self._emit(ReadLog(part, Term(lent.term), Position(lent.tail), trial.name))
        return [(trial.asked[part], self._named(trial, part, ring_pb2.Settle()))]

    def _again(self, now: float, trial: Trial) -> Letters:
        letters = self._release(now, trial)
        self._attempts += 1
        trial.attempt, trial.phase, trial.due = self._attempts, Phase.PAUSING, now + PAUSE_SECONDS
        trial.lent.clear()
        trial.known.clear()
        trial.asked.clear()
        return letters

    def _release(self, now: float, trial: Trial) -> Letters:
        letters: Letters = []
        for part, owner in trial.asked.items():
            letters += self._tell(now, trial.name, part, owner, Epoch(0), Position(0))
        return letters

    def _refuse(self, now: float, trial: Trial, error: GridError) -> Letters:
        trial.request.error = error
        return self._release(now, trial) + self._done(trial)

    def _committed(self, trial: Trial, epoch: Epoch) -> Letters:
        request = trial.request
        request.epoch = epoch
        request.versions = [[] for _ in request.writes]
        for part in trial.parts:
            answer = trial.lent.get(part) or trial.known[part]
            versions = iter(answer.versions)
            texts = {found.index: found.text for found in answer.parked} if isinstance(answer, ring_pb2.Lent) else {}
            first = 0
            for at in request.of(part):
                request.versions[at] = [next(versions) for _ in request.writes[at].keys]
                rows = range(len(request.writes[at].keys))
                request.parked |= {(at, row): texts[first + row] for row in rows if first + row in texts}
                first += len(rows)
        self.committed += 1
        return self._done(trial)

    def _done(self, trial: Trial) -> Letters:
        request = trial.request
        del self._trials[request.id]
        others = self._joined.pop(request.id, [])
        for other in others:
            other.epoch, other.versions, other.parked = request.epoch, request.versions, request.parked
            other.error, other.errors = request.error, request.errors
        self._emit(Answered((request, *others)))
        return []

    def _tell(
        self, now: float, name: Try, part: PartitionId, owner: NodeId, epoch: Epoch, position: Position
    ) -> Letters:
        message = ring_pb2.Settled(group=name[0], attempt=name[1], partition=part, epoch=epoch, position=position)
        self._telling[name, part] = Telling(owner, message, now + REPEAT_SECONDS)
        return [(owner, message)]

    def _named(self, trial: Trial, part: PartitionId, message: Named) -> Named:
        message.group, message.attempt, message.partition = trial.request.id, trial.attempt, part
        return message


def _late() -> DeadlineError:
    return DeadlineError("the deadline passed before the group had all of its partitions; nothing of it was stored")
