"""Which partitions this node holds, as views come and go (rules O and L): opened, served, drained, given up.

    view gives it --> opening (opening.py) --OPEN in the log--> open --belongs to another member--> draining
    open, draining --another view, or a new term--> given up: what waits is sent away, what is in flight is decided
    draining, nothing on its way any more --> a VIEW that hands it over is proposed

Planned moves begin when a round has closed an epoch in the applied view, which proves that its members are there; one
partition at a time, so that most go on serving. Out of a view, the node joins again by itself (ring/membership.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from tidegrid.grid.engine.building import Builds
from tidegrid.grid.engine.catalogs import Catalogs
from tidegrid.grid.engine.effects import AppendControl, Effect, LoadCheckpoint, ReadControl, ReadLog, Slot
from tidegrid.grid.engine.opening import RETRY_SECONDS, Opening
from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.engine.requests import Unlogged
from tidegrid.grid.engine.writes import WritePath
from tidegrid.grid.log.entry import LogRecord
from tidegrid.grid.model.errors import GridError
from tidegrid.grid.model.ids import Epoch, NodeId, PartitionId, Position, Term
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.membership import Membership, ViewProposal
from tidegrid.grid.ring.ownership import PartitionState, advance, open_stamp
from tidegrid.grid.ring.ring import Carried, Ring
from tidegrid.grid.ring.view import Member
from tidegrid.v1.control_pb2 import ControlRecord


class Tenure:
    """`opened` is told of every partition that has opened. Its partitions are those of the write path."""

    def __init__(
        self,
        member: Member,
        control: ControlState,
        ring: Ring,
        writes: WritePath,
        catalogs: Catalogs,
        limits: Limits,
        recent_bytes: int,
        emit: Callable[[Effect], None],
        opened: Callable[[Partition], None],
    ) -> None:
        self.builds = Builds(control, emit, self._built)
        self.membership = Membership(member)
        self.openings: dict[PartitionId, Opening] = {}
        self.ready = False  # a member, and all that the view gives to this node is open
        self._member = member
        self._control = control
        self._ring = ring
        self._writes = writes
        self._catalogs = catalogs
        self._limits = limits
        self._recent_bytes = recent_bytes
        self._emit = emit
        self._on_opened = opened
        self._unlogged: dict[PartitionId, Mapping[bytes, Unlogged]] = {}  # of partitions that were ours
        self._view_held = False  # a round has been closed in the applied view

    # Views --------------------------------------------------------------------------------------------------------

    def view_applied(self, now: float) -> None:
        """Gives up what another has now, opens what is ours."""
        view, me = self._control.view, self._member
        owned = {number: view.owners[number].term for number in view.owned_by(me.node, me.incarnation)}
        for number, partition in list(self._writes.partitions.items()):
            if owned.get(number) != partition.claim:
                self.openings.pop(number, None)
                self.builds.forget(number)
                self._unlogged[number] = partition.memory.unlogged() or self._unlogged.get(number, {})
                self._writes.give_up(number)
        for number, term in owned.items():
            if number not in self._writes.partitions:
                self._adopt(number, term, len(owned))
        self._view_held = False
        self.refresh()
        self.membership.applied(now, self._control)

    def _adopt(self, number: PartitionId, term: Term, share: int) -> None:
        control, me = self._control, self._member
        recent_bytes = self._recent_bytes // share
        partition = Partition(number, self._limits, control.session_epochs, recent_bytes, term, self._catalogs.fold)
        partition.memory.closed = control.closed
        partition.tables.horizon = control.horizon
        partition.tables.declare(control.declared.values())
        self._writes.partitions[number] = partition
        reference_maps = self._writes.reference_maps
        self.openings[number] = Opening(partition, me.node, me.incarnation, control.closed, reference_maps, self._emit)

    def refresh(self) -> None:
        """Something opened, or stepped down."""
        me, partitions = self._member, self._writes.partitions
        owned = self._control.view.owned_by(me.node, me.incarnation)
        self.ready = self._ring.member and all(number in partitions and partitions[number].serving for number in owned)

    def control_applied(self, now: float) -> None:
        self.membership.applied(now, self._control)
        self._rebalance()

    def closed(self) -> None:
        self._view_held = True
        for partition in self._writes.partitions.values():
            if partition.serving:
                partition.tables.follow(self._control.generations, self._control.closed)

    @property
    def waiting_for(self) -> Epoch:
        """A view whose members are not yet known to be there keeps misplaced partitions waiting for a close in it."""
        if self._view_held or not self.membership.misplaced(self._control):
            return Epoch(0)
        return Epoch(self._control.closed + 1)

    # Opening ------------------------------------------------------------------------------------------------------

    def opening(self, number: PartitionId, term: Term) -> Opening | None:
        opening = self.openings.get(number)
        return opening if opening is not None and opening.partition.claim == term else None

    def checkpoint_loaded(self, load: LoadCheckpoint, position: Position, chunks: Iterable[bytes]) -> Iterable[None]:
        """Raises CorruptionError."""
        opening = self.opening(load.partition, load.term)
        return opening.checkpoint_loaded(position, chunks) if opening is not None else ()

    def log_read(self, now: float, time_ms: int, read: ReadLog, records: Sequence[LogRecord]) -> None:
        """Raises CorruptionError."""
        opening = self.opening(read.partition, read.term)
        if opening is None or read.after != opening.position:
            return
        if records:
            opening.read(records)
        else:
            self._open(now, time_ms, opening)

    def _open(self, now: float, time_ms: int, opening: Opening) -> None:
        """Rule O2. A log that knows more of time than this node: the control log has to be read on first (E3).

        A partition opens with all generations of its maps.
        """
        if self.builds.look(opening.partition):
            opening.incomplete = True
            return
        last = opening.partition.last_stamp
        if self._ring.carry(now, Position(0), last) is not Carried.TAKEN:
            self._emit(ReadControl())
            opening.retry_at = now + RETRY_SECONDS
        elif opening.at_end(open_stamp(self._ring.epoch, opening.closed, last), time_ms):
            self._opened(now, opening.partition)

    def _built(self, partition: Partition) -> None:
        if self._incomplete(partition):
            opening = self.openings[partition.id]
            opening.incomplete = False
            opening.read_on()

    def _incomplete(self, partition: Partition) -> bool:
        opening = self.opening(partition.id, partition.claim)
        return opening is not None and opening.incomplete

    def generations_changed(self) -> None:
        control = self._control
        for partition in self._writes.partitions.values():
            if partition.serving:
                partition.tables.follow(control.generations, control.closed)
                self.builds.look(partition)
            elif self._incomplete(partition) and not self.builds.look(partition):
                self._built(partition)  # what it waited for was dropped

    def open_landed(self, now: float, slot: Slot, position: Position) -> None:
        opening = self.opening(slot.partition, slot.term)
        if opening is not None:
            opening.opened(position, opening.stamp)
            self._opened(now, opening.partition)

    def open_failed(self, now: float, slot: Slot, error: GridError) -> None:
        opening = self.opening(slot.partition, slot.term)
        if opening is not None:
            opening.failed(now, error)

    def _opened(self, now: float, partition: Partition) -> None:
        del self.openings[partition.id]
        partition.memory.recall(self._unlogged.pop(partition.id, {}))
        partition.settle(self._control.closed)
        partition.tables.follow(self._control.generations, self._control.closed)
        self.builds.look(partition)
        self._writes.highest_stamp = max(self._writes.highest_stamp, partition.last_stamp)
        self.refresh()
        self._ring.opened(now, partition.last_stamp)
        self._on_opened(partition)

    # Moves --------------------------------------------------------------------------------------------------------

    def decided(self) -> None:
        """Frames are in the log, or never will be, or had nothing to put there: one that drains may be drained."""
        if any(partition.state is PartitionState.DRAINING for partition in self._writes.partitions.values()):
            self._rebalance()

    def _rebalance(self) -> None:
        partitions = self._writes.partitions
        misplaced = [
            partition
            for number in self.membership.misplaced(self._control)
            if (partition := partitions[number]).serving
        ]
        draining = [partition for partition in partitions.values() if partition.state is PartitionState.DRAINING]
        for partition in draining:
            if partition not in misplaced:
                partition.state = advance(partition.state, PartitionState.OPEN)
            elif partition.drained:
                self._propose(self.membership.hand_over(partition.id, self._control))
        if misplaced and not draining and self._view_held:
            misplaced[0].state = advance(misplaced[0].state, PartitionState.DRAINING)
            self._rebalance()

    def evict(self, nodes: Collection[NodeId]) -> None:
        self._propose(self.membership.evict(nodes, self._control))

    def _propose(self, proposal: ViewProposal | None) -> None:
        if proposal is not None:
            self._emit(AppendControl(proposal.expected, ControlRecord(view=proposal.view)))

    # Time ---------------------------------------------------------------------------------------------------------

    def time_passed(self, now: float) -> None:
        for opening in self.openings.values():
            opening.time_passed(now)
        self.builds.time_passed(now)
        self.decided()  # requests may have expired
        self._propose(self.membership.join(now, self._control))

    def deadline(self) -> float | None:
        times = [
            self.membership.deadline,
            self.builds.deadline(),
            *(opening.retry_at for opening in self.openings.values()),
        ]
        return min((time for time in times if time is not None), default=None)

    def fail(self) -> None:
        """The log handle is dead: nothing is opened any more."""
        self.openings.clear()
        self.refresh()
