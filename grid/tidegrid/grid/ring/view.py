"""The view: who is a member, and who owns which partition. The position of its record in the control log names it.

Invariants: a partition has at most one owner; an owner entry counts only while its (node, incarnation) is the
current one of a member (a restart leaves entries of the incarnation before it behind, which cover nothing); the
ring is the members in the order of their ids, and its lowest is the origin of every round.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from tidegrid.grid.model.ids import BEFORE_FIRST, Incarnation, NodeId, PartitionId, Position, Term
from tidegrid.v1 import control_pb2


@dataclass(frozen=True, slots=True)
class Member:
    node: NodeId
    incarnation: Incarnation
    address: str = ""  # for clients
    peer_address: str = ""  # for nodes


@dataclass(frozen=True, slots=True)
class Owner:
    node: NodeId
    incarnation: Incarnation
    term: Term


@dataclass(frozen=True, slots=True)
class ViewState:
    """One view. Both mappings are read only."""

    position: Position = BEFORE_FIRST
    members: Mapping[NodeId, Member] = field(default_factory=dict)
    owners: Mapping[PartitionId, Owner] = field(default_factory=dict)
    ring: tuple[NodeId, ...] = field(init=False, compare=False)
    origin: NodeId | None = field(init=False, compare=False)

    def __post_init__(self) -> None:
        ring = tuple(sorted(self.members))
        object.__setattr__(self, "ring", ring)
        object.__setattr__(self, "origin", ring[0] if ring else None)

    def has(self, node: NodeId, incarnation: Incarnation) -> bool:
        member = self.members.get(node)
        return member is not None and member.incarnation == incarnation

    def rank(self, node: NodeId) -> int:
        return self.ring.index(node)

    def owned_by(self, node: NodeId, incarnation: Incarnation) -> tuple[PartitionId, ...]:
        return tuple(
            sorted(p for p, owner in self.owners.items() if owner.node == node and owner.incarnation == incarnation)
        )

    def owner(self, partition: PartitionId) -> Owner | None:
        """The owner whose incarnation is the current one of a member: whoever else is named there owns it no more."""
        owner = self.owners.get(partition)
        return owner if owner is not None and self.has(owner.node, owner.incarnation) else None

    def uncovered(self, partitions: int) -> tuple[PartitionId, ...]:
        """Partitions for which no visited member can promise anything."""
        return tuple(p for p in map(PartitionId, range(partitions)) if self.owner(p) is None)

    def next_after(self, node: NodeId, visited: Collection[NodeId]) -> NodeId | None:
        """The first member after `node` round the ring, other than itself, that is not in `visited`."""
        ring = self.ring
        split = next((index for index, member in enumerate(ring) if member > node), len(ring))
        for member in ring[split:] + ring[:split]:
            if member != node and member not in visited:
                return member
        return None


def view_from(position: Position, message: control_pb2.View) -> ViewState:
    return ViewState(
        position,
        {
            NodeId(m.node): Member(NodeId(m.node), Incarnation(m.incarnation), m.address, m.peer_address)
            for m in message.members
        },
        {
            PartitionId(o.partition): Owner(NodeId(o.node), Incarnation(o.incarnation), Term(o.term))
            for o in message.owners
        },
    )


def view_message(members: Iterable[Member], owners: Mapping[PartitionId, Owner]) -> control_pb2.View:
    return control_pb2.View(
        members=[
            control_pb2.Member(node=m.node, incarnation=m.incarnation, address=m.address, peer_address=m.peer_address)
            for m in sorted(members, key=lambda member: member.node)
        ],
        owners=[
            control_pb2.Owner(partition=p, node=o.node, incarnation=o.incarnation, term=o.term)
            for p, o in sorted(owners.items())
        ],
    )


def changed_nodes(before: ViewState, after: ViewState) -> frozenset[NodeId]:
    """Who gained or lost a partition, or came back as another incarnation: what they promised counts no more."""
    changed: set[NodeId] = set()
    for partition in before.owners.keys() | after.owners.keys():
        old, new = before.owners.get(partition), after.owners.get(partition)
        if old != new:
            changed.update(owner.node for owner in (old, new) if owner is not None)
    for node in before.members.keys() | after.members.keys():
        was, now = before.members.get(node), after.members.get(node)
        if was is None or now is None or was.incarnation != now.incarnation:
            changed.add(node)
    return frozenset(changed)
