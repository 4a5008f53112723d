"""Which VIEW a node proposes, and when: one at a time, to come back, to put others out, to hand over."""

from __future__ import annotations

import pytest
from tidegrid.grid.model.ids import Incarnation, NodeId, PartitionId, Position
from tidegrid.grid.ring.assignment import assignment
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.membership import JOIN_PAUSE, JOIN_PAUSE_MAX, SETTLED, Membership, ViewProposal
from tidegrid.grid.ring.ownership import joined_view, moved_view, next_view, view_without
from tidegrid.grid.ring.view import Member
from tidegrid.v1 import control_pb2

from tests.unit.ring.test_control import close, folded

ME = Member(NodeId(1), Incarnation(4), "a", "p")
OTHER, THIRD = Member(NodeId(2), Incarnation(1)), Member(NodeId(3), Incarnation(1))


class Node:
    """A `Membership` over a control log that the test writes."""

    def __init__(self, *members: Member) -> None:
        self.control: ControlState = folded()
        self.membership = Membership(ME)
        if members:
            self._apply(next_view(self.control, members))
        self.membership.applied(0.0, self.control)

    def _apply(self, view: control_pb2.View) -> None:
        self.control.apply(Position(self.control.position + 3), control_pb2.ControlRecord(view=view))

    def view(self, now: float, view: control_pb2.View) -> None:
        self._apply(view)
        self.membership.applied(now, self.control)

    def record(self, now: float) -> None:
        """Some other record."""
        self.control.apply(Position(self.control.position + 3), close(self.control.closed + 1))
        self.membership.applied(now, self.control)

    def join(self, now: float) -> ViewProposal | None:
        return self.membership.join(now, self.control)


def test_who_is_outside_joins_after_a_pause_at_the_applied_position() -> None:
    node = Node(OTHER)
    assert node.membership.deadline == JOIN_PAUSE and node.join(JOIN_PAUSE - 0.01) is None
    proposal = node.join(JOIN_PAUSE)
    assert proposal is not None and proposal.expected == node.control.position
    assert proposal.view == joined_view(node.control, ME)
    assert node.membership.deadline is None, "its slot is decided first"
    node.view(0.6, proposal.view)
    assert node.membership.deadline is None and node.join(99.0) is None


def test_a_member_does_not_join() -> None:
    node = Node(ME, OTHER)
    assert node.membership.deadline is None and node.join(99.0) is None


def test_another_incarnation_of_the_same_name_is_not_me() -> None:
    node = Node(Member(ME.node, Incarnation(3)), OTHER)
    proposal = node.join(JOIN_PAUSE)
    assert proposal is not None
    assert {(m.node, m.incarnation) for m in proposal.view.members} == {(1, 4), (2, 1)}


def test_a_slot_that_somebody_else_took_is_planned_anew() -> None:
    node = Node(OTHER)
    first = node.join(1.0)
    assert first is not None and node.join(9.0) is None, "one at a time"
    node.record(9.1)
    again = node.join(9.2)
    assert again is not None and again.expected == node.control.position > first.expected


def test_a_refused_join_comes_again_after_the_pause() -> None:
    node = Node(OTHER)
    first = node.join(1.0)
    assert first is not None
    node.membership.failed(Position(first.expected - 1))
    assert node.membership.deadline is None, "of another proposal"
    node.membership.failed(first.expected)
    assert node.membership.deadline == pytest.approx(1.0 + JOIN_PAUSE) and node.join(1.1) is None
    assert node.join(1.0 + JOIN_PAUSE) is not None


def put_out(node: Node, now: float) -> float:
    """Returns how long it waits to come back."""
    node.view(now, view_without(node.control, [ME.node]))
    due = node.membership.deadline
    assert due is not None
    return due - now


def test_who_is_put_out_again_and_again_comes_back_ever_more_seldom() -> None:
    node = Node(ME, OTHER)
    now, waits = 100.0, []
    for _ in range(9):
        waits.append(put_out(node, now))
        now += waits[-1]
        proposal = node.join(now)
        assert proposal is not None
        node.view(now, proposal.view)
        now += 1.0
    assert waits[:3] == pytest.approx([JOIN_PAUSE, 2 * JOIN_PAUSE, 4 * JOIN_PAUSE])
    assert waits[-1] == pytest.approx(JOIN_PAUSE_MAX)
    assert put_out(node, now + SETTLED) == pytest.approx(JOIN_PAUSE), "it had come to stay"


def test_the_absent_are_put_out_in_one_view_and_never_oneself() -> None:
    node = Node(ME, OTHER, THIRD)
    evict = node.membership.evict
    assert evict([ME.node], node.control) is None
    assert evict([NodeId(77)], node.control) is None, "gone already"
    proposal = evict([ME.node, OTHER.node], node.control)
    assert proposal is not None and proposal.expected == node.control.position
    assert {m.node for m in proposal.view.members} == {1, 3}
    assert evict([THIRD.node], node.control) is None, "one proposal at a time"
    node.view(1.0, proposal.view)
    assert evict([OTHER.node], node.control) is None and evict([THIRD.node], node.control) is not None


def test_misplaced_is_what_belongs_to_another_member() -> None:
    node = Node(ME)
    assert node.membership.misplaced(node.control) == [], "there is nobody else"
    node.view(1.0, joined_view(node.control, OTHER))
    wanted = assignment(4, frozenset({ME.node, OTHER.node}))
    theirs = [number for number in sorted(wanted) if wanted[number] == OTHER.node]
    assert theirs and node.membership.misplaced(node.control) == theirs
    proposal = node.membership.hand_over(theirs[0], node.control)
    assert proposal is not None and proposal.view == moved_view(node.control, {theirs[0]: OTHER.node})
    assert node.membership.hand_over(theirs[1], node.control) is None, "one proposal at a time"
    node.view(2.0, proposal.view)
    assert node.membership.misplaced(node.control) == theirs[1:]
    assert node.control.view.owners[PartitionId(theirs[0])].node == OTHER.node
    node.view(3.0, joined_view(node.control, Member(ME.node, Incarnation(5))))
    assert node.membership.misplaced(node.control) == [], "another incarnation owns what is left"
