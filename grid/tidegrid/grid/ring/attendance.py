"""Who takes part in the rounds (rule L): a member that rounds go past for some seconds is to lose its partitions.

    present --a round ends without its visit--> missed since then --a round with its visit--> present
                                                --missed for `evict_after`--> absent: to be put out by a VIEW

Kept by the node at which rounds end. A wrong suspicion is safe: the view decides who owns what, and the terms in the
log hold against a node that has not heard of it. Who sees only the smaller half of the members waits three times as
long, so that the larger half is first.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from tidegrid.grid.model.ids import NodeId
from tidegrid.grid.ring.local import RingOptions

MINORITY_PATIENCE: Final = 3


@dataclass(slots=True)
class Attendance:
    options: RingOptions
    _missed: dict[NodeId, float] = field(default_factory=dict)  # since when

    def round_over(self, now: float, visited: Collection[NodeId], members: Collection[NodeId]) -> None:
        self._missed = {node: self._missed.get(node, now) for node in members if node not in visited}

    def renewed(self, nodes: Collection[NodeId]) -> None:
        """They have joined, or gained or lost something: what they missed before counts no more."""
        for node in nodes:
            self._missed.pop(node, None)

    def missed_since(self, node: NodeId) -> float | None:
        return self._missed.get(node)

    def absent(self, now: float, members: Collection[NodeId]) -> frozenset[NodeId]:
        patience = self.options.evict_after
        if 2 * (len(members) - len(self._missed)) < len(members):
            patience *= MINORITY_PATIENCE
        return frozenset(node for node, since in self._missed.items() if now - since >= patience)
