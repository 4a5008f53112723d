"""Which VIEW this node proposes, and when: to come back, to put out who is absent, to hand over what it has drained.

    outside (not in the applied view) --after a pause--> join appended at the applied position --applied--> member
    member --Evict of the ring--> a view without them
    member --a partition that belongs elsewhere is drained--> a view that gives it there

One proposal is on its way at a time; its slot is decided once the control log is applied beyond it, whoever took it.
What was refused is planned anew from the view then. A node that is put out again and again joins ever more seldom.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, NamedTuple

from tidegrid.grid.model.ids import NodeId, PartitionId, Position
from tidegrid.grid.ring.assignment import assignment
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.ownership import joined_view, moved_view, view_without
from tidegrid.grid.ring.view import Member
from tidegrid.v1 import control_pb2

JOIN_PAUSE: Final = 0.5
JOIN_PAUSE_MAX: Final = 60.0
SETTLED: Final = 30.0  # a member for so long has come to stay


class ViewProposal(NamedTuple):
    """Append to the control log at exactly `expected`. Its success is learned by applying it (rule C2)."""

    expected: Position
    view: control_pb2.View


@dataclass(slots=True)
class Membership:
    me: Member
    _join_due: float | None = None
    _proposed: Position | None = None
    _pause: float = JOIN_PAUSE
    _joined_at: float = float("-inf")

    def applied(self, now: float, control: ControlState) -> None:
        """The control log moved, or this is the start."""
        if self._proposed is not None and control.position > self._proposed:
            self._proposed = None
        if control.view.has(self.me.node, self.me.incarnation):
            if self._join_due is not None:
                self._join_due, self._joined_at = None, now
        elif self._join_due is None:
            self._pause = JOIN_PAUSE if now - self._joined_at > SETTLED else min(2 * self._pause, JOIN_PAUSE_MAX)
            self._join_due = now + self._pause

    @property
    def deadline(self) -> float | None:
        """When `join` is due."""
        return self._join_due if self._proposed is None else None

    def failed(self, expected: Position) -> None:
        if self._proposed == expected:
            self._proposed = None

    def join(self, now: float, control: ControlState) -> ViewProposal | None:
        if self._join_due is None or now < self._join_due or self._proposed is not None:
            return None
        self._join_due = now + self._pause
        return self._propose(control, joined_view(control, self.me))

    def evict(self, nodes: Collection[NodeId], control: ControlState) -> ViewProposal | None:
        gone = [node for node in nodes if node in control.view.members and node != self.me.node]
        if not gone or self._proposed is not None:
            return None
        return self._propose(control, view_without(control, gone))

    def misplaced(self, control: ControlState) -> list[PartitionId]:
        """Partitions of this node that belong to another member: drained one at a time, they are handed over."""
        view, me = control.view, self.me
        if len(view.members) < 2 or not view.has(me.node, me.incarnation):
            return []
        wanted = assignment(control.partitions, frozenset(view.members))
        return [number for number in view.owned_by(me.node, me.incarnation) if wanted[number] != me.node]

    def hand_over(self, partition: PartitionId, control: ControlState) -> ViewProposal | None:
        """It is drained: nothing of it is in flight here."""
        if self._proposed is not None:
            return None
        wanted = assignment(control.partitions, frozenset(control.view.members))
        return self._propose(control, moved_view(control, {partition: wanted[partition]}))

    def _propose(self, control: ControlState, view: control_pb2.View) -> ViewProposal:
        self._proposed = control.position
        return ViewProposal(control.position, view)
