"""The token: a round, and the promises collected in it. It grants nothing.

A promise is stable ("I will put nothing more at or below f into what I own"), and what it leads to is appended to
the control log by compare-and-append, so a token that is lost, doubled, late or forged breaks nothing: it can only
cost time. Tokens are values: each visit makes a new one.

Invariants: `floor` never rises and never exceeds intro - 1; a tail never falls; `visited` grows within one view, and
loses those who gained or lost something when the view moves on (rule T). Whom the token went past without an answer
is in `passed`: no later node tries there in this round, which then ends without a close.

Freshness orders tokens: a node drops what is staler than what it has seen. The view comes first, so that a restarted
origin, which remembers no round, begins with a token that is fresher than all before its own VIEW.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from tidegrid.grid.model.ids import BEFORE_FIRST, Epoch, NodeId, PartitionId, Position
from tidegrid.grid.ring.view import ViewState

NO_EPOCH: Final = Epoch(0)


class Freshness(NamedTuple):
    """Compared as a tuple; the origin only breaks the tie of two nodes that regenerate at once."""

    view: Position
    round: int
    generation: int
    origin: NodeId


@dataclass(frozen=True, slots=True)
class Token:
    grid_id: bytes
    view: Position
    round: int
    generation: int
    intro: Epoch  # the epoch that this round introduces
    floor: Epoch  # minimum of the promises so far
    origin: NodeId  # who started the round
    visited: frozenset[NodeId] = frozenset()
    passed: frozenset[NodeId] = frozenset()
    tails: Mapping[PartitionId, Position] = field(default_factory=dict)  # beyond those of the last close
    reference_epoch: Epoch = NO_EPOCH  # highest stamp of a reference-map record among the visited
    busy: bool = False  # somebody visited has something to close, or waits

    @property
    def freshness(self) -> Freshness:
        return Freshness(self.view, self.round, self.generation, self.origin)


def begin(grid_id: bytes, view: Position, round_: int, generation: int, intro: Epoch, origin: NodeId) -> Token:
    """A round that has visited no one: nobody can promise more than intro - 1 in it."""
    return Token(grid_id, view, round_, generation, intro, Epoch(intro - 1), origin)


def visit(
    token: Token,
    node: NodeId,
    promise: Epoch,
    tails: Mapping[PartitionId, Position],
    reference_epoch: Epoch,
    busy: bool,
) -> Token:
    """What leaves `node`: all its arguments taken at one instant, with the epoch already above `promise` (rule P)."""
    return replace(
        token,
        floor=min(token.floor, promise),
        visited=token.visited | {node},
        tails=merge_tails(token.tails, tails),
        reference_epoch=max(token.reference_epoch, reference_epoch),
        busy=token.busy or busy,
    )


def renew(token: Token, view: Position, changed: Collection[NodeId]) -> Token:
    """The same round in a later view: those in `changed` have to promise again."""
    assert view >= token.view
    if view == token.view:
        return token
    return replace(token, view=view, visited=token.visited.difference(changed), passed=token.passed.difference(changed))


def merge_tails(
    one: Mapping[PartitionId, Position], other: Mapping[PartitionId, Position]
) -> Mapping[PartitionId, Position]:
    merged = dict(one)
    for partition, tail in other.items():
        if tail > merged.get(partition, BEFORE_FIRST):
            merged[partition] = tail
    return merged


def unvisited(token: Token, view: ViewState) -> frozenset[NodeId]:
    return frozenset(view.members).difference(token.visited)


def complete(token: Token, view: ViewState, partitions: int) -> bool:
    """Every member was visited in this view, and every partition is owned by one of them: the floor covers all."""
    return token.view == view.position and not unvisited(token, view) and not view.uncovered(partitions)
